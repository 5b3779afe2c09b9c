"""MM-Zero in phases, on fake samplers: what is gathered, what trains, who is asked how often."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from engine.errors import GameDropped
from engine.phases import Phases
from engine.types import Group
from roles.mm_zero.config import STREAMS, MMZeroConfig
from roles.mm_zero.phases import PhasedGames
from tests.roles.table_fakes import FakeSampler, FakeTable
from tests.roles.test_mm_zero_recipe import boxed, proposal, table_of

CFG = MMZeroConfig(
    prompts="tiny", num_proposals=2, num_svgs=2, num_easy_votes=5, num_hard_votes=8,
    topics=("colors", "shapes"),
)  # fmt: skip
STEPS, PER_STEP = 3, 1
GAMES = STEPS * PER_STEP
"""Topics of a phase."""


@dataclass
class Club:
    """Phases, games that are played in them, and one table for all."""

    fake: FakeTable
    cfg: MMZeroConfig = CFG
    phases: Phases = field(default_factory=lambda: Phases(STREAMS, STEPS))
    game: int = 0

    def __post_init__(self) -> None:
        self.games = PhasedGames(self.cfg, self.phases, PER_STEP)

    def enter(self, stream: str) -> None:
        while self.phases.stream != stream:
            self.phases.tick({})

    async def _play(self, number: int) -> None:
        self.game += number
        first = self.game - number
        tables = [
            replace(self.fake.table, game=first + k, note=lambda key, value: None)
            for k in range(number)
        ]
        await asyncio.gather(*(self.games(table.game, table) for table in tables))

    def play(self, number: int) -> list[Group]:
        """The groups of so many games that are played at once."""
        before = len(self.fake.groups)
        asyncio.run(self._play(number))
        return self.fake.groups[before:]

    def asked(self) -> Counter[str]:
        """Samples by role, since it was asked last."""
        found = Counter({role: one.count for role, one in self.fake.samplers.items()})
        since = found - getattr(self, "_seen", Counter())
        self._seen = found
        return since


@pytest.fixture
def club() -> Club:
    return Club(table_of([proposal("a"), "no tags"], ["<svg>1</svg>", "<svg>2</svg>"]))


def test_in_the_proposer_s_phase_the_game_is_whole_and_only_its_group_is_kept(club: Club) -> None:
    groups = club.play(3)
    assert [group.stream for group in groups] == ["proposer"] * 3
    # Each game: 2 proposals, of which one is drawn twice, and each picture is asked 5 + 8 times.
    assert club.asked() == {"proposer": 3 * 2, "coder": 3 * 2, "solver": 3 * 2 * 13}
    assert {"coder", "solver"} <= set(groups[0].versions), "they judged it"


def test_the_coder_s_phase_is_played_on_proposals_gathered_before(club: Club) -> None:
    club.enter("coder")
    groups = club.play(2)
    assert [group.stream for group in groups] == ["coder", "coder"]
    assert {group.game for group in groups} == {0, 1}
    # All topics of the phase at once, then two games: each draws its one proposal twice.
    assert club.asked() == {"proposer": GAMES * 2, "coder": 2 * 2, "solver": 2 * 2 * 13}
    assert len(club.play(1)) == 1
    assert club.asked() == {"coder": 2, "solver": 2 * 13}, "nothing is gathered again"
    assert all("proposer" not in group.versions for group in groups)


def test_the_solver_s_phase_is_played_on_labels_gathered_before(club: Club) -> None:
    club.enter("solver")
    groups = club.play(1)
    assert [(g.stream, len(g.rollouts), g.extra["label"]) for g in groups] == [
        ("solver", 8, "3")
    ] * 2
    gathered = {"proposer": GAMES * 2, "coder": GAMES * 2, "solver": GAMES * 2 * 13}
    own = 2 * 8
    assert club.asked() == gathered | {"solver": gathered["solver"] + own}
    club.play(1)
    assert club.asked() == {"solver": own}


def test_the_solver_s_phase_does_not_take_what_the_coder_s_gathered(club: Club) -> None:
    """Both are the same number of their role."""
    club.enter("coder")
    club.play(GAMES)
    club.asked()
    club.enter("solver")
    club.play(1)
    assert club.asked()["proposer"] == GAMES * 2


def test_what_is_left_of_a_phase_is_gathered_for_no_more_steps_than_that(club: Club) -> None:
    """After a restart in its middle."""
    club.enter("coder")
    club.phases.tick({})
    club.play(1)
    assert club.asked()["proposer"] == (STEPS - 1) * PER_STEP * 2


@pytest.mark.parametrize(("stream", "own"), [("proposer", 0), ("coder", 0), ("solver", 8)])
def test_beside_a_pinned_judge_the_solver_answers_only_what_trains_it(
    stream: str, own: int
) -> None:
    cfg = MMZeroConfig.model_validate(CFG.model_dump() | {"judge": "pinned"})
    fake = table_of([proposal("a")], ["<svg>1</svg>"])
    fake.samplers["judge"] = FakeSampler("judge", fake.samplers["solver"].reply)
    club = Club(fake, cfg)
    club.enter(stream)
    groups = club.play(1)
    assert {group.stream for group in groups} == {stream}
    assert club.asked()["solver"] == own * len(groups)


def test_answers_are_new_and_earn_by_the_old_label() -> None:
    """Votes said 3; the solver has changed its mind since. Its age is its own answers' alone."""
    fake = table_of([proposal("a")], ["<svg>1</svg>"], hard=["3"] * 5 + ["4"] * 3)
    club = Club(fake)
    club.enter("solver")
    club.play(1)
    gathered = fake.samplers["solver"]
    fake.samplers["solver"] = FakeSampler("solver", lambda _, i: boxed("4" if i % 4 else "3"))
    fake.table = replace(fake.table, samplers=fake.samplers)
    fake.samplers["solver"].count = 1000
    first, *_ = club.play(1)
    assert first.extra["label"] == "3"
    assert [reward > 0.5 for reward in first.rewards] == [i % 4 == 0 for i in range(8)]
    assert gathered.count < 1000
    assert first.versions["solver"][0] >= 100, "version i // 10 of the i-th sample"


