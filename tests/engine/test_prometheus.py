import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from engine.monitor.prometheus import (
    CONTENT_TYPE,
    MAX_LABEL,
    METRICS,
    exposition,
    merged_servers,
    names_markdown,
)
from engine.monitor.snapshot import (
    Alarm,
    Bottleneck,
    PolicyView,
    Snapshot,
    Station,
    StreamView,
    stages,
)

FUNNEL = {"sampled": 1200, "usable": 1101, "groups": 300, "kept": 291, "trained": 40}
SNAPSHOT = Snapshot(
    name="quickstart",
    phase="self-play",
    elapsed_s=3725.5,
    games={"started": 9, "finished": 6, "in_flight": 2, "dropped": {"deadline": 1}},
    games_per_min=30.0,
    streams={
        "solver": StreamView(
            ready=3,
            leased=2,
            trained=40,
            dropped={"too_easy": 7},
            age_mean=1.25,
            age_max=70,
            ages={0: 10, 1: 20, 5: 9, 70: 1},
            submitted_per_s=1.5,
            trained_per_s=0.5,
            funnel=stages(FUNNEL, ("answered", "boxed")),
        ),
        "coder": StreamView(),
    },
    policies={
        "solver": PolicyView(
            step=5,
            total_steps=120,
            version=6,
            reward=0.5,
            generated_per_s=3000,
            trained_per_s=200,
            waits_for="games",
            starved=0.25,
            starved_s=4.0,
            steps_per_min=6.0,
            mfu=0.4,
        ),
        "coder": PolicyView(step=0, total_steps=120),
    },
    stations={
        "solver": Station(
            kind="servers", units=2, outstanding=9, queued=4, per_s=3.5, wait_share=0.75, busy=0.9
        ),
        "renderer": Station(kind="renderer", units=1),
    },
    bottleneck=Bottleneck("solver", "The servers of solver."),
    alarms=[Alarm("learner_starved", "one"), Alarm("learner_starved", "two")],
    busy={"server/solver": 0.9},
    parts={"renderer": {"workers": 2, "backend": "resvg", "is_odd": True, "times": {"p50": 1}}},
)
SERVER = """\
# HELP sglang:num_running_reqs The number of running requests.
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{model_name="a\\\\b \\"c\\""} 3.0
# HELP sglang:prompt_tokens_total Prompt tokens.
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{model_name="m"} 128.0
# HELP sglang:e2e_request_latency_seconds Latency.
# TYPE sglang:e2e_request_latency_seconds histogram
sglang:e2e_request_latency_seconds_sum{model_name="m"} 11.5
sglang:e2e_request_latency_seconds_bucket{le="0.3",model_name="m"} 1.0
sglang:e2e_request_latency_seconds_bucket{le="+Inf",model_name="m"} 4.0
sglang:e2e_request_latency_seconds_count{model_name="m"} 4.0
"""
FAILED = "streamzero_server_scrape_failed"

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def series(data: bytes) -> Series:
    """{(name, labels): value}; no series twice."""
    found: Series = {}
    for family in text_string_to_metric_families(data.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Series, name: str, /, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_counters_do_not_fall_where_a_restart_undoes_what_was_trained() -> None:
    def told(view: StreamView) -> Series:
        every = series(exposition(replace(SNAPSHOT, streams={"solver": view})))
        counters = ("trained_groups_total", "funnel_total", "age_steps_bucket", "age_steps_count")
        return {key: n for key, n in every.items() if key[0].endswith(counters)}

    before = SNAPSHOT.streams["solver"]
    funnel = tuple((stage, n - 12 if stage == "trained" else n) for stage, n in before.funnel)
    kept = {0: 10, 1: 17, 5: 0, 70: 1}
    undone = replace(before, trained=28, ages=kept, undone={1: 3, 5: 9}, funnel=funnel)
    assert told(undone) == told(before)


def types(data: bytes) -> dict[str, str]:
    """{name: type} of the text; each name has one TYPE and one HELP."""
    rows = re.findall(r"^# TYPE (\S+) (\S+)$", data.decode(), re.MULTILINE)
    helps = re.findall(r"^# HELP (\S+) ", data.decode(), re.MULTILINE)
    assert sorted(helps) == sorted(name for name, _ in rows)
    assert len(dict(rows)) == len(rows)
    return dict(rows)


def test_every_number_of_the_snapshot_is_there() -> None:
    found = series(exposition(SNAPSHOT))

    def of(name: str, /, **labels: str) -> float:
        return value(found, f"streamzero_{name}", run="quickstart", **labels)

    assert of("elapsed_seconds") == 3725.5
    assert of("phase", phase="self-play") == 1
    assert of("paused") == 0
    assert of("bottleneck", part="solver") == 1
    assert of("alarm", name="learner_starved") == 2
    assert of("games_started_total") == 9
    assert of("games_finished_total") == 6
    assert of("games_dropped_total", reason="deadline") == 1
    assert of("games_in_flight") == 2
    assert of("games_finished_per_second") == 0.5
    assert of("stream_ready_groups", stream="solver") == 3
    assert of("stream_leased_groups", stream="solver") == 2
    assert of("stream_trained_groups_total", stream="solver") == 40
    assert of("stream_dropped_groups_total", stream="solver", reason="too_easy") == 7
    assert of("stream_funnel_total", stream="solver", stage="answered") == 1200
    assert of("stream_funnel_total", stream="solver", stage="kept") == 291
    assert of("stream_submitted_groups_per_second", stream="solver") == 1.5
    assert of("stream_trained_groups_per_second", stream="solver") == 0.5
    assert of("stream_age_mean_steps", stream="solver") == 1.25
    assert of("stream_age_max_steps", stream="solver") == 70
    assert of("stream_age_steps_bucket", stream="solver", le="0.0") == 10
    assert of("stream_age_steps_bucket", stream="solver", le="1.0") == 30
    assert of("stream_age_steps_bucket", stream="solver", le="6.0") == 39
    assert of("stream_age_steps_bucket", stream="solver", le="64.0") == 39
    assert of("stream_age_steps_bucket", stream="solver", le="+Inf") == 40
    assert of("stream_age_steps_count", stream="solver") == 40
    assert of("stream_age_steps_sum", stream="solver") == 20 + 45 + 70
    assert of("policy_step", policy="solver") == 5
    assert of("policy_target_steps", policy="solver") == 120
    assert of("policy_version", policy="solver") == 6
    assert of("policy_reward", policy="solver") == 0.5
    assert of("policy_generated_tokens_per_second", policy="solver") == 3000
    assert of("policy_trained_tokens_per_second", policy="solver") == 200
    assert of("policy_steps_per_second", policy="solver") == 0.1
    assert of("policy_waiting", policy="solver") == 1
    assert of("policy_starved_ratio", policy="solver") == 0.25
    assert of("policy_starved_seconds", policy="solver") == 4
    assert of("policy_mfu_ratio", policy="solver") == 0.4
    assert of("station_units", station="solver") == 2
    assert of("station_outstanding_requests", station="solver") == 9
    assert of("station_queued_requests", station="solver") == 4
    assert of("station_answered_requests_per_second", station="solver") == 3.5
    assert of("station_wait_ratio", station="solver") == 0.75
    assert of("station_busy_ratio", station="solver") == 0.9
    assert of("part_busy_ratio", part="server/solver") == 0.9
    assert of("part_value", part="renderer", name="workers") == 2


def test_an_alarm_that_does_not_ring_is_zero() -> None:
    names = ("learner_starved", "disk_full")
    found = series(exposition(replace(SNAPSHOT, alarm_names=names)))
    assert value(found, "streamzero_alarm", run="quickstart", name="learner_starved") == 2
    assert value(found, "streamzero_alarm", run="quickstart", name="disk_full") == 0


def test_what_is_not_known_is_absent() -> None:
    data = exposition(SNAPSHOT)
    found = series(data)
    for name in ("policy_mfu_ratio", "policy_reward", "policy_starved_ratio"):
        own = [labels for n, labels in found if n == f"streamzero_{name}"]
        assert [dict(labels)["policy"] for labels in own] == ["solver"]
    assert sum(name == "streamzero_part_value" for name, _ in found) == 1
    empty = Snapshot(name="r", phase="start", elapsed_s=0, games={}, streams={}, policies={})
    names = types(exposition(empty))
    assert "streamzero_games_started_total" in names
    assert not {"streamzero_alarm", "streamzero_bottleneck", "streamzero_policy_step"} & {*names}


def test_names_are_unique_documented_and_follow_the_conventions() -> None:
    names = [metric.name for metric in METRICS]
    assert len({*names}) == len(names)
    told = types(exposition(SNAPSHOT))
    assert {*told} | {FAILED} == {*names}
    table = names_markdown()
    for metric in METRICS:
        assert told.get(metric.name, "gauge") == metric.kind
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert re.fullmatch(r"streamzero(_[a-z]+)+", metric.name)
        assert metric.help.endswith(".")
        assert table.count(f"`{metric.name}`") == 1
    for name, labels in series(exposition(SNAPSHOT)):
        family = re.sub(r"(?<=age_steps)_(bucket|count|sum)$", "", name)
        (metric,) = (metric for metric in METRICS if metric.name == family)
        assert {label for label, _ in labels} - {"le"} == {*metric.labels}


def test_the_content_type_is_that_of_the_text_format() -> None:
    assert CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"


def test_hostile_labels_are_escaped_and_cut() -> None:
    plain = 'quote " backslash \\ newline \n } , = # tab \t end'
    reasons = {plain: 1, "lone \ud800": 2, "lone ?": 3, "x" * 500: 4, "x" * 501: 5}
    found = series(exposition(replace(SNAPSHOT, games={"dropped": reasons})))
    own = {
        dict(labels)["reason"]: number
        for (name, labels), number in found.items()
        if name == "streamzero_games_dropped_total"
    }
    assert own.pop(plain) == 1
    assert own.pop("lone ?") == 5
    assert sorted(own.values()) == [4, 5]
    assert all(len(reason) == MAX_LABEL for reason in own)


HOSTILE = st.text(st.characters() | st.sampled_from('"\\\n\r\ud800{},= #'), max_size=200)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(HOSTILE, st.integers(0, 10**9), max_size=6), HOSTILE)
def test_any_labels_are_one_valid_text(reasons: dict[str, int], text: str) -> None:
    snapshot = replace(
        SNAPSHOT,
        name=text,
        phase=text,
        games={"dropped": reasons},
        streams={"solver": StreamView(dropped=reasons, funnel=((text, 1), (text, 2)))},
        bottleneck=Bottleneck(text, text),
        alarms=[Alarm(text, text), Alarm(text + "\ud800", text)],
        parts={text: {text: 1.0}},
    )
    found = series(exposition(snapshot))
    for name in ("games_dropped_total", "stream_dropped_groups_total"):
        told = [number for (n, _), number in found.items() if n == f"streamzero_{name}"]
        assert sum(told) == sum(reasons.values())
    assert all(len(text) <= MAX_LABEL for _, labels in found for _, text in labels)


