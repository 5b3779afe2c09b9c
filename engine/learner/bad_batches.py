"""Batches that could not be trained on: kept for inspection, counted, and at last the end.

One bad batch is a hiccup; several in a row mean that the weights, the servers or the data are
broken, and going on would only throw rollouts away.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engine.errors import FatalError, TransportError
from engine.types import Group
from engine.wire import decode_group, encode_group, pack, unpack

log = logging.getLogger(__name__)

REASONS = {
    "non_finite_loss": "the loss is not finite",
    "non_finite_gradient": "the gradient is not finite",
    "exploding_ratio": "the rollouts can't come from this policy: its log-probs are far from the "
    "sampler's (learner.max_gap)",
    "unpreparable": "its prompts or pictures contradict the model (the log says how)",
}
"""Why a batch is bad. A batch without anything to learn is not."""
KEPT = 20
"""Files in the folder; the oldest give way."""


def save_batch(path: Path, groups: Sequence[Group]) -> None:
    """Write groups with their pictures. Raises OSError."""
    rows, images = [], {}
    for group in groups:
        header, pictures = encode_group(group)
        rows.append(header)
        images.update(pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack({"groups": rows, "images": images}))


def load_batch(path: Path) -> list[Group]:
    """The inverse of `save_batch`. Raises TransportError for anything else, OSError."""
    tree = unpack(path.read_bytes())
    if not isinstance(tree, dict) or set(tree) != {"groups", "images"}:
        raise TransportError(f"{path}: not a saved batch")
    return [decode_group(row, tree["images"]) for row in tree["groups"]]


@dataclass(slots=True)
class BadBatches:
    """Of one learner group; rank 0 only."""

    folder: Path
    limit: int
    """So many in a row of one policy end the run."""
    attempt: int = 0
    """Requests are numbered anew in each."""
    _in_a_row: Counter[str] = field(default_factory=Counter)

    def good(self, policy: str) -> None:
        self._in_a_row[policy] = 0

    def bad(self, policy: str, request: int, reason: str, groups: Sequence[Group]) -> None:
        """Keep the batch of `request`. Raises FatalError if it was one too many in a row."""
        path = self.folder / f"{policy}-{self.attempt}-{request}-{reason}.msgpack"
        try:
            save_batch(path, groups)
            log.warning("%s: the batch of request %d is kept in %s", policy, request, path)
            files = sorted(self.folder.glob("*.msgpack"), key=lambda file: file.stat().st_mtime_ns)
            for old in files[:-KEPT]:
                old.unlink()
        except OSError as error:
            log.warning("%s: bad batch of request %d not kept: %s", policy, request, error)
        self._in_a_row[policy] += 1
        if self._in_a_row[policy] >= self.limit:
            raise FatalError(
                f"{policy}: {self.limit} bad batches in a row, the last because "
                f"{REASONS[reason]}; they are in {self.folder}. Lower learner.lr, compare the "
                "servers' log-probs with the learner's (probe_gap and sampler_gap in "
                "metrics.jsonl), or raise learner.max_bad_batches"
            )
