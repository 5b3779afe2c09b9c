"""What a plan takes for granted. Each number can be set (`--assume NAME=VALUE`), and is printed."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from engine.errors import ConfigError

WHY = {
    "decode_efficiency": "of the data sheet's memory bandwidth, while tokens are generated",
    "step_overhead_s": "of a decode step, beside reading memory: scheduler, sampling, HTTP",
    "allreduce_s": "of each of the two joins per layer with tensor parallelism",
    "prefill_mfu": "of the data sheet's FLOP/s, while prompts and pictures are read",
    "train_mfu": "of the data sheet's FLOP/s, while learners compute",
    "link_efficiency": "of the data sheet's bandwidth between GPUs or nodes",
    "host_gb_s": "GB/s between a GPU and its host, for offloaded moments",
    "disk_gb_s": "GB/s of writing weights to a tmpfs, and of reading them there",
    "checkpoint_gb_s": "GB/s of a node's checkpoints: written, synced, and read again to hash them",
    "engine_requests_s": "that one engine process asks servers for: the least of `bench.py engine`",
    "renders_per_core_s": "per render worker; of 640 px, `bench.py render` draws 70",
    "parsed": "of the proposals are read and drawn (the quickstart's: .88)",
    "rendered": "of the drawings render (the quickstart's: .94)",
    "coder_kept": "of the coder's groups train (the quickstart's: .99)",
    "solver_kept": "of the solver's groups train (the quickstart's: .41)",
    "gate_open": "of Vision-Zero's groups train: clues or votes, in turns",
    "proposer_fill": "of max_new_tokens is what a proposal takes on average",
    "coder_fill": "a drawing: 5,000 characters of SVG are about 2,000 tokens",
    "solver_fill": "an answer",
    "clue_fill": "a clue",
    "vote_fill": "a vote",
    "length_cv2": "variance over mean^2 of reasoning models' lengths: most short, some long",
}
"""Of each number: what it is of, and where it comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Shares are of 1. None of them was measured by us on a GPU."""

    decode_efficiency: float = 0.6
    step_overhead_s: float = 0.003
    allreduce_s: float = 15e-6
    prefill_mfu: float = 0.4
    train_mfu: float = 0.35
    link_efficiency: float = 0.5
    host_gb_s: float = 25.0
    disk_gb_s: float = 2.0
    checkpoint_gb_s: float = 1.0
    engine_requests_s: float = 455.0
    renders_per_core_s: float = 50.0
    parsed: float = 0.88
    rendered: float = 0.94
    coder_kept: float = 0.99
    solver_kept: float = 0.41
    gate_open: float = 0.5
    proposer_fill: float = 0.2
    coder_fill: float = 0.5
    solver_fill: float = 0.25
    clue_fill: float = 0.25
    vote_fill: float = 0.4
    length_cv2: float = 1.0
    """May be more than 1; max_new_tokens leaves less to a role whose mean is near it."""


_AT_MOST_ONE = {
    name
    for name in WHY
    if name.endswith(("_efficiency", "_mfu", "_kept", "_fill"))
    or name in ("parsed", "rendered", "gate_open")
}


_LEAST, _MOST = 1e-9, 1e9
"""Of any number: nothing real is beyond them, and what is computed of them stays finite."""


def assume(given: Sequence[str]) -> Assumptions:
    """The defaults with `name=value` set. Raises ConfigError for a name or value that is none."""
    names = {field.name for field in fields(Assumptions)}
    found: dict[str, float] = {}
    for one in given:
        name, _, text = one.partition("=")
        if name not in names:
            raise ConfigError(
                f"--assume {one!r}: there is no {name!r}; there are {', '.join(sorted(names))}"
            )
        try:
            value = float(text)
        except ValueError:
            raise ConfigError(f"--assume {one!r}: want {name}=NUMBER") from None
        most = 1.0 if name in _AT_MOST_ONE else _MOST
        if not _LEAST <= value <= most:
            raise ConfigError(f"--assume {one!r}: want a number from {_LEAST:g} to {most:g}")
        found[name] = value
    return replace(Assumptions(), **found)
