"""The work of one game, role by role: replies, prompts, pictures and tokens, as a recipe's settings
say it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launch.planning.assumptions import Assumptions
from launch.planning.lengths import lengths_of, longest
from launch.planning.models import Model
from roles.mm_zero.config import MMZeroConfig
from roles.vision_zero.config import VOTER, VisionZeroConfig

PROMPT_TOKENS = {
    "proposer": 500,
    "coder": 500,
    "solver": 150,
    "civilian": 600,
    "spy": 600,
    VOTER: 900,
}
"""Of text: prompt sets `full` (four characters a token), with proposals, questions and clues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleWork:
    """What one stream of one game asks of servers and learners, on average."""

    stream: str
    policy: str
    replies: float
    turns: float
    """Replies that a game waits for one after another."""
    together: float
    """Replies that each of its turns waits for."""
    chains: float
    """Such turns that a game has side by side: the slowest of all ends it."""
    prompts: float
    """Distinct ones: each is read once, the other replies to it find it in the cache."""
    pictures: float
    """That servers look at."""
    prompt_tokens: float
    """Of text, in one prompt."""
    picture_tokens: float
    """In one prompt."""
    patches: float
    """Of one picture."""
    answer_tokens: float
    """On average."""
    lengths: tuple[float, ...]
    """Of replies, each as likely as the others, with that mean."""
    trained: float
    """Replies that train."""
    rows: float
    """Distinct prompts among those, each with its picture: learners compute them once."""

    @property
    def generated(self) -> float:
        """Tokens."""
        return self.replies * self.answer_tokens

    @property
    def read(self) -> float:
        """Tokens of prompts."""
        return self.prompts * self.prompt_tokens + self.pictures * self.picture_tokens

    @property
    def prompt(self) -> float:
        """Tokens of one prompt with its picture."""
        return self.prompt_tokens + self.picture_tokens

    @property
    def context(self) -> float:
        """Tokens that a reply which runs sees, on average: its prompt, and of its own as many as
        the mean generated token has before it. Long replies run for longer, so of lengths L that is
        E[L^2] / 2 E[L], not half of the mean."""
        return self.prompt + self.moment(2) / (2 * self.answer_tokens)

    @property
    def squared_context(self) -> float:
        """The mean of its square, by the same token's E[L^3] / 3 E[L]."""
        own = self.moment(3) / (3 * self.answer_tokens)
        return self.prompt * (2 * self.context - self.prompt) + own

    def moment(self, power: int) -> float:
        """E[L^power] of the lengths L of replies."""
        return sum(length**power for length in self.lengths) / len(self.lengths)

    @property
    def life(self) -> float:
        """Tokens that a game waits for, one after the other, until the last reply is there.

        At most: the longest of all replies that are a turn's, turn after turn, as if each turn of
        one chain waited for those of the others. Where a turn is one reply, a chain's are a sum of
        mean k m and variance k v, and the largest of n such sums is on average no more than
        k m + sqrt(k v) (n - 1) / sqrt(2 n - 1), whatever their distribution (Hartley and David
        1954, Gumbel 1954).
        """
        n = max(1.0, self.together * self.chains)
        found = self.turns * longest(self.lengths, n)
        if self.together == 1:
            variance = self.turns * max(0.0, self.moment(2) - self.answer_tokens**2)
            above = math.sqrt(variance) * (n - 1) / math.sqrt(2 * n - 1)
            found = min(found, self.turns * self.answer_tokens + above)
        return found

    @property
    def learnt(self) -> float:
        """Tokens that learners compute."""
        return self.rows * self.prompt + self.trained * self.answer_tokens


def work_of(
    settings: MMZeroConfig | VisionZeroConfig,
    cast: Mapping[str, str],
    model: Model,
    side: int,
    assumed: Assumptions,
    tokens: Mapping[str, float],
) -> tuple[RoleWork, ...]:
    """One game's work. `cast`: {stream: policy}; `side`: of pictures; `tokens`: {stream: mean
    tokens of a reply} where that is known better than by the assumed shares of max_new_tokens."""
    if isinstance(settings, MMZeroConfig):
        return _mm_zero(settings, cast, model.picture(side), assumed, tokens)
    return _vision_zero(settings, cast, model.picture(side), assumed, tokens)


