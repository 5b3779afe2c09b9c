"""Whole games of MM-Zero on fake samplers and a fake renderer."""

import asyncio
import io
import json
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.errors import GameDropped
from engine.types import Invalid, Picture
from rewards.grading import tally
from roles.mm_zero.config import MMZeroConfig
from roles.mm_zero.filters import coder_filter, easy_filter, solver_filter
from roles.mm_zero.memory import Memory
from roles.mm_zero.recipe import FUNNEL, STREAMS, play
from tests.roles.table_fakes import FakeSampler, FakeTable, text_of

CFG = MMZeroConfig(prompts="tiny", num_proposals=2, num_svgs=2, num_easy_votes=5, num_hard_votes=8)


def proposal(caption: str, easy_answer: str = "red") -> str:
    fields = {
        "content_type": "geometry",
        "caption": caption,
        "easy_question": "what color?",
        "easy_answer": easy_answer,
        "hard_question": "how many?",
        "hard_answer": "3",
    }
    return "".join(f"<{tag}>{text}</{tag}>" for tag, text in fields.items())


def boxed(answer: str) -> str:
    return f"<think>t</think>\\boxed{{{answer}}}"


def solver_saying(easy: list[str], hard: list[str]) -> Callable:
    """The i-th sample of each kind of question, in a circle."""
    turns: Counter[str] = Counter()

    def reply(messages: list, _: int) -> str:
        kind = "easy" if "what color?" in text_of(messages) else "hard"
        answers = easy if kind == "easy" else hard
        turns[kind] += 1
        return boxed(answers[(turns[kind] - 1) % len(answers)])

    return reply


def table_of(
    proposals: list[str],
    svgs: list[str],
    easy: list[str] | None = None,
    hard: list[str] | None = None,
) -> FakeTable:
    solver = solver_saying(easy or ["red"], hard or ["3"] * 4 + ["4"] * 4)
    return FakeTable(
        {
            "proposer": lambda _, i: proposals[i % len(proposals)],
            "coder": lambda _, i: svgs[i % len(svgs)],
            "solver": solver,
        }
    )


def run(fake: FakeTable, cfg: MMZeroConfig = CFG) -> FakeTable:
    asyncio.run(play("colors", fake.table, cfg, Memory(cfg)))
    return fake


def test_one_game_feeds_all_three_roles() -> None:
    fake = run(table_of([proposal("a"), "no tags"], ["<svg>1</svg>", "<svg>bad</svg>"]))
    assert Counter(group.stream for group in fake.groups) == {
        "proposer": 1,
        "coder": 1,
        "solver": 1,
    }
    assert set(STREAMS) == {group.stream for group in fake.groups}
    (proposer,), (coder,), (solver,) = (fake.stream(name) for name in STREAMS)
    # One of two SVGs is seen, s = 1 (capped), d = 0.5: (0.5 + 0.5) / 2; the other reply is none.
    assert proposer.rewards == (pytest.approx(0.5), -1.0)
    assert coder.rewards == (pytest.approx(2.5), pytest.approx(-0.1))
    assert sorted(solver.rewards) == [pytest.approx(0.1)] * 4 + [pytest.approx(1.0)] * 4
    assert solver.extra["share"] == 0.5
    assert solver.extra["drop"] is None
    for group in fake.groups:
        assert group.game == 7
        for reward, terms in zip(group.rewards, group.terms, strict=True):
            assert reward == pytest.approx(sum(terms.values()))
        json.dumps(dict(group.extra))


def test_requests_are_those_of_the_config() -> None:
    fake = run(table_of([proposal("a")], ["<svg>1</svg>"]))
    asked = {role: sampler.asked for role, sampler in fake.samplers.items()}
    assert [n for _, n, _ in asked["proposer"]] == [1, 1]
    assert [n for _, n, _ in asked["coder"]] == [1] * 4
    assert sorted(n for _, n, _ in asked["solver"]) == [5] * 4 + [8] * 4
    assert all("colors" in text for text, _, _ in asked["proposer"])
    for text, _, params in asked["coder"]:
        assert params.is_trainable
        assert "how many?" in text
        assert "3" not in text, "the hard answer must not reach the coder"


