r"""How the released Vision-Zero reads clues and votes and scores the votes, quirks included.

The first `\boxed{...}` counts, and ends at its first brace; a hedge is a vote for its first digit.
Clue rewards are shared with our own rules, on counts: `rewards.spy.clue_rewards` and
`rewards.spy_baselines.update_then_subtract`.
Source: `clevr_spotdiff_generator.py` and `grpo_trainer.py` of github.com/wangqinsi1/Vision-Zero,
the code of the commit fa3c01c (2026-02-05). Its patterns backtrack; these scans take linear time.
"""

import json
import re
from collections.abc import Sequence

import numpy as np

from engine.types import Invalid
from rewards.reward import Reward, reward
from rewards.spy import Vote

NO_CLUE = "No valid clue provided."
"""What everyone sees where a reply holds neither box nor answer tag. It costs nothing."""
MIN_REASONING_CHARS = 11
GROUP_EPS = 1e-8

_BOX = re.compile(r"\\\\?boxed\{")
_SEAT = re.compile(r"\b[1-9]\b")
_ANSWER_END = re.compile(r"</answer>|<think>|<answer>")
_PROMPT_PHRASES = (
    "you are player",
    "your task is",
    "game instructions",
    "required output format",
    "example answer",
)
"""A line that holds one, in any case, is taken for a repeated prompt."""


def parse_clue_released(text: str) -> str:
    """The public clue of a reply: boxed, else in answer tags, else behind an open one.

    An empty box or tag gives an empty clue. Line breaks stay, so a clue can forge others' lines.
    """
    answer = _answer(text)
    return NO_CLUE if answer is None else answer


def parse_vote_released(text: str) -> Vote:
    """The vote of a reply: None for exactly N/A or NA; the first lone digit; else JSON {"spy": k}.

    JSON only fits between answer tags, and may give any integer: one that is no seat at the table
    counts for nobody and is wrong. The reasons are no_answer and unreadable.
    """
    answer = _answer(text)
    if not answer:
        return Invalid("no_answer")
    if answer.upper() in ("N/A", "NA"):
        return None
    seat = _SEAT.search(answer)
    return int(seat.group()) if seat else _json_vote(answer)


def reasoning_released(text: str) -> str:
    """What a reply says beside its answer, stripped: a player's private notes for later rounds.

    The first think block, wherever it stands; else all before the first box; else, where there is
    nothing before it or no box at all, all lines but those with a box or a phrase of the prompts.
    """
    think = _between(text, "<think>", "</think>")
    if think is not None:
        return think.strip()
    box = _box(text)
    if box is not None and (before := text[: box[0]].strip()):
        return before
    lines = (line.strip() for line in text.strip().split("\n"))
    return "\n".join(line for line in lines if line and _is_own_line(line))


def has_format_released(text: str) -> bool:
    """True where there is an answer and a reasoning of more than ten characters."""
    return bool(_answer(text)) and len(reasoning_released(text)) >= MIN_REASONING_CHARS


def decision_reward_released(text: str, spy: int) -> Reward:
    """What a judge's reply earns: .3 for its format (else -.3), 1.2 (right), -.6 (N/A) or -1.2
    (wrong, unreadable), and .99 more where right. Terms: format, decision, shaping."""
    vote = parse_vote_released(text)
    accuracy = -0.5 if vote is None else 1.0 if vote == spy else -1.0
    return reward(
        format=0.3 if has_format_released(text) else -0.3,
        decision=1.2 * accuracy,
        shaping=0.99 if vote == spy else 0.0,
    )


def group_norm_released(rewards: Sequence[float]) -> tuple[float, ...]:
    """The judges' advantages: (r - mean) / (population std + 1e-8), in float32.

    One alone is not normalised: its raw reward is its advantage. Equal ones are only centred, which
    leaves a rounding error of the mean: 6e-8 for eight times -.9.
    """
    if len(rewards) <= 1:
        return tuple(rewards)
    values = np.asarray(rewards, dtype=np.float32)
    # Summed in turn, as torch sums eight; numpy's own order has other rounding errors.
    mean = np.cumsum(values, dtype=np.float32)[-1] / np.float32(len(values))
    centred = values - mean
    std = np.float32(np.std(values, dtype=np.float64))
    if std > GROUP_EPS and np.ptp(values) > GROUP_EPS:
        centred = centred / (std + np.float32(GROUP_EPS))
    return tuple(centred.tolist())


def _answer(text: str) -> str | None:
    """What the answer's box or tags hold, stripped; None where there are neither."""
    box = _box(text)
    if box is not None:
        return box[1].strip()
    answer = _between(text, "<answer>", "</answer>")
    if answer is not None:
        return answer.strip()
    _, opening, rest = text.partition("<answer>")
    return _ANSWER_END.split(rest.strip(), maxsplit=1)[0].strip() if opening else None


def _box(text: str) -> tuple[int, str] | None:
    """Where the first box starts, and what it holds up to the first closing brace."""
    # If the first opening has no brace behind it, no later one has.
    opening = _BOX.search(text)
    end = text.find("}", opening.end()) if opening else -1
    return (opening.start(), text[opening.end() : end]) if opening and end >= 0 else None


def _between(text: str, opening: str, closing: str) -> str | None:
    """What stands between the first `opening` and the first `closing` after it."""
    _, found, rest = text.partition(opening)
    inner, closed, _ = rest.partition(closing)
    return inner if found and closed else None


def _is_own_line(line: str) -> bool:
    lowered = line.lower()
    return _box(line) is None and not any(phrase in lowered for phrase in _PROMPT_PHRASES)


def _json_vote(answer: str) -> Vote:
    try:
        return int(json.loads(answer)["spy"])
    # Whatever is no object with a number, down to nesting without end.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        return Invalid("unreadable")
