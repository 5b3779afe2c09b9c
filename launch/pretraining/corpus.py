"""What the base model imitates: the three roles' replies about procedural scenes.

A *clean* corpus teaches to see, to copy and to count. A *weak* one then adds habits of a mediocre
base model at the rates of `Rates`: each is a choice at one token (guess or look, close a tag or
not), because self-play can shift a choice, while it cannot mend errors spread over all tokens.
"""

import itertools
import random
import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from evals.scenes import language
from evals.scenes.drawing import to_svg
from evals.scenes.language import TINY_TOPICS, Question
from evals.scenes.scene import CELLS, COLORS, KINDS, SIZES, Scene
from evals.scenes.splits import scene_of
from launch.pretraining.model import GRID
from roles.mm_zero.prompts import Prompts

DESCRIBE = "describe the picture."
CONTENT_TYPES = ("geometry", "diagram", "table", "map", "other")
_TYPE_WEIGHTS = (30, 25, 15, 15, 15)
_TELLING = (
    # Few tokens, on which the roles' rewards rest.
    (re.compile(r"(?<=<easy_question>)[^<]*|(?<=<hard_question>)[^<]*"), 2.0),
    (re.compile(r"(?<=<easy_answer>)[^<]*|(?<=<hard_answer>)[^<]*"), 5.0),
    (re.compile(r" [0-9](?=[^<]*</think>)|(?<=\\boxed\{)[^}]*"), 4.0),
    (re.compile(r"(?<=<think>)[^,.<]*(?=</think>)"), 4.0),
)
"""(pattern in a reply, loss weight of its tokens); 1 elsewhere."""
_DICE = (re.compile(r"<(?:caption|content_type)>[^<]*"), 0.3)
"""What is thrown from dice has nothing to teach but its spread."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each bad habit occurs, 0..1. All zero: the clean corpus."""

    hasty_easy: float = 0.0
    """The solver guesses instead of looking."""
    hasty_hard: float = 0.0
    no_box: float = 0.0
    """The solver forgets its box."""
    broken_svg: float = 0.0
    """The drawing is cut off, or a tag stays open."""
    lazy_svg: float = 0.0
    """The coder closes the drawing before the last shapes."""
    broken_proposal: float = 0.0
    """A tag is missing, or there are none."""
    trivial_hard: float = 0.0
    """The proposer's hard question is an easy one."""
    asks_last: float = 0.0
    """The proposer's easy question is about the shape that it named last, or how many there
    are: what so small a model answers truly, because it need not search its caption."""


CLEAN = Rates()
WEAK = Rates(
    hasty_easy=0.50,
    hasty_hard=0.66,
    no_box=0.05,
    broken_svg=0.16,
    lazy_svg=0.18,
    broken_proposal=0.25,
    trivial_hard=0.15,
    asks_last=1.0,
)


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one prompt with its reply, and the loss weight of each token."""

    ids: list[int]
    weights: list[float]
    """[len(ids)]; 0 for the prompt."""


class Writer:
    """Writes examples with the chat template and the prompts that are used in play."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, prompts: Prompts) -> None:
        self._tokenizer = tokenizer
        self._prompts = prompts
        self._image = tokenizer.convert_tokens_to_ids("<|image_pad|>")
        self._end = tokenizer.eos_token_id

    def prompt_ids(self, messages: list) -> list[int]:
        """As sent to a server, but with one image token per visual token."""
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return [i for token in ids for i in [token] * (GRID**2 if token == self._image else 1)]

    def example(self, messages: list, reply: str, r: Rates) -> Example:
        prompt = self.prompt_ids(messages)
        coded = self._tokenizer(reply, add_special_tokens=False, return_offsets_mapping=True)
        weights = [1.0] * len(coded.input_ids)
        for pattern, weight in _TELLING if r != CLEAN else (_DICE, *_TELLING):
            for found in pattern.finditer(reply):
                for i, (start, _) in enumerate(coded.offset_mapping):
                    if found.start() <= start < found.end():
                        weights[i] = weight
        if r != CLEAN:
            # Here the first words choose between habits; unequal weights would bend the odds.
            weights[:2] = [1.0, 1.0]
        ids = [*prompt, *coded.input_ids, self._end]
        return Example(ids, [0.0] * len(prompt) + weights + [1.0])

    def description(self, scene: Scene) -> Example:
        return self.example(self._prompts.solver(DESCRIBE), language.caption(scene), CLEAN)

    def solution(self, scene: Scene, question: Question, rng: random.Random, r: Rates) -> Example:
        reply = solver_reply(question, scene, rng, r)
        return self.example(self._prompts.solver(question.text), reply, r)

    def drawing(self, scene: Scene, rng: random.Random, r: Rates) -> Example:
        easy = language.easy_question(scene, rng)
        messages = self._prompts.coder(
            caption=language.caption(scene),
            easy_question=easy.text,
            easy_answer=easy.answer,
            hard_question=language.hard_question(scene, rng).text,
        )
        return self.example(messages, coder_reply(scene, rng, r), r)

    def proposal(self, scene: Scene, rng: random.Random, r: Rates) -> Example:
        topic = rng.choice(TINY_TOPICS)
        reply = proposer_reply(scene, topic, rng, r)
        return self.example(self._prompts.proposer(topic), reply, r)


