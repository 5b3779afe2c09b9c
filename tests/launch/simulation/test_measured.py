"""What a run teaches: records made from known costs give these costs back."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.buffer import Buffer
from engine.errors import ConfigError
from launch.config import RootConfig, load_root
from launch.simulate import main
from launch.simulation.measured import others_cores, published_s, service_times_of, straight_line
from launch.simulation.service_times import read_service_times, write_service_times
from launch.simulation.validate import games_per_min

CONFIGS = Path(__file__).resolve().parents[3] / "launch" / "configs"
QUICKSTART = CONFIGS / "quickstart.yaml"
POLICIES = ("proposer", "coder", "solver")
STEP_S, ROW_S, PROMPT_S, REQUEST_S, PUBLISH_S = 0.002, 0.0001, 0.003, 0.0005, 0.02


@given(
    st.floats(0, 5),
    st.floats(0, 5),
    st.lists(st.floats(1, 100), min_size=2, max_size=20).filter(lambda x: max(x) - min(x) > 1),
)
def test_a_straight_line_is_found_from_its_sums(a: float, b: float, xs: list[float]) -> None:
    ys = [a * x + b for x in xs]
    pairs = list(zip(xs, ys, strict=True))
    sums = (len(xs), sum(xs), sum(x * x for x in xs), sum(ys), sum(x * y for x, y in pairs))
    slope, intercept = straight_line(*sums)
    assert slope * 50 + intercept == pytest.approx(a * 50 + b, rel=1e-4, abs=1e-4)
    assert slope >= 0
    assert intercept >= 0


def test_neither_end_of_a_line_is_negative() -> None:
    assert straight_line(2, 3, 5, 3, 4) == (0.0, 1.5)  # falls from 2 at 1 to 1 at 2
    assert straight_line(2, 3, 5, 4, 7)[1] == 0.0  # from 1 at 1 to 3 at 2: below 0 at 0


def write_run(folder: Path) -> tuple[Path, RootConfig]:
    """A run of 20 steps, one a second; every second each server makes 100 steps of 10 rows and 50
    of 40, computes 7 prompts and takes 30 requests; there is one update."""
    config = load_root(QUICKSTART, ["run.steps=20", f"run.root={folder}", "run.name=made"])
    run = folder / "made"
    run.mkdir()
    lines: list[dict[str, Any]] = []
    for second in range(1, 21):
        for policy in POLICIES:
            tokens = 1000 + second
            metrics = {
                "tokens": tokens,
                "step_cpu_s": 0.1 + 0.0002 * tokens,
                "publish_cpu_s": PUBLISH_S,
                "publish_s": 0.3,
                "process_cpu_s": 0.4 * second,
            }
            lines.append({"kind": "step", "policy": policy, "step": second, "metrics": metrics})
            lines[-1]["t"] = float(second)
        lines.append({"kind": "costs", "t": second + 0.5, **costs(second)})
    renderer = {"cpu_s": 3.0, "rendered": 90, "invalid": {"malformed": 10}}
    lines.append({"kind": "engine", "t": 21.0, "parts": {"renderer": renderer}})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_games(run)
    return run, config


def costs(second: int) -> dict[str, Any]:
    decode_s = 100 * (STEP_S + ROW_S * 10) + 50 * (STEP_S + ROW_S * 40)
    of_one = decode_s + 7 * PROMPT_S + 30 * REQUEST_S + PUBLISH_S
    each = {
        "decode_steps_total": 150,
        "generation_tokens_total": 100 * 10 + 50 * 40,
        "decode_rows_squared_total": 100 * 10**2 + 50 * 40**2,
        "decode_cpu_seconds_total": decode_s,
        "decode_rows_cpu_seconds_total": 100 * 10 * (STEP_S + ROW_S * 10)
        + 50 * 40 * (STEP_S + ROW_S * 40),
        "prefills_total": 7,
        "prefill_cpu_seconds_total": 7 * PROMPT_S,
        "num_requests_total": 30,
        "weight_updates_total": 1,
        "process_cpu_seconds_total": 3 * of_one,  # one process serves all three
    }
    servers = [
        {"policy": p, "url": f"http://{p}", **{k: v * second for k, v in each.items()}}
        for p in POLICIES
    ]
    others_s = 0.25 * second
    busy_s = 0.18 * second + 3 * of_one * second + 0.4 * second + others_s
    return {"engine_cpu_s": 0.18 * second, "machine_busy_s": busy_s, "servers": servers}


def write_games(run: Path) -> None:
    """Four: half of the proposals are parsed, of four drawings one has no SVG and one does not
    render; of the easy answers 4 of 5 agree, of the hard ones 3 of 6 that are in a box, of 8."""
    buffer = Buffer.open(run / "run.db")
    easy = {"share": 0.8, "counts": {"a": 4, "b": 1}, "replies": ["r"] * 5}
    hard = {"share": 0.5, "counts": {"a": 3, "b": 3}, "replies": ["r"] * 8}
    solved = {"svg": "<svg/>", "picture": "p", "easy": easy, "hard": hard}
    drawings = [{"svg": None}, {"svg": "<svg>", "invalid": "malformed"}, solved, solved]
    samples = [["proposer", 0, 5, 40, 1, 0], ["coder", 5, 9, 22, 1, 0], ["solver", 9, 9, 13, 1, 0]]
    notes = {
        "timeline": {"samples": samples},
        "proposals": [{"invalid": "missing_tag"}, {"drawings": drawings}],
    }
    for _ in range(4):
        buffer.end_game(buffer.start_game("mm_zero"), notes=notes)
    buffer.close()


def test_a_run_gives_back_what_its_work_cost(tmp_path: Path) -> None:
    run, config = write_run(tmp_path)
    times = service_times_of(run, config, warm_up=3)
    servers = times.servers
    found = (servers.step_s, servers.row_s, servers.prompt_s, servers.request_s, servers.update_s)
    assert found == pytest.approx((STEP_S, ROW_S, PROMPT_S, REQUEST_S, PUBLISH_S))
    for policy in POLICIES:
        assert times.learners[policy].step_s == pytest.approx(0.1, rel=1e-3)
        assert times.learners[policy].token_s == pytest.approx(0.0002, rel=1e-3)
    assert times.engine.request_s == pytest.approx(0.18 / 90)
    assert times.picture_s == pytest.approx((0.03,))
    assert times.play.tokens["coder"] == (22,) * 4
    play = times.play
    assert (play.parsed, play.drawn, play.rendered) == pytest.approx((0.5, 0.75, 2 / 3))
    assert play.boxed == pytest.approx((1 + 6 / 8) / 2)
    assert set(play.easy) == {0.8}
    assert set(play.hard) == {0.5}
    assert published_s(run, config, 3) == pytest.approx(0.3)
    assert others_cores(run, config, 3) == pytest.approx(0.25, abs=0.03)


def test_times_survive_their_file(tmp_path: Path) -> None:
    run, config = write_run(tmp_path)
    times = service_times_of(run, config, warm_up=3)
    write_service_times(times, tmp_path / "times.yaml")
    assert read_service_times(tmp_path / "times.yaml") == times


def test_a_run_that_does_not_tell_is_refused(tmp_path: Path) -> None:
    run, config = write_run(tmp_path)
    with pytest.raises(ConfigError, match="no costs of 30 steps on"):
        service_times_of(run, config, warm_up=30)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    without = [line for line in lines if '"costs"' not in line]
    (run / "metrics.jsonl").write_text("\n".join(without))
    with pytest.raises(ConfigError, match="no costs"):
        service_times_of(run, config, warm_up=3)


def rewrite(run: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Every record of a run as `change` has it; None: without it."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    changed = [change(json.loads(line)) for line in lines]
    text = "".join(json.dumps(record) + "\n" for record in changed if record is not None)
    (run / "metrics.jsonl").write_text(text)


def restarted(record: dict[str, Any]) -> dict[str, Any]:
    """As of a run that was started again after its step 8 at 8 s, and whose work took four times
    as long before that."""
    before, later = record["t"] < 9, record["t"] - 8
    if record["kind"] == "step":
        metrics = record["metrics"]
        factor = 4 if before else 1
        metrics["step_cpu_s"] *= factor
        metrics["publish_cpu_s"] *= factor
        metrics["process_cpu_s"] = 0.4 * (factor * record["t"] if before else later)
    elif record["kind"] == "costs" and before:
        told = costs(round(4 * (record["t"] - 0.5)))
        counts = {"decode_steps_total", "prefills_total", "num_requests_total"}
        counts |= {"generation_tokens_total", "decode_rows_squared_total", "weight_updates_total"}
        for row in told["servers"]:
            row |= {name: row[name] / 4 for name in counts}
        record |= told
    elif record["kind"] == "costs":
        record |= costs(round(later - 0.5))
    return record


def test_of_a_run_that_was_started_again_only_what_follows_counts(tmp_path: Path) -> None:
    run, config = write_run(tmp_path)
    whole = service_times_of(run, config, warm_up=3)
    rewrite(run, restarted)
    times = service_times_of(run, config, warm_up=3)
    assert times.servers.model_dump() == pytest.approx(whole.servers.model_dump())
    assert times.learners["coder"].model_dump() == pytest.approx(
        whole.learners["coder"].model_dump(), rel=1e-3
    )
    assert times.engine.request_s == pytest.approx(whole.engine.request_s)
    # 12 steps are left, and so many of them are no warm-up.
    problem = "made: no costs of 12 steps on since it was started again, 12 s before its end"
    with pytest.raises(ConfigError, match=problem):
        service_times_of(run, config, warm_up=12)
    # A learner that trains nothing for some seconds then was not started later than the others.
    rewrite(run, lambda r: None if 9 <= r["t"] < 14 and r.get("policy") == "coder" else r)
    with pytest.raises(ConfigError, match=problem):
        service_times_of(run, config, warm_up=12)


def test_one_server_that_was_started_again_is_named(tmp_path: Path) -> None:
    run, config = write_run(tmp_path)

    def change(record: dict[str, Any]) -> dict[str, Any]:
        if record["kind"] == "costs" and record["t"] > 19:
            record["servers"][1] |= costs(1)["servers"][1]
        return record

    rewrite(run, change)
    with pytest.raises(ConfigError, match="since the server http://coder of coder was started aga"):
        service_times_of(run, config, warm_up=3)


def without(record: dict[str, Any], kind: str, **wanted: object) -> dict[str, Any] | None:
    is_it = record["kind"] == kind and all(record[key] == value for key, value in wanted.items())
    return None if is_it else record


def as_sglang(record: dict[str, Any]) -> dict[str, Any]:
    for row in record.get("servers", ()):
        for name in [name for name in row if "cpu_seconds" in name]:
            del row[name]
    return record


def with_two_solvers(record: dict[str, Any]) -> dict[str, Any]:
    if record["kind"] == "costs":
        record["servers"].append(record["servers"][-1] | {"url": "http://another"})
    return record


def with_another_url(record: dict[str, Any]) -> dict[str, Any]:
    if record["kind"] == "costs" and record["t"] > 12:
        record["servers"][0]["url"] = "http://another"
    return record


def without_requests(record: dict[str, Any]) -> dict[str, Any]:
    if record["kind"] == "costs":
        record["servers"] = costs(1)["servers"]
    return record


@pytest.mark.parametrize(
    "change, problem",
    [
        (as_sglang, "does not tell process_cpu_seconds_total; want a run on embedded servers"),
        (as_sglang, r"SGLang's do not tell what decode steps and prompts take.*plan\.py --times"),
        (with_two_solvers, "want one server of each policy"),
        (
            with_another_url,
            "server of proposer was http://proposer, and is http://another at the end",
        ),
        (without_requests, r"nothing to do \(num_requests_total stays\) in the 17 s"),
        (lambda r: without(r, "engine"), "no record of what its renderer did"),
    ],
)
def test_what_a_run_lacks_is_named(
    change: Callable[[dict[str, Any]], dict[str, Any] | None], problem: str, tmp_path: Path
) -> None:
    run, config = write_run(tmp_path)
    rewrite(run, change)
    with pytest.raises(ConfigError, match=f"{run}: .*{problem}"):
        service_times_of(run, config, warm_up=3)


def test_a_policy_without_steps_is_named_and_skipped_steps_are_none(tmp_path: Path) -> None:
    """As of phases: one policy trains, the others have trained before."""
    run, config = write_run(tmp_path)

    def change(record: dict[str, Any]) -> dict[str, Any]:
        if record["kind"] == "step" and record["policy"] == "coder" and record["step"] > 3:
            record |= {"skipped": True, "metrics": {"process_cpu_s": 0.4 * record["step"]}}
        return record

    rewrite(run, change)
    for told in (service_times_of, published_s):
        with pytest.raises(ConfigError, match="made: no step of coder in the 16 s"):
            told(run, config, warm_up=4)


def test_a_run_of_another_recipe_is_named(tmp_path: Path) -> None:
    for name, played in (("vision_zero", "vision_zero"), ("mixed", "mm_zero and vision_zero")):
        config = load_root(CONFIGS / f"{name}.yaml")
        with pytest.raises(ConfigError, match=f"{tmp_path}: it played {played}, and only mm_zero"):
            service_times_of(tmp_path, config, warm_up=3)


def test_games_are_counted_between_the_same_steps_as_in_a_simulation(tmp_path: Path) -> None:
    run, config = write_run(tmp_path)
    buffer = Buffer.open(run / "run.db")
    # From step 8 at 8 s to step 16, the first after 20 - 4 - 1, at 16 s.
    games = buffer._rows("SELECT id FROM games")
    for ended_s, (game,) in zip((7.9, 8.1, 12.0, 15.9), games, strict=True):
        buffer._db.execute("UPDATE games SET ended_s = ? WHERE id = ?", (ended_s, game))
    buffer.close()
    assert games_per_min(run, config, warm_up=8) == pytest.approx(3 / 8 * 60)


def test_the_command_prints_a_table_and_draws_a_chart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = write_run(tmp_path)
    write_service_times(service_times_of(run, config, warm_up=3), tmp_path / "times.yaml")
    told = [str(QUICKSTART), "run.steps=12", "streams.max_age=1"]
    told += ["--times", str(tmp_path / "times.yaml"), "--schedules", "streaming", "synchronous"]
    assert main([*told, "--gpus", "2", "4", "--chart", str(tmp_path / "chart.svg")]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows[-4:]] == [
        ["2", "streaming"],
        ["2", "synchronous"],
        ["4", "streaming"],
        ["4", "synchronous"],
    ]
    tree = ElementTree.fromstring((tmp_path / "chart.svg").read_text())
    assert sum("polyline" in element.tag for element in tree.iter()) == 2 * 4  # measures


def test_schedules_that_nobody_named_are_left_out_where_they_are_too_short(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = write_run(tmp_path)
    write_service_times(service_times_of(run, config, warm_up=3), tmp_path / "times.yaml")
    told = [str(QUICKSTART), "run.steps=20", "--times", str(tmp_path / "times.yaml")]
    assert main(told) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("sequential: left out: run.steps 20: too short")
    assert "want 60 or more" in out[0]
    table = out[next(i for i, line in enumerate(out) if line.startswith("GPUs")) + 1 :][:4]
    assert [row.split()[1] for row in table[:3]] == ["streaming", "one-step-off", "synchronous"]
    assert table[3] == ""
    assert main([*told, "--schedules", "streaming", "sequential"]) == 2
    assert "want 60 or more" in capsys.readouterr().err
    assert main([*told, "run.steps=2"]) == 2
    assert "left out" not in capsys.readouterr().out


def test_the_command_counts_a_shared_gpu_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = write_run(tmp_path)
    write_service_times(service_times_of(run, config, warm_up=3), tmp_path / "times.yaml")
    told = [str(CONFIGS / "mm_zero_qwen3_vl_2b_1x80gb.yaml"), "streams.games_per_step=1"]
    told += ["run.steps=8", "--schedules", "synchronous", "--times", str(tmp_path / "times.yaml")]
    assert main(told) == 0
    assert capsys.readouterr().out.startswith("1 synchronous:")


@pytest.mark.parametrize(
    "options, problem",
    [
        (["--gpus", "3"], "--gpus 3: the layout has 2"),
        (["--gpus", "-2"], "--gpus -2: the layout has 2"),
        (["--gpus", "0"], "--gpus 0: the layout has 2"),
        (["--seconds", "nan"], "--seconds nan: want a number above 0"),
        (["--seconds", "inf"], "--seconds inf: want"),
        (["--seconds", "0"], "--seconds 0: want"),
        (["--seconds", "-5"], "--seconds -5: want"),
        (["--seconds", "0.1"], "--seconds 0.1: too short to tell"),
        (["--schedules", "lazy"], "schedule 'lazy'"),
        (["--chart", "x.svg"], "--chart draws over the number of GPUs"),
        (["run.steps=2"], "too short to tell"),
        (["layout.branches=[{rank: 1, servers: [1]}]"], "layout.branches: branches can't be"),
    ],
)
def test_bad_input_gets_one_line(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = write_run(tmp_path)
    write_service_times(service_times_of(run, config, warm_up=3), tmp_path / "times.yaml")
    assert main([str(QUICKSTART), *options, "--times", str(tmp_path / "times.yaml")]) == 2
    assert problem in capsys.readouterr().err


def test_a_file_of_times_with_an_unknown_field_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "times.yaml"
    path.write_text("servers: {step_s: 1, rows_s: 2}\nlearners: {}\nplay: {tokens: {}}\n")
    with pytest.raises(ConfigError, match=r"servers\.rows_s.*did you mean 'servers\.row_s'"):
        read_service_times(path)


def test_the_shipped_times_can_be_read() -> None:
    path = CONFIGS.parent / "simulation" / "times_8b.yaml"
    assert set(read_service_times(path).learners) == set(POLICIES)
