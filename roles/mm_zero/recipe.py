"""One game of MM-Zero (arXiv:2603.09206), as its figure draws it.

    topic -> proposal -> drawing -> picture -> vote on the easy and on the hard question

Every proposal and every drawing is a task of its own and goes on the moment its last token is
there; a picture is solved the moment it exists; a group is submitted the moment its last reward
is known. The rollouts that judge one role are the ones that train another.
"""

from engine.tasks import concurrently
from engine.types import Invalid
from rewards.coder import coder_reward
from rewards.diversity import DiversityWindow
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.filters import easy_filter
from roles.mm_zero.gallery import note_game
from roles.mm_zero.outcome import Attempt, Drawing, Solved, Vote
from roles.mm_zero.parsing import Proposal, extract_svg, parse_proposal
from roles.mm_zero.players import Players
from roles.mm_zero.scoring import (
    answer_rewards,
    judge_picture,
    make_group,
    proposer_rewards,
    vote,
)
from roles.table import Table

STREAMS = ("proposer", "coder", "solver")
"""One per role; each feeds the policy of its own name."""


async def play(topic: str, table: Table, cfg: MMZeroConfig, window: DiversityWindow) -> None:
    """One game: propose -> draw -> render -> solve -> rewards -> submit.

    Submits one proposer group, one coder group per valid proposal and one solver group per
    picture (two with `train_easy`); a filtered one carries its reason in `extra["drop"]`.
    """
    players = Players.at(table, cfg)

    async def attempt(_: int) -> Attempt:
        return await play_proposal(topic, players)

    attempts = await concurrently(attempt, range(cfg.num_proposals))
    rewards = proposer_rewards(attempts, cfg, window)
    table.submit(
        make_group(
            "proposer",
            table.game,
            [attempt.rollout for attempt in attempts],
            rewards,
            judges=[judge for attempt in attempts for judge in attempt.judges],
            extra={"topic": topic},
        )
    )
    note_game(table.note, topic, attempts, rewards)


async def play_proposal(topic: str, players: Players) -> Attempt:
    """One proposal, its drawings, and the coder's group."""
    rollout = await players.propose(topic)
    proposal = parse_proposal(rollout.text)
    if isinstance(proposal, Invalid):
        return Attempt(rollout, proposal)  # a bad proposal earns a low reward, not a traceback

    async def draw(_: int) -> Drawing:
        return await play_drawing(proposal, players)

    drawings = await concurrently(draw, range(players.cfg.num_svgs))
    rewards = tuple(coder_reward(drawing.svg, drawing.score) for drawing in drawings)
    players.table.submit(
        make_group(
            "coder",
            players.table.game,
            [drawing.rollout for drawing in drawings],
            rewards,
            judges=[judge for drawing in drawings for judge in drawing.judges],
            extra={"caption": proposal.caption},
        )
    )
    return Attempt(rollout, proposal, drawings, rewards)


async def play_drawing(proposal: Proposal, players: Players) -> Drawing:
    """One drawing, its picture, both votes on it, and the solver's group."""
    rollout = await players.draw(proposal)
    svg = extract_svg(rollout.text)
    picture = await players.table.renderer.render(svg) if svg else Invalid("no_svg")
    if isinstance(picture, Invalid):
        return Drawing(rollout, svg, picture)
    png = picture.png

    async def ask(question: str, n: int) -> Vote:
        answers = await players.answer(question, png, n)
        return vote(answers, salt=f"{proposal.caption}\n{question}")

    cfg = players.cfg
    easy, hard = await concurrently(
        lambda asked: ask(*asked),
        [
            (proposal.easy_question, cfg.num_easy_votes),
            (proposal.hard_question, cfg.num_hard_votes),
        ],
    )
    solved = judge_picture(proposal, easy, hard, cfg)
    submit_answers(proposal, solved, players)
    return Drawing(rollout, svg, picture, solved)


def submit_answers(proposal: Proposal, solved: Solved, players: Players) -> None:
    """The answers to the hard question train the solver, those to the easy one on request."""
    levels = [("hard", proposal.hard_question, solved.hard, solved.rewards, solved.drop)]
    if players.cfg.train_easy:
        easy = solved.easy
        drop = easy_filter(easy.votes, min_easy_share=players.cfg.min_easy_share)
        levels.append(("easy", proposal.easy_question, easy, answer_rewards(easy), drop))
    for level, question, answers, rewards, drop in levels:
        outcome = {"label": answers.votes.majority, "share": answers.votes.share, "drop": drop}
        players.table.submit(
            make_group(
                "solver",
                players.table.game,
                answers.rollouts,
                rewards,
                judges=solved.rollouts,
                extra={"level": level, "question": question, **outcome},
            )
        )
