"""The engine process's parts as `launch` composes them: rules, the bound recipe, measurements."""

import asyncio
import gc
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine import types
from engine.monitor.observed import TIMELINE
from engine.monitor.waiting import Waiting
from engine.rundir import RunDir
from engine.types import Invalid, Message, Rollout, SamplingParams
from evals.heldout import HeldoutResult
from launch import engine, measurements, recipe
from launch.config import RootConfig, load_root
from launch.measurements import Measurements, counting
from launch.tables import Tables, noting
from roles import table
from roles.mm_zero.recipe import STREAMS
from roles.mm_zero.topics import topic_of
from tests.engine.fakes import PARAMS
from tests.engine.make_groups import make_group, make_rollout

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / "launch/configs/quickstart.yaml"


@pytest.fixture
def config() -> RootConfig:
    return load_root(
        QUICKSTART,
        ["streams.max_age=2", "streams.min_groups=3", "streams.too_old=drop", "run.steps=7"],
    )


def test_every_stream_feeds_the_policy_of_its_name_under_the_configured_rules(
    config: RootConfig,
) -> None:
    rules = engine.rules_of(config)
    assert set(rules.streams) == set(STREAMS)
    for stream, rule in rules.streams.items():
        assert (rule.policy, rule.max_age, rule.min_groups) == (stream, 2, 3)
    assert (rules.games_per_step, rules.total_steps, rules.too_old) == (3, 7, "drop")


def test_the_bound_recipe_gets_its_game_and_its_notes_reach_game_and_watcher(
    config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    async def play(topic: str, table: Any, cfg: Any, memory: Any) -> None:
        seen.update(topic=topic, table=table, cfg=cfg)
        seen.setdefault("memories", []).append(memory)
        table.note("caption", "a red square")
        seen["rollouts"] = await table.samplers["solver"].sample([], n=2, params=PARAMS)
        await table.renderer.render(f"<svg>{table.game}</svg>")
        table.submit(make_group(game=table.game))

    monkeypatch.setattr("roles.mm_zero.recipe.play", play)
    submitted: list[Any] = []
    noted: list[Any] = []
    watched: list[Any] = []
    drawn: list[Any] = []
    rollouts = tuple(make_rollout("solver") for _ in range(2))
    waiting = Waiting()

    async def sample(*_: Any, **asked: Any) -> Any:
        assert (waiting.at("solver").now, asked["n"]) == (1, 2)
        return rollouts

    def renderer_of(game: int) -> Any:
        async def render(svg: str) -> Invalid:
            drawn.append((game, svg))
            return Invalid("timeout")

        return SimpleNamespace(render=render)

    samplers, grader = {"solver": SimpleNamespace(sample=sample)}, object()
    renderer = SimpleNamespace(of=renderer_of)

    async def play_two() -> None:
        async with recipe.RECIPES["mm_zero"].begin(config.recipe, renderer.of(0)) as playing:
            tables = Tables(
                samplers=samplers,  # type: ignore[arg-type]
                players={"solver": "solver"},
                renderer=renderer,  # type: ignore[arg-type]
                grader=grader,  # type: ignore[arg-type]
                waiting=waiting,
            )
            told = {"caption"}, lambda *note: watched.append(note)
            bound = noting(tables.play(playing.play), *told)
            for game in (5, 6):
                await bound(game, submitted.append, lambda *note: noted.append(note))

    asyncio.run(play_two())
    assert seen["table"].game == 6
    assert seen["rollouts"] == rollouts
    assert drawn == [(5, "<svg>5</svg>"), (6, "<svg>6</svg>")]
    assert (waiting.at("solver").answered, waiting.at("renderer").answered) == (2, 2)
    assert seen["table"].grader is grader
    assert seen["topic"] == topic_of(config.recipe.topics, 6)
    assert seen["cfg"] is config.recipe
    timelines = [value for key, value in noted if key == TIMELINE]
    assert [len(one["samples"]) for one in timelines] == [2, 2]
    assert [one["pictures"][0][2] for one in timelines] == ["timeout", "timeout"]
    assert [note for note in noted if note[0] != TIMELINE] == watched
    assert watched == [("caption", "a red square")] * 2
    assert [group.game for group in submitted] == [5, 6]
    first, second = seen["memories"]
    assert first is second, "what was seen spans the games of a run"


def test_the_engine_says_bad_input_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert engine.main([str(tmp_path), "ipc:///nowhere"]) == 1
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("streamzero: ")] == [
        f"streamzero: {RunDir(tmp_path).config}: no such config file"
    ]