# the servers' own


def test_servers_are_told_apart_and_types_survive() -> None:
    urls = ("http://a:1", "http://b:2")
    data = merged_servers({("solver", url): SERVER for url in urls})
    assert types(data) == {
        "sglang:num_running_reqs": "gauge",
        "sglang:prompt_tokens_total": "counter",
        "sglang:e2e_request_latency_seconds": "histogram",
        FAILED: "gauge",
    }
    found = series(data)
    assert len(found) == 2 * 7
    for url in urls:
        own = {"policy": "solver", "server": url}
        name = "sglang:num_running_reqs"
        assert value(found, name, model_name='a\\b "c"', **own) == 3
        assert value(found, "sglang:prompt_tokens_total", model_name="m", **own) == 128
        name = "sglang:e2e_request_latency_seconds"
        assert value(found, f"{name}_bucket", model_name="m", le="0.3", **own) == 1
        assert value(found, f"{name}_bucket", model_name="m", le="+Inf", **own) == 4
        assert value(found, f"{name}_count", model_name="m", **own) == 4
        assert value(found, f"{name}_sum", model_name="m", **own) == 11.5
        assert value(found, FAILED, **own) == 0
    lines = data.decode().splitlines()
    kept = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    rows = [line for line in lines if not line.startswith("#")]
    order = [next(name for name in kept if row.startswith(name)) for row in rows]
    assert [*dict.fromkeys(order)] == kept
    assert order == sorted(order, key=kept.index)  # a family's samples stand together


