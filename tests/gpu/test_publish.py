"""A learner on one GPU publishes to a server on another: NCCL, and SGLang's CUDA build.

With a single GPU the same goes over gloo: NCCL refuses two ranks on one device.
"""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine.buckets import Bucket
from engine.errors import WeightSyncError
from engine.learner.config import LearnerConfig
from engine.learner.trainer import PolicyTrainer
from engine.server_calls import probe_logprobs
from engine.server_link import ServerLink
from engine.servers.spec import ServerSpec
from engine.weights import publish
from tests.contract.asking import learner_logprobs
from tests.contract.conftest import Hosted
from tests.contract.test_weight_updates import ONE, TEXT
from tests.engine.server_process import (
    KEY,
    free_port,
    generate,
    in_background,
    output_logprobs,
    until,
)

pytestmark = pytest.mark.gpu

TOLERANCE = 0.1
"""Nats; bfloat16 on both sides, with different kernels."""
STALL_S = 10.0


@pytest.fixture(params=["embedded", "sglang"])
def server(request: pytest.FixtureRequest, bf16_dirs: tuple[Path, Path]) -> Iterator[Hosted]:
    if request.param == "sglang" and importlib.util.find_spec("sglang") is None:
        pytest.skip("no SGLang here: pip install -e '.[gpu]'")
    last = torch.cuda.device_count() - 1
    # Heads of 32, which the tiny model has, are too small for the faster kernels.
    small = ("--attention-backend", "triton", "--mm-attention-backend", "sdpa")
    hosted = Hosted(
        ServerSpec(
            kind=request.param,
            model_dirs={"tiny": bf16_dirs[0]},
            ports={"tiny": free_port()},
            device="cuda",
            context_length=2048,
            max_running=16,
            weight_version="11",
            api_key=KEY,
            gpus=(last,),
            mem_fraction=0.3 if request.param == "sglang" else None,
            extra_args=small if request.param == "sglang" else (),
        )
    )
    yield hosted
    hosted.close()


def test_published_weights_are_the_learners(server: Hosted, bf16_dirs: tuple[Path, Path]) -> None:
    torch.cuda.set_device(0)
    trainer = PolicyTrainer("tiny", bf16_dirs[1], LearnerConfig(), total_steps=1, device="cuda")
    backend = "nccl" if torch.cuda.device_count() > 1 else "gloo"
    link = ServerLink(server.url, backend=backend, key=KEY)
    link.connect(timeout_s=300)
    report = publish(
        trainer.named_weights(), [link], version=12, bucket_bytes=1 << 20, timeout_s=60
    )
    assert not report.failed, report
    theirs = torch.tensor(probe_logprobs(server.url, trainer.probe, timeout_s=300, key=KEY))
    assert (theirs - torch.tensor(trainer.score())).abs().max() < TOLERANCE
    for item in (TEXT, ONE):
        answer = generate(server.url, *item, max_new_tokens=24, ignore_eos=True)
        assert answer["meta_info"]["weight_version"] == "12"
        expected = learner_logprobs(trainer, item, answer["output_ids"]).float().cpu()
        assert (output_logprobs(answer) - expected).abs().max() < TOLERANCE
    link.close()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs two GPUs")
def test_a_server_killed_in_mid_bucket_holds_the_learner_up_for_the_stall_bound_at_most(
    server: Hosted, bf16_dirs: tuple[Path, Path]
) -> None:
    torch.cuda.set_device(0)
    trainer = PolicyTrainer("tiny", bf16_dirs[1], LearnerConfig(), total_steps=1, device="cuda")
    link = ServerLink(server.url, backend="nccl", key=KEY)
    link.connect(timeout_s=300)
    report = publish(trainer.named_weights(), [link], version=12, timeout_s=300)
    assert not report.failed, report
    data = torch.zeros(1 << 30, dtype=torch.uint8, device="cuda")  # more than NCCL's own buffers
    bucket = Bucket(("large",), ("uint8",), ((data.numel(),),), data, is_last=False)
    pid = server.events[-1].pid
    os.killpg(pid, signal.SIGSTOP)  # so that it can't have received everything before it dies
    sending = in_background(lambda: link.send(bucket, {"flush_cache": False}, timeout_s=300))
    until(lambda: link._begun is not None and link._begun.done())
    os.killpg(pid, signal.SIGKILL)
    with pytest.raises(WeightSyncError, match=server.url):
        sending.result(STALL_S)
    link.abandon()
    in_background(torch.cuda.synchronize).result(STALL_S)
    assert all(score < 0 for score in trainer.score())
