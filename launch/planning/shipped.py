"""The configurations in `launch/configs` that the planner wrote, and service times of one."""

from pathlib import Path

from launch.planning.case import CONFIGS
from launch.planning.command import Answer, answer

_EIGHT = ("--gpus 8 --memory 40GB", "--gpus 8 --memory 80GB", "--gpus 8 --memory 141GB")
SHIPPED = {
    **{
        f"mm_zero_{short}_8x{where.split()[-1].lower()}": f"{name} {where}"
        for short, name in (
            ("qwen3_vl_4b", "Qwen3-VL-4B-Instruct"),
            ("qwen3_vl_8b", "Qwen3-VL-8B-Instruct"),
        )
        for where in _EIGHT
    },
    "mm_zero_qwen3_vl_2b_1x80gb": "Qwen3-VL-2B-Instruct --gpus 1 --memory 80GB",
    "mm_zero_qwen3_vl_2b_2x80gb": "Qwen3-VL-2B-Instruct --gpus 2 --memory 80GB",
    "mm_zero_qwen3_vl_8b_4x8x80gb": "Qwen3-VL-8B-Instruct --nodes 4 --gpus 8 --memory 80GB",
    "mm_zero_mimo_vl_7b_8x80gb": "MiMo-VL-7B-RL --gpus 8 --memory 80GB",
    "vision_zero_qwen2_5_vl_7b_8x80gb": (
        "Qwen2.5-VL-7B-Instruct --gpus 8 --memory 80GB --recipe vision_zero"
    ),
    "vision_zero_internvl3_8b_8x80gb": (
        "InternVL3-8B-hf --gpus 8 --memory 80GB --recipe vision_zero"
    ),
}
"""{name: what the planner is asked}."""
TIMES = {"times_8b": "mm_zero_qwen3_vl_8b_8x80gb"}
"""{name of a file in launch/simulation: the configuration that it is of}."""
SIMULATION = CONFIGS.parent / "simulation"


def shipped(name: str) -> Answer:
    """The planner's answer for the shipped configuration `name`."""
    return answer([*SHIPPED[name].split(), "--write", f"launch/configs/{name}.yaml"])


def shipped_times(name: str) -> Answer:
    """The same with the service times `name`."""
    asked = SHIPPED[TIMES[name]].split()
    return answer([*asked, "--times", f"launch/simulation/{name}.yaml"])


def write_shipped(folder: Path = CONFIGS, simulation: Path = SIMULATION) -> list[Path]:
    """Write all of them anew; the files."""
    texts = {folder / f"{name}.yaml": shipped(name).yaml for name in SHIPPED}
    texts |= {simulation / f"{name}.yaml": shipped_times(name).times_yaml for name in TIMES}
    for path, text in texts.items():
        path.write_text(text)
    return list(texts)
