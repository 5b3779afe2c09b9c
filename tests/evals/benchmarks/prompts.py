"""Prompts as text, for golden files: each picture is named where it stands."""

import hashlib
from pathlib import Path

from evals.benchmark import Benchmark
from evals.data import load

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "eval_prompts"


def _names(folder: Path) -> dict[str, str]:
    return {
        hashlib.sha256(path.read_bytes()).hexdigest(): path.stem for path in folder.glob("*.png")
    }


def prompts(benchmark: Benchmark, folder: Path) -> str:
    """All prompts of the benchmark's fixture, in the order of the rows' ids."""
    names = _names(folder / "pictures")
    loaded = load(benchmark, folder)
    assert not loaded.refused
    parts = []
    for row in sorted(loaded.rows, key=lambda row: row.id):
        question = benchmark.ask(row)
        images = iter(question.images)
        parts.append(f"##### {row.id}")
        for message in question.messages:
            shown = [
                part["text"]
                if part["type"] == "text"
                else f"[[{names[hashlib.sha256(next(images)).hexdigest()]}]]"
                for part in message["content"]
            ]
            parts.append(f"<{message['role']}>{''.join(shown)}</{message['role']}>")
        assert next(images, None) is None, "a picture without a place"
    return "\n".join(parts) + "\n"


def golden(name: str) -> str:
    return (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")