def test_solver_sees_the_picture() -> None:
    fake = run(table_of([proposal("a")], ["<svg>1</svg>"]))
    for group in fake.stream("solver"):
        assert all(rollout.images == (b"<svg>1</svg>",) for rollout in group.rollouts)


def test_versions_name_every_judge() -> None:
    fake = run(table_of([proposal("a")], ["<svg>1</svg>"]))
    for group in fake.stream("solver"):
        assert set(group.versions) == {"solver"}
    for group in fake.stream("coder"):
        assert set(group.versions) == {"coder", "solver"}
    (proposer,) = fake.stream("proposer")
    # 2 proposals x 2 SVGs x 13 answers = 52 by the solver, 10 by each version: 0 to 5.
    assert proposer.versions == {"proposer": (0, 0), "coder": (0, 0), "solver": (0, 5)}


@pytest.mark.parametrize(
    ("easy", "hard", "reason"),
    [
        (["red"], ["3"], "too_easy"),
        (["red"], ["3", "4", "5", "6", "7", "8", "9", "1"], "too_hard"),
        (["red", "blue", "green", "1", "2"], ["3", "4"], "unreadable"),
        (["red"], ["n/a"], "no_votes"),
        (["red"], ["3", "4"], None),
    ],
)
def test_filtered_groups_are_submitted_with_their_reason(
    easy: list[str], hard: list[str], reason: str | None
) -> None:
    fake = run(table_of([proposal("a")], ["<svg>1</svg>"], easy, hard))
    assert [group.extra["drop"] for group in fake.stream("solver")] == [reason] * 4


NONE = "unknown"


def test_non_answers_earn_nobody_anything() -> None:
    """Two of eight that differ are no question that splits the solver, nor a label for it."""
    table = lambda: table_of(  # noqa: E731
        [proposal("a")],
        ["<svg>1</svg>"],
        ["red", "red", "red", "blue", NONE],
        ["3", "4"] + [NONE] * 6,
    )
    fake = run(table())
    for group in fake.stream("solver"):
        assert (group.extra["drop"], group.extra["label"], group.extra["share"]) == (
            "no_votes",
            None,
            0.0,
        )
        assert set(group.rewards) == {0.1}, "the form; nothing is right"
    (proposer, *_) = fake.stream("proposer")
    assert [terms["difficulty"] for terms in proposer.terms] == [0.0, 0.0]
    assert [terms["difficulty"] for terms in fake.stream("coder")[0].terms] == [0.0, 0.0]
    any_ballot = MMZeroConfig(**(CFG.model_dump() | {"filters": {"min_valid": 0.0}}))
    for group in run(table(), any_ballot).stream("solver"):
        assert (group.extra["drop"], group.extra["share"]) == (None, 0.5)


def test_one_easy_answer_of_five_makes_no_picture_readable() -> None:
    table = lambda: table_of(  # noqa: E731
        [proposal("a")], ["<svg>1</svg>"], ["red"] + [NONE] * 4, ["3", "4"]
    )
    fake = run(table())
    assert {group.extra["drop"] for group in fake.stream("solver")} == {"unreadable"}
    assert [terms["solvability"] for terms in fake.stream("coder")[0].terms] == [0.0, 0.0]
    random = CFG.model_copy(update={"label": "random", "train_easy": True})
    easy = [g for g in run(table(), random).stream("solver") if g.extra["level"] == "easy"]
    assert {(group.extra["drop"], group.extra["label"]) for group in easy} == {("no_votes", None)}


def test_the_release_has_no_quorum() -> None:
    fake = run(
        table_of([proposal("a")], ["<svg>1</svg>"], ["red"] + [NONE] * 4, ["3", "4"] + [NONE] * 6),
        CODE,
    )
    (coder, *_) = fake.stream("coder")
    assert [terms["solvability"] for terms in coder.terms] == [pytest.approx(0.2)] * 2
    assert [terms["difficulty"] for terms in coder.terms] == [0.5, 0.5]


def pinned_table(judge: list[str], own: list[str]) -> FakeTable:
    """A judge that says `judge` to both questions, and a solver that says `own`."""
    fake = table_of([proposal("a")], ["<svg>1</svg>"], own, own)
    fake.samplers["judge"] = FakeSampler("judge", lambda _, i: boxed(judge[i % len(judge)]))
    return fake


