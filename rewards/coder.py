"""What an SVG earns: that it renders, that it can be read, that its hard question splits."""

from dataclasses import dataclass

from rewards.reward import Reward, Score, reward


@dataclass(frozen=True, slots=True)
class CoderWeights:
    """Defaults of MM-Zero (arXiv:2603.09206)."""

    not_rendered: float = 0.1
    empty: float = 0.05
    not_svg: float = 0.5
    floor: float = -0.5
    leak: float = 0.0
    """Charged where the picture prints the hard question's answer (`rewards.leak`)."""


def coder_reward(
    code: str | None,
    score: Score | None,
    weights: CoderWeights | None = None,
    *,
    is_leaked: bool = False,
) -> Reward:
    """R = 1 + s + d for a picture; -0.1 for SVG that does not render; -0.5 for no SVG at all.

    `code` is the extracted SVG, None (or "") where the reply held none; `score` is None where it
    did not render. s is not capped here, unlike in the proposer's reward. In full, with e = 1
    where nothing was extracted and w = 1 where that is no SVG:
    R = max(floor, (1 + s + d if rendered else -not_rendered) - empty e - not_svg w - leak).
    Source: arXiv:2603.09206, and `codegen_reward.py` of its release. Terms: rendered,
    solvability, difficulty, empty, not_svg, leak, floor.
    """
    weights = weights or CoderWeights()
    return reward(
        at_least=weights.floor,
        rendered=1.0 if score else -weights.not_rendered,
        solvability=score.solvability if score else 0.0,
        difficulty=score.difficulty if score else 0.0,
        empty=0.0 if code else -weights.empty,
        not_svg=0.0 if code and is_svg_code(code) else -weights.not_svg,
        leak=-weights.leak if is_leaked else 0.0,
    )


def is_svg_code(code: str) -> bool:
    """True where `code` starts with `<` or contains `<svg` in any case."""
    stripped = code.strip()
    return stripped.startswith("<") or "<svg" in stripped.lower()
