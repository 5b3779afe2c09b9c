"""The real engine, its snapshots and its dashboard over fakes whose slowness a test chooses.

Runs in a thread with an event loop of its own, so that a browser can be driven beside it.
"""

import asyncio
import io
import itertools
import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from engine import loop
from engine.admission import AdmissionRules, StreamRule
from engine.buffer import Buffer
from engine.games import Games
from engine.loop import Engine, Hooks
from engine.monitor.dashboard import Dashboard
from engine.monitor.observed import TIMELINE, ObservedRenderer, Timeline, observed
from engine.routing import ServerPool
from engine.rundir import RunDir
from engine.types import Group, Invalid, Message, Picture, Rollout, SamplingParams, Segment
from launch import watching
from launch.actions import actions_of
from launch.config import load_root
from launch.library import Library
from launch.watching import Watcher
from tests.engine.fakes import PARAMS, FakeLearner, FakeRun, make_rollout

ROLES = ("proposer", "coder", "solver")
CONFIG = Path(__file__).resolve().parents[2] / "launch/configs/quickstart.yaml"
WATCH_S = 0.05
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
"""What a model might write."""


@dataclass(frozen=True, slots=True)
class Slowness:
    """Seconds that a request takes; servers serve all at once, the renderer one at a time."""

    server: float = 0.002
    picture: float = 0.002
    step: float = 0.002


class SlowSampler:
    def __init__(self, role: str, seconds: float, version: Callable[[], int]) -> None:
        self._role, self._seconds, self._version = role, seconds, version

    async def sample(
        self, messages: Any, *, n: int, params: SamplingParams, images: Any = ()
    ) -> tuple[Rollout, ...]:
        started = time.time()
        while not self._version():
            await asyncio.sleep(0)  # no request before the weights
        await asyncio.sleep(self._seconds)
        segments = (Segment(0, self._version()),)
        return tuple(
            make_rollout(
                self._role,
                token=k,
                segments=segments,
                server="http://one",
                started_s=started,
                finished_s=time.time(),
            )
            for k in range(1, n + 1)
        )


class SlowRenderer:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self.drawn = 0

    async def render(self, svg: str) -> Picture | Invalid:
        async with self._turn:
            await asyncio.sleep(self._seconds)
        self.drawn += 1
        return Picture(_png(self.drawn), 24, 24)

    def stats(self) -> dict[str, Any]:
        return {
            "workers": 1, "waiting": 0, "busy_s": self._seconds * self.drawn, "invalid": {},
            "rendered": self.drawn, "hit_rate": 0.0, "draw_ms": {}, "wait_ms": {}, "kills": 0,
            "recycled": 0,
        }  # fmt: skip


class SlowLearner(FakeLearner):
    seconds = 0.0

    def learn(self, policy: str, request: int, groups: list[Group]) -> bool:
        self.wants_stop.wait(self.seconds)  # what a step takes
        return False


