"""What needs a CUDA device: skipped without one, run by `make test-gpu`."""

from pathlib import Path

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from tests.engine.tiny_models import build_tiny_model


@pytest.fixture(autouse=True)
def _needs_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(scope="session")
def bf16_dirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny models of one shape, in bfloat16 as real ones are."""
    folders = []
    for seed in (0, 1):
        # Of usual spread: bfloat16 would drown in the logits of a wilder one.
        folder = build_tiny_model(tmp_path_factory.mktemp("bf16"), seed, spread=1.0)
        model = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16)
        model.save_pretrained(folder)
        folders.append(folder)
    return folders[0], folders[1]