def test_a_pinned_judge_votes_and_the_solver_is_graded_by_it() -> None:
    cfg = CFG.model_copy(update={"judge": "pinned", "num_proposals": 1, "num_svgs": 1})
    fake = run(pinned_table(["3", "3", "4"], ["4", "4", "4", "3"]), cfg)
    (solver,), (coder,) = fake.stream("solver"), fake.stream("coder")
    assert solver.policy == "solver"
    assert solver.extra["label"] == "3", "the judge's majority, not the solver's own"
    right = [r.text == boxed("3") for r in solver.rollouts]
    assert [reward > 0.5 for reward in solver.rewards] == right
    assert 0 < sum(right) < len(right)
    assert set(solver.versions) == {"solver", "judge"}
    assert set(coder.versions) == {"coder", "judge"}, "the solver had no hand in it"
    assert [n for _, n, _ in fake.samplers["judge"].asked] == [5, 8]
    assert [n for _, n, _ in fake.samplers["solver"].asked if n] == [8]


def test_a_pinned_judge_and_easy_answers_that_train() -> None:
    cfg = CFG.model_copy(
        update={"judge": "pinned", "train_easy": True, "num_proposals": 1, "num_svgs": 1}
    )
    groups = run(pinned_table(["red", "3"], ["red", "3"]), cfg).stream("solver")
    assert {group.extra["level"]: len(group.rollouts) for group in groups} == {"hard": 8, "easy": 5}
    assert {group.policy for group in groups} == {"solver"}


def test_random_labels_are_one_of_the_answers_given() -> None:
    cfg = CFG.model_copy(update={"label": "random", "num_proposals": 1, "num_svgs": 1})
    labels = Counter()
    for game in range(60):
        hard = ["3"] * 6 + [str(game + 10), "5"]  # other replies each time, so another lot
        (group,) = run(table_of([proposal("a")], ["<svg>1</svg>"], hard=hard), cfg).stream("solver")
        labels[group.extra["label"] if group.extra["label"] in "35" else "odd"] += 1
        assert sum(reward > 0.5 for reward in group.rewards) in (1, 6)
    assert min(labels[name] for name in ("3", "5", "odd")) > 8, labels


def test_the_hard_answer_is_told_on_request_only() -> None:
    fake = run(
        table_of([proposal("a").replace(">3<", ">HARD<")], ["<svg>1</svg>"]),
        CFG.model_copy(update={"show_hard_answer": True}),
    )
    assert all("HARD" in text for text, _, _ in fake.samplers["coder"].asked)


def test_a_leak_is_seen_and_charged_on_request() -> None:
    svgs = ["<svg><text>3</text></svg>", "<svg><text>x</text></svg>"]
    (coder,) = run(
        table_of([proposal("a")], svgs), CFG.model_copy(update={"num_proposals": 1})
    ).stream("coder")
    assert coder.extra["leak_rate"] == 0.5
    assert coder.rewards[0] == coder.rewards[1]
    charged = CFG.model_copy(
        update={"num_proposals": 1, "reward": CFG.reward.model_copy(update={"leak_penalty": 0.5})}
    )
    (coder,) = run(table_of([proposal("a")], svgs), charged).stream("coder")
    assert coder.rewards[1] - coder.rewards[0] == pytest.approx(0.5)
    assert [terms["leak"] for terms in coder.terms] == [-0.5, 0.0]


def test_the_easy_answer_has_to_be_shown_and_is_no_leak() -> None:
    svgs = ["<svg><text>3</text></svg>"]
    cfg = CFG.model_copy(update={"num_proposals": 1})
    (coder,) = run(table_of([proposal("a", easy_answer="3")], svgs), cfg).stream("coder")
    assert coder.extra["leak_rate"] == 0.0


def test_groups_say_how_many_of_their_rollouts_were_usable() -> None:
    fake = run(
        table_of(
            [proposal("a"), "no tags"], ["<svg>1</svg>", "<svg>bad</svg>"], hard=["3", "} no box"]
        )
    )
    usable = {group.stream: group.extra["usable"] for group in fake.groups}
    assert (usable["proposer"], usable["coder"]) == (1, 1)
    assert set(FUNNEL) == set(STREAMS)


