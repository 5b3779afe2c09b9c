"""Is the base weak but sane? Its three roles measured at temperature 1 on unseen scenes.

The dev split is used, never the held-out one. A band is (lowest, highest) in percent.
"""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration

from engine.types import Invalid
from evals.scenes import language
from evals.scenes.drawing import scene_of_svg
from evals.scenes.language import TINY_TOPICS, Question
from evals.scenes.scene import Scene
from evals.scenes.splits import scene_of
from launch.pretraining.corpus import DESCRIBE, Writer
from launch.pretraining.decode import sample
from launch.pretraining.pictures import Tiles, render
from roles.mm_zero.parsing import parse_answer, parse_proposal
from roles.mm_zero.prompts import Prompts

BANDS: dict[str, tuple[float, float]] = {
    "proposals valid": (60, 85),
    "easy answer true": (60, 100),
    "svg renders": (75, 95),
    "svg faithful": (40, 100),
    "easy": (50, 75),
    "easy maj@16 gain": (15, 100),
    "hard": (35, 60),
    "hard maj@16 gain": (10, 100),
}
_VOTES = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """Percentages by name: those of `bands`, and more that explain them."""

    values: dict[str, float]
    bands: dict[str, tuple[float, float]] = field(default_factory=lambda: BANDS)

    def outside(self, slack: float = 0.0) -> list[str]:
        """Names of the bands that are missed by more than `slack` points."""
        return [
            name
            for name, (low, high) in self.bands.items()
            if not low - slack <= self.values[name] <= high + slack
        ]

    def table(self) -> str:
        lines = []
        width = max(26, *map(len, self.values))
        for name, value in self.values.items():
            low, high = self.bands.get(name, (0, 100))
            verdict = "" if name not in self.bands else "ok" if low <= value <= high else "OUTSIDE"
            band = f"{low:.0f}-{high:.0f}" if name in self.bands else ""
            lines.append(f"{name:{width}} {value:6.1f}  {band:8} {verdict}")
        return "\n".join(lines)


class _Examiner:
    def __init__(
        self,
        model: Qwen3VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        prompts: Prompts,
        seed: int,
    ) -> None:
        self.model, self.tokenizer, self.prompts, self.seed = model, tokenizer, prompts, seed
        self.writer = Writer(tokenizer, prompts)
        self.rng = random.Random(f"bands:{seed}")

    def replies(
        self, messages: list[list], scenes: list[Scene] | None = None, *, n: int = 1,
        temperature: float = 1.0,
    ) -> list[list[str]]:  # fmt: skip
        return sample(
            self.model, self.tokenizer, [self.writer.prompt_ids(m) for m in messages],
            pictures=list(range(len(scenes))) if scenes else None,
            patches=Tiles().patches(scenes) if scenes else None,
            n=n, temperature=temperature, seed=self.seed,
        )  # fmt: skip


def measure(
    model: Qwen3VLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Prompts,
    *,
    items: int = 200,
    seed: int = 0,
) -> Measured:
    """All bands on `items` proposals, drawings and questions of each kind (`seed` fixes all)."""
    exam = _Examiner(model, tokenizer, prompts, seed)
    scenes = [scene_of("dev", exam.rng) for _ in range(items)]
    values = _proposer(exam, items) | _coder(exam, scenes) | _describe(exam, scenes)
    for level, ask in (("easy", language.easy_question), ("hard", language.hard_question)):
        values |= _solver(exam, level, scenes, [ask(scene, exam.rng) for scene in scenes])
    return Measured(values)


def _percent(flags: Iterable[bool]) -> float:
    listed = list(flags)
    return 100 * sum(listed) / max(1, len(listed))


