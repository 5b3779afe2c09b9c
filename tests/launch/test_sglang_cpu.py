"""What makes an environment of SGLang's able to serve on a CPU."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "launch/sglang_cpu"


def load(path: Path, name: str) -> ModuleType:
    """A module of a folder that is no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stand_in() -> ModuleType:
    return load(FOLDER / "sgl_kernel/__init__.py", "sgl_kernel_stand_in")


def test_the_stand_in_notes_where_new_tokens_are(stand_in: ModuleType) -> None:
    table = torch.zeros(4, 6, dtype=torch.int32)
    stand_in.assign_req_to_token_pool_cpu(
        torch.tensor([2, 0]),
        table,
        torch.tensor([1, 0]),
        torch.tensor([4, 2]),
        torch.tensor([11, 12, 13, 21, 22]),
        6,
    )
    assert table[2].tolist() == [0, 11, 12, 13, 0, 0]
    assert table[0].tolist() == [21, 22, 0, 0, 0, 0]
    assert not table[[1, 3]].any()


def test_what_the_stand_in_lacks_says_so_when_called(stand_in: ModuleType) -> None:
    with pytest.raises(NotImplementedError, match="no silu_and_mul"):
        stand_in.silu_and_mul(1)
    # SGLang asks for this one to know whether the fast kernels are there.
    assert not hasattr(torch.ops.sgl_kernel, "convert_weight_packed")


def test_an_environment_is_finished_once(tmp_path: Path) -> None:
    finish = load(FOLDER / "finish.py", "sglang_cpu_finish")
    finish.install_stand_in(tmp_path)
    assert (tmp_path / "sgl_kernel/mamba.py").exists()
    extension = tmp_path / "extension.py"
    extension.write_text("import torch\n\n\ndef _has_ops():\n    return True\n")
    finish.mend_torchvision(extension)
    mended = extension.read_text()
    finish.mend_torchvision(extension)
    assert extension.read_text() == mended
    exec(compile(mended, "extension.py", "exec"), {})  # with a compiled part it declares nothing


def test_real_kernels_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sglang_kernel-0.4.10.dist-info").mkdir()
    load(FOLDER / "finish.py", "sglang_cpu_finish").install_stand_in(tmp_path)
    assert not (tmp_path / "sgl_kernel").exists()
