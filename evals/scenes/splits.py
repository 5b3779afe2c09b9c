"""Which scenes may be used for what.

A scene belongs to exactly one split by the hash of what it shows, whatever seed made it; so no
scene of `dev` or `heldout` can occur in pre-training. The seeds of the splits are disjoint too.
"""

import random
from collections.abc import Iterator
from typing import Literal

from evals.scenes.scene import Scene, random_scene, scene_hash

Split = Literal["pretrain", "dev", "heldout"]

_SEEDS: dict[Split, range] = {
    "pretrain": range(0, 2**40),
    "dev": range(2**40, 2**41),
    "heldout": range(2**41, 2**42),
}
_BUCKETS = 16


def split_of(scene: Scene) -> Split:
    """1/16 of all scenes are `dev`, 1/16 `heldout`, the rest `pretrain`."""
    bucket = scene_hash(scene) % _BUCKETS
    return "heldout" if bucket == 0 else "dev" if bucket == 1 else "pretrain"


def scenes(split: Split, first: int = 0) -> Iterator[Scene]:
    """The scenes of `split` in the order of their seeds, from its `first`-th seed on.

    Endless in practice. A scene may come twice, but in no other split. Raises ValueError where
    `first` lies outside of the split's seeds.
    """
    seeds = _SEEDS[split]
    if not 0 <= first < len(seeds):
        raise ValueError(f"{split} has seeds 0..{len(seeds) - 1}, not {first}")
    for seed in seeds[first:]:
        scene = random_scene(random.Random(seed))
        if split_of(scene) == split:
            yield scene


def scene_of(split: Split, rng: random.Random) -> Scene:
    """A random scene of `split` (rejection: 1.2 tries for pretrain, 16 for the others)."""
    while True:
        scene = random_scene(rng)
        if split_of(scene) == split:
            return scene
