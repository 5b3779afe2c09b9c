"""One game of MM-Zero (arXiv:2603.09206), as its figure draws it.

    topic -> proposal -> drawing -> picture -> vote on the easy and on the hard question

Every proposal and every drawing is a task of its own and goes on the moment its last token is
there; a picture is solved the moment it exists; a group is submitted the moment its last reward
is known. The rollouts that judge one role are the ones that train another.
"""

from collections.abc import Sequence

from engine.tasks import concurrently
from engine.types import Invalid, Rollout
from rewards.reward import Reward
from roles.mm_zero.config import STREAMS, MMZeroConfig
from roles.mm_zero.gallery import note_game
from roles.mm_zero.memory import Memory
from roles.mm_zero.outcome import Answers, Attempt, Drawing
from roles.mm_zero.parsing import Proposal
from roles.mm_zero.players import Players
from roles.mm_zero.rules import PARSERS, RULES
from roles.mm_zero.scoring import (
    coder_drop,
    coder_rewards,
    is_leaked,
    judge_picture,
    make_group,
    num_answered,
    num_rendered,
    proposer_rewards,
)
from roles.table import Table

__all__ = ["FUNNEL", "STATIONS", "STREAMS", "play"]

STATIONS = ("proposer", "coder", "renderer", "solver")
"""Where a game waits for work to be done, in its order: policies' servers, and the renderer."""
FUNNEL = {
    "proposer": ("proposed", "parsed"),
    "coder": ("drawn", "rendered"),
    "solver": ("answered", "boxed"),
}
"""By stream, what its rollouts are called, and those that passed the role's form check
(`usable`)."""


async def play(topic: str, table: Table, cfg: MMZeroConfig, memory: Memory) -> None:
    """One game: propose -> draw -> render -> solve -> rewards -> submit.

    Submits one proposer group, one coder group per valid proposal and one solver group per
    picture (two with `train_easy`); a filtered one carries its reason in `extra["drop"]`.
    """
    await play_topic(topic, Players.at(table, cfg), memory)


async def play_topic(topic: str, players: Players, memory: Memory) -> None:
    """The same, by players who sit at a table."""
    table, cfg = players.table, players.cfg

    async def attempt(_: int) -> Attempt:
        return await play_proposal(topic, players)

    attempts = await concurrently(attempt, range(cfg.num_proposals))
    rewards = await proposer_rewards(topic, attempts, cfg, memory)
    table.submit(
        make_group(
            "proposer",
            table.game,
            [attempt.rollout for attempt in attempts],
            rewards,
            judges=[judge for attempt in attempts for judge in attempt.judges],
            usable=sum(isinstance(attempt.proposal, Proposal) for attempt in attempts),
            extra={"topic": topic},
        )
    )
    note_game(table.note, topic, attempts, rewards)


async def play_proposal(topic: str, players: Players) -> Attempt:
    """One proposal, and what is drawn from it."""
    cfg = players.cfg
    rollout = await players.propose(topic)
    proposal = PARSERS[cfg.parser](rollout.text)
    if isinstance(proposal, Invalid) or not RULES[cfg.rules].is_drawn(proposal):
        return Attempt(rollout, proposal)  # it earns what the rules say, never a traceback
    drawings, rewards = await play_drawings(proposal, players)
    return Attempt(rollout, proposal, drawings, rewards)


async def play_drawings(
    proposal: Proposal, players: Players
) -> tuple[tuple[Drawing, ...], tuple[Reward, ...]]:
    """The drawings of one proposal, what they earn, and the coder's group."""
    cfg = players.cfg

    async def draw(_: int) -> Drawing:
        return await play_drawing(proposal, players)

    drawings = await concurrently(draw, range(cfg.num_svgs))
    rewards = coder_rewards(drawings, cfg)
    players.table.submit(
        make_group(
            "coder",
            players.table.game,
            [drawing.rollout for drawing in drawings],
            rewards,
            judges=[judge for drawing in drawings for judge in drawing.judges],
            usable=num_rendered(drawings),
            extra={
                "caption": proposal.caption,
                "leak_rate": sum(drawing.is_leaked for drawing in drawings) / len(drawings),
                "drop": coder_drop(drawings, rewards, cfg),
            },
        )
    )
    return tuple(drawings), rewards


async def play_drawing(proposal: Proposal, players: Players) -> Drawing:
    """One drawing, its picture, both votes on it, and the solver's group."""
    table, cfg = players.table, players.cfg
    rollout = await players.draw(proposal)
    svg = RULES[cfg.rules].extract_svg(rollout.text)
    picture = await table.renderer.render(svg) if svg else Invalid("not_svg")
    if svg is None or isinstance(picture, Invalid):
        return Drawing(rollout, svg, picture)
    judges, own = await players.judge_and_solve(proposal, picture.png)
    solved = await judge_picture(proposal, judges, own, cfg, table.grader)
    for answers in solved.answers:
        submit_answers(answers, solved.rollouts, players)
    return Drawing(rollout, svg, picture, solved, is_leaked(svg, proposal))


def submit_answers(answers: Answers, judges: Sequence[Rollout], players: Players) -> None:
    """The answers to the hard question train the solver, those to the easy one on request."""
    players.table.submit(
        make_group(
            "solver",
            players.table.game,
            answers.rollouts,
            answers.rewards,
            judges=judges,
            usable=num_answered(answers.rollouts, players.cfg),
            extra={
                "level": answers.level,
                "question": answers.question,
                "label": answers.label,
                "share": answers.votes.share,
                "drop": answers.drop,
            },
        )
    )