@pytest.mark.parametrize(("rules", "ballots"), [("paper", 4), ("release", 8)])
def test_a_draft_of_a_thought_that_was_cut_off_is_no_ballot(rules: str, ballots: int) -> None:
    """But by the released code, which reads thoughts like the rest of a reply."""

    def solver(messages: list, i: int) -> str:
        if "what color?" in text_of(messages):
            return boxed("red")
        return boxed("4") if i % 2 else "<think>perhaps \\boxed{3}"

    fake = table_of([proposal("a")], ["<svg>1</svg>"])
    fake.samplers["solver"] = FakeSampler("solver", solver)
    cfg = CFG.model_copy(update={"rules": rules, "num_proposals": 1, "num_svgs": 1})
    (group,) = run(fake, cfg).stream("solver")
    vote = fake.notes["proposals"][0]["drawings"][0]["hard"]
    assert sum(vote["counts"].values()) == group.extra["usable"] == ballots
    cut = [rollout.text != boxed("4") for rollout in group.rollouts]
    assert sum(cut) == 4
    if rules == "paper":
        assert group.extra["label"] == "4"
        assert [reward == 0 for reward in group.rewards] == cut


def test_a_coder_group_that_teaches_nothing_is_dropped_with_its_reason() -> None:
    fake = run(table_of([proposal("a")], ["<svg>1</svg>"]))
    assert {group.extra["drop"] for group in fake.stream("coder")} == {"uniform"}
    fake = run(table_of([proposal("a")], ["<svg>1</svg>", "<svg>bad</svg>"]))
    assert {group.extra["drop"] for group in fake.stream("coder")} == {None}


def test_pictures_are_compared_on_request() -> None:
    def picture(color: str) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (96, 96), color).save(file, "PNG")
        return file.getvalue()

    cfg = MMZeroConfig(
        **(CFG.model_dump() | {"diversity": {"image_penalty": 0.15, "window_scale": 0.0}})
    )
    captions = ["one red", "two blue", "three green", "red again"]
    png = dict(zip("0123", map(picture, ["red", "blue", "lime", "red"]), strict=True))

    async def render(svg: str) -> Picture:
        return Picture(png[svg[5]], 96, 96)

    memory, charged = Memory(cfg), []
    for i, caption in enumerate(captions):
        fake = table_of([proposal(caption)], [f"<svg>{i}</svg>"])
        fake.table.renderer.render = render
        asyncio.run(play("colors", fake.table, cfg.model_copy(update={"num_proposals": 1}), memory))
        charged.append(fake.stream("proposer")[0].terms[0]["repeated_image"])
    assert charged == [0.0, 0.0, 0.0, -0.15]


CODE = MMZeroConfig(
    preset="mm_zero_code",
    **{k: v for k, v in CFG.model_dump(exclude_unset=True).items() if k != "preset"},
)


def test_the_released_rules_play_the_same_game() -> None:
    fake = run(
        table_of(
            [proposal("a", easy_answer="1/2"), "no tags"],
            ["```svg\n<svg>1</svg>\n```", "<svg>bad</svg>"],
            easy=["0.5"],
        ),
        CODE,
    )
    (proposer,), (coder,), (solver,) = (fake.stream(name) for name in STREAMS)
    assert proposer.rewards == (pytest.approx(0.5), -1.0)
    assert coder.rewards == (pytest.approx(2.5), pytest.approx(-0.1))
    assert sorted(solver.rewards) == [pytest.approx(0.1)] * 4 + [pytest.approx(1.0)] * 4


