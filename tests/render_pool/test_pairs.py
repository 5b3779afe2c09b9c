"""Pairs by number: the same bytes whatever was asked before, made ahead, ended when closed."""

import asyncio
import io
import random
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.errors import ConfigError, EngineError, GameDropped
from engine.types import Invalid, Picture
from render_pool.config import RenderConfig
from render_pool.pairs.charts import Charts
from render_pool.pairs.family import Family, conjunction
from render_pool.pairs.objects import Objects
from render_pool.pairs.pixels import changed_share
from render_pool.pairs.source import Pair, Pairs
from render_pool.picture import encode_png
from render_pool.pool import RenderPool

FAMILIES: list[Family[Any]] = [Objects(), Charts("bars"), Charts("lines"), Charts("pies")]
SIDE = 40


class Dots:
    """Scenes are numbers: so many dark pixels of 1600. An edit darkens `more` others."""

    name, hint = "dots", "some dots are gone"

    def __init__(self, more: int = 100, worlds: int = 1 << 40) -> None:
        self.more, self.worlds = more, worlds
        self.num_edits = 0

    def original(self, rng: random.Random) -> int:
        return rng.randrange(self.worlds)

    def edit(self, scene: int, rng: random.Random) -> int | None:
        self.num_edits += 1
        return None if rng.random() < 0.5 else -scene

    def svg(self, scene: int | None, side: int) -> str:
        return f"{scene} {self.more}"

    def is_true(self, scene: int, claim: str) -> bool | None:
        return claim == str(scene)


class Painter:
    """The render pool of `Dots`."""

    def __init__(self, size: Callable[[int], int] = lambda scene: SIDE) -> None:
        self.size = size
        self.drawn: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.answer: Invalid | None = None

    async def render(self, svg: str) -> Picture | Invalid:
        await self.gate.wait()
        scene, more = map(int, svg.split())
        self.drawn.append(scene)
        if self.answer:
            return self.answer
        side = self.size(scene)
        pixels = np.full((side, side, 3), 255, np.uint8)
        pixels.reshape(-1, 3)[: abs(scene) % 500] = 0
        if scene < 0:
            pixels.reshape(-1, 3)[side * side - more :] = 0
        return Picture(encode_png(Image.fromarray(pixels)), side, side)


