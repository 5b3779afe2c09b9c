import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.buffer import Buffer
from engine.errors import ConfigError
from engine.metrics import MetricLog
from engine.rundir import RunDir
from engine.summary import build_summary, write_summary
from launch.charts import interval_chart, line_chart
from launch.compare import distinct_names, flat, write_comparison
from launch.report import main, write_report
from launch.sections.sides import by_minute, spread
from tests.engine.make_groups import make_group
from tests.launch.test_report import HOSTILE, Page, rows_of

CONFIG = {"run": {"name": "x", "seed": 0}, "learner": {"lr": 1e-5}, "layout": {"ranks": [0, 1]}}
EASY = "solver, easy questions (mean of samples at T = 1)"


def make_run(
    path: Path, change: float = 0.1, has_ended: bool = True, config: dict[str, Any] | None = None
) -> Path:
    run = RunDir(path)
    path.parent.mkdir(exist_ok=True)
    run.create()
    run.config.write_text(yaml.safe_dump(CONFIG | (config or {})))
    buffer = Buffer.open(run.database)
    buffer.begin_attempt()
    game = buffer.start_game("mm_zero")
    buffer.submit(make_group(game, extra={"drop": "<too easy>"}))
    buffer.submit(make_group(game))
    buffer.end_game(game, notes={"x": 1})
    buffer.add_all(
        {"generated/solver": 1000, "trained/solver": 400, "wall_s": 120,
         "busy_s/learner": 30, "busy_of_s/learner": 120}
    )  # fmt: skip
    with MetricLog(run.metrics) as log:
        for step in range(1, 31):
            log.write("step", {"policy": "solver", "step": step, "reward": change * step,
                               "metrics": {"grad_norm": step, "ess": 1.0}})  # fmt: skip
            view = {"generated_per_s": 5.0, "trained_per_s": None}
            log.write("engine", {"policies": {"solver": view}, "busy": {}, "streams": {}})
        log.write("dev", {"step": 30, "means": {"solver_easy_t1": 0.5, "odd <i>": 0.5}})
        score = {"title": "MMMU <b>", "estimate": 0.5, "low": 0.4, "high": 0.6, "rows": 9}
        log.write("benchmarks", {"policy": "solver", "step": 30, "to_step": 30, "missing": 0,
                                 "scores": {"mmmu": score}, "overall": {}})  # fmt: skip
        log.write("heldout", {"when": "heldout-before", "means": {"solver_easy_t1": 0.5}})
        log.write("event", {"level": "warning", "text": HOSTILE})
    if has_ended:
        heldout = {
            "before": {"solver_easy_t1": 0.5, "solver_hard_maj16": 0.6},
            "after": {"solver_easy_t1": 0.5 + change},
            "delta": {"solver_easy_t1": change},
            "ci95": {"solver_easy_t1": [change - 0.05, change + 0.05]},
        }
        summary = build_summary(
            buffer, steps={"solver": 30}, versions={"solver": 30}, max_age={"solver": 4},
            heldout=heldout, seed=3, config_sha256="c" * 64,
        )  # fmt: skip
        write_summary(run.summary, summary)
    buffer.close()
    return path


def test_a_run_that_goes_on_again_has_no_summary_of_before(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    buffer = Buffer.open(RunDir(second).database)
    buffer.begin_attempt()
    buffer.close()
    with MetricLog(RunDir(second).metrics) as log:
        log.write("step", {"policy": "solver", "step": 60, "reward": 1.0, "metrics": {}})
    rows = rows_of(write_comparison([str(first), str(second)]).read_text())
    assert ["state", "ended", "no summary yet"] in rows
    assert ["steps of each policy", "30", "60"] in rows
    assert "no summary yet" in write_report(second).read_text()


def test_runs_are_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a", 0.1)
    second = make_run(tmp_path / "b", 0.3, config={"learner": {"lr": 1e-4, "new": "<u>"}})
    third = make_run(tmp_path / "c", 0.12, has_ended=False)
    assert main([str(first), str(second), str(third)]) == 0
    path = tmp_path / "compare-a-b-c.html"
    assert capsys.readouterr().out.strip() == str(path)
    rows = rows_of(path.read_text())
    for row in (
        ["seed", "3", "3", ""],
        ["state", "ended", "ended", "no summary yet"],
        ["steps of each policy", "30", "30", "30"],
        ["wall time, min", "2.0", "2.0", "2.0"],
        ["tokens generated", "1,000", "1,000", "1,000"],
        ["generated per trained", "2.50", "2.50", "2.50"],
        ["steps per hour", "900.0", "900.0", "900.0"],
        ["learner.lr", "1e-05", "0.0001", "1e-05"],
        ["learner.new", "–", "&lt;u&gt;", "–"],
        [EASY],
        ["a", "0.500", "0.600", "+0.100", "+0.050 .. +0.150", ""],
        ["b", "0.500", "0.800", "+0.300", "+0.250 .. +0.350", "+0.200 apart"],
        ["c", "0.500", "", "", "", ""],
        ["tokens generated per second", "8", "8", "8"],
        ["busy: learner", "25%", "25%", "25%"],
        ["answered", "4", "4", "4"],
    ):
        assert row in rows, row
    keys = {row[0] for row in rows if row}
    assert "layout.ranks" not in keys, "it does not differ"
    text = path.read_text()
    assert text.count("the gradient norm grew") == 3
    assert "solver: mean reward of the batch" in text


def test_intervals_that_overlap_are_no_evidence(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, change) for name, change in (("a", 0.1), ("b", 0.15))]
    text = write_comparison([str(folder) for folder in folders]).read_text()
    assert "+0.050 overlap" in text
    assert "no evidence of a difference" in text
    assert "No key differs." in text, "names of runs differ of necessity"