def test_a_merged_text_can_be_merged_again() -> None:
    once = merged_servers({("solver", "u"): SERVER})
    again = series(merged_servers({("p", "v"): once.decode()}))
    for (name, labels), number in series(once).items():
        theirs = {f"exported_{n}" if n in ("policy", "server") else n: v for n, v in labels}
        if name != FAILED:
            assert value(again, name, policy="p", server="v", **theirs) == number


def test_a_text_that_cannot_be_read_is_left_out_and_told() -> None:
    bad = ("<html>not found</html>", "sglang:x{", "# TYPE x odd\nx 1", "x 1_0", f"x {'9' * 400}")
    texts = {("solver", str(number)): text for number, text in enumerate(bad)}
    found = series(merged_servers({**texts, ("coder", "good"): "x 1\nx 1\n", ("coder", "no"): ""}))
    assert {key: number for key, number in found.items() if key[0] != FAILED} == {
        ("x", frozenset({("policy", "coder"), ("server", "good")})): 1
    }
    dead = series(merged_servers({("solver", "dead"): None, ("solver", "good"): "x 1\n"}))
    assert value(dead, FAILED, policy="solver", server="dead") == 1
    assert value(dead, FAILED, policy="solver", server="good") == 0
    for number in range(len(bad)):
        assert value(found, FAILED, policy="solver", server=str(number)) == 1
    assert value(found, FAILED, policy="coder", server="good") == 0
    assert value(found, FAILED, policy="coder", server="no") == 0


