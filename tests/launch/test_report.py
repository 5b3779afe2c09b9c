import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from engine.buffer import Buffer
from engine.errors import ConfigError
from engine.metrics import MetricLog
from engine.rundir import RunDir
from engine.summary import build_summary, write_summary
from evals.scenes import language
from evals.scenes.drawing import to_svg
from evals.scenes.splits import scenes
from launch.charts import bar_chart, line_chart, nice_ticks, rolling_mean, share_bar
from launch.gallery import game_html
from launch.report import main, write_report
from launch.sections.diversity import entropy
from launch.sections.proposals import Proposed
from launch.signs import NAMES, signs
from tests.engine.make_groups import make_group

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y> \ud800 \0"
PNG = b"\x89PNG\r\n\x1a\n" + HOSTILE.encode(errors="replace")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Tags and attributes of a page; fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def hostile_notes() -> dict[str, Any]:
    vote = {"majority": HOSTILE, "share": 0.5, "counts": {HOSTILE: 2}, "replies": [HOSTILE] * 2}
    drawing = {
        "svg": HOSTILE, "reward": 0.5, "terms": {HOSTILE: 0.5}, "picture": "picture/0/0",
        "easy": vote, "drop": HOSTILE, "leak": True,
        "hard": vote | {"rewards": [0.0, 1.0], "label": "<i>", "terms": [{HOSTILE: 1.0}] * 2},
    }  # fmt: skip
    broken = {"svg": None, "reward": -1.0, "terms": {}, "text": HOSTILE, "invalid": HOSTILE}
    proposal = {"caption": HOSTILE, "hard_question": HOSTILE, "easy_question": HOSTILE,
                "easy_answer": HOSTILE, "content_type": HOSTILE}  # fmt: skip
    terms = {"a": 1.0, f"repeated_{HOSTILE}": -0.5}
    rows = [
        {"text": HOSTILE, "reward": 1.0, "terms": terms, "proposal": proposal,
         "drawings": [drawing, broken]},
        {"text": HOSTILE, "reward": 0.0, "terms": {}, "invalid": HOSTILE},
    ]  # fmt: skip
    return {"topic": HOSTILE, "proposals": rows, "picture/0/0": PNG}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "demo <b>")
    run.create()
    buffer = Buffer.open(run.database)
    buffer.begin_attempt()
    buffer.reserve_version("solver", 0, 1)
    for number in range(20):
        game = buffer.start_game("mm_zero")
        buffer.submit(make_group(game))
        reason = "<script>" if number == 3 else None
        buffer.end_game(game, dropped=reason, notes=hostile_notes() if number < 18 else {"x": [1]})
    games = {"solver": range(1, 15)}
    buffer.lease("solver", 1, 1, games=games, steps={"solver": 2}, max_age={"solver": 4})
    buffer.trained("solver", 1, 1, 3)
    with MetricLog(run.metrics) as log:
        for step in range(30):
            metrics = {"grad_norm": 0.3 + step, "ess": 0.99, "entropy": 1.0}
            log.write("step", {"policy": "solver", "step": step, "reward": 0.1 * (step % 3),
                               "metrics": metrics})  # fmt: skip
            streams = {"solver": {"reward": 0.5, "term/right": 0.5, "term/odd<": 0.0,
                                  "kept": 0.5, "num_groups": 200}}  # fmt: skip
            signs = {"consistency": 0.9, "kept": 0.2, "real_hard": None}
            log.write("groups", {"streams": streams, "signs": signs})
            view = {"waits_for": f"solver: {step}/40 games", "generated_per_s": 10.0,
                    "trained_per_s": None if step == 3 else 4.0}  # fmt: skip
            funnel = [["answered", 10 * step + 10], ["boxed", 5 * step + 5]]
            log.write("engine", {"policies": {"solver": view}, "busy": {"server 0": 0.9},
                                 "streams": {"solver": {"funnel": funnel}}})  # fmt: skip
        log.write("dev", {"step": 0, "means": {"solver_hard_t1": 0.4, "coder_faithful": 0.5}})
        log.write("dev", {"step": 30, "means": {"solver_hard_t1": 0.5, "coder_faithful": 0.3}})
        log.write("event", {"level": "warning", "text": HOSTILE})
    heldout = {
        "before": {"solver_hard_t1": 0.41, "coder_faithful": 0.5, "solver_hard_maj16": 0.6},
        "after": {"solver_hard_t1": 0.52, "coder_faithful": 0.4},
        "delta": {"solver_hard_t1": 0.11, "coder_faithful": -0.1},
        "ci95": {"solver_hard_t1": [0.04, 0.18], "coder_faithful": [-0.15, -0.05]},
    }
    summary = build_summary(
        buffer, steps={"solver": 30}, versions={"solver": 30}, max_age={"solver": 4},
        heldout=heldout, seed=3, config_sha256="c" * 64,
    )  # fmt: skip
    write_summary(run.summary, summary)
    buffer.close()
    return run


