"""How replies are read and votes scored: ours, or the released code's with its quirks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.types import Invalid, Rollout
from rewards.released.spy import (
    decision_reward_released,
    group_norm_released,
    parse_clue_released,
    parse_vote_released,
    reasoning_released,
)
from rewards.reward import Reward
from rewards.spy import DecisionWeights, Vote, count_votes, decision_reward
from roles.vision_zero.config import VisionZeroConfig
from roles.vision_zero.outcome import Poll
from roles.vision_zero.parsing import parse_clue, parse_vote, reasoning


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    read_clue: Callable[[str, Sequence[str], VisionZeroConfig], str | Invalid]
    """From a reply, and all clues before it."""
    reasoning: Callable[[str], str]
    """What a player thought, for its own later turns."""
    read_vote: Callable[[str, int], Vote]
    """From a reply, and the number of players."""
    score_vote: Callable[[str, Vote, int, DecisionWeights], Reward]
    """Of a reply, its vote, the spy's seat."""
    vote_advantages: Callable[[Sequence[float]], Sequence[float] | None]
    """None: the learner takes them relative to the group."""

    def poll(self, rollouts: tuple[Rollout, ...], spy: int, cfg: VisionZeroConfig) -> Poll:
        """The outcome of one vote."""
        votes = tuple(self.read_vote(rollout.text, cfg.num_players) for rollout in rollouts)
        rewards = tuple(
            self.score_vote(rollout.text, vote, spy, cfg.decision_weights)
            for rollout, vote in zip(rollouts, votes, strict=True)
        )
        return Poll(rollouts, votes, count_votes(votes, cfg.num_players), rewards)


RULES: Mapping[str, Rules] = {
    "streamzero": Rules(
        read_clue=lambda text, earlier, cfg: parse_clue(
            text, earlier, refuse_game_talk=cfg.refuse_game_talk
        ),
        reasoning=reasoning,
        read_vote=parse_vote,
        score_vote=lambda _, vote, spy, weights: decision_reward(vote, spy, weights),
        vote_advantages=lambda rewards: None,
    ),
    "release": Rules(
        read_clue=lambda text, _, __: parse_clue_released(text),
        reasoning=reasoning_released,
        read_vote=lambda text, _: parse_vote_released(text),
        score_vote=lambda text, _, spy, __: decision_reward_released(text, spy),
        vote_advantages=group_norm_released,
    ),
}
