import gc
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType

import pytest

from engine import metrics
from engine.metrics import GroupMeter, MetricLog, RateMeter, read_metrics
from engine.types import Rollout
from tests.engine.make_groups import make_group, make_rollout


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
    assert meter.rate(50, now_s=115) == 5  # a silence of 5 s more than usual
    assert meter.rate(80, now_s=118) == 30 / 13


@pytest.mark.parametrize("step_s", [7, 15, 25, 30, 90])
def test_a_rate_of_what_comes_rarely_neither_jumps_nor_reads_zero(step_s: int) -> None:
    meter = RateMeter()
    rates = [meter.rate(now // step_s, now) for now in range(12 * step_s)]
    assert rates[2 * step_s :] == pytest.approx([1 / step_s] * (10 * step_s))


def test_a_rate_falls_with_the_silence_and_ends_at_zero() -> None:
    meter = RateMeter()
    for now in range(0, 61, 30):
        meter.rate(now // 30, now)
    rates = [meter.rate(2, now) for now in range(91, 800)]
    assert rates[0] == pytest.approx(1 / 31)
    assert rates == sorted(rates, reverse=True)
    assert rates[60 + 600 - 91] > 0
    assert rates[-1] == 0


def test_a_rate_after_a_long_silence_is_that_of_its_window() -> None:
    meter = RateMeter(window_s=20)
    for now in range(30):
        meter.rate(100 * now, now)
    for now in range(30, 400):
        meter.rate(2900, now)
    rates = [meter.rate(2900 + 100 * (now - 399), now) for now in range(400, 440)]
    assert rates[9] == pytest.approx(1000 / 29)  # not over the 380 s in which nothing came
    assert rates[-1] == pytest.approx(100)


def test_steps_are_read_from_where_they_matter_however_long_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    with path.open("w") as file:
        for number in range(20_000):
            kind = "step" if number % 4 == 0 else "engine"
            row = {"t": 1000.0 + number, "kind": kind, "step": number, "filling": "x" * 300}
            file.write(json.dumps(row) + "\n")
            if number == 9_998:
                file.write('{"t": 11, "kind": "step", "st\n')  # a crash
    parsed = []
    monkeypatch.setattr(metrics, "MAX_READ", 200_000)
    loads = json.loads
    monkeypatch.setattr(metrics.json, "loads", lambda text: (parsed.append(text), loads(text))[1])
    rows = metrics.read_steps(path, 11_000.0)
    assert [row["step"] for row in rows[:3]] == [10_000, 10_004, 10_008]
    assert len(rows) > 50
    assert len(parsed) < 200
    assert metrics.read_steps(path, 0.0)[0]["step"] == 0
    assert metrics.read_steps(path, 1e9) == []
    assert metrics.read_steps(tmp_path / "none", 0.0) == []


def test_dataclasses_and_what_json_does_not_know_become_plain() -> None:
    @dataclass(frozen=True)
    class View:
        share: float
        ages: dict[int, int]

    assert json.loads(metrics.to_json({"a": View(0.5, {1: 2})})) == {
        "a": {"share": 0.5, "ages": {"1": 2}}
    }
    assert json.loads(metrics.to_json({"a": View(math.nan, {}), "b": MappingProxyType({})})) == {
        "a": {"share": None, "ages": {}}, "b": {},
    }  # fmt: skip


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


def test_tokens_and_what_was_cut_off_are_counted_over_rollouts_and_their_groups() -> None:
    long = replace(make_rollout(versions=(1, 2, 3)), finish="length")
    short = make_rollout()
    meter = GroupMeter()
    meter.add(replace(make_group(rewards=(0.0, 1.0)), rollouts=(long, short)))
    meter.add(replace(make_group(rewards=(0.0, 1.0)), rollouts=(short, short)))
    means = meter.means()["solver"]
    assert means["tokens"] == ((4 + 2) / 2 + 2) / 2
    assert means["truncated"] == (0.5 + 0.0) / 2
    given = replace(make_group(rewards=(1.0, 1.0)), advantages=(0.5, -0.5))
    meter.add(given)
    assert meter.means()["solver"]["kept"] == 1.0, "given advantages are a signal"


def reachable(root: object) -> list[object]:
    """All that `root` holds, itself included; classes and functions are nobody's."""
    found, left = {id(root): root}, [root]
    while left:
        for one in gc.get_referents(left.pop()):
            if id(one) not in found and not isinstance(one, type | FunctionType | ModuleType):
                found[id(one)] = one
                left.append(one)
    return [*found.values()]


def test_a_meter_holds_no_rollout_and_tells_of_all_that_came() -> None:
    meter = GroupMeter(window=50)
    groups = [
        make_group(rewards=(float(k), 1.0), extra={"share": k / 9} if k % 3 else {"other": 1})
        for k in range(70)
    ]
    for group in groups:
        meter.add(group)
    assert not any(isinstance(one, Rollout) for one in reachable(meter))
    assert any(isinstance(one, Rollout) for one in reachable(groups))
    recent = groups[-50:]
    rewards = [sum(group.rewards) / 2 for group in recent]
    assert meter.reward("solver") == pytest.approx(sum(rewards) / 50)
    means = meter.means()["solver"]
    shares = [group.extra["share"] for group in recent if "share" in group.extra]
    assert means["reward"] == pytest.approx(sum(rewards) / 50)
    assert means["extra/share"] == pytest.approx(sum(shares) / len(shares))
    assert (means["extra/other"], means["num_groups"]) == (1.0, 50)
    assert [*means][:-1] == sorted([*means][:-1])


def test_a_meter_looks_at_a_random_sample_of_many_groups_whatever_their_order() -> None:
    meter = GroupMeter(window=50, most=50)
    found, numbers = [], []
    for _ in range(100):
        for k in range(400):  # as the fourth question of each game differs from the others
            meter.add(make_group(rewards=(float(k % 4 == 3),) * 2))
        numbers.append(len(meter._streams["solver"].new))
        found.append(meter.means()["solver"]["reward"])
    assert numbers[0] == 50, "the newest of all: nobody knew that so many would come"
    # Binomial, five standard errors of 99 readings of 50 groups.
    assert abs(sum(numbers[1:]) / 99 - 50 * 0.95) < 5 * 0.5 + 2.5
    error = math.sqrt(0.25 * 0.75 / (99 * 50))
    assert abs(sum(found[1:]) / 99 - 0.25) < 5 * error
    for _ in range(3):  # few again: from the next reading on, all of them
        meter.add(make_group())
    meter.means()
    for _ in range(7):
        meter.add(make_group())
    assert len(meter._streams["solver"].new) == 7