def test_released_quirks_reach_the_game() -> None:
    # No hard answer: valid for the release, whose services then score -1; here: no proposal.
    text = proposal("a").replace(">3<", "><")
    assert run(table_of([text], ["<svg>1</svg>"])).stream("proposer")[0].rewards == (-1.0, -1.0)
    terms = run(table_of([text], ["<svg>1</svg>"]), CODE).stream("proposer")[0].terms
    assert [row["difficulty"] for row in terms] == [-1.0, -1.0]
    # Nor does a service score an easy question without an answer, nor draw an empty caption.
    text = proposal("a", easy_answer="")
    terms = run(table_of([text], ["<svg>1</svg>"]), CODE).stream("proposer")[0].terms
    assert [row["solvability"] for row in terms] == [-1.0, -1.0]
    fake = run(table_of([proposal("")], ["<svg>1</svg>"]), CODE)
    assert [group.stream for group in fake.groups] == ["proposer"]
    assert [terms["format"] for terms in fake.groups[0].terms] == [0.0, 0.0]
    # "None" is a vote for a label, and a reply without a box would then earn its 0.9.
    (group, *_) = run(
        table_of([proposal("a")], ["<svg>1</svg>"], hard=["3", "None"] * 4), CODE
    ).stream("solver")
    # Four each: the first to come is the label, and a "None" labels no hard question.
    assert group.extra["label"] == "3"
    (group, *_) = run(
        table_of([proposal("a")], ["<svg>1</svg>"], hard=["None"] * 5 + ["3"] * 3), CODE
    ).stream("solver")
    assert (group.extra["label"], group.extra["drop"]) == ("None", "no_votes")
    assert [reward > 0.5 for reward in group.rewards].count(True) == 5


def test_easy_answers_train_on_request() -> None:
    cfg = CFG.model_copy(update={"train_easy": True})
    fake = run(table_of([proposal("a")], ["<svg>1</svg>"], easy=["red", "blue"]), cfg)
    groups = fake.stream("solver")
    assert Counter(group.extra["level"] for group in groups) == {"easy": 4, "hard": 4}
    assert {len(g.rollouts) for g in groups if g.extra["level"] == "easy"} == {5}


def test_notes_tell_the_whole_game() -> None:
    fake = run(table_of([proposal("a"), "no tags"], ["<svg>1</svg>", "no svg"]))
    notes = json.loads(json.dumps({k: v for k, v in fake.notes.items() if k[:7] != "picture"}))
    good, bad = sorted(notes["proposals"], key=lambda entry: "invalid" in entry)
    assert bad["invalid"].startswith("missing_tag")
    assert bad["reward"] == -1.0
    drawn, failed = good["drawings"]
    assert failed["invalid"] == "not_svg"
    assert failed["svg"] is None
    assert fake.notes[drawn["picture"]] == b"<svg>1</svg>"
    assert drawn["solvability"] == 1.0
    assert drawn["easy"]["majority"] == "red"
    assert drawn["hard"]["counts"] == {"3": 4, "4": 4}
    assert len(drawn["hard"]["replies"]) == 8
    assert notes["topic"] == "colors"


def test_repetition_is_judged_over_games() -> None:
    memory = Memory(CFG)
    rewards = []
    for _ in range(2):
        fake = table_of([proposal("one two three"), "no tags"], ["<svg>1</svg>"])
        asyncio.run(play("colors", fake.table, CFG, memory))
        rewards.append(max(fake.stream("proposer")[0].rewards))
    # All three fields again (-0.5), all of one type (-0.15).
    assert rewards[0] - rewards[1] == pytest.approx(0.65)


def test_a_picture_is_solved_while_its_sibling_is_still_drawn() -> None:
    fake = table_of([proposal("a")], ["<svg>1</svg>", "<svg>2</svg>"])
    solved = asyncio.Event()
    plain = fake.table.renderer.render

    async def render(svg: str) -> Picture | Invalid:
        if "2" in svg:
            await asyncio.wait_for(solved.wait(), 5)
        return await plain(svg)

    def submit(group) -> None:
        fake.groups.append(group)
        if group.stream == "solver":
            solved.set()

    fake.table.renderer.render = render
    object.__setattr__(fake.table, "submit", submit)
    run(fake, CFG.model_copy(update={"num_proposals": 1}))
    assert [group.stream for group in fake.groups] == ["solver", "solver", "coder", "proposer"]


