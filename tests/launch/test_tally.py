"""What an attempt adds to the counters that live over restarts."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.buffer import Buffer
from engine.routing import ServerPool
from launch import tally
from launch.tally import SAVE_EVERY_S, Tally


def test_totals_are_of_now_and_the_buffer_is_written_now_and_then_and_at_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(tally, "time", SimpleNamespace(monotonic=lambda: now[0]))
    buffer = Buffer.open(tmp_path / "run.db")
    writes = []
    add_all = buffer.add_all
    monkeypatch.setattr(buffer, "add_all", lambda given: (writes.append(now[0]), add_all(given)))
    own = Tally(buffer, {"a": ServerPool("a", max_concurrency=1)})
    seconds = 31
    for second in range(seconds):
        own.trained("a", 10)
        own.count()
        assert own.totals["trained/a"] == 10 * (second + 1)
        now[0] += 1.0
        # What a crash would lose now: never more than these seconds.
        assert own.totals["trained/a"] - buffer.counters()["trained/a"] <= 10 * SAVE_EVERY_S
    assert len(writes) == 1 + seconds // SAVE_EVERY_S
    own.save()
    assert buffer.counters()["trained/a"] == 10 * seconds
    assert buffer.counters()["wall_s"] == seconds
    buffer.close()


def test_what_was_added_stays_added(tmp_path: Path) -> None:
    buffer = Buffer.open(tmp_path / "run.db")
    own = Tally(buffer, {})
    for worked_s in (5.0, 3.0, 6.0):
        own.worked("renderer", worked_s, 10.0)
        own.save()
    assert buffer.counters()["busy_s/renderer"] == 6.0
    buffer.close()
