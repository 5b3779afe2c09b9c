"""What the engine's processor time goes into, by part: shares of a profile."""

from collections.abc import Mapping, Sequence

from launch.benches.monitor import is_monitoring
from launch.profiling import GARBAGE

PARTS: Mapping[str, tuple[str, ...]] = {
    "HTTP client": ("aiohttp/", "multidict/", "yarl/", "aiosignal/", "frozenlist/"),
    "prompts, tokenizer": ("engine/encoding.py", "jinja2/", "roles/mm_zero/prompts.py"),
    "checks of answers": ("engine/replies.py", "engine/types.py"),
    "sampler, routing": (
        "engine/sampler.py",
        "engine/generation.py",
        "engine/routing.py",
        "engine/liveness.py",
        "engine/sse.py",
    ),
    "game, rewards, grading": ("roles/", "rewards/"),
    "renders": ("render_pool/",),
    "buffer": (
        "engine/buffer.py",
        "engine/records.py",
        "engine/accounts.py",
        "engine/notes.py",
        "engine/versions.py",
    ),
    "batches to learners, branches": (
        "engine/desk.py",
        "engine/transport.py",
        "engine/branches.py",
        "engine/branch.py",
        "zmq/",
    ),
    "admission, games": ("engine/admission.py", "engine/games.py", "engine/loop.py"),
}
"""The innermost frame of a part decides. Helpers are their callers': JSON, `engine.wire`."""
JSON = "JSON of requests and answers"
MONITORING = "monitoring"
REST = "asyncio, the rest"
LOOKING = "looking for garbage"
_JSON_FRAMES, _ASKING = "/json/", "engine/generation.py"
_PARSING = "engine/generation.py:_json"
"""What it calls is no Python, and has no frame of its own."""
_NOT_PLAY = ("launch/watching.py:finish", "launch/engine.py:run_engine;engine/encoding.py")
"""What a run does once: its summary and report, and the reading of a model's folder."""


def part_of(stack: str) -> str | None:
    """The part that a stack of the profile is time of; None: it is no part of play."""
    if any(part in stack for part in _NOT_PLAY):
        return None
    if stack == GARBAGE:
        return LOOKING
    frames = stack.split(";")
    if is_monitoring(frames):
        return MONITORING
    asks = any(_ASKING in frame for frame in frames)
    if (asks and _JSON_FRAMES in f"/{frames[-1]}") or frames[-1].endswith(_PARSING):
        return JSON
    return next((part for frame in reversed(frames) if (part := _part(frame))), REST)


def _part(frame: str) -> str | None:
    for part, names in PARTS.items():
        if any(f"/{name}" in f"/{frame}" for name in names):
            return part
    return None


def by_part(profile: Mapping[str, int]) -> dict[str, float]:
    """{part: its share of the time of play}, the largest first."""
    sums: dict[str, int] = {}
    for stack, number in profile.items():
        part = part_of(stack)
        if part is not None:
            sums[part] = sums.get(part, 0) + number
    total = max(1, sum(sums.values()))
    return {part: sums[part] / total for part in sorted(sums, key=lambda part: -sums[part])}


def hottest(profile: Mapping[str, int], number: int) -> Sequence[tuple[str, float]]:
    """The functions in which most of the time of play is spent itself, with their shares."""
    sums: dict[str, int] = {}
    for stack, time in profile.items():
        if part_of(stack) is not None:
            leaf = stack.rpartition(";")[2]
            sums[leaf] = sums.get(leaf, 0) + time
    total = max(1, sum(sums.values()))
    most = sorted(sums.items(), key=lambda item: -item[1])[:number]
    return [(leaf, time / total) for leaf, time in most]
