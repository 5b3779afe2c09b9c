"""From a response to a record: extraction and score in every mode, the judge, and what went wrong.

Everything here follows from the response, the row and the judge's kept replies, so it can be done
again at any time; nothing is asked of the model.
"""

import time
from collections.abc import Mapping
from typing import Any, Literal

from engine.errors import ConfigError
from evals.benchmark import MODES, Benchmark, Fields, Scored
from evals.extraction.thinking import CLOSE, answer_of
from evals.judge import Asked, JudgeFailed
from evals.records import Record

Thoughts = Literal["none", "stripped", "unclosed"]

FLAGS = ("truncated", "unparsed", "empty", "judge_failed", "unjudged", "scoring_failed")
"""What can be said of a record beside its score; see `flags_of`."""


def rules_of(benchmark: Benchmark, fields: Fields, text: str) -> dict[str, Any]:
    """{mode: {value, path, score, seconds, error}}. Never raises for what a model wrote.

    The score is None only where the authors have no rule for responses.
    """
    return {mode: _rule(benchmark, fields, text, mode) for mode in MODES}


def _rule(benchmark: Benchmark, fields: Fields, text: str, mode: str) -> dict[str, Any]:
    began_s = time.perf_counter()
    rule: dict[str, Any] = {"value": None, "path": "", "score": None}
    if mode == "reference" and not benchmark.has_reference:
        return rule | {"path": "no rule: the authors score a judge's reply", "seconds": 0.0}
    try:
        found = benchmark.read(text, fields, mode=mode)
        rule |= {"value": found.value, "path": found.path}
        rule["score"] = float(benchmark.score(found.value, fields, mode=mode))
    except Exception as error:  # noqa: BLE001  a rule that fails spoils this row's score only
        # 0, not None: rows that we cannot read must not leave the mean. The flag says so.
        rule["score"] = 0.0
        rule["error"] = f"{type(error).__name__}: {error}"[:500]
    rule["seconds"] = round(time.perf_counter() - began_s, 4)
    return rule


async def judgement_of(
    benchmark: Benchmark, fields: Fields, text: str, ask: Asked | None
) -> dict[str, Any] | None:
    """{model, score, replies, requests, reason}; None where nobody was to be asked. Raises
    ConfigError where the judge can't be asked at all: that is no row's matter."""
    if ask is None or benchmark.judge is None:
        return None
    judged: dict[str, Any] = {"model": dict(ask.judge.endpoint.identity), "score": None}
    try:
        judgement = await benchmark.judge(fields, answer_of(text) or "", ask)
        judged |= {"score": judgement.score, "replies": list(judgement.replies), "reason": ""}
        if judgement.score is None:
            judged["reason"] = "its replies could not be read"
    except ConfigError:
        raise
    except JudgeFailed as error:
        judged |= {"replies": [], "reason": f"no reply: {error}"}
    except Exception as error:  # noqa: BLE001  as above
        judged |= {"replies": [], "reason": f"{type(error).__name__}: {error}"[:500]}
    return judged | {"requests": list(ask.keys)}


def record_of(
    benchmark: Benchmark,
    row: Mapping[str, Any],
    answer: Mapping[str, Any],
    rules: Mapping[str, Any],
    judged: Mapping[str, Any] | None,
) -> Record:
    """The record of one sample of one row.

    `row`: {row, sample, fields, pictures, groups, prompt, images}; `answer`: a line of the journal
    of responses.
    """
    score = rules["default"]["score"]
    if benchmark.judged_by_default:
        score = None if judged is None else judged["score"]
    return {
        **row,
        **answer,
        "thoughts": thoughts_of(answer["response"]),
        "modes": dict(rules),
        "judge": judged,
        "score": score,
        "flags": flags_of(benchmark, answer, rules, judged),
    }


def scored_of(record: Record, score: float) -> Scored:
    """The row of a record, with this score."""
    return Scored(
        id=record["row"],
        fields=record["fields"],
        score=score,
        pictures=record.get("pictures", ""),
        groups=record.get("groups", {}),
    )


def thoughts_of(response: str) -> Thoughts:
    """What the one policy on thoughts (`evals.extraction.thinking`) did with a response."""
    if answer_of(response) is None:
        return "unclosed"
    return "stripped" if CLOSE in response else "none"


def flags_of(
    benchmark: Benchmark,
    answer: Mapping[str, Any],
    rules: Mapping[str, Any],
    judged: Mapping[str, Any] | None,
) -> list[str]:
    """The names of `FLAGS` that hold.

    truncated: cut off by its length, or in the middle of its thoughts; unparsed: no rule could read
    it; empty: nothing but thoughts; judge_failed: asked in vain; unjudged: it needs a judge and
    there was none; scoring_failed: a rule of ours broke down, and the answer counts as wrong.
    """
    said = answer_of(answer["response"])
    holds = {
        "truncated": answer["finish"] == "length" or said is None,
        "unparsed": rules["default"]["value"] is None,
        "empty": not said,
        "judge_failed": judged is not None and judged["score"] is None,
        "unjudged": judged is None and benchmark.judged_by_default,
        "scoring_failed": any("error" in rule for rule in rules.values()),
    }
    return [name for name in FLAGS if holds[name]]
