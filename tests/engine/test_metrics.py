import json
import math
from pathlib import Path

from engine.metrics import GroupMeter, MetricLog, RateMeter, read_metrics
from tests.engine.make_groups import make_group


def test_lines_are_appended_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for number in range(2):
        with MetricLog(path) as log:
            log.write("step", {"policy": "solver", "step": number})
    records = read_metrics(path)
    assert [(row["kind"], row["step"]) for row in records] == [("step", 0), ("step", 1)]
    assert records[0]["t"] <= records[1]["t"]


def test_a_torn_line_is_left_out_and_eats_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricLog(path) as log:
        log.write("step", {"step": 1})
    with path.open("ab") as file:
        file.write(b'{"kind": "step", "st\xff')
    assert len(read_metrics(path)) == 1
    with MetricLog(path) as log:
        log.write("step", {"step": 2})
    assert [row["step"] for row in read_metrics(path)] == [1, 2]


def test_no_file_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none") == []


def test_numbers_that_json_does_not_know_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricLog(path) as log:
        log.write("step", {"metrics": {"loss": math.nan}, "list": (math.inf, 1.0)})
    assert "NaN" not in path.read_text()
    line = json.loads(path.read_text())
    assert (line["metrics"], line["list"]) == ({"loss": None}, [None, 1.0])


def test_a_rate_is_that_of_the_window() -> None:
    meter = RateMeter(window_s=10)
    assert meter.rate(0, now_s=100) == 0
    assert meter.rate(50, now_s=105) == 10
    assert meter.rate(50, now_s=115) == 0
    assert meter.rate(80, now_s=118) == 30 / 13


def test_means_over_recent_groups_count_dropped_ones_too() -> None:
    meter = GroupMeter(window=2)
    meter.add(make_group(rewards=(9.0, 9.0)))
    meter.add(make_group(rewards=(0.0, 1.0), extra={"share": 0.5, "label": "x"}))
    meter.add(make_group(rewards=(1.0, 2.0), extra={"share": 1.0, "drop": "too_easy"}))
    means = meter.means()["solver"]
    assert means["reward"] == means["term/right"] == 1.0
    assert (means["kept"], means["extra/share"], means["num_groups"]) == (0.5, 0.75, 2)
    assert (means["tokens"], means["truncated"]) == (2, 0)
    assert "extra/label" not in means