def test_servers_that_disagree_about_a_type_do_not_spoil_the_text() -> None:
    texts: dict[Any, str] = {
        ("p", "a"): "# TYPE x gauge\nx 1\n",
        ("p", "b"): "# TYPE x counter\nx 2\n# TYPE y gauge\ny NaN\n",
        ("p", "c"): '# TYPE x histogram\nx_bucket{le="+Inf"} 1\nx_count 1\nx_sum 1\n',
    }
    data = merged_servers(texts)
    assert types(data) == {"x": "gauge", "x_total": "counter", "y": "gauge", FAILED: "gauge"}
    found = series(data)
    assert value(found, "x", policy="p", server="a") == 1
    assert value(found, "x_total", policy="p", server="b") == 2
    assert math.isnan(value(found, "y", policy="p", server="b"))


def test_a_series_in_two_families_of_one_server_is_there_once() -> None:
    text = 'x_sum{a="m"} 11.5\n# TYPE x histogram\nx_sum{a="m"} 12.5\n'
    found = series(merged_servers({("p", "a"): text}))
    assert value(found, "x_sum", a="m", policy="p", server="a") == 11.5


LINES = st.lists(
    st.sampled_from(SERVER.splitlines())
    | st.text(st.characters() | st.sampled_from('"\\{},=# 19.:x\ud800'), max_size=30),
    max_size=12,
).map("\n".join)


@settings(max_examples=200, deadline=None)
@given(LINES, LINES)
def test_whatever_servers_answer_is_one_valid_text(first: str, second: str) -> None:
    data = merged_servers({("p", "a"): first, ("p", "b"): second, ("p", "c"): SERVER})
    assert value(series(data), FAILED, policy="p", server="c") == 0


def test_the_readme_has_every_name() -> None:
    readme = Path(__file__).resolve().parents[2] / "engine/monitor/README.md"
    assert names_markdown().strip() in readme.read_text()
