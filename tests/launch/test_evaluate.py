"""The command: from rows in a folder, through a server, to records and a report."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ConfigError
from evals.benchmarks import NAMES, benchmarks
from evals.data import Loaded
from evals.runner import Outcome
from launch.benches.evals import canned
from launch.benches.evals_killed import write_rows
from launch.evaluating.command import checkpoints_of, choose, status_of
from launch.evaluating.evaluation import Evaluated
from launch.evaluating.models import resolve, step_of
from launch.tiny_base import SHIPPED
from tests.engine.server_process import until
from tests.evals.small_benchmark import SMALL, png
from tests.evals.test_images import bomb

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests/evals/fixtures"


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch/evaluate.py"), *arguments]


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, cwd=ROOT, env=env
    )


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name / "records.jsonl").open()]


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(--out, what was printed) of all fixtures through a server of its own with the tiny base."""
    folder = tmp_path_factory.mktemp("walked")
    done = evaluate(
        *("--model", str(SHIPPED), "--data", str(FIXTURES), "--max-new-tokens", "16"),
        *("--out", str(folder / "out"), "--cache", str(folder / "cache")),
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return folder / "out", done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_fixture_row_walks_the_whole_path(walked: tuple[Path, str], name: str) -> None:
    """Asked and recorded, or named with a reason."""
    folder = walked[0] / "official"
    told = json.loads((folder / "results.json").read_text())["benchmarks"][name]
    found = records(folder, name)
    rows = (FIXTURES / f"{name}.jsonl").read_text().splitlines()
    assert len(found) + len(told["refused"]) == len(rows)
    assert len(found) >= 10
    assert told["missing"] == []
    for record in found:
        assert set(record["modes"]) == {"default", "reference"}
        assert "scoring_failed" not in record["flags"]
        assert record["tokens"] <= 16
        assert all(image["sha256"] for image in record["images"])
        places = [p for m in record["prompt"] for p in m["content"] if p["type"] == "image"]
        assert len(places) == len(record["images"])


@pytest.mark.slow
def test_the_report_is_written_and_the_table_printed(walked: tuple[Path, str]) -> None:
    folder, printed = walked
    settings = json.loads((folder / "official/settings.json").read_text())
    assert settings["kind"] == "embedded"
    assert set(settings["identity"]) == {"config", "served", "template", "tokenizer", "weights"}
    for name in ("results.json", "report.html", "table.md", "table.tex"):
        assert (folder / "official" / name).stat().st_size
    assert "ChartQA" in printed


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with canned("--mean-s", "0.02", "--slots", "8") as found:
        yield found


def arguments(url: str, folder: Path) -> list[str]:
    return [
        *("--model", "canned", "--openai", f"{url}/v1", "--benchmarks", "chartqa"),
        *("--data", str(folder / "data"), "--out", str(folder / "out")),
        *("--cache", str(folder / "cache"), "--concurrency", "8"),
    ]


def test_an_interrupt_keeps_what_is_done_and_says_how_to_go_on(url: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "data", 2000)
    journal = tmp_path / "out/official/chartqa/responses.jsonl"
    slowly = command(*arguments(url, tmp_path), "--concurrency", "1")
    with subprocess.Popen(
        slowly,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # A shell that started the tests in the background has it ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 20, timeout_s=300)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert b"every answer that came is kept, and the same command goes on" in errors
    assert b"Traceback" not in errors
    kept = journal.read_bytes().count(b"\n")
    done = evaluate(*arguments(url, tmp_path), "--limit", "40")
    assert done.returncode == 0, done.stderr
    assert "from before" in done.stdout
    assert journal.read_bytes().count(b"\n") <= kept + 40


DOWNLOADING = """
import asyncio, sys, threading
from launch import evaluate
from launch.evaluating import command

async def run(options):
    print("begun", flush=True)
    await asyncio.to_thread(threading.Event().wait, 3600)

command.run = run
sys.exit(evaluate.main(sys.argv[1:]))
"""


def test_an_interrupt_waits_for_no_thread_that_downloads(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DOWNLOADING, *arguments("http://127.0.0.1:9", tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begun\n"
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"the same command goes on" in errors


def test_a_limit_and_samples_and_another_model_to_compare_with(url: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "data", 50)
    own = arguments(url, tmp_path)
    assert evaluate(*own, "--limit", "10", "--n", "2").returncode == 0
    assert len(records(tmp_path / "out/official", "chartqa")) == 20
    own[own.index(str(tmp_path / "out"))] = str(tmp_path / "other")
    done = evaluate(
        *own, "--limit", "10", "--n", "2", "--seed", "1", "--against", f"{tmp_path}/out"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "other/official/results.json").read_text())
    assert told["benchmarks"]["chartqa"]["rows"] == 10


def test_hostile_rows_are_named_and_stop_nothing(url: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "data", 3)
    (tmp_path / "data/bomb.png").write_bytes(bomb(60_000, 60_000))
    (tmp_path / "data/broken.jpg").write_bytes(png(size=(300, 200), kind="JPEG")[:700])
    good = {"image": "0.png", "query": "How high?", "label": ["3"], "human_or_machine": 0}
    hostile: list[dict[str, Any]] = [
        {"image": "bomb.png"},
        {"image": "broken.jpg"},
        {"image": "missing.png"},
        {"image": "../../../etc/passwd.png"},
        {"query": "x" * 1_000_000},
        {"query": ["a", "list"]},
        {"label": 7},
    ]
    with (tmp_path / "data/chartqa.jsonl").open("a") as file:
        file.writelines(json.dumps(good | change) + "\n" for change in hostile)
        file.write("no JSON\n")
    done = evaluate(*arguments(url, tmp_path))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out/official/results.json").read_text())["benchmarks"]["chartqa"]
    assert (told["found"], len(told["refused"])) == (11, 8)
    assert len(records(tmp_path / "out/official", "chartqa")) == 3
    assert "8 rows skipped" in done.stdout


def test_the_blind_baseline_sends_no_picture(url: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "data", 3)
    assert evaluate(*arguments(url, tmp_path), "--blind").returncode == 0
    found = records(tmp_path / "out/official", "chartqa")
    assert [record["images"] for record in found] == [[], [], []]
    assert all(
        part["type"] == "text"
        for record in found
        for message in record["prompt"]
        for part in message["content"]
    )


def test_the_blind_baseline_stands_beside_the_score(url: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "data", 3)
    done = evaluate(*arguments(url, tmp_path), "--blind-baseline")
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "out/official/results.json").read_text())
    assert told["pictures"]["changes"]["chartqa"]["pairs"] == 3
    assert told["settings"]["settings"]["blind"] is False
    unseeing = records(tmp_path / "out/blind/official", "chartqa")
    assert [record["images"] for record in unseeing] == [[], [], []]
    assert "without the pictures (before)" in done.stdout
    assert "What the pictures add" in (tmp_path / "out/official/report.html").read_text()


def test_the_mm_zero_regime_with_a_judge(url: str, tmp_path: Path) -> None:
    """The canned judge answers with digits, which are neither yes nor no."""
    own = arguments(url, tmp_path)
    own[own.index("--data") + 1] = str(FIXTURES / "mm_zero")
    judge = ["--judge", f"{url}/v1", "--judge-model", "canned"]
    done = evaluate(*own, "--regime", "mm_zero", *judge)
    assert done.returncode == 1, done.stderr
    assert "answers on which the judge failed" in done.stdout
    found = records(tmp_path / "out/mm_zero", "chartqa")
    assert len(found) >= 10
    assert {record["score"] for record in found} == {None}
    assert all("judge_failed" in record["flags"] for record in found)
    assert all(record["judge"]["replies"] for record in found)
    kept = (tmp_path / "cache/judge.jsonl").read_text().splitlines()
    assert {json.loads(line)["request"]["endpoint"]["model"] for line in kept} == {"canned"}


def test_a_judge_that_cannot_be_asked_ends_it_and_what_was_answered_is_kept(
    url: str, tmp_path: Path
) -> None:
    own = arguments(url, tmp_path)
    own[own.index("--data") + 1] = str(FIXTURES / "mm_zero")
    judge = ["--judge", f"{url}/nowhere", "--judge-model", "canned"]
    done = evaluate(*own, "--regime", "mm_zero", *judge)
    assert done.returncode == 2
    assert "--judge: the server answers 404" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out/mm_zero/chartqa/responses.jsonl").stat().st_size


def outcome(
    *flags: str, missing: bool = False, replies: Sequence[str] = (), good: int = 0
) -> Outcome:
    """Of a row with these flags and replies of its judge, and of `good` ones without."""
    judged = {"score": None, "replies": list(replies)}
    loaded = Loaded(rows=(), refused=(), found=1, revision="local", fingerprint="f")
    return Outcome(
        benchmark=SMALL,
        loaded=loaded,
        rows=1 + good,
        records=[{"row": "q0", "flags": list(flags), "judge": judged}]
        + [{"row": f"g{i}", "flags": [], "judge": None} for i in range(good)],
        missing=[("q1", 0, "gone")] if missing else [],
    )


@pytest.mark.parametrize(
    "found, status",
    [
        ([outcome()], 0),
        ([outcome("truncated", "unparsed", "unjudged", "scoring_failed")], 0),
        ([outcome("judge_failed", good=1)], 1),
        ([outcome("judge_failed", replies=["who knows"], good=1)], 0),
        ([outcome("judge_failed", replies=["who knows"])], 1),
        ([outcome(missing=True)], 1),
        ([outcome(), outcome("unparsed", "judge_failed")], 1),
    ],
)
def test_the_status_says_whether_answers_or_verdicts_are_missing(
    found: Sequence[Outcome], status: int
) -> None:
    assert status_of(Evaluated(model="m", outcomes=found, settings={})) == status


def test_a_set_that_is_not_there_ends_it_before_the_first_question(
    url: str, tmp_path: Path
) -> None:
    write_rows(tmp_path / "data", 3)
    own = arguments(url, tmp_path)
    own[own.index("chartqa")] = "all"
    done = evaluate(*own)
    assert done.returncode == 2
    for name in NAMES:
        assert (f"--data: no {name}.jsonl" in done.stderr) == (name != "chartqa")
    assert not (tmp_path / "out").exists()


def test_help_is_instant() -> None:
    code = (
        "import sys, runpy\n"
        "sys.argv = ['evaluate.py', '--help']\n"
        "try:\n    runpy.run_path('launch/evaluate.py', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'transformers', 'aiohttp', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--against" in done.stdout


@pytest.mark.parametrize(
    "options, says",
    [
        (["--benchmarks", "mmmu"], "give --model, or --run"),
        (["--model", "m", "--judge", "http://j/v1"], "--judge and --judge-model go together"),
        (["--model", "m", "--server", "u", "--openai", "v"], "give one"),
        (["--run", "r", "--model", "m"], "--run finds its models itself"),
        (["--model", "m", "--benchmarks", "mmlu"], "--benchmarks: mmlu; there are mmsi, "),
        (["--model", "/nowhere", "--benchmarks", "chartqa"], "/nowhere is no folder"),
        (["--model", "launch", "--benchmarks", "chartqa"], "launch has no config.json"),
        (["--run", "launch"], "launch has no config.yaml"),
        (["--model", "m", "--prompt", "direct"], "--prompt: mmsi (official) has only one"),
        (["--model", "m", "--while-training"], "name them with --server"),
        (["--model", "m", "--while-training", "--server", "u"], "that they have now with --name"),
        (["--run", "r", "--blind-baseline"], "are of one --model"),
        (["--model", "m", "--crossed", "b", "--against", "o"], "compares its own four"),
        (["--model", "m", "--crossed", "b"], "how the trained model is asked"),
        (["--model", "m", "--crossed", "b", "--openai", "v"], "is of two model folders"),
        (["--model", "m", "--contamination"], "--contamination is of what a --run played"),
        (["--model", "m", "--openai", "v", "--against", "launch"], "no results of an evaluation"),
    ],
)
def test_bad_input_is_one_line_that_says_what_is_wrong(options: Sequence[str], says: str) -> None:
    done = evaluate(*options, "--data", str(FIXTURES), "--out", "/nonexistent/nowhere")
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_benchmarks_are_chosen_in_the_order_of_the_tables() -> None:
    known = benchmarks("official")
    assert [one.name for one in choose(["all"], known)] == list(NAMES)
    assert [one.name for one in choose(["chartqa", "mmsi"], known)] == ["mmsi", "chartqa"]
    with pytest.raises(ConfigError, match="--benchmarks: nothing"):
        choose(["nothing", "mmsi"], known)


def make_checkpoint(folder: Path, step: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "trainer.json").write_text(json.dumps({"step": step}))
    return folder


def test_a_run_is_its_base_and_its_checkpoints_in_order(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((ROOT / "launch/configs/quickstart.yaml").read_text())
    with pytest.raises(ConfigError, match="has no checkpoint"):
        checkpoints_of(tmp_path, "solver")
    made = [
        make_checkpoint(tmp_path / f"checkpoints/solver/step-{step:08d}", step)
        for step in (20, 100)
    ]
    found = checkpoints_of(tmp_path, "solver")
    assert found == [Path("launch/tiny_base_model"), *made]
    assert [step_of(folder) for folder in found] == [0, 20, 100]


def test_a_model_s_identity_is_of_its_contents(tmp_path: Path) -> None:
    first = resolve(str(SHIPPED), with_weights=True).identity()
    for file in SHIPPED.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    copy = resolve(str(tmp_path), with_weights=True)
    assert copy.identity() == first
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    changed = copy.identity()
    assert {name for name in first if first[name] != changed[name]} == {"weights"}
    (tmp_path / "chat_template.jinja").write_text("other")
    assert copy.identity()["template"] != first["template"]