def test_questions_that_would_teach_nothing_are_not_asked_again(club: Club) -> None:
    easy = Club(table_of([proposal("a")], ["<svg>1</svg>"], hard=["3"] * 8))
    easy.enter("solver")
    assert easy.play(1) == []
    votes = easy.asked()["solver"]
    assert votes == GAMES * 2 * 2 * 13, "all agree: the votes were all that was asked"


def test_each_phase_gathers_anew_and_other_topics(club: Club) -> None:
    club.enter("coder")
    club.play(1)
    asked = club.fake.samplers["proposer"].asked
    first = [text for text, _, _ in asked]
    assert len(first) == GAMES * CFG.num_proposals
    club.phases.tick({})
    club.enter("proposer")
    club.enter("coder")
    club.play(1)
    second = [text for text, _, _ in asked[len(first) :]]
    assert len(second) == len(first)
    topics: Callable[[list[str]], list[bool]] = lambda texts: ["shapes" in t for t in texts]  # noqa: E731
    assert topics(first) != topics(second)


def test_a_topic_that_was_lost_is_an_empty_game_and_a_failed_phase_is_tried_again() -> None:
    fake = table_of([proposal("a")], ["<svg>1</svg>"])
    club = Club(fake)
    club.enter("coder")
    failures: list[Exception] = [RuntimeError("a bug, not a lost request")] * 100

    class Failing(FakeSampler):
        async def sample(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            if failures:
                raise failures.pop()
            return await super().sample(*args, **kwargs)

    fake.samplers["proposer"] = Failing("proposer", lambda _, i: proposal("a"))
    fake.table = replace(fake.table, samplers=fake.samplers)
    with pytest.raises(RuntimeError):
        club.play(1)
    failures[:] = [GameDropped("request", "out of retries")]
    streams = [len(club.play(1)) for _ in range(GAMES)]
    assert sorted(streams) == [0, 2, 2], "one topic has no proposals"


def test_with_easy_questions_both_kinds_are_asked_again() -> None:
    cfg = CFG.model_copy(update={"train_easy": True})
    fake = table_of([proposal("a")], ["<svg>1</svg>"], easy=["red", "red", "red", "blue", "red"])
    club = Club(fake, cfg)
    club.enter("solver")
    groups = club.play(1)
    assert Counter((g.extra["level"], len(g.rollouts)) for g in groups) == {
        ("hard", 8): 4, ("easy", 5): 4,
    }  # fmt: skip
