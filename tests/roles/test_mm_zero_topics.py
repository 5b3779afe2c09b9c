"""Topics are played equally often; the curriculum asks for what was played least, and for nothing
for ever."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from roles.mm_zero.topics import TOPICS, Curriculum, topic_of


@settings(deadline=None)
@given(num=st.integers(1, 12), times=st.integers(0, 10**6))
def test_in_as_many_games_as_there_are_topics_each_is_played_once(num: int, times: int) -> None:
    topics = TOPICS[:num] or TOPICS
    first = times * len(topics)
    games = range(first, first + len(topics))
    assert sorted(topic_of(topics, game) for game in games) == sorted(topics)


@settings(deadline=None)
@given(first=st.integers(0, 10**6), stride=st.integers(1, 24))
def test_each_topic_is_played_as_often_whichever_numbers_a_recipe_has(
    first: int, stride: int
) -> None:
    """Games are numbered through all recipes of a run."""
    games = range(first, first + 800 * stride, stride)
    played = Counter(topic_of(TOPICS, game) for game in games)
    assert all(50 < played[topic] < 155 for topic in TOPICS), played


def parts(asked: str) -> tuple[str, str]:
    topic, _, kind = asked.partition(" (drawn as: ")
    return topic, kind.removesuffix(")")


def test_a_start_covers_all_topics_and_types() -> None:
    curriculum = Curriculum(["a", "b"], ["map", "table"])
    asked = [parts(curriculum.next(game)) for game in range(4)]
    assert set(asked) == {("a", "map"), ("b", "map"), ("a", "table"), ("b", "table")}


def test_what_is_played_anyway_is_asked_for_less() -> None:
    curriculum = Curriculum(["a"], ["map", "table", "data_chart"])
    asked: Counter[str] = Counter()
    for game in range(60):
        topic = curriculum.next(game)
        asked[parts(topic)[1]] += 1
        curriculum.played(topic, ["data_chart"] * 3)  # whatever it is asked, it draws charts
    assert asked["data chart"] < 5
    assert abs(asked["map"] - asked["table"]) <= 2, "what it refuses is asked for in turn"


def test_old_games_are_forgotten() -> None:
    curriculum = Curriculum(["a"], ["map", "table"], memory=2)
    for game in range(2):
        topic = curriculum.next(game)
        curriculum.played(topic, ["map"] * 50)
    for game in range(2, 6):
        topic = curriculum.next(game)
        curriculum.played(topic, ["table"])
    assert {parts(curriculum.next(game))[1] for game in range(6, 10)} == {"map", "table"}


def test_an_unknown_type_does_not_hurt() -> None:
    curriculum = Curriculum(["a"], ["map"])
    curriculum.played(curriculum.next(0), ["other", "nonsense"])
    assert parts(curriculum.next(1)) == ("a", "map")
