"""Rows as people look at them: prompt, pictures, output, how it was read, verdict and reason."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.benchmark import Benchmark
from evals.records import Record
from evals.report.html import facts, folded, pre, text
from evals.report.results import by_judge, by_rule
from evals.report.thumbnails import Thumbnails

_MOST_PICTURES = 6
_PAGE_ROWS = 200
_PAGE_CHARACTERS = 12_000_000
_NAMES = {
    "wrong": "wrong",
    "unparsed": "unparsed",
    "truncated": "truncated",
    "disputed": "rule and judge disagree",
    "unscored": "unscored",
}


def filters() -> str:
    """Boxes that leave only some rows of a page; the style sheet does it, without a script."""
    boxes = "".join(
        f'<label><input type="checkbox" id="only-{kind}"> {text(name)}</label>'
        for kind, name in _NAMES.items()
    )
    return f'<div class="filters">only: {boxes}</div>'


def kinds_of(record: Record) -> list[str]:
    """What the filters know of a record, and its colour: "right" or "wrong"."""
    score, flags = record["score"], record["flags"]
    rule, judge = by_rule(record), by_judge(record)
    holds = {
        "right": score is not None and score >= 0.5,
        "wrong": score is not None and score < 0.5,
        "unscored": score is None,
        "unparsed": "unparsed" in flags,
        "truncated": "truncated" in flags,
        "disputed": None not in (rule, judge) and ((rule or 0) >= 0.5) != ((judge or 0) >= 0.5),
    }
    return [kind for kind, is_so in holds.items() if is_so]


def row_html(benchmark: Benchmark, record: Record, thumbnails: Thumbnails) -> str:
    """One record, folded but for its verdict."""
    marks = "".join(f' <span class="mark">{text(flag)}</span>' for flag in record["flags"])
    score = record["score"]
    verdict = "unscored" if score is None else {1: "right", 0: "wrong"}.get(score, f"{score:.2f}")
    title = (
        f'<span class="verdict">{verdict}</span> {text(record["row"], 200)} '
        f"<small>sample {record['sample']}</small> · "
        f"{text(record['modes']['default']['value'], 200) or '–'} "
        f'<span class="dim">for</span> {text(_gold(benchmark, record), 200)}{marks}'
    )
    body = "".join(
        f"<h4>{head}</h4>{html}"
        for head, html in (
            ("prompt", _prompt(record)),
            ("pictures", _pictures(record["images"], thumbnails)),
            ("output", pre(record["response"])),
            ("how it was read", _readings(record)),
            ("judge", _judge(record["judge"])),
            ("", facts(_costs(record))),
        )
        if html
    )
    classes = " ".join(["row", *kinds_of(record)])
    return f'<details class="{classes}"><summary>{title}</summary>{body}</details>'


def _gold(benchmark: Benchmark, record: Record) -> str:
    try:
        return benchmark.gold(record["fields"])
    except Exception as error:  # noqa: BLE001  columns of a shape that nobody foresaw
        return f"({type(error).__name__})"


def _prompt(record: Record) -> str:
    shown, picture = [], 0
    for message in record["prompt"]:
        content, said = message["content"], []
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts:
            picture += part.get("type") == "image"
            is_image = part.get("type") == "image"
            said.append(f"[picture {picture}]" if is_image else str(part.get("text", "")))
        shown.append(f'<p class="dim">{text(message["role"])}</p>{pre("".join(said))}')
    return "".join(shown)


def _pictures(images: Sequence[Mapping[str, Any]], thumbnails: Thumbnails) -> str:
    shown = []
    for number, image in enumerate(images[:_MOST_PICTURES], start=1):
        label = f"{number}: {image['width']} x {image['height']}, {str(image['sha256'])[:12]}"
        url = thumbnails.url(str(image["sha256"]))
        drawn = "" if url is None else f'<img alt="picture {number}" loading="lazy" src="{url}">'
        shown.append(f"<figure>{drawn}<figcaption>{text(label)}</figcaption></figure>")
    more = len(images) - _MOST_PICTURES
    rest = f'<p class="dim">and {more} more</p>' if more > 0 else ""
    return f'<div class="pictures">{"".join(shown)}</div>{rest}' if shown else ""


def _readings(record: Record) -> str:
    """In each mode: what was read, by which rule, and its score."""
    told = {}
    for mode, rule in record["modes"].items():
        value = "nothing" if rule["value"] is None else repr(rule["value"])
        told[mode] = f"{value} by {rule['path'] or '?'}: score {rule['score']}"
        if rule.get("error"):
            told[mode] += f"; it broke down: {rule['error']}"
    if record.get("thoughts") in ("stripped", "unclosed"):
        told["thoughts"] = record["thoughts"]
    return facts(told)


def _judge(judged: Mapping[str, Any] | None) -> str:
    if judged is None:
        return ""
    told = {"model": judged.get("model"), "score": judged["score"], "why": judged.get("reason")}
    replies = "".join(pre(reply) for reply in judged.get("replies") or ())
    return facts({name: value for name, value in told.items() if value is not None}) + replies


def _costs(record: Record) -> dict[str, Any]:
    names = ("finish", "prompt_tokens", "tokens", "seconds", "seed", "server", "weights", "key")
    return {name: record.get(name) for name in names}


def pages(benchmark: Benchmark, records: Sequence[Record], thumbnails: Thumbnails) -> Iterator[str]:
    """All rows as HTML, a page of bounded size at a time."""
    shown: list[str] = []
    size = 0
    for record in records:
        html = row_html(benchmark, record, thumbnails)
        if shown and (len(shown) == _PAGE_ROWS or size + len(html) > _PAGE_CHARACTERS):
            yield "".join(shown)
            shown, size = [], 0
        shown.append(html)
        size += len(html)
    if shown:
        yield "".join(shown)


def refused_html(
    refused: Sequence[tuple[str, str]], missing: Sequence[tuple[str, int, str]]
) -> str:
    """Rows without a record, each by name and with its reason."""
    lines = [f"{row}: skipped: {why}" for row, why in refused]
    lines += [f"{row}, sample {sample}: missing: {why}" for row, sample, why in missing]
    if not lines:
        return ""
    return folded(f"{len(lines)} skipped or missing", pre("\n".join(lines)))
