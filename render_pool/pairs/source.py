"""`await pairs.pair(number)`: the pair of pictures of game `number`.

    number ─► scene and its edit ─► SVG ─► render pool ─► PNG ─► is the change seen? ─► Pair
                ▲                                                     │ no: another try
                └─────────────────────────────────────────────────────┘

A pair is a function of (seed, number) and of how pictures are drawn, whatever was asked before: a
run that resumes plays the games that it would have played. The pairs that follow are drawn ahead.
"""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar

from PIL import Image

from engine.errors import ConfigError, EngineError, GameDropped
from engine.types import Invalid, Picture
from render_pool.pairs.family import Family
from render_pool.pairs.pixels import changed_share, decoded
from render_pool.pairs.user import BLANK_HINT, UserPair, read_pair
from render_pool.picture import encode_png

SpyView = Literal["edited", "blank", "mixed"]

LEAST_CHANGE = 0.01
"""Share of the pixels; of fewer, a model may see nothing."""

_MAX_TRIES = 200
_MEMORY = 2048
"""Earlier numbers whose scenes are not shown again."""

S = TypeVar("S")


class Renderer(Protocol):
    async def render(self, svg: str) -> Picture | Invalid: ...


@dataclass(frozen=True, slots=True)
class Pair:
    """Two pictures of one scene, of which the spy sees the other one."""

    id: str
    domain: str
    """The name of the family, or what the user says."""
    civilian: bytes
    """PNG."""
    spy: bytes
    """PNG, of the same size."""
    view: Literal["edited", "blank"]
    """What the spy sees."""
    hint_civilian: str
    """What differs between the pictures, without saying where: a clause."""
    hint_spy: str
    is_true: Callable[[str], bool | None]
    """Whether a claim is true of the civilians' picture; None where that can't be told, as of all
    pictures of a user."""


class Pairs:
    """Pairs by number, some of them ahead. Use as an async context manager, or close it.

    `prefetch`: pairs that are made ahead of the newest number asked for; as many tasks at most work
    ahead at a time.
    """

    def __init__(self, make: Callable[[int], Awaitable[Pair]], *, prefetch: int = 16) -> None:
        """`make`: the pair of a number, always the same."""
        self._make = make
        self._prefetch = prefetch
        self._tasks: dict[int, asyncio.Task[Pair]] = {}
        self._is_closed = False

    @classmethod
    def of_family(
        cls,
        family: Family[Any],
        renderer: Renderer,
        *,
        seed: int = 0,
        spy_view: SpyView = "edited",
        blank_share: float = 0.5,
        side: int = 448,
        least_change: float = LEAST_CHANGE,
        prefetch: int = 16,
    ) -> Self:
        """Pairs of procedural scenes, no civilians' picture twice among 2048 numbers.

        `blank_share`: of `mixed`, how often the spy's picture is blank. `side`: pixels that a
        drawing asks for; the renderer may have its own. `least_change`: share of the pixels that
        an edit must change.
        """
        maker = _Drawn(
            family, renderer, seed, _View(seed, spy_view, blank_share), side, least_change
        )
        return cls(maker.make, prefetch=prefetch)

    @classmethod
    def of_user(
        cls,
        pairs: Sequence[UserPair],
        *,
        seed: int = 0,
        spy_view: SpyView = "edited",
        blank_share: float = 0.5,
        prefetch: int = 16,
    ) -> Self:
        """A user's pairs, all of them in a new order before any comes again. A pair without a
        picture for the spy is always blank, and its hints are the user's own."""
        if not pairs:
            raise ConfigError("pairs: there is none")
        view = _View(seed, spy_view, blank_share)
        return cls(partial(_read, tuple(pairs), seed, view), prefetch=prefetch)

    async def pair(self, number: int) -> Pair:
        """The pair of `number` (0, 1, ...), and from then on the ones that follow are made.

        Raises GameDropped("render") where the render pool could not draw, ConfigError where no
        scene of the family, or a file of the user's that has changed since, can be used.
        """
        if number < 0:
            raise ValueError(f"number {number} is negative")
        if self._is_closed:
            raise EngineError("pairs: closed")
        task = self._task(number)
        for ahead in range(number + 1, number + 1 + self._prefetch):
            if ahead not in self._tasks and self._num_running() <= self._prefetch:
                self._task(ahead)
        self._forget()
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is made ahead. The renderer is not closed: it is not ours."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _task(self, number: int) -> "asyncio.Task[Pair]":
        task = self._tasks.get(number)
        if task is None:
            task = self._tasks[number] = asyncio.ensure_future(self._made(number))
            task.add_done_callback(partial(self._ended, number))
        return task

    async def _made(self, number: int) -> Pair:
        return await self._make(number)

    def _ended(self, number: int, task: "asyncio.Task[Pair]") -> None:
        """A failure is for who waits for it; who asks later has another try."""
        if (task.cancelled() or task.exception()) and self._tasks.get(number) is task:
            del self._tasks[number]

    def _num_running(self) -> int:
        return sum(not task.done() for task in self._tasks.values())

    def _forget(self) -> None:
        """Let the oldest go. Games come about in order: nobody asks for these again, and who does
        gets them made again."""
        too_many = max(0, len(self._tasks) - 2 * (self._prefetch + 1))
        done = [number for number, task in self._tasks.items() if task.done()]
        for number in done[:too_many]:
            del self._tasks[number]


