"""Makes an environment that has SGLang able to serve on a CPU. Run by its own interpreter.

Two things are missing after pip: the package of CPU kernels, which is not on PyPI (a stand-in is
copied into site-packages), and a torchvision whose compiled part loads beside a torch without CUDA
(its Python part is taught to live without). Running it again changes nothing.
"""

import importlib.metadata
import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path

STAND_IN = Path(__file__).resolve().parent / "sgl_kernel"
_MARK = "# streamzero: operators declared for a torchvision whose compiled part does not load"
_DECLARATIONS = f"""

{_MARK}
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(f"{{_name}}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def install_stand_in(site_packages: Path) -> None:
    """Copy the stand-in for `sgl_kernel`; a real one is left alone."""
    target = site_packages / STAND_IN.name
    if list(site_packages.glob("sgl_kernel*.dist-info")) or list(
        site_packages.glob("sglang_kernel*.dist-info")
    ):
        return
    shutil.copytree(
        STAND_IN, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
    )


def mend_torchvision(extension: Path) -> None:
    """Append the declarations to torchvision's extension.py, once.

    Its fake kernels are registered for operators that only the compiled part declares, so that
    importing torchvision would fail.
    """
    text = extension.read_text()
    if _MARK not in text:
        extension.write_text(text + _DECLARATIONS)


def main() -> int:
    """Finish this interpreter's environment, and see whether the parts go together."""
    if sys.prefix == sys.base_prefix:
        print("error: this is for a virtual environment of SGLang's own", file=sys.stderr)
        return 2
    site_packages = Path(sysconfig.get_paths()["purelib"])
    install_stand_in(site_packages)
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        print("error: install requirements-no-deps.txt first", file=sys.stderr)
        return 2
    mend_torchvision(Path(found.origin).parent / "extension.py")
    import torchvision  # noqa: F401  fails here rather than in a server

    print(f"SGLang {importlib.metadata.version('sglang')} for CPU: {sys.prefix}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