@dataclass(slots=True)
class Staged:
    """Use as a context manager: the dashboard is at `url` inside."""

    folder: Path
    slow: Slowness = Slowness()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the section `monitor`."""
    url: str = ""
    engine: Engine | None = None
    watcher: Watcher | None = None
    dashboard: Dashboard | None = None
    error: BaseException | None = None
    loop: asyncio.AbstractEventLoop | None = None
    _ready: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _learner: FakeLearner | None = None

    def __enter__(self) -> "Staged":
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(300), "the staged run did not begin"
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        assert self._learner is not None
        assert self._thread is not None
        self._learner.wants_stop.set()
        self._thread.join(300)
        assert not self._thread.is_alive(), "the staged run did not end"
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            asyncio.run(self._play())
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            self.error = error
        finally:
            self._ready.set()

    async def _play(self) -> None:
        overrides = [f"run.root={self.folder}", "run.name=staged", "run.steps=100000"]
        overrides += [f"monitor.{key}={value}" for key, value in self.settings.items()]
        config = load_root(CONFIG, overrides)
        run = RunDir(self.folder / "staged")
        run.create()
        buffer = Buffer.open(run.database)
        pools = {role: ServerPool(role, max_concurrency=64) for role in ROLES}
        for pool in pools.values():
            pool.mark_ready("http://127.0.0.1:9", 1)
        renderer = SlowRenderer(self.slow.picture)
        rng = random.Random(0)
        address = f"ipc://{self.folder}/engine.sock"
        learner = SlowLearner(address, ROLES, rng)
        SlowLearner.seconds = self.slow.step
        self._learner = learner
        self.loop = asyncio.get_running_loop()
        rules = AdmissionRules(
            streams={role: StreamRule(policy=role) for role in ROLES},
            games_per_step=3,
            total_steps=config.run.steps,
        )
        async with aiohttp.ClientSession() as session:
            watcher = Watcher(config, run, buffer, pools, renderer, session)  # type: ignore[arg-type]
            self.watcher = watcher
            fake = FakeRun(
                buffer=buffer, rules=rules, folder=self.folder, play=_unused, learner=learner
            )

            async def begin(engine: Engine) -> None:
                """With the first look of the engine, serve the dashboard."""
                if self.dashboard is None:
                    self.engine = engine
                    self.dashboard = Dashboard(
                        config.monitor,
                        token="right-token",
                        curves=watcher.curves,
                        library=Library(run, ROLES),
                        server_texts=watcher.probe.texts,
                        actions=actions_of(engine),
                    )
                    await self.dashboard.__aenter__()
                    self.url = self.dashboard.url
                    watcher.views.append(self.dashboard.show)
                await watcher.watch(engine)
                self._ready.set()

            fake.hooks = Hooks(
                measure_before=None, measure_dev=None, measure_after=None, dev_every=1, watch=begin
            )
            fake.on_step, fake.on_event = watcher.on_step, watcher.on_event
            fake.make_games = self._games(fake, renderer, watcher)
            with watcher, suppress(asyncio.CancelledError):
                await fake.run()
            if self.dashboard is not None:
                await self.dashboard.__aexit__(None, None, None)
            buffer.close()

    def _games(
        self, run: FakeRun, renderer: SlowRenderer, watcher: Watcher
    ) -> Callable[..., Games]:
        samplers = {
            role: SlowSampler(role, self.slow.server, lambda role=role: run.servers[role].version)
            for role in ROLES
        }
        numbers = itertools.count()

        async def play(
            game: int, submit: Callable[[Group], None], note: Callable[[str, Any], None]
        ) -> None:
            timeline = Timeline()
            seats = observed(samplers, {role: role for role in ROLES}, watcher.waiting, timeline)
            drawing = ObservedRenderer(renderer, watcher.waiting, timeline)
            picture = None
            messages: list[Message] = []
            for role in ROLES:
                rollouts = await seats[role].sample(messages, n=2, params=PARAMS)
                group = Group(stream=role, game=game, rollouts=rollouts, rewards=(0.0, 1.0))
                submit(group)
                if role == "coder":
                    picture = await drawing.render("<svg/>")
            assert isinstance(picture, Picture)
            note("topic", HOSTILE)
            note("picture/0/0", picture.png)
            proposals = [_proposal(next(numbers))]
            note("proposals", proposals)
            watcher.on_note("proposals", proposals)
            note(TIMELINE, timeline.note)

        return lambda **given: Games(**{**given, "plays": {"": play}, "on_group": watcher.on_group})


def _png(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 24), (number % 256, number // 256 % 256, 99)).save(out, "PNG")
    return out.getvalue()


def _proposal(number: int) -> dict[str, Any]:
    vote = {
        "majority": HOSTILE,
        "share": 0.75,
        "counts": {HOSTILE: 3, "b": 1},
        "replies": [HOSTILE],
    }
    return {
        "text": HOSTILE,
        "reward": 0.5,
        "terms": {"difficulty": 0.5},
        "proposal": {
            "content_type": "table",
            "caption": f"{number} {HOSTILE}",
            "easy_question": "how many?",
            "easy_answer": "2",
            "hard_question": HOSTILE,
            "hard_answer": "3",
        },
        "drawings": [
            {
                "svg": f"<svg>{HOSTILE}</svg>",
                "reward": 1.5,
                "terms": {"rendered": 1.0},
                "picture": "picture/0/0",
                "leak": False,
                "solvability": 0.8,
                "difficulty": 0.5,
                "easy": vote,
                "hard": vote | {"label": "b", "rewards": [1.0, 0.0], "terms": []},
                "drop": None,
            }
        ],
    }


async def _unused(*_: Any) -> None:
    raise AssertionError("the games are those of Staged")


def faster_looks(monkeypatch: Any) -> None:
    """Snapshots twenty times a second, and records twice: a test need not wait."""
    monkeypatch.setattr(loop, "WATCH_S", WATCH_S)
    monkeypatch.setattr(watching, "RECORD_EVERY_S", 10 * WATCH_S)
    monkeypatch.setattr(watching, "MEANS_EVERY_S", 10 * WATCH_S)