def test_hostile_text_is_shown_not_run(run: RunDir) -> None:
    text = write_report(run.path).read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/=]+", value)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "default-src 'none'" in text
    assert "http" not in re.sub(r'http-equiv="|http://www.w3.org/\S+', "", text)


def test_it_shows_each_part_of_the_run(run: RunDir) -> None:
    text = write_report(run.path).read_text()
    for part in (
        "+0.110", "+0.040 .. +0.180", 'class="up">+0.110', 'class="down">-0.100', "0.600",
        "Age of the oldest token", "server 0", "solver: games", "Gradient norm", "game 1 ",
        "seed 3", "20 games started", "Development set",
    ):  # fmt: skip
        assert part in text, part
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawn) > 8
    for svg in drawn:
        ElementTree.fromstring(svg)


def test_signs_of_collapse_are_at_the_top(run: RunDir) -> None:
    text = write_report(run.path).read_text()
    top = text[: text.index("Held-out set")]
    for part in (
        "90% of the solver",
        "only 20%",
        "coder_faithful fell from 0.50 to 0.30",
        "grew from",
    ):
        assert part in top


def test_a_run_that_goes_on_has_a_report_too(run: RunDir, capsys: Any) -> None:
    run.summary.unlink()
    writer = Buffer.open(run.database)
    with MetricLog(run.metrics) as log:
        log.write("heldout", {"when": "heldout-before", "means": {"solver_hard_t1": 0.4125}})
    assert main([str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report)
    writer.start_game("mm_zero")
    writer.close()
    text = run.report.read_text()
    assert "the run has not ended" in text
    assert "<td>0.412</td>" in text


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "empty")
    run.create()
    Buffer.open(run.database).close()
    Page(write_report(run.path).read_text())


