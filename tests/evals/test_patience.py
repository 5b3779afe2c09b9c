"""When a request is made again, and when nobody is there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

import evals.patience
from engine.errors import ConfigError, TransportError
from evals.endpoint import Refused
from evals.patience import Patience


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evals.patience, "_BACKOFF_S", 1e-6)


def failing(*results: Exception | str) -> Callable[[], Awaitable[str]]:
    """Gives one result after the other."""
    left: Iterator[Exception | str] = iter(results)

    async def call() -> str:
        result = next(left)
        if isinstance(result, Exception):
            raise result
        return result

    return call


def test_a_failed_transport_is_tried_again() -> None:
    patience = Patience(retries=2)
    lost = TransportError("lost")
    assert asyncio.run(patience(failing(lost, lost, "here"))) == "here"
    assert patience.counts == {"answers": 1, "retries": 2, "failed": 0}


def test_its_patience_ends() -> None:
    patience = Patience(retries=2)
    with pytest.raises(TransportError, match="third"):
        asyncio.run(patience(failing(*map(TransportError, ("first", "second", "third")))))
    assert patience.counts == {"answers": 0, "retries": 2, "failed": 1}


@pytest.mark.parametrize("error", [Refused("400"), ConfigError("401"), ZeroDivisionError()])
def test_nothing_else_is_tried_again(error: Exception) -> None:
    with pytest.raises(type(error)):
        asyncio.run(Patience()(failing(error, "never")))


def test_where_nothing_is_answered_for_long_the_evaluation_ends() -> None:
    patience = Patience(retries=1000, give_up_s=0.05)

    async def call() -> str:
        await asyncio.sleep(0.01)
        raise TransportError("connection refused")

    with pytest.raises(ConfigError, match=r"nothing has been answered for 0\.05 s.*refused"):
        asyncio.run(patience(call))


def test_an_answer_to_another_request_is_a_sign_of_life() -> None:
    patience = Patience(retries=3, give_up_s=0.0)

    async def both() -> None:
        for _ in range(3):
            await patience(failing(TransportError("once"), "here"))

    asyncio.run(both())
    assert patience.counts["answers"] == 3
