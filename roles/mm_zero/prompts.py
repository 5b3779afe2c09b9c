"""The three prompts of MM-Zero, from markdown templates in `prompts/<set>/`.

Sets: `full` for real models, `tiny` for the embedded default, which is pre-trained on exactly
these strings. A template's `{name}` is replaced literally; nothing in a value is interpreted.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from engine.errors import ConfigError
from engine.types import Message

_FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Templates of one prompt set; each method gives the messages of one request."""

    proposer_template: str
    coder_template: str
    told_coder_template: str
    """For a coder that is told the hard answer."""
    solver_template: str

    def proposer(self, topic: str) -> list[Message]:
        return [_user(fill(self.proposer_template, topic=topic))]

    def coder(
        self,
        *,
        caption: str,
        easy_question: str,
        easy_answer: str,
        hard_question: str,
        hard_answer: str | None = None,
    ) -> list[Message]:
        """`hard_answer` is None by default: told to the coder, it leaks into the picture."""
        values = {
            "caption": caption,
            "easy_question": easy_question,
            "easy_answer": easy_answer,
            "hard_question": hard_question,
        }
        if hard_answer is None:
            return [_user(fill(self.coder_template, **values))]
        return [_user(fill(self.told_coder_template, **values, hard_answer=hard_answer))]

    def solver(self, question: str) -> list[Message]:
        """Image first, so that the questions about one image share its prefix."""
        text = fill(self.solver_template, question=question)
        return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]


def load_prompts(name: str) -> Prompts:
    """The prompt set `name`. Raises ConfigError where there is no such set."""
    known = sorted(path.name for path in _FOLDER.iterdir() if path.is_dir())
    if name not in known:
        raise ConfigError(f"recipe.prompts: no prompt set {name!r}; there are {', '.join(known)}")
    texts = [
        (_FOLDER / name / f"{role}.md").read_text().strip()
        for role in ("proposer", "coder", "coder_told", "solver")
    ]
    return Prompts(*texts)


def fill(template: str, **values: str) -> str:
    """Replace each `{name}` of `template` by its value, in one pass."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m.group(1), m.group(0)), template)


def _user(text: str) -> Message:
    return {"role": "user", "content": [{"type": "text", "text": text}]}