@dataclass(frozen=True, slots=True)
class _View:
    """Whether the spy of a number sees nothing."""

    seed: int
    spy_view: SpyView
    blank_share: float

    def is_blank(self, number: int) -> bool:
        if self.spy_view != "mixed":
            return self.spy_view == "blank"
        return random.Random(f"{self.seed}/{number}/view").random() < self.blank_share


class _Drawn(Generic[S]):
    """Pairs of a family."""

    def __init__(
        self, family: Family[S], renderer: Renderer, seed: int, view: _View, side: int, least: float
    ) -> None:
        self._family = family
        self._renderer = renderer
        self._seed = seed
        self._view = view
        self._side = side
        self._least = least
        self._hashes: dict[int, bytes] = {}

    async def make(self, number: int) -> Pair:
        family, is_blank = self._family, self._view.is_blank(number)
        for attempt in range(_MAX_TRIES):
            rng = self._rng(number, attempt)
            scene = family.original(rng)
            if self._is_repeated(number, scene):
                continue
            edited = None if is_blank else family.edit(scene, rng)
            if edited is None and not is_blank:
                continue
            civilian = await self._render(scene)
            if edited is None:
                spy = _blank(civilian.width, civilian.height)
            else:
                spy = (await self._render(edited)).png
                if not await self._is_seen(civilian.png, spy):
                    continue
            return Pair(
                id=f"{family.name}-{self._seed}-{number}",
                domain=family.name,
                civilian=civilian.png,
                spy=spy,
                view="blank" if is_blank else "edited",
                hint_civilian=BLANK_HINT if is_blank else family.hint,
                hint_spy=BLANK_HINT if is_blank else family.hint,
                is_true=partial(family.is_true, scene),
            )
        raise ConfigError(
            f"pairs: {family.name}: none of {_MAX_TRIES} scenes is new and has an edit that "
            f"changes {self._least:.2%} of the pixels: allow less, or choose another family"
        )

    def _rng(self, number: int, attempt: int) -> random.Random:
        # Seeded by a text, which is hashed the same on every machine.
        return random.Random(f"{self._seed}/{number}/{attempt}")

    async def _render(self, scene: S) -> Picture:
        picture = await self._renderer.render(self._family.svg(scene, self._side))
        if isinstance(picture, Invalid):
            raise GameDropped("render", f"{self._family.name}: {picture.reason} {picture.detail}")
        return picture

    async def _is_seen(self, first: bytes, second: bytes) -> bool:
        """Raises ConfigError where the pictures are not of one size."""
        try:
            share = await asyncio.to_thread(_compare, first, second)
        except ValueError as error:
            raise ConfigError(f"pairs: {self._family.name}: {error}") from None
        return share >= self._least

    def _is_repeated(self, number: int, scene: S) -> bool:
        """Whether an earlier number shows this scene, by what each shows at its first try: so that
        a pair does not depend on which ones were asked for before."""
        earlier = range(max(0, number - _MEMORY), number)
        for other in earlier:
            if other not in self._hashes:
                self._hashes[other] = self._hash(self._family.original(self._rng(other, 0)))
        if len(self._hashes) > 4 * _MEMORY:
            self._hashes = {other: self._hashes[other] for other in earlier}
        own = self._hash(scene)
        return any(self._hashes[other] == own for other in earlier)

    def _hash(self, scene: S) -> bytes:
        return hashlib.sha256(self._family.svg(scene, self._side).encode()).digest()[:16]


async def _read(pairs: tuple[UserPair, ...], seed: int, view: _View, number: int) -> Pair:
    """The user's pair of a number."""
    time, place = divmod(number, len(pairs))
    order = list(range(len(pairs)))
    random.Random(f"{seed}/{time}/order").shuffle(order)
    chosen = pairs[order[place]]
    is_blank = chosen.spy is None or view.is_blank(number)
    civilian, spy = await asyncio.to_thread(_read_png, chosen, is_blank)
    is_hinted = chosen.spy is None or not is_blank
    return Pair(
        id=chosen.id,
        domain=chosen.domain,
        civilian=civilian,
        spy=spy,
        view="blank" if is_blank else "edited",
        hint_civilian=chosen.hint_civilian if is_hinted else BLANK_HINT,
        hint_spy=chosen.hint_spy if is_hinted else BLANK_HINT,
        is_true=_unknown,
    )


def _read_png(pair: UserPair, is_blank: bool) -> tuple[bytes, bytes]:
    first, second = read_pair(pair)
    if second is None or is_blank:
        return encode_png(first), _blank(*first.size)
    return encode_png(first), encode_png(second)


def _unknown(claim: str) -> bool | None:
    """Nobody has said what a user's picture shows."""
    return None


def _blank(width: int, height: int) -> bytes:
    """An empty page. Not by the renderer, which takes a drawing of nothing for a failure."""
    return encode_png(Image.new("RGB", (width, height), "white"))


def _compare(first: bytes, second: bytes) -> float:
    return changed_share(decoded(first), decoded(second))
