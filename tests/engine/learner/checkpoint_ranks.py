"""Ranks of a learner group that save, load, fail and die, as processes.

    python -m tests.engine.learner.checkpoint_ranks BASE FOLDER STORE_PORT

Two ranks find a checkpoint of one rank in FOLDER/one and leave theirs in FOLDER/two; then three
ranks load that one. What was loaded is written whole, to FOLDER/<checkpoint>-on-<world>. Prints the
exit codes of the two ranks and of the three.
"""

import os
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from engine.errors import CheckpointError
from engine.learner import checkpoint, checkpoint_writer, sharding
from engine.learner.checkpoint_writer import CheckpointWriter, Saved
from engine.learner.config import LearnerConfig
from engine.learner.presets import ObjectiveConfig
from engine.learner.trainer import PolicyTrainer
from tests.engine.learner.learner_data import make_group
from tests.engine.learner.ranks import fork_ranks

STEP = "step-00000002"


def make_trainer(base: Path, mesh: DeviceMesh | None = None) -> PolicyTrainer:
    cfg = LearnerConfig(
        lr=1e-3, objective=ObjectiveConfig(mask_band=None), updates_per_step=2, max_gap=100
    )
    return PolicyTrainer("solver", base, cfg, total_steps=9, mesh=mesh)


def train(trainer: PolicyTrainer, *seeds: int) -> float:
    """The last loss."""
    for seed in seeds:
        report = trainer.step([make_group(10 * seed + i, num_images=i % 2) for i in range(4)])
        assert not report.skipped
    return report.metrics["loss"]


def whole_state(trainer: PolicyTrainer) -> dict[str, Tensor]:
    return {name: sharding.whole(t).clone() for name, t in trainer.trainer_state().items()}


def same_shards(one: PolicyTrainer, two: PolicyTrainer) -> bool:
    """Bit for bit, on this rank."""
    first, second = one.trainer_state(), two.trainer_state()

    def local(tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    return first.keys() == second.keys() and all(
        torch.equal(local(first[name]), local(second[name])) for name in first
    )


def leave(folder: Path, name: str, trainer: PolicyTrainer) -> None:
    """The state as loaded, then the loss of the next step."""
    state = whole_state(trainer)
    loss = train(trainer, 3)
    if dist.get_rank() == 0:
        save_file(state, folder / f"{name}.safetensors", metadata={"loss": repr(loss)})


def continue_from(folder: Path, base: Path, name: str, world: int) -> PolicyTrainer:
    """Load a checkpoint, leave what came of it."""
    trainer = make_trainer(base)
    assert checkpoint.load(folder / name / STEP, trainer) == {"request": 2}
    leave(folder, f"{name}-on-{world}", trainer)
    return trainer


def replicas_write_once(base: Path, folder: Path, writer: CheckpointWriter) -> None:
    """HSDP with two replicas of one shard: loads what shards wrote, and shards load it."""
    replica = make_trainer(base, sharding.world_mesh(torch.device("cpu"), 1))
    sharded, again = make_trainer(base), make_trainer(base)
    for trainer in (replica, sharded):
        checkpoint.load(folder / "two" / STEP, trainer)
    writer.start(replica, folder / "replicas", base=base, meta={})
    (saved,) = writer.wait()
    assert isinstance(saved, Saved), saved
    dist.barrier()
    checkpoint.load(saved.path, again)
    assert same_shards(sharded, again)
    first, second = sorted((saved.path / "trainer").iterdir())
    assert load_file(first).keys() == whole_state(sharded).keys()
    assert not load_file(second)


def two_ranks(base: Path, folder: Path, rank: int) -> None:
    trainer, writer = make_trainer(base), CheckpointWriter()
    train(trainer, 1, 2)
    writer.start(trainer, folder / "two", base=base, meta={"request": 2})
    train(trainer, 3)  # its collectives meet those of the writing threads
    (saved,) = writer.wait()
    assert isinstance(saved, Saved), saved
    dist.barrier()
    resumed = continue_from(folder, base, "two", 2)
    assert same_shards(trainer, resumed), "the same step again, to the bit"
    continue_from(folder, base, "one", 2)
    replicas_write_once(base, folder, writer)

    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    write_shards = checkpoint_writer._write_shards
    if rank == 1:
        checkpoint_writer._write_shards = is_full
    writer.start(trainer, folder / "two", base=base, meta={})
    (failed,) = writer.wait()
    assert isinstance(failed, CheckpointError), failed
    assert "No space left" in str(failed), failed
    checkpoint_writer._write_shards = write_shards

    def dies(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    if rank == 0:
        checkpoint_writer._write_shards = dies
    writer.start(trainer, folder / "two", base=base, meta={})
    (failed,) = writer.wait()
    assert isinstance(failed, CheckpointError), failed
    os._exit(0)  # nobody is left to say goodbye to


def main() -> None:
    base, folder, port = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    for world in (2, 3):

        def work(rank: int, world: int = world) -> None:
            if world == 2:
                two_ranks(base, folder, rank)
            continue_from(folder, base, "two", world)

        print(fork_ranks(world, port, f"of {world}", work), flush=True)


if __name__ == "__main__":
    main()
