"""The planner's command line, as a new user meets it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine.sampler import SamplerConfig
from launch import plan
from launch.config import load_root
from launch.planning.assumptions import WHY
from launch.simulation.service_times import read_service_times

ROOT = Path(__file__).resolve().parents[3]
EIGHT = ["Qwen3-VL-8B-Instruct", "--gpus", "8", "--memory", "80GB"]


@pytest.mark.parametrize(
    "argv, words",
    [
        (["Qwen3-VL-8", "--gpus", "8", "--memory", "80GB"], "did you mean Qwen3-VL-8B-Instruct?"),
        (["Qwen3-VL-8B", "--gpus", "0", "--memory", "80GB"], "--gpus 0: want at least 1"),
        ([*EIGHT, "--games", "0"], "--games 0: want at least 1"),
        ([*EIGHT, "--nodes", "-1"], "--nodes -1: want at least 1"),
        ([*EIGHT, "--nodes", "129"], "--gpus 8 --nodes 129: at most 1024 GPUs in all are planned"),
        ([*EIGHT[:-1], "80"], "--memory '80': want a number with its unit, e.g. 80GB"),
        ([*EIGHT[:-1], "eighty"], "--memory 'eighty': want a number with its unit"),
        ([*EIGHT[:-1], "0GB"], "--memory '0GB': want 1GB at least, and 1000TB at most"),
        ([*EIGHT[:-1], "9" * 310 + "GB"], "99...': want 1GB at least, and 1000TB at most"),
        ([*EIGHT[:-1], "77GB"], "--device: which GPU has 77 GB? Name one of"),
        ([*EIGHT, "--host-memory", "1000"], "--host-memory '1000': want a number with its unit"),
        ([*EIGHT, "--device", "H1000"], "did you mean H100?"),
        ([*EIGHT, "--tokens", "painter=5"], "mm_zero has no role painter; there are proposer"),
        ([*EIGHT, "--tokens", "coder"], "want ROLE=NUMBER"),
        ([*EIGHT, "--tokens", "coder=nan"], "--tokens 'coder=nan': want at least 1"),
        ([*EIGHT, "--tokens", "solver=20000"], "mm_zero cuts a reply of solver at 4096 tokens"),
        ([*EIGHT, "--tokens", "coder=1e200"], "--tokens coder=1e+200: mm_zero cuts a reply"),
        ([*EIGHT, "--tokens", "coder=inf"], "--tokens coder=inf: mm_zero cuts a reply"),
        ([*EIGHT, "--assume", "step_overhead_s=inf"], "want a number from 1e-09 to 1e+09"),
        ([*EIGHT, "--assume", "mfu=.3"], "there is no 'mfu'; there are"),
        ([*EIGHT, "--write", "/nowhere/at/all.yaml"], "No such file or directory; name another"),
        ([*EIGHT, "--times", "/nowhere/t.yaml"], "--times /nowhere/t.yaml: No such file"),
        (
            ["Qwen2.5-VL-7B", *EIGHT[1:], "--recipe", "vision_zero", "--times", "t.yaml"],
            "--times: the simulator plays mm_zero alone, not vision_zero",
        ),
    ],
)
def test_bad_input_is_one_line_with_the_fix(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(argv) == plan.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert error.startswith("plan: ")
    assert words in error
    assert error.count("\n") == 1


def test_a_plan_answers_first_and_then_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(EIGHT) == 0
    said = capsys.readouterr().out
    parts = [
        "mm_zero with Qwen3-VL-8B-Instruct (8.77 B parameters) on 8 x H100 (80 GB)",
        "Best: ",
        "expected by the assumptions below, none measured on a GPU",
        "learner GPUs: 4 for proposer + coder + solver; servers: 3 solver, and on one shared GPU",
        "Bottleneck: solver's servers, which generate 85% of the tokens",
        "games/h",
        "busy",
        "of 1000 GB of host memory; checkpoints 1.1 TB of disk: of each policy 3",
        "One more GPU would help most as",
        "server for solver",
        "What does not fit:",
        "GB too many",
        "A game, on average",
        "Assumed, not measured on a GPU",
        "Start its 9 ranks by",
        "python launch/async_selfplay.py",
        "device_memory_gb: 80.0",
    ]
    places = [said.find(part) for part in parts]
    assert -1 not in places, parts[places.index(-1)]
    assert places == sorted(places)
    assert all(f"  {name} " in said for name in WHY)


def test_what_is_written_loads_and_says_how_it_came(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "my_plan.yaml"
    argv = [*EIGHT, "--nodes", "4", "--assume", "train_mfu=0.5", "--write", str(file)]
    assert plan.main(argv) == 0
    said = capsys.readouterr().out
    assert f"written: {file}" in said
    assert "Start it on each of 4 nodes by" in said
    assert "torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d" in said
    assert "--shutdown-timeout=990" in said, "a little more than run.stop_s"
    assert load_root(file).run.stop_s == 960
    assert "--assume train_mfu=0.5" in file.read_text()
    assert load_root(file).run.name == "my-plan"


def test_games_per_step_and_service_times_are_written_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, times = tmp_path / "plan.yaml", tmp_path / "times.yaml"
    argv = [*EIGHT, "--games", "36", "--write", str(file), "--times", str(times)]
    assert plan.main(argv) == 0
    said = capsys.readouterr().out
    assert "a step takes 36 games" in said
    assert f"written: {file}" in said
    assert f"written: {times}" in said
    assert load_root(file).streams.games_per_step == 36
    made_for = read_service_times(times).made_for
    assert made_for is not None
    assert (made_for.model, made_for.device) == ("Qwen3-VL-8B-Instruct", "H100")


def test_servers_that_games_in_flight_leave_room_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = "its batch is limited by the games in flight ("
    assert plan.main([*EIGHT, "--nodes", "4"]) == 0
    assert f"{words}90): more games per step (--games) would fill it" in capsys.readouterr().out
    for argv in (EIGHT, [*EIGHT, "--nodes", "4", "--games", "180"]):
        assert plan.main(argv) == 0
        assert words not in capsys.readouterr().out


def test_a_header_says_what_hosts_need_and_where_weights_go(tmp_path: Path) -> None:
    file = tmp_path / "my_plan.yaml"
    argv = ["Qwen3-VL-2B", "--gpus", "1", "--memory", "80GB", "--write", str(file)]
    assert plan.main(argv) == 0
    head = file.read_text().partition("run:")[0].replace("\n# ", " ")
    assert "Expected by the assumptions that this command prints, none measured on a GPU" in head
    assert "(30 GB: weights in /dev/shm); checkpoints" in head  # 7 of 2 x 2.13 GB
    assert "Weights go through /dev/shm/streamzero:" in head
    assert str(load_root(file).weights.folder) == "/dev/shm/streamzero"


@pytest.mark.parametrize(
    "file, name",
    [
        ("my plan (1).yaml", "my-plan-1"),
        ("_mine.yaml", "mine"),
        (".hidden.yaml", "hidden"),
        ("v1.2_план.yaml", "v1.2"),
        ("план.yaml", "mm-zero-plan"),
    ],
)
def test_a_run_is_named_after_its_file_in_characters_that_a_run_s_name_may_have(
    file: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / file
    assert plan.main([*EIGHT, "--write", str(path)]) == 0
    assert load_root(path).run.name == name
    assert f"launch/async_selfplay.py {shlex.quote(str(path))}" in capsys.readouterr().out


def test_the_engine_asks_a_server_for_as_many_replies_as_it_is_planned_to_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    for memory, is_raised in (("80GB", False), ("141GB", True)):
        assert plan.main([*EIGHT[:-1], memory, "--write", str(file)]) == 0
        config = load_root(file)
        most = max(server.max_running for server in config.layout.servers)
        default = SamplerConfig().max_concurrency
        assert (most > default) == is_raised
        assert config.sampler.max_concurrency == max(default, most)


def test_where_nothing_fits_the_reasons_and_a_way_out_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["Qwen3-VL-8B", "--gpus", "2", "--memory", "80GB"]
    assert plan.main(argv) == plan.NOTHING_FITS
    said = capsys.readouterr().out
    assert "Nothing fits. Try --one-policy" in said
    assert "What does not fit:" in said
    assert "torchrun" not in said
    assert plan.main([*argv, "--one-policy"]) == 0


def test_a_model_that_nobody_serves_is_said_at_the_top(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan.main(["InternVL3-8B", "--gpus", "8", "--memory", "80GB"]) == 0
    assert "NOT PLAYABLE TODAY" in capsys.readouterr().out.splitlines()[1]


def test_a_folder_is_planned_from_the_shell_without_torch() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['plan.py', 'launch/tiny_base_model', '--gpus', '1', '--memory', '24GB']\n"
        "try:\n    runpy.run_path('launch/plan.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "with tiny_base_model (0.00 B parameters) on 1 x A10 (24 GB)" in done.stdout


def test_who_reads_the_first_line_only_sees_no_error() -> None:
    command = f"{sys.executable} -u launch/plan.py Qwen3-VL-8B --gpus 8 --memory 80GB | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert len(done.stdout.splitlines()) == 1
    assert not done.stderr