def test_no_run_is_one_clear_line(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ConfigError, match="no run here"):
        write_report(tmp_path)
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_script_runs_without_torch(run: RunDir) -> None:
    script = Path(__file__).parents[2] / "launch" / "report.py"
    code = (
        "import runpy, sys; sys.argv = ['report', sys.argv[1]]\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(run.path)], check=True, timeout=300)


def test_labels_are_checked_against_the_pictures_as_drawn(run: RunDir) -> None:
    scene = next(iter(scenes("dev")))
    question = language.hard_question(scene, random.Random(0)).text
    truth = language.answer(question, scene)
    buffer = Buffer.open(run.database)
    for number in range(190):
        label = truth if number < 100 else "none of that"
        hard = {"majority": label, "share": 0.5, "counts": {}, "replies": ["looks like"]}
        drawing = {"svg": to_svg(scene), "picture": "picture/0/0", "drop": None, "hard": hard}
        proposal = {"caption": language.caption(scene), "easy_question": "?", "easy_answer": "1",
                    "hard_question": question}  # fmt: skip
        row = {"proposal": proposal, "drawings": [drawing, {"invalid": "not_svg", "svg": None}]}
        notes = {"proposals": [row, {"invalid": "no_caption", "text": ""}]}
        buffer.end_game(buffer.start_game("mm_zero"), notes=notes)
    buffer.close()
    text = write_report(run.path).read_text()
    # Of the first 100 games 20 were hostile and their pictures no scenes; of the last 100 ten
    # have a right label.
    assert "true of the picture as drawn</td><td>1.000</td><td>0.100</td>" in text
    assert "n = 80, 100" in text


def rows_of(text: str) -> list[list[str]]:
    """The cells of all table rows of a page, without markup."""
    return [
        [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", row)]
        for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    ]


def test_the_funnel_names_each_stage_and_what_was_lost(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "funnel")
    run.create()
    buffer = Buffer.open(run.database)
    buffer.begin_attempt()
    for policy in ("proposer", "solver"):
        buffer.reserve_version(policy, 0, 1)
    game = buffer.start_game("mm_zero")
    buffer.submit(make_group(game, extra={"usable": 1}))
    buffer.submit(make_group(game, extra={"usable": 2, "drop": "<too easy>"}))
    buffer.submit(make_group(game, stream="proposer", rewards=(0.0, 1.0, 2.0, 3.0)))
    drawings = [{"svg": ""}, {"invalid": "not_svg"}, {"invalid": "not_svg: really"}]
    proposal = {"content_type": "map", "caption": "x"}
    notes = {"proposals": [{"invalid": "broken_tag: caption"}, {"invalid": "missing_tag"},
                           {"proposal": proposal, "terms": {}, "drawings": drawings}]}  # fmt: skip
    buffer.end_game(game, notes={"topic": "t"} | notes)
    buffer.close()
    rows = rows_of(write_report(run.path).read_text())
    start = rows.index(["proposer", "proposed", "4", "", "", ""])
    assert rows[start : start + 10] == [
        ["proposer", "proposed", "4", "", "", ""],
        ["", "parsed", "4", "100%", "", "broken_tag 50%, missing_tag 50%"],
        ["", "groups", "1", "", "", ""],
        ["", "kept", "1", "100%", "", ""],
        ["", "trained", "0", "0%", "", "ready 1"],
        ["solver", "answered", "4", "", "", ""],
        ["", "boxed", "3", "75%", "", ""],
        ["", "groups", "2", "", "", ""],
        ["", "kept", "1", "50%", "", "&lt;too easy&gt; 1"],
        ["", "trained", "0", "0%", "", "ready 1"],
    ]


def test_the_funnel_and_the_terms_are_shown_over_time(run: RunDir) -> None:
    text = write_report(run.path).read_text()
    gate = text[text.index("pass their role") :]
    assert "<title>0.5</title>" in gate[: gate.index("</svg>")]
    assert "Share of groups that can be trained on" in text
    assert "solver: terms of the reward" in text
    assert "Terms that were 0 throughout: solver odd&lt;." in text


def test_what_the_diversity_terms_did(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "diversity")
    run.create()
    buffer = Buffer.open(run.database)
    for number in range(60):
        late = number >= 30
        terms = {"difficulty": 0.5, "repeated_text": -0.25 if late else 0.0, "repeated_type": 0.0}
        proposal = {"content_type": ("map", "table")[late and number % 2],
                    "caption": "the same" if late else f"caption {number}"}  # fmt: skip
        entries = [{"proposal": proposal, "terms": terms, "drawings": []}, {"invalid": "no_tag"}]
        notes = {"proposals": entries}
        buffer.end_game(buffer.start_game("mm_zero"), notes=notes)
    buffer.close()
    text = write_report(run.path).read_text()
    text = text[text.index("What the diversity terms did") :]
    assert "The first and the last 30 of 60 valid proposals" in text
    rows = rows_of(text)
    for row in (
        ["repeated_text, mean", "+0.000", "-0.250"],
        ["repeated_type, mean", "+0.000", "+0.000"],
        ["charged for any repetition", "0%", "100%"],
        ["distinct captions", "30", "1"],
        ["entropy of the content types", "0.000", "0.356"],
        ["map", "100%", "", "50%", ""],
        ["table", "0%", "", "50%", ""],
    ):
        assert row in rows
    captions = text[text.index("Distinct captions, the last 40") :]
    assert "<title>11</title>" in captions[: captions.index("</svg>")]
    assert "repeated_type</span>" not in text, "a term that charged nobody has no line"


def test_an_even_mixture_has_an_entropy_of_one() -> None:
    types = ("data_chart", "diagram", "geometry", "timeline", "map", "table", "other")
    assert entropy([Proposed(game=1, content_type=name) for name in types]) == pytest.approx(1.0)
    assert entropy([]) == 0.0


def test_a_picture_that_prints_the_answer_is_marked() -> None:
    vote = {"majority": "a", "share": 1.0, "counts": {"a": 3}, "replies": [], "label": "b",
            "rewards": [1.0, 0.9, 1.0],
            "terms": [{"correct": 0.9, "format": 0.1}, {"correct": 0.9, "format": 0.0},
                      {"correct": 0.9, "format": 0.1}]}  # fmt: skip
    shown = {}
    for leak in (True, False, None):
        drawing = {"svg": "", "reward": 1.0, "terms": {}, "leak": leak, "hard": vote}
        proposals = [{"proposal": {"caption": "c"}, "drawings": [drawing]}]
        game = {"game": 1, "state": "finished", "reason": None, "notes": {"proposals": proposals}}
        shown[leak] = game_html(game, lambda name: None)
    assert "leak</span>" in shown[True]
    assert "leak" not in shown[False] + shown[None]
    assert "2 × correct 0.90 format 0.10" in shown[True]
    assert "1 × correct 0.90</small>" in shown[True]
    assert "label b" in shown[True]


def make_signs(num_groups: int = 200, **changes: float) -> dict[str, Any]:
    signs = {"consistency": 0.6, "kept": 0.6, "label_true": 0.6, "real_hard": 0.7} | changes
    return {"kind": "groups", "streams": {"solver": {"num_groups": num_groups}}, "signs": signs}


def test_a_healthy_run_has_no_signs() -> None:
    steps = [
        {"kind": "step", "policy": "solver", "step": n, "metrics": {"grad_norm": 0.4, "ess": 0.99}}
        for n in range(40)
    ]
    dev = [{"kind": "dev", "means": {"coder_faithful": 0.4}} for _ in range(3)]
    assert signs([make_signs(), *steps, *dev, make_signs(real_hard=0.6)]) == []
    assert signs([]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kept": 0.2}, ["only 20% of the hard questions"]),
        ({"consistency": 0.95}, ["95% of the solver's votes"]),
        ({"consistency": 0.95, "label_true": 0.99}, []),
        ({"label_true": 0.3}, ["only 30% of the labels"]),
        ({"real_hard": 0.5}, ["real_hard fell from 0.70 to 0.50 in play"]),
        ({"kept": 0.2, "num_groups": 10}, []),
    ],
)
def test_signs_in_play(change: dict[str, Any], words: list[str]) -> None:
    found = signs([make_signs(), make_signs(**change)])
    assert len(found) == len(words)
    assert all(one.sentence.startswith(word) for one, word in zip(found, words, strict=True))
    assert all(one.advice and one.name in NAMES for one in found)


def test_proposals_that_repeat_themselves_are_a_sign() -> None:
    def of(text: float, num_groups: int = 40) -> list[str]:
        means = {"num_groups": num_groups, "term/repeated_text": text, "term/repeated_type": -0.02}
        return [alarm.name for alarm in signs([{"kind": "groups", "streams": {"proposer": means}}])]

    assert of(-0.15) == ["proposals_repeat"]
    assert of(-0.05) == of(-0.15, num_groups=39) == []
    dev = [{"kind": "dev", "means": {"proposer_diversity": value}} for value in (0.9, 0.5)]
    assert [alarm.name for alarm in signs(dev)] == ["sign_fell"]


@pytest.mark.parametrize(
    "low, high", [(0, 1), (0.2, 0.21), (-3, 900), (5, 5), (0, 0), (1e-9, 2e-9)]
)
def test_ticks_cover_the_range_with_few_round_numbers(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert ticks == sorted(set(ticks))


def test_a_share_fills_its_bar() -> None:
    assert 'style="width:37.50%"' in share_bar(0.375)


def test_charts_leave_out_what_is_not_a_number() -> None:
    chart = line_chart("t", {"a": [(0, float("nan")), (1, 2.0)], "b": [(0, float("inf"))]})
    assert "nan" not in chart
    assert "inf" not in chart
    assert line_chart("t", {"a": []}) == bar_chart("t", {"a": {}}, x_label="x") == ""
    assert rolling_mean([(0, 1.0), (1, 3.0), (2, 5.0)], 2) == [(0, 1.0), (1, 2.0), (2, 4.0)]


def test_names_in_charts_are_escaped() -> None:
    for chart in (
        line_chart(HOSTILE, {HOSTILE: [(0, 1)]}, x_label=HOSTILE),
        bar_chart(HOSTILE, {HOSTILE: {1: 2}}, x_label=HOSTILE),
    ):
        assert Page(chart).tags <= {"figure", "figcaption", "svg", "line", "text", "polyline",
                                    "circle", "title", "rect", "div", "span", "i"}  # fmt: skip
