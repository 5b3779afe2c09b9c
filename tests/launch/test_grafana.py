import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import launch
from engine.monitor.prometheus import METRICS

BOARD = json.loads((Path(launch.__file__).parent / "grafana.json").read_text())
PANELS: list[dict[str, Any]] = BOARD["panels"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
LANGUAGE = {"sum", "by", "rate", "increase", "label_values"}
HISTOGRAM = ("_bucket", "_count", "_sum")


def expressions() -> Iterator[str]:
    for panel in PANELS:
        yield from (target["expr"] for target in panel.get("targets", []))
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def names(expression: str) -> set[str]:
    """The metrics in a PromQL expression: words that are no label, string, range or function."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]|\bby \([^)]*\)|=~?', " ", expression)
    bare = re.sub(r"\{[^}]*\}", " ", bare).replace(", run)", ")")
    return {*re.findall(r"[A-Za-z_:][\w:]*", bare)} - LANGUAGE


def own_names() -> set[str]:
    own = {metric.name for metric in METRICS}
    return own | {m.name + end for m in METRICS if m.kind == "histogram" for end in HISTOGRAM}


def test_every_metric_that_it_shows_exists() -> None:
    shown = {name for expression in expressions() for name in names(expression)}
    assert {name for name in shown if not name.startswith("sglang:")} <= own_names()
    assert any(name.startswith("sglang:") for name in shown)


def test_every_metric_is_shown() -> None:
    shown = " ".join(expressions())
    assert [metric.name for metric in METRICS if metric.name not in shown] == []


def test_every_label_that_it_names_exists() -> None:
    labels = {metric.name: {*metric.labels} for metric in METRICS}
    for panel in PANELS:
        for target in panel.get("targets", []):
            named = {*re.findall(r"{{(\w+)}}", target["legendFormat"])} - {"le"}
            for name in names(target["expr"]):
                family = name.removesuffix("_bucket")
                assert named <= labels.get(family, {"policy", "server"}), target["expr"]


def test_runs_and_the_source_are_chosen_by_variables() -> None:
    variables = {variable["name"]: variable for variable in BOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["run"]["datasource"] == SOURCE
    by_name = {metric.name: metric for metric in METRICS}
    for panel in PANELS:
        for target in panel.get("targets", []):
            assert panel["datasource"] == target["datasource"] == SOURCE
            chosen = target["expr"].count('{run=~"$run"}')
            own = [
                name
                for name in names(target["expr"])
                if "run" in getattr(by_name.get(name.removesuffix("_bucket")), "labels", ())
            ]
            assert chosen == len(own)


def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len({*ids}) == len(ids)
    for panel in PANELS:
        place = panel["gridPos"]
        assert min(place["x"], place["y"]) >= 0
        assert min(place["w"], place["h"]) >= 1
        assert place["x"] + place["w"] <= WIDTH
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        apart = any(
            a[at] + a[size] <= b[at]
            for a, b in ((one, other), (other, one))
            for at, size in (("x", "w"), ("y", "h"))
        )
        assert apart, (one, other)


def test_it_has_its_rows_and_the_schema_of_grafana_10() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Flow", "Throughput", "Learning", "Health"]
    assert BOARD["schemaVersion"] == 39
    assert BOARD["uid"]


@pytest.mark.parametrize(
    "expression, found",
    [
        ('sum by (run) (rate(a_total{run=~"$run"}[$__rate_interval]))', {"a_total"}),
        ('a{run=~"$run"} / b{run=~"$run"}', {"a", "b"}),
        ("label_values(streamzero_elapsed_seconds, run)", {"streamzero_elapsed_seconds"}),
    ],
)
def test_names_are_found_in_expressions(expression: str, found: set[str]) -> None:
    assert names(expression) == found