def test_a_named_failure_loses_only_what_was_not_submitted() -> None:
    fake = table_of([proposal("a")], ["<svg>1</svg>", "<svg>2</svg>"])
    plain = fake.table.renderer.render
    solved = asyncio.Event()
    submit = fake.groups.append

    async def render(svg: str) -> Picture | Invalid:
        if "2" in svg:
            await solved.wait()
            raise GameDropped("retries", "renderer")
        return await plain(svg)

    def submit_and_tell(group) -> None:
        submit(group)
        solved.set()

    fake.table.renderer.render = render
    object.__setattr__(fake.table, "submit", submit_and_tell)
    with pytest.raises(GameDropped, match="retries"):
        run(fake, CFG.model_copy(update={"num_proposals": 1}))
    assert [group.stream for group in fake.groups] == ["solver"]
    assert not fake.notes


TEXTS = st.sampled_from(
    [
        *(proposal("a"), proposal("b", "blue"), ""),
        *("<svg>1</svg>", "<svg>bad</svg>", "<svg>2</svg> x"),
        *(boxed("3"), boxed("red"), boxed(""), "\\boxed{4}", "\0\ud800"),
    ]
) | st.text(max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=7), st.booleans())
def test_whatever_they_say_every_group_is_submitted_once(texts: list, train_easy: bool) -> None:
    reply = lambda _, i: texts[i % len(texts)]  # noqa: E731
    cfg = CFG.model_copy(update={"train_easy": train_easy})
    fake = run(FakeTable(dict.fromkeys(STREAMS, reply)), cfg)
    valid = [entry for entry in fake.notes["proposals"] if "proposal" in entry]
    pictures = [drawing for entry in valid for drawing in entry["drawings"] if "picture" in drawing]
    assert len(fake.stream("proposer")) == 1
    assert len(fake.stream("coder")) == len(valid)
    assert len(fake.stream("solver")) == len(pictures) * (2 if train_easy else 1)
    trained = [id(r) for group in fake.groups for r in group.rollouts]
    assert len(trained) == len(set(trained)), "no rollout is in two groups"
    if train_easy:
        assert len(trained) == sum(sampler.count for sampler in fake.samplers.values())


@pytest.mark.parametrize(
    ("easy", "hard", "reason"),
    [
        (["a"], ["3"] * 3 + list("4567890"), None),  # 3/10
        (["a"], ["3"] * 8 + ["4"] * 2, "too_easy"),
        (["a"], ["3"] * 2 + list("456789"), None),  # 2/8
        (["a"], ["3"] * 2 + list("45678901"), "too_hard"),  # 2/10
        (["a", "b"], ["3"] * 3 + ["4"], None),  # both at their ends
        (["a", "b", "c"], ["3", "4"], "unreadable"),
        ([None], ["3", "4"], "unreadable"),
        (["a"], [None], "no_votes"),
    ],
)
def test_solver_filter(easy: list, hard: list, reason: str | None) -> None:
    votes = tally(easy), tally(hard)
    assert solver_filter(*votes, min_easy_share=0.5, hard_band=(0.25, 0.75)) == reason


@pytest.mark.parametrize(
    ("rewards", "num_rendered", "spread", "reason"),
    [
        ([2.0, -0.1, -0.1, -0.1], 1, None, None),  # 1/4 and 3/4: both ends are in
        ([2.0, 2.0, 2.0, -0.1], 3, None, None),
        ([2.0, 2.4, 2.0, 2.0], 4, None, "always_renders"),
        ([-0.1, -0.5, -0.1, -0.1], 0, None, "never_renders"),
        ([2.0, 2.4, 2.0, 2.0], 4, 0.1, None),
        ([2.0, 2.05, 2.0, 2.0], 4, 0.1, "uniform"),
        ([-0.1, -0.5, -0.1, -0.1], 0, 0.1, None),
        ([-0.1, -0.1, -0.1, -0.1], 0, 0.1, "never_renders"),
        ([2.4], 1, 0.0, None),
        ([2.3, 2.2], 2, 0.1, None),
    ],
)
def test_coder_filter(
    rewards: list, num_rendered: int, spread: float | None, reason: str | None
) -> None:
    found = coder_filter(rewards, num_rendered, band=(0.25, 0.75), spread=spread)
    assert found == reason


def test_easy_filter() -> None:
    assert easy_filter(tally(["a", "b"]), min_easy_share=0.5) is None
    assert easy_filter(tally(["a", "b", "c"]), min_easy_share=0.5) == "unreadable"
    assert easy_filter(tally([None]), min_easy_share=0.5) == "no_votes"
