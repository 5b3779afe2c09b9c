"""Bad batches are kept, counted, and at last the end."""

from pathlib import Path

import pytest

from engine.errors import EngineError, TransportError
from engine.learner.bad_batches import KEPT, BadBatches, load_batch, save_batch
from engine.types import Group
from engine.wire import pack
from tests.engine.learner.learner_data import make_group


def float32(group: Group) -> list[list[float]]:
    return [[round(x, 4) for x in rollout.logprobs] for rollout in group.rollouts]


def test_a_batch_comes_back_with_its_pictures(tmp_path: Path) -> None:
    groups = [make_group(i, num_images=i) for i in range(3)]
    save_batch(tmp_path / "deep" / "batch.msgpack", groups)
    again = load_batch(tmp_path / "deep" / "batch.msgpack")
    assert [g.rewards for g in again] == [g.rewards for g in groups]
    assert [float32(g) for g in again] == [float32(g) for g in groups]
    assert [[r.images for r in g.rollouts] for g in again] == [
        [r.images for r in g.rollouts] for g in groups
    ]


@pytest.mark.parametrize("content", [b"", b"\xff\x00", pack([1, 2]), pack({"groups": []})])
def test_what_is_no_batch_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.msgpack"
    path.write_bytes(content)
    with pytest.raises(TransportError):
        load_batch(path)


def test_several_in_a_row_end_the_run_and_a_good_one_forgives(tmp_path: Path) -> None:
    bad = BadBatches(tmp_path / "bad", limit=3)
    groups = [make_group(1)]
    for request in (1, 2):
        bad.bad("solver", request, "non_finite_loss", groups)
    bad.bad("coder", 9, "non_finite_loss", groups)  # its own count
    bad.good("solver")
    for request in (4, 5):
        bad.bad("solver", request, "exploding_ratio", groups)
    with pytest.raises(EngineError, match=r"solver: 3 bad batches in a row.*log-probs are far"):
        bad.bad("solver", 6, "exploding_ratio", groups)
    assert len(list((tmp_path / "bad").iterdir())) == 6
    assert (tmp_path / "bad" / "solver-0-6-exploding_ratio.msgpack").exists()


def test_a_full_folder_or_disk_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = BadBatches(tmp_path / "bad", limit=10**6)
    for request in range(KEPT + 5):
        bad.bad("solver", request, "non_finite_gradient", [make_group(1)])
    assert len(list((tmp_path / "bad").iterdir())) == KEPT
    (tmp_path / "file").write_text("")
    BadBatches(tmp_path / "file", limit=9).bad("solver", 1, "non_finite_loss", [make_group(1)])
    assert "not kept" in caplog.text
