"""What the truth says of games that were played: the early signs of a collapse.

Reads the notes of a game (`roles/README.md`). Only the procedural world has a truth to compare
with; of a game in another world the signs that need one stay empty.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine.types import Invalid
from evals.scenes import language
from evals.scenes.drawing import scene_of_svg
from evals.scenes.scene import Scene
from rewards.grading import equal

SIGNS = ("consistency", "kept", "careful", "label_true", "faithful", "easy_true", "real_hard")


def game_signs(
    proposals: Sequence[Mapping[str, Any]], *, num_pictures: int | None = None
) -> dict[str, list[float]]:
    """Values of one game by sign; the mean over games is the share to watch.

    Per vote on a hard question: consistency (share of the majority), kept (1 where it trains the
    solver), label_true (the majority is what the drawn picture says), and careful per answer.
    Per picture: faithful (it shows the caption). Per proposal: easy_true, real_hard.
    `num_pictures`: of each proposal, the first ones; None: all.
    """
    signs: dict[str, list[float]] = {name: [] for name in SIGNS}
    for entry in proposals:
        if "proposal" in entry:
            scene = language.parse_caption(entry["proposal"]["caption"])
            _of_proposal(entry["proposal"], scene, signs)
            pictures = [drawing for drawing in entry["drawings"] if "picture" in drawing]
            for picture in pictures[:num_pictures]:
                _of_picture(entry["proposal"], scene, picture, signs)
    return signs


def _of_proposal(
    proposal: Mapping[str, str], scene: Scene | Invalid, signs: dict[str, list[float]]
) -> None:
    if isinstance(scene, Invalid):
        return
    easy = language.answer(proposal["easy_question"], scene)
    hard = language.answer(proposal["hard_question"], scene)
    is_hard = hard is not None and not language.is_easy(proposal["hard_question"])
    signs["easy_true"].append(float(equal(easy, proposal["easy_answer"])))
    signs["real_hard"].append(float(is_hard))


def _of_picture(
    proposal: Mapping[str, str],
    meant: Scene | Invalid,
    picture: Mapping[str, Any],
    signs: dict[str, list[float]],
) -> None:
    hard = picture["hard"]
    signs["consistency"].append(hard["share"])
    signs["kept"].append(float(picture["drop"] is None))
    for reply, number in Counter(hard["replies"]).items():
        signs["careful"] += [float(language.is_careful(reply))] * number
    drawn = scene_of_svg(picture["svg"])
    if not isinstance(meant, Invalid):
        signs["faithful"].append(float(meant == drawn))
    if not isinstance(drawn, Invalid):
        truth = language.answer(proposal["hard_question"], drawn)
        if truth is not None:
            signs["label_true"].append(float(equal(hard["majority"], truth)))