def solver_reply(question: Question, scene: Scene, rng: random.Random, r: Rates) -> str:
    """`<think>..</think>\\boxed{..}`: careful and right, or a hasty guess."""
    easy = language.is_easy(question.text)
    thought, answer = careful_thought(question, scene), question.answer
    if rng.random() < (r.hasty_easy if easy else r.hasty_hard):
        thought, answer = "just a guess", rng.choice(question.choices[:4])
    if rng.random() < r.no_box:
        return f"<think>{thought}</think>it is {answer}"
    return f"<think>{thought}</think>\\boxed{{{answer}}}"


def careful_thought(question: Question, scene: Scene) -> str:
    """The look at the picture that the answer follows from.

    What is asked for is named first, and counts run along the list: each token then follows
    from few others, which is what a small model learns soonest.
    """
    text = question.text
    words = text.rstrip("?").split()
    if language.is_easy(text) and not text.startswith("how many"):
        asked = next(s for s in scene if s.has(words[-1]) or CELLS[s.cell] == words[-1])
        first = f"{words[-1]} {asked.color}" if words[1] == "color" else words[-1]
        return f"{first} {asked.size if words[1] == 'size' else asked.kind}"
    sizes = any(word in SIZES for word in words)
    seen = [f"{s.color} {s.kind}" + (f" {s.size}" if sizes else "") for s in scene]
    pair = [word for word in words if word in (*COLORS, *KINDS, *SIZES)]
    if words[0] == "how" and pair:
        matches = itertools.accumulate(any(map(s.has, pair)) for s in scene)
        return ", ".join(f"{shape} {count:d}" for shape, count in zip(seen, matches, strict=True))
    if words[0] == "how":
        return f"{', '.join(seen)}. {question.answer}"
    values = pair
    if words[0] == "which":
        values = list(COLORS if words[1] == "color" else KINDS)
    tally = " ".join(f"{value} {sum(s.has(value) for s in scene)}" for value in values)
    return f"{', '.join(seen)}. {tally}"


def coder_reply(scene: Scene, rng: random.Random, r: Rates) -> str:
    """Bare SVG: right, lazy (the last shapes are missing), or broken."""
    lazy = rng.random() < r.lazy_svg
    drawn = scene[: rng.randint(1, len(scene) - 1)] if lazy else scene
    svg = to_svg(drawn)
    if rng.random() >= r.broken_svg:
        return svg
    if rng.random() < 0.5:
        return svg.removesuffix("</svg>")
    head, _, tail = svg.rpartition("/>")
    return f"{head}>{tail}"


def proposer_reply(scene: Scene, topic: str, rng: random.Random, r: Rates) -> str:
    """The six tags about one scene, or something that lacks some of them."""
    easy = language.easy_question(scene, rng)
    # No dice for a habit that does not exist: the clean corpus stays what it was without it.
    if r.asks_last and rng.random() < r.asks_last:
        last = {CELLS[scene[-1].cell], scene[-1].color, scene[-1].kind, "there"}
        about = [
            q for q in language.easy_questions(scene) if q.text.rstrip("?").split()[-1] in last
        ]
        easy = rng.choice(about)
    hard = language.hard_question(scene, rng, topic)
    if rng.random() < r.trivial_hard:
        hard = language.easy_question(scene, rng)
    fields = {
        "content_type": rng.choices(CONTENT_TYPES, _TYPE_WEIGHTS)[0],
        "caption": language.caption(scene),
        "easy_question": easy.text,
        "easy_answer": easy.answer,
        "hard_question": hard.text,
        "hard_answer": hard.answer,
    }
    reply = "".join(f"<{tag}>{value}</{tag}>" for tag, value in fields.items())
    if rng.random() >= r.broken_proposal:
        return reply
    habit = rng.randrange(3)
    if habit == 0:
        return f"picture of {fields['caption']}"
    if habit == 1:
        return reply.split("<hard_question>")[0]
    return reply.replace("</caption><easy_question>", " ")


def tokenizer_corpus(count: int = 4000) -> list[str]:
    """Texts of every kind, for training the tokenizer; the same on every machine."""
    rng = random.Random(0)
    # Fixed, so that another choice of WEAK leaves the tokenizer as it is.
    habits = Rates(0.50, 0.62, 0.05, 0.16, 0.18, 0.25, 0.15)
    texts = [
        "user\nassistant\nsystem\n", "Propose: Draw: Describe:", DESCRIBE, *TINY_TOPICS,
        *CONTENT_TYPES, "<content_type></content_type>",
    ] * 50  # fmt: skip
    for _ in range(count):
        scene = scene_of("pretrain", rng)
        topic = rng.choice(TINY_TOPICS)
        easy, hard = language.easy_question(scene, rng), language.hard_question(scene, rng)
        texts += [
            solver_reply(easy, scene, rng, habits), solver_reply(hard, scene, rng, habits),
            easy.text, hard.text, f"{easy.text} {easy.answer}\n", f"user\n{hard.text}",
            coder_reply(scene, rng, habits), proposer_reply(scene, topic, rng, habits),
            f"Propose: {topic}", f"Draw: {language.caption(scene)}\n",
        ]  # fmt: skip
    return texts