def test_the_page_is_one_file_and_runs_nothing(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name) for name in ("a <b>", "b")]
    out = tmp_path / "page.html"
    assert write_comparison([str(folder) for folder in folders], out) == out
    text = out.read_text()
    page = Page(text)
    assert not page.tags & {"script", "link", "img", "u"}
    assert not any(name.startswith("on") or name in ("src", "href") for name, _ in page.attributes)
    assert "default-src 'none'" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    for part in ("&lt;too easy&gt; 1", "a &lt;b&gt;", "MMMU &lt;b&gt;", "odd &lt;i&gt; (dev set)"):
        assert part in text


def test_a_label_stands_for_the_mean_of_its_runs(tmp_path: Path) -> None:
    a, b, c = (str(make_run(tmp_path / n, x)) for n, x in (("a", 0.1), ("b", 0.3), ("c", 0.5)))
    path = write_comparison([f"two={a},{b}", c])
    assert path.name == "compare-two-c.html"
    text = path.read_text()
    rows = rows_of(text)
    assert ["two", "0.500", "0.700", "+0.200", "+0.100 .. +0.300", ""] in rows
    assert ["c", "0.500", "1.000", "+0.500", "+0.450 .. +0.550", "+0.300 apart"] in rows
    assert ["runs", "a, b", "c"] in rows
    assert ["answered", "8", "4"] in rows
    assert "<title>5.1</title>" in text, "the mean of both runs, over the last ten steps"


def test_runs_of_one_name_are_told_by_their_folders(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name / "run") for name in ("x", "y")]
    path = write_comparison([str(folder) for folder in folders])
    assert path == tmp_path / "x" / "compare-x_run-y_run.html"
    assert "<th>x/run</th><th>y/run</th>" in path.read_text()
    paths = [Path("/a/x/r"), Path("/b/x/r"), Path("/c/q")]
    assert list(distinct_names(paths).values()) == ["a/x/r", "b/x/r", "q"]


def test_many_runs_have_a_name_that_fits(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / f"{'long' * 20}{number}") for number in range(3)]
    assert len(write_comparison([str(folder) for folder in folders]).name) < 110


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "nothing"], "nothing: no run here"),
        (["a", "./a"], "a: this run is given twice"),
        (["x=a", "x=b"], "x: this label is given twice"),
        (["x=a,b"], "wants two runs or more"),
        (["x=a,", "b"], "want a folder, or LABEL=FOLDER,FOLDER"),
        (["a", "b", "--out", "no/where.html"], "no: no such folder"),
        (["a", "--out", "file.html"], "wants two runs or more"),
        (["a", "torn"], "torn/config.yaml: "),
    ],
)
def test_what_cannot_be_compared_is_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("a", "b", "torn"):
        make_run(tmp_path / name)
    (tmp_path / "torn" / "config.yaml").write_text("{a: [")
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_summary_that_is_torn_is_named(tmp_path: Path) -> None:
    folders = [str(make_run(tmp_path / name)) for name in ("a", "b")]
    (tmp_path / "b" / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"b/summary\.json"):
        write_comparison(folders)


def test_keys_are_those_of_overrides() -> None:
    tree = {"a": {"b": [1, 2], "c": [{"d": 1}, {"d": 2}]}, "e": {}, "f": None}
    assert dict(flat(tree)) == {"a.b": [1, 2], "a.c.0.d": 1, "a.c.1.d": 2, "e": {}, "f": None}


def test_a_side_keeps_its_colour_where_another_has_no_data() -> None:
    line = line_chart("t", {"a": [], "b": [(0, 1.0), (1, 2.0)]})
    interval = interval_chart("t", {"a": None, "b": (-0.1, 0.0, 0.1)})
    for chart in (line, interval):
        assert 'class="c1 line"' in chart
        assert re.search(r'<i class="b1"></i>b<', chart)
        assert "c0" not in chart
    assert interval_chart("t", {"a": None}) == ""


def test_small_helpers() -> None:
    assert by_minute([(0.1, 1.0), (0.9, 3.0), (2.0, 5.0)]) == [(0.0, 2.0), (2.0, 5.0)]
    assert spread([1.0, 3.0], "{:.0f}".format) == "2 [1, 3]"
    assert spread([1.0, 1.01], "{:.0f}".format) == "1"
    assert spread([], str) == ""