def _proposer(exam: _Examiner, items: int) -> dict[str, float]:
    topics = [TINY_TOPICS[i % len(TINY_TOPICS)] for i in range(items)]
    replies = [r[0] for r in exam.replies([exam.prompts.proposer(topic) for topic in topics])]
    valid = [p.as_dict() for p in map(parse_proposal, replies) if not isinstance(p, Invalid)]
    shown = [(f, language.parse_caption(f["caption"])) for f in valid]
    read = [(f, scene) for f, scene in shown if not isinstance(scene, Invalid)]
    hard = [language.answer(f["hard_question"], scene) for f, scene in read]
    return {
        "proposals valid": 100 * len(valid) / items,
        "  caption is a scene": 100 * len(read) / max(1, len(valid)),
        "  captions distinct": 100 * len({f["caption"] for f in valid}) / max(1, len(valid)),
        "easy answer true": 100
        * sum(language.answer(f["easy_question"], s) == f["easy_answer"] for f, s in read)
        / max(1, len(valid)),
        "  easy well-posed": _percent(
            language.answer(f["easy_question"], s) is not None for f, s in read
        ),
        "  hard is hard": _percent(
            a is not None and not language.is_easy(f["hard_question"])
            for (f, _), a in zip(read, hard, strict=True)
        ),
        "  hard answer true": _percent(
            f["hard_answer"] == a for (f, _), a in zip(read, hard, strict=True)
        ),
    }  # fmt: skip


def _coder(exam: _Examiner, scenes: list[Scene]) -> dict[str, float]:
    cards = []
    for scene in scenes:
        easy = language.easy_question(scene, exam.rng)
        hard = language.hard_question(scene, exam.rng)
        cards.append(
            exam.prompts.coder(
                caption=language.caption(scene), easy_question=easy.text,
                easy_answer=easy.answer, hard_question=hard.text,
            )
        )  # fmt: skip
    drawings = [reply[0] for reply in exam.replies(cards)]
    rendered = [renders(svg) for svg in drawings]
    same = [scene_of_svg(svg) == scene for svg, scene in zip(drawings, scenes, strict=True)]
    return {
        "svg renders": _percent(rendered),
        "svg faithful": _percent(same),
        "  faithful if it renders": _percent(
            s for s, shown in zip(same, rendered, strict=True) if shown
        ),
    }


def renders(svg: str) -> bool:
    """Of a tiny model's few tokens, at a desk: the render pool is what faces hostile SVG."""
    if not svg.startswith("<svg") or not svg.endswith("</svg>"):
        return False
    try:
        render(svg)
    except (ValueError, SyntaxError, OSError, ArithmeticError):
        return False
    return True


def _describe(exam: _Examiner, scenes: list[Scene]) -> dict[str, float]:
    asked = [exam.prompts.solver(DESCRIBE)] * len(scenes)
    replies = exam.replies(asked, scenes, temperature=0.0)
    pairs = list(zip(replies, scenes, strict=True))
    return {"describes (greedy)": _percent(language.parse_caption(r[0]) == s for r, s in pairs)}


def _solver(
    exam: _Examiner, level: str, scenes: list[Scene], questions: list[Question]
) -> dict[str, float]:
    asked = [exam.prompts.solver(question.text) for question in questions]
    samples = exam.replies(asked, scenes, n=_VOTES)
    greedy = exam.replies(asked, scenes, temperature=0.0)
    pairs = list(zip(samples, questions, strict=True))
    right = [[parse_answer(text) == q.answer for text in texts] for texts, q in pairs]
    careful = [[language.is_careful(text) for text in texts] for texts, _ in pairs]
    both = [pair for r, c in zip(right, careful, strict=True) for pair in zip(r, c, strict=True)]
    mean = _percent(r for r, _ in both)
    majority = _percent(_majority(texts) == q.answer for texts, q in pairs)
    return {
        level: mean,
        f"{level} maj@16 gain": majority - mean,
        f"  {level} careful share": _percent(c for _, c in both),
        f"  {level} right if careful": _percent(r for r, c in both if c),
        f"  {level} right if hasty": _percent(r for r, c in both if not c),
        f"  {level} greedy": _percent(
            parse_answer(texts[0]) == q.answer for texts, q in zip(greedy, questions, strict=True)
        ),
    }


def _majority(texts: list[str]) -> str | None:
    votes = Counter(vote for vote in map(parse_answer, texts) if vote is not None)
    return votes.most_common(1)[0][0] if votes else None
