"""The learner's flash attention against dense float64 on the CPU."""

import pytest
import torch

from engine.learner.attention import packed_attention
from engine.learner.visibility import plan_rows
from tests.engine.learner.test_attention import ROWS, dense, draw, run

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.06), (torch.float16, 0.01)])
def test_flash_attention_is_dense_attention(dtype: torch.dtype, tolerance: float) -> None:
    inputs, grad = draw(ROWS, size=64, spread=0.5, dtype=dtype)
    want = run(dense, inputs, grad, ROWS)
    device = torch.device("cuda")
    plan = plan_rows(ROWS).to(device)
    got = run(packed_attention, [x.to(device) for x in inputs], grad.to(device), plan)
    for name, ours, theirs in zip(("out", "q", "k", "v"), got, want, strict=True):
        assert ours.dtype == dtype
        error = (ours.cpu().double() - theirs.double()).abs().max().item()
        scale = max(1.0, theirs.abs().max().item())
        assert error <= tolerance * scale, (name, error)


def test_float32_on_a_gpu_is_the_cpus_path() -> None:
    inputs, grad = draw(ROWS, size=32)
    want = run(packed_attention, inputs, grad, plan_rows(ROWS))
    device = torch.device("cuda")
    got = run(
        packed_attention,
        [x.to(device) for x in inputs],
        grad.to(device),
        plan_rows(ROWS).to(device),
    )
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-4, rtol=1e-3)
