"""Two ranks over gloo compute what one rank does: loss, metrics, weights, resume."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.learner import train_ranks
from tests.engine.learner.forked import run_forked


@pytest.mark.slow
def test_two_ranks_equal_one(tiny_base: Path, tmp_path: Path) -> None:
    assert run_forked(train_ranks.__name__, tiny_base, tmp_path) == ["0 0"]
    alone_dir = tmp_path / "alone"
    alone_dir.mkdir()
    alone = train_ranks.run(tiny_base, alone_dir, alone_dir / "checkpoints")
    want = dict(alone.named_weights())
    for folder in (tmp_path, tmp_path / "rank1"):
        got = load_file(folder / "weights.safetensors")
        assert got.keys() == want.keys()
        for name, tensor in want.items():
            torch.testing.assert_close(got[name], tensor, atol=1e-5, rtol=0)
        name, error = (folder / "broken.txt").read_text().split(": ", 1)  # on the second rank only
        assert error == f"solver: weights that are not finite after step 5: {name}"
    one, two = (read_metrics(folder / "metrics.txt") for folder in (alone_dir, tmp_path))
    for key in ("loss", "grad_norm", "ess", "k3", "entropy", "ratio_max", "tokens"):
        assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), key


def read_metrics(path: Path) -> dict[str, float]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {key: float(value) for key, value in lines}
