"""What stands in the folder afterwards, also for hostile output."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from evals.benchmark import Aggregate, Published
from evals.images import AS_IT_IS, shown
from evals.records import write_lines
from evals.report.results import BenchmarkResult, read_results
from evals.report.summary import summarise
from evals.report.thumbnails import Thumbnails
from evals.report.writing import write
from tests.evals.answers import answered, result
from tests.evals.small_benchmark import JUDGED, SMALL, png

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>"\'&amp;</pre></details>\ud800'


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(path: Path) -> str:
    """A page's text; it is closed where it is opened, runs nothing and fetches nothing."""
    page = path.read_text()
    tags = Tags(page)
    assert tags.open == []
    names = {tag for tag, _ in tags.found}
    assert not names & {"script", "iframe", "object", "link", "base", "form"}
    for tag, attributes in tags.found:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            target = attributes.get(name)
            is_beside = target is not None and re.fullmatch(r"[\w-]+\.html", target) is not None
            assert target is None or is_beside or target.startswith("data:image/jpeg;base64,"), tag
    (policy,) = [a["content"] for tag, a in tags.found if a.get("http-equiv")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    return page


def some() -> BenchmarkResult:
    texts = ["red", "blue", "", "<think>red", "red", "blue"]
    return result([answered(f"q{n}", text) for n, text in enumerate(texts)], model="trained")


def test_the_four_files_and_the_text(tmp_path: Path) -> None:
    text = write(summarise([some()]), tmp_path)
    assert "Small" in text
    assert "33.3" in text
    assert "4 are expected" in text
    told = json.loads((tmp_path / "results.json").read_text())
    small = told["benchmarks"]["small"]
    assert small["measures"]["aggregates"]["accuracy"]["estimate"] == pytest.approx(1 / 3)
    assert small["example"]["prompt"][0]["content"] == [{"type": "text", "text": "Which colour?"}]
    assert told["settings"] == {"settings": {"samples": 1, "seed": 0}, "judge": None}
    assert "| Small | 33.3 |" in (tmp_path / "table.md").read_text()
    latex = (tmp_path / "table.tex").read_text()
    assert r"Small & 33.3 & {[9.7, 70.0]} & 6" in latex
    assert latex.count(r"\\") == 2
    page = checked(tmp_path / "report.html")
    assert "33.3" in page
    assert 'href="rows-small-1.html"' in page
    checked(tmp_path / "rows-small-1.html")


def test_what_models_write_is_only_text(tmp_path: Path) -> None:
    hostile = replace(
        SMALL, title=f"Small {EVIL}", gold=lambda fields: EVIL, licence=EVIL, citation=EVIL
    )
    hostile = replace(hostile, published=[Published(model=EVIL, score=1.0, source=EVIL)])
    record = answered(EVIL, f"{EVIL} {EVIL}", prompt=EVIL, benchmark=hostile, answer=EVIL)
    record["judge"] = {"model": {EVIL: EVIL}, "score": 1.0, "replies": [EVIL], "reason": EVIL}
    found = result(
        [record],
        benchmark=hostile,
        model=EVIL,
        refused=[(EVIL, EVIL)],
        missing=[(EVIL, 0, EVIL)],
        settings={EVIL: {EVIL: EVIL}},
        revision=EVIL,
    )
    text = write(summarise([found], [replace(found, model="[red]base")]), tmp_path)
    for page in (tmp_path / "report.html", tmp_path / "rows-small-1.html"):
        assert "&lt;script&gt;alert(" in checked(page)
    assert "[red]base" in text
    text.encode()
    assert json.loads((tmp_path / "results.json").read_text())["model"] == EVIL
    assert not re.search(r"(?<!\\)[<>]", (tmp_path / "table.md").read_text())
    comment, *latex = (tmp_path / "table.tex").read_text().splitlines()
    assert comment.startswith("% ")
    assert r"\&amp;" in latex[4]
    assert "&amp;" not in latex[4].replace(r"\&amp;", "")


def test_a_megabyte_of_output_is_cut_on_the_page(tmp_path: Path) -> None:
    write(summarise([result([answered("a", "word " * 200_000)])]), tmp_path)
    page = checked(tmp_path / "report.html")
    assert len(page) < 100_000
    assert "more in records.jsonl" in page


def test_a_row_says_how_it_was_read_and_judged(tmp_path: Path) -> None:
    records = [
        answered("a", "<think>hm</think> blue", benchmark=JUDGED, judged=1.0),
        answered("b", "red", benchmark=JUDGED, judged=0.25),
        answered("c", "crash", benchmark=JUDGED),
    ]
    records[0]["judge"] |= {"replies": ["Yes, it is"], "reason": "because"}
    write(summarise([result(records, benchmark=JUDGED)]), tmp_path)
    page = checked(tmp_path / "rows-small-1.html")
    for told in ("&#x27;blue&#x27; by last word: score 0.0", "Yes, it is", "because", "stripped"):
        assert told in page
    assert "ZeroDivisionError" in page
    assert 'class="row right disputed"' in page
    assert 'class="row wrong disputed"' in page
    assert 'class="row unscored' in page
    assert "0.25" in page


def test_every_filter_has_its_rule_in_the_style_sheet(tmp_path: Path) -> None:
    write(summarise([some()]), tmp_path)
    page = checked(tmp_path / "rows-small-1.html")
    boxes = set(re.findall(r'id="only-(\w+)"', page))
    assert boxes == set(re.findall(r"#only-(\w+):checked\) \.row:not\(\.\1\)", page))
    assert len(boxes) == 5


def test_rows_are_spread_over_pages_of_bounded_size(tmp_path: Path) -> None:
    records = [answered(f"q{n}", "red") for n in range(450)]
    (tmp_path / "rows-small-9.html").write_text("of an earlier report")
    write(summarise([result(records)]), tmp_path)
    pages = sorted(tmp_path.glob("rows-*.html"))
    assert [page.name for page in pages] == [f"rows-small-{n}.html" for n in (1, 2, 3)]
    assert sum(checked(page).count("<details class") for page in pages) == 450
    assert checked(tmp_path / "report.html").count("<details class") == 10


def test_pictures_are_shown_small(tmp_path: Path) -> None:
    cache = tmp_path / "images"
    kept = shown(png("green", (900, 300)), AS_IT_IS, cache)
    image = {"sha256": kept.sha256, "width": kept.width, "height": kept.height}
    gone = {"sha256": "0" * 64, "width": 5, "height": 6}
    odd = {"sha256": "../../etc/passwd", "width": 5, "height": 6}
    write(
        summarise([result([answered("a", "red", images=[image, gone, odd])])]),
        tmp_path,
        images=cache,
    )
    page = checked(tmp_path / "report.html")
    assert page.count("data:image/jpeg;base64,") == 1
    assert "[picture 1][picture 2][picture 3]Which colour?" in page
    assert "900 x 300" in page
    url = Thumbnails(cache).url(kept.sha256)
    assert url is not None
    assert len(url) < 4000
    kept_file = cache / "thumbnails" / kept.sha256[:2] / f"{kept.sha256}.jpg"
    assert kept_file.is_file()
    assert Thumbnails(None).url(kept.sha256) is None


def test_before_and_after(tmp_path: Path) -> None:
    before = result([answered(f"q{n}", "red" if n < 2 else "blue") for n in range(8)])
    after = result([answered(f"q{n}", "red" if n < 7 else "blue") for n in range(8)], model="new")
    text = write(summarise([after], [before]), tmp_path)
    assert "base (before) and new (after)" in text
    assert "+62.5" in text
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["against"] == "base"
    assert told["comparison"]["changes"]["small"]["discordant"]["only_after"] == 5
    assert "Before and after" in checked(tmp_path / "report.html")
    assert "+62.5" in (tmp_path / "table.tex").read_text()


def test_results_are_read_back_as_they_were(tmp_path: Path) -> None:
    found = replace(some(), refused=[("x", "bomb")], missing=[("y", 0, "503")])
    write_lines(tmp_path / "small" / "records.jsonl", found.records)
    write(summarise([found]), tmp_path)
    assert read_results(tmp_path, {"small": SMALL}) == [found]
    assert read_results(tmp_path, {}) == []


def test_what_is_no_result_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no results of an evaluation"):
        read_results(tmp_path, {"small": SMALL})
    (tmp_path / "results.json").write_text('{"benchmarks": {"small": {}}}')
    with pytest.raises(ConfigError, match="damaged"):
        read_results(tmp_path, {"small": SMALL})


@pytest.mark.parametrize("against", [False, True])
def test_two_regimes_never_stand_in_one_report(tmp_path: Path, against: bool) -> None:
    other = replace(some(), benchmark=replace(SMALL, regime="mm_zero"))
    parts: tuple[Sequence[BenchmarkResult], Sequence[BenchmarkResult]]
    parts = ([some()], [other]) if against else ([some(), other], [])
    with pytest.raises(ValueError, match="regimes"):
        summarise(parts[0], parts[1])


def test_two_models_never_stand_in_one_report(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 models"):
        summarise([some(), replace(some(), model="other")])


def test_means_over_benchmarks_stand_below_them(tmp_path: Path) -> None:
    pro = [
        result(
            [answered("a", text), answered("b", "red")],
            benchmark=replace(SMALL, name=name, title=name),
        )
        for name, text in (("mmmu_pro_standard10", "red"), ("mmmu_pro_vision", "blue"))
    ]
    text = write(summarise([*pro, result([answered("a", "blue")])]), tmp_path)
    told = json.loads((tmp_path / "results.json").read_text())["overall"]
    assert told["macro"]["estimate"] == pytest.approx((0.75 + 0) / 2)
    assert told["micro"]["estimate"] == pytest.approx(3 / 5)
    assert told["mmmu_pro"]["estimate"] == pytest.approx(0.75)
    assert "macro mean of 3 benchmarks" in text


def test_rows_that_need_a_judge_are_named_as_unscored(tmp_path: Path) -> None:
    text = write(
        summarise([result([answered("a", "red", benchmark=JUDGED)], benchmark=JUDGED)]), tmp_path
    )
    assert "unscored" in text
    assert "rows with an answer and no score: 1" in text
    checked(tmp_path / "report.html")


def test_another_judge_than_the_authors_is_named(tmp_path: Path) -> None:
    benchmark = replace(JUDGED, judge_model="gpt-4-0613")
    settings = {"judge": {"model": "Qwen2.5"}}
    records = [answered("a", "red", benchmark=benchmark, judged=1.0)]
    text = write(summarise([result(records, benchmark=benchmark, settings=settings)]), tmp_path)
    assert "judged by Qwen2.5, its authors used gpt-4-0613" in text


def named(name: str, **changes: Any) -> BenchmarkResult:
    benchmark = replace(SMALL, name=name, title=name, **changes)
    return result([answered("a", "red", benchmark=benchmark)], benchmark=benchmark)


def test_means_are_named_by_the_benchmarks_that_have_a_score(tmp_path: Path) -> None:
    unscored = named("third", judged_by_default=True)
    text = write(summarise([named("one"), named("two"), unscored]), tmp_path)
    assert "macro mean of 2 benchmarks" in text
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["overall_of"] == ["one", "two"]


def test_a_benchmark_of_which_nothing_is_whole_is_in_no_mean(tmp_path: Path) -> None:
    """NaN would be the mean of all of them."""
    parts = [Aggregate("mean", of=["pairs"]), Aggregate("pairs", left_out=1)]
    broken = named("third", aggregates=lambda scored: parts)
    text = write(summarise([named("one"), named("two"), broken], [broken]), tmp_path)
    assert "macro mean of 2 benchmarks" in text
    assert "nan" not in text
    assert "groups left out, since rows of them have no score: 1 of pairs" in text


def test_answers_of_several_versions_of_the_weights_are_said(tmp_path: Path) -> None:
    records = [answered(f"q{n}", "red") | {"weights": weights} for n, weights in enumerate("77")]
    assert "renewed" not in write(summarise([result(records)]), tmp_path)
    records += [answered("q2", "red") | {"weights": "12"}, answered("q3", "red") | {"weights": ""}]
    text = write(summarise([result(records)]), tmp_path)
    assert "answers are of 2 versions, from 7 to 12" in text
    assert "renewed" in checked(tmp_path / "report.html")


def test_a_judge_that_failed_is_said_where_the_rule_decides_too(tmp_path: Path) -> None:
    records = [answered("a", "red"), answered("b", "red")]
    records[0]["flags"].append("judge_failed")
    text = write(summarise([result(records)]), tmp_path)
    assert "answers on which the judge failed: 1;" in text


def test_what_a_regime_cannot_know_of_its_rows_is_said(tmp_path: Path) -> None:
    found = named("one", caveat=lambda rows: f"{len(rows)} rows are taken as independent")
    assert "1 rows are taken as independent" in write(summarise([found]), tmp_path)


def test_where_there_is_no_reference_its_column_is_empty(tmp_path: Path) -> None:
    found = named("one", has_reference=False)
    summary = summarise([found])
    assert summary.measures["one"].reference is None
    assert summary.measures["one"].rule == 1.0
    write(summary, tmp_path)
    assert "no rule: the authors score" in checked(tmp_path / "rows-one-1.html")