def test_an_error_that_nobody_expected_keeps_its_traceback(
    tmp_path: Path, config: RootConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine, "load_root", lambda path: config)
    monkeypatch.setattr(engine, "run_engine", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        engine.main([str(tmp_path), "ipc:///nowhere"])


class Sampler:
    async def sample(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        params: SamplingParams,
        images: Sequence[bytes] = (),
    ) -> tuple[Rollout, ...]:
        return tuple(make_rollout(versions=range(k + 1)) for k in range(n))


def test_sampled_tokens_of_a_measurement_are_counted() -> None:
    counted: list[int] = []
    sampler = counting(Sampler(), counted.append)
    rollouts = asyncio.run(sampler.sample([], n=3, params=SamplingParams(max_new_tokens=8)))
    assert counted == [sum(len(rollout.token_ids) for rollout in rollouts)] == [2 + 3 + 4]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Arguments of every measurement; none is made."""
    calls: list[dict[str, Any]] = []

    async def measure(samplers: Any, renderer: Any, recipe: Any, **wanted: Any) -> Any:
        calls.append(wanted)
        values = {"m": (1.0, 0.0, None, 1.0), "number": (float(len(calls)),), "lost": (None,)}
        return HeldoutResult(wanted["split"], 0, values), wanted["kept"] or {"by": len(calls)}

    one = replace(recipe.RECIPES["mm_zero"], measure=measure)
    monkeypatch.setattr(measurements, "recipes_of", lambda config: {"mm_zero": one})
    return calls


def test_the_base_is_measured_once_and_only_while_all_policies_are_the_base(
    tmp_path: Path, config: RootConfig, measured: list[dict[str, Any]]
) -> None:
    records: list[Any] = []

    def make(cfg: RootConfig) -> Measurements:
        return Measurements(
            cfg, RunDir(tmp_path), {}, object(), lambda *record: records.append(record)
        )

    mine = make(config)
    assert mine.wants_before({"solver": 0, "coder": 0})
    assert not mine.wants_before({"solver": 0, "coder": 1})
    assert not make(load_root(QUICKSTART, ["eval.heldout_items=0"])).wants_before({"solver": 0})
    done = {"solver": config.run.steps}
    assert mine.results(done) is None
    asyncio.run(mine.before())
    assert not mine.wants_before({"solver": 0})
    assert not make(config).wants_before({"solver": 0}), "nor after a restart"
    assert mine.results(done) is None, "half of a comparison is none"
    asyncio.run(mine.after())
    results = mine.results(done)
    assert results is not None
    assert (results["before"]["number"], results["after"]["number"]) == (1, 2)
    assert [call["kept"] for call in measured] == [None, {"by": 1}], "the base's, for both"
    assert [record[1]["when"] for record in records] == ["heldout-before", "heldout-after"]
    assert [record[1]["step"] for record in records] == [0, config.run.steps]
    for _, record in records:
        (low, high) = record["ci95"]["m"]
        assert 0 < low < 2 / 3 < high < 1
        assert "lost" not in record["ci95"]
    kept = json.loads((tmp_path / "heldout-before.json").read_text())["kept"]
    assert kept == {"mm_zero": {"by": 1}}
    assert not list(tmp_path.glob("*.tmp"))
    assert mine.results({"solver": config.run.steps, "coder": 1}) is None, "one goes on"
    longer = make(load_root(QUICKSTART, [f"run.steps={2 * config.run.steps}"]))
    assert longer.results({"solver": 2 * config.run.steps}) is None, "that is of fewer steps"


def test_only_the_result_looks_at_the_held_out_scenes(
    tmp_path: Path, config: RootConfig, measured: list[dict[str, Any]]
) -> None:
    records: list[Any] = []
    mine = Measurements(
        config, RunDir(tmp_path), {}, object(), lambda *record: records.append(record)
    )
    asyncio.run(mine.dev(20))
    assert records == [("dev", {"step": 20, "means": {"m": 2 / 3, "number": 1.0}})]
    asyncio.run(mine.before())
    asyncio.run(mine.after())
    assert [call["split"] for call in measured] == ["dev", "heldout", "heldout"]
    assert [call["items"] for call in measured] == [60, 300, 300]
    assert [call["majority_items"] for call in measured] == [0, 60, 0]


def test_a_port_of_the_attempt_before_is_kept_unless_the_config_changed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert engine.read_port(run, 8620) is None
    told = {"host": "127.0.0.1", "port": 8623, "configured": 8620}
    run.dashboard.write_text(json.dumps(told))
    assert engine.read_port(run, 8620) == 8623
    assert engine.read_port(run, 9000) is None
    run.dashboard.write_text("{}")
    assert engine.read_port(run, 8620) is None


def test_there_is_one_protocol_of_samplers_and_one_of_renderers() -> None:
    assert table.Sampler is types.Sampler
    assert table.Renderer is types.Renderer
    told = re.compile(r"async def sample\(\s*self,\s*messages")
    packages = ("engine", "roles", "rewards", "render_pool", "evals", "launch")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    found = [str(path.relative_to(ROOT)) for path in files if told.search(path.read_text())]
    players = ["engine/monitor/observed.py", "engine/sampler.py", "launch/simulation/players.py"]
    assert sorted(found) == sorted([*players, "engine/types.py"])


def test_what_lives_until_the_end_is_not_looked_at_for_garbage() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    try:
        engine.collect_less()
        assert gc.get_freeze_count() > frozen
        assert gc.get_threshold() > before
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
