"""Two ranks of a learner group, as processes: they train, save a checkpoint, resume it, train on.

python -m tests.engine.learner.train_ranks BASE OUT STORE_PORT
"""

import math
import sys
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save_file

from engine.errors import BrokenWeightsError
from engine.learner import checkpoint, checkpoint_writer
from engine.learner.config import LearnerConfig
from engine.learner.presets import ObjectiveConfig
from engine.learner.trainer import PolicyTrainer, load_reference
from engine.types import Group
from tests.engine.learner.learner_data import make_group
from tests.engine.learner.ranks import fork_ranks

CFG = LearnerConfig(
    lr=1e-3,
    objective=ObjectiveConfig(kl_beta=0.02, mask_band=None),
    tokens_per_micro_batch=60,
    updates_per_step=2,
    max_gap=100,
)


def batches() -> list[list[Group]]:
    """Mixed; one prompt for two ranks; text only; a rank with pictures and one without."""
    return [
        [make_group(i, num_images=i % 2) for i in range(5)],
        [make_group(20, num_images=1)],
        [make_group(30 + i) for i in range(4)],
        [make_group(40, num_images=1), make_group(41, num_rollouts=6)],
    ]


def run(base: Path, out: Path, checkpoints: Path) -> PolicyTrainer:
    """Four steps, with a save and a resume after the second."""
    reference = load_reference(base)
    trainer = PolicyTrainer("solver", base, CFG, total_steps=9, reference=reference)
    first, second, *rest = batches()
    for groups in (first, second):
        assert not trainer.step(groups).skipped
    path = checkpoint_writer.save(checkpoints, trainer, base=base, meta={"request": 2})
    if dist.is_initialized():
        dist.barrier()
    resumed = PolicyTrainer("solver", base, CFG, total_steps=9, reference=reference)
    assert checkpoint.load(path, resumed) == {"request": 2}
    for groups in rest:
        report = resumed.step(groups)
        assert not report.skipped
    (out / "metrics.txt").write_text(
        "\n".join(f"{key} {value!r}" for key, value in report.metrics.items())
    )
    return resumed


def break_weights(trainer: PolicyTrainer, rank: int) -> str:
    """What a step says when the second rank's shards of one weight are spoiled."""
    name, parameter = list(trainer._named.items())[2]
    if rank == 1:
        trainer.optimizer.state[parameter]["exp_avg"].to_local().fill_(math.nan)
    try:
        trainer.step(batches()[0])
    except BrokenWeightsError as error:
        return f"{name}: {error}"
    return ""


def main() -> None:
    base, out, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

    def work(rank: int) -> None:
        folder = out if rank == 0 else out / f"rank{rank}"
        folder.mkdir(exist_ok=True)
        trainer = run(base, folder, out / "checkpoints")
        save_file(dict(trainer.named_weights()), folder / "weights.safetensors")
        (folder / "broken.txt").write_text(break_weights(trainer, rank))

    print(*fork_ranks(2, port, "train", work), flush=True)


if __name__ == "__main__":
    main()