def renders_of(settings: MMZeroConfig | VisionZeroConfig, work: Sequence[RoleWork]) -> float:
    """Pictures that a game has drawn; Vision-Zero's two per pair."""
    if isinstance(settings, MMZeroConfig):
        return next(role.replies for role in work if role.stream == "coder")
    return 2.0


def _mm_zero(
    cfg: MMZeroConfig,
    cast: Mapping[str, str],
    picture: tuple[int, int],
    assumed: Assumptions,
    tokens: Mapping[str, float],
) -> tuple[RoleWork, ...]:
    cards = cfg.num_proposals * assumed.parsed
    drawings = cards * cfg.num_svgs
    seen = drawings * assumed.rendered
    questions = (cfg.num_easy_votes if cfg.train_easy else 0) + cfg.num_hard_votes
    fills = {
        role: tokens.get(role, fill * cfg.params(role).max_new_tokens)
        for role, fill in (
            ("proposer", assumed.proposer_fill),
            ("coder", assumed.coder_fill),
            ("solver", assumed.solver_fill),
        )
    }

    def role(stream: str, *, eyes: tuple[int, int] = (0, 0), **counts: float) -> RoleWork:
        return RoleWork(
            stream=stream,
            policy=cast[stream],
            turns=1,
            together=counts["replies"],  # each is on its way alone, but the last ends the game
            chains=1,
            prompt_tokens=PROMPT_TOKENS[stream],
            picture_tokens=eyes[0],
            patches=eyes[1],
            answer_tokens=fills[stream],
            lengths=lengths_of(
                fills[stream], assumed.length_cv2, cfg.params(stream).max_new_tokens
            ),
            **counts,
        )

    kept = assumed.solver_kept * seen
    return (
        role(
            "proposer",
            replies=cfg.num_proposals,
            prompts=1,
            pictures=0,
            trained=cfg.num_proposals,
            rows=1,
        ),
        role(
            "coder",
            replies=drawings,
            prompts=cards,
            pictures=0,
            trained=drawings * assumed.coder_kept,
            rows=cards * assumed.coder_kept,
        ),
        role(
            "solver",
            eyes=picture,
            replies=seen * (cfg.num_easy_votes + cfg.num_hard_votes),
            prompts=2 * seen,  # both questions share the picture in front of them
            pictures=seen,
            trained=kept * questions,
            rows=kept * (2 if cfg.train_easy else 1),
        ),
    )


def _vision_zero(
    cfg: VisionZeroConfig,
    cast: Mapping[str, str],
    picture: tuple[int, int],
    assumed: Assumptions,
    tokens: Mapping[str, float],
) -> tuple[RoleWork, ...]:
    polls = cfg.num_rounds if cfg.clue_credit.turns == "round_delta" else 1
    civilians = cfg.num_players - 1
    votes = cfg.num_votes if cfg.voters == "judge" else civilians
    train = (1.0 if cfg.gate.switch == "off" else assumed.gate_open) * (1 - cfg.probe_share)

    def role(
        stream: str, prompts: float, replies: float, turns: float, fill: float, together: float = 1
    ) -> RoleWork:
        most = cfg.params(stream).max_new_tokens
        mean = tokens.get(stream, fill * most)
        return RoleWork(
            stream=stream,
            policy=cast[stream],
            replies=replies,
            turns=turns,
            together=together,
            chains=cfg.replicas,
            prompts=prompts,
            pictures=prompts,  # every prompt has another text, and is taken to have its own picture
            prompt_tokens=PROMPT_TOKENS[stream],
            picture_tokens=picture[0],
            patches=picture[1],
            answer_tokens=mean,
            lengths=lengths_of(mean, assumed.length_cv2, most),
            trained=replies * train,
            rows=prompts * train,
        )

    clues = cfg.replicas * cfg.num_rounds
    held = cfg.replicas * polls
    return (
        role("civilian", clues * civilians, clues * civilians, cfg.num_rounds * civilians,
             assumed.clue_fill),
        role("spy", clues, clues, cfg.num_rounds, assumed.clue_fill),
        role(VOTER, held, held * votes, polls, assumed.vote_fill, votes),
    )  # fmt: skip