def run(play: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(300):
            return await play()

    return asyncio.run(bounded())


async def settled() -> None:
    """Let every task go on as far as it can without threads."""
    for _ in range(50):
        await asyncio.sleep(0)


def as_values(pair: Pair) -> tuple[Any, ...]:
    return pair.id, pair.view, pair.civilian, pair.spy


# with the real render pool


def test_families_are_drawn_and_every_edit_is_seen() -> None:
    async def play() -> None:
        config = RenderConfig(workers=1, deadline_s=30, cpu_s=10)
        async with RenderPool(config) as pool:
            for family in FAMILIES:
                async with Pairs.of_family(family, pool, prefetch=4) as pairs:
                    made = [await pairs.pair(number) for number in range(6)]
                async with Pairs.of_family(family, RenderPoolWithoutCache(pool)) as pairs:
                    assert as_values(await pairs.pair(3)) == as_values(made[3])
                    other = await pairs.pair(7)
                assert other.civilian not in [pair.civilian for pair in made]
                for pair in made:
                    first, second = (
                        Image.open(io.BytesIO(png)) for png in (pair.civilian, pair.spy)
                    )
                    assert first.mode == second.mode == "RGB"
                    assert first.size == second.size == (448, 448)
                    assert changed_share(first, second) >= 0.01
                    assert (pair.domain, pair.view) == (family.name, "edited")
                    assert pair.hint_civilian == pair.hint_spy == family.hint

    run(play)


class RenderPoolWithoutCache:
    """Draws anew, at the same size: another space in the source makes another hash."""

    def __init__(self, pool: RenderPool) -> None:
        self._pool = pool

    async def render(self, svg: str) -> Picture | Invalid:
        return await self._pool.render(svg.replace("<svg ", "<svg  ", 1))


def test_claims_are_of_the_civilians_picture() -> None:
    async def play() -> None:
        async with RenderPool(RenderConfig(workers=1, side=96, deadline_s=30, cpu_s=10)) as pool:
            async with Pairs.of_family(Objects(), pool, seed=3, prefetch=0) as pairs:
                pair = await pairs.pair(0)
            async with Pairs.of_family(Objects(), pool, seed=3, spy_view="blank") as pairs:
                blank = await pairs.pair(0)
        scene = Objects().original(random.Random("3/0/0"))
        assert all(pair.is_true(f"a {t.colour} {t.shape}") for t in scene)
        assert pair.is_true("the best picture") is None
        assert blank.civilian == pair.civilian
        assert (blank.view, blank.hint_civilian) == ("blank", "one picture is blank")
        picture = Image.open(io.BytesIO(blank.spy))
        assert picture.mode == "RGB"
        assert picture.getcolors() == [(96 * 96, (255, 255, 255))]

    run(play)


# with pictures that are made up


def test_an_edit_that_is_not_seen_is_never_played() -> None:
    async def play() -> None:
        # 16 of 1600 pixels are 1 %.
        async with Pairs.of_family(Dots(more=16), Painter()) as pairs:
            pair = await pairs.pair(0)
            first, second = (Image.open(io.BytesIO(png)) for png in (pair.civilian, pair.spy))
            assert changed_share(first, second) == 0.01
        family, painter = Dots(more=15), Painter()
        async with Pairs.of_family(family, painter, prefetch=0) as pairs:
            with pytest.raises(ConfigError, match=r"dots: none of 200 scenes .* 1\.00%"):
                await pairs.pair(0)
        assert family.num_edits == 200
        assert 150 < len(painter.drawn) < 250  # both pictures of the half that has an edit

    run(play)


def test_pictures_of_two_sizes_are_refused_not_blanked() -> None:
    async def play() -> None:
        painter = Painter(size=lambda scene: SIDE if scene > 0 else SIDE + 28)
        async with Pairs.of_family(Dots(), painter) as pairs:
            with pytest.raises(ConfigError, match="dots: 40x40 and 68x68 pixels"):
                await pairs.pair(0)

    run(play)


def test_a_pair_depends_on_seed_and_number_alone() -> None:
    async def ask(numbers: list[int], seed: int = 0, prefetch: int = 3) -> dict[int, Any]:
        # 40 scenes for 30 numbers: most meet one that was shown.
        family = Dots(worlds=40)
        async with Pairs.of_family(family, Painter(), seed=seed, prefetch=prefetch) as pairs:
            made = await asyncio.gather(*map(pairs.pair, numbers))
        return dict(zip(numbers, map(as_values, made), strict=True))

    async def play() -> None:
        forward = await ask(list(range(20)))
        assert await ask(list(range(19, -1, -1)), prefetch=0) == forward
        assert (await ask([13]))[13] == forward[13]
        assert await ask(list(range(20)), seed=1) != forward

    run(play)


def test_no_first_scene_is_shown_again() -> None:
    """The scene that a number would show at its first try is shown by no later one."""

    async def play() -> None:
        family = Dots(worlds=60)
        firsts = [family.original(random.Random(f"0/{n}/0")) for n in range(30)]
        assert len(set(firsts)) < 30
        async with Pairs.of_family(family, Painter(), spy_view="blank") as pairs:
            for number in range(30):
                pair = await pairs.pair(number)
                assert not any(pair.is_true(str(scene)) for scene in firsts[:number])

    run(play)


def test_where_every_scene_was_shown_it_says_so() -> None:
    async def play() -> None:
        async with Pairs.of_family(
            Dots(worlds=1), Painter(), spy_view="blank", prefetch=0
        ) as pairs:
            await pairs.pair(0)
            with pytest.raises(ConfigError, match="is new"):
                await pairs.pair(1)

    run(play)


def test_mixed_views_are_blank_as_often_as_said_and_civilians_see_no_difference() -> None:
    async def views(share: float) -> list[str]:
        async with Pairs.of_family(
            Dots(), Painter(), spy_view="mixed", blank_share=share, prefetch=0
        ) as pairs:
            return [(await pairs.pair(number)).view for number in range(100)]

    async def play() -> None:
        assert set(await views(0.0)) == {"edited"}
        assert set(await views(1.0)) == {"blank"}
        assert 15 <= (await views(0.25)).count("blank") <= 36  # 2.5 standard deviations

    run(play)


def test_what_can_not_be_drawn_drops_the_game_and_is_tried_again_later() -> None:
    async def play() -> None:
        painter = Painter()
        painter.answer = Invalid("timeout", "3 s")
        async with Pairs.of_family(Dots(), painter, prefetch=2) as pairs:
            with pytest.raises(GameDropped) as caught:
                await pairs.pair(0)
            assert (caught.value.reason, caught.value.detail) == ("render", "dots: timeout 3 s")
            painter.answer = None
            assert (await pairs.pair(0)).id == "dots-0-0"
            assert (await pairs.pair(1)).id == "dots-0-1"

    run(play)


class Maker:
    """Makes pairs when it is let; counts."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.gate = asyncio.Event()

    async def __call__(self, number: int) -> Pair:
        self.begun.append(number)
        try:
            await self.gate.wait()
        finally:
            self.ended.append(number)
        return Pair(str(number), "", b"", b"", "edited", "", "", lambda claim: None)


def test_so_many_pairs_are_made_ahead_and_none_twice() -> None:
    async def play() -> None:
        make = Maker()
        async with Pairs(make, prefetch=3) as pairs:
            asked = asyncio.ensure_future(pairs.pair(5))
            await settled()
            assert make.begun == [5, 6, 7, 8]
            again = asyncio.ensure_future(pairs.pair(5))
            await settled()
            assert make.begun == [5, 6, 7, 8]
            make.gate.set()
            assert (await asked).id == (await again).id == "5"
            assert (await pairs.pair(6)).id == "6"
            await settled()
            assert make.begun == [5, 6, 7, 8, 9]

    run(play)


def test_numbers_far_apart_do_not_multiply_what_is_made_ahead() -> None:
    async def play() -> None:
        make = Maker()
        async with Pairs(make, prefetch=4) as pairs:
            asked = [asyncio.ensure_future(pairs.pair(1000 * i)) for i in range(20)]
            await settled()
            assert len(make.begun) <= 20 + 4
            make.gate.set()
            assert [(await one).id for one in asked] == [str(1000 * i) for i in range(20)]

    run(play)


def test_what_was_made_is_not_kept_for_ever() -> None:
    async def play() -> None:
        make = Maker()
        make.gate.set()
        async with Pairs(make, prefetch=2) as pairs:
            for number in range(50):
                await pairs.pair(number)
            assert (await pairs.pair(0)).id == "0"
            assert make.begun.count(0) == 2
            assert make.begun.count(49) == 1
            await pairs.pair(50)
            assert make.begun.count(50) == 1

    run(play)


def test_closing_ends_what_is_made_ahead() -> None:
    async def play() -> None:
        make = Maker()
        pairs = Pairs(make, prefetch=3)
        asked = asyncio.ensure_future(pairs.pair(0))
        await settled()
        await pairs.close()
        assert sorted(make.ended) == [0, 1, 2, 3]
        with pytest.raises(asyncio.CancelledError):
            await asked
        with pytest.raises(EngineError, match="closed"):
            await pairs.pair(1)
        assert len(asyncio.all_tasks()) == 1

    run(play)


def test_who_goes_away_takes_nobodys_pair_along() -> None:
    async def play() -> None:
        make = Maker()
        async with Pairs(make, prefetch=0) as pairs:
            first, second = (asyncio.ensure_future(pairs.pair(0)) for _ in range(2))
            await settled()
            first.cancel()
            await settled()
            make.gate.set()
            assert (await second).id == "0"
            assert make.begun == [0]

    run(play)


def test_numbers_begin_at_zero() -> None:
    async def play() -> None:
        async with Pairs(Maker()) as pairs:
            with pytest.raises(ValueError, match="-1"):
                await pairs.pair(-1)

    run(play)


def test_a_change_too_slight_to_see_does_not_count() -> None:
    first = Image.new("RGB", (10, 10), (100, 100, 100))
    second = first.copy()
    for x, colour in enumerate([(108, 92, 100), (109, 100, 100), (100, 91, 100), (100, 100, 109)]):
        second.putpixel((x, 0), colour)
    assert changed_share(first, second) == 0.03


def test_a_conjunction_is_no_truer_than_its_parts() -> None:
    assert conjunction([True, True]) is True
    assert conjunction([True, False]) is False
    assert conjunction([False, None]) is None
    assert conjunction([]) is None
