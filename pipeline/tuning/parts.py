"""Parts of the images: each is scored by what was chosen on all others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError

PARTS = 5


@dataclass(frozen=True)
class Partition:
    """part (m,): the part of each image. `kind`: what the parts are, in words."""

    part: NDArray[np.int64]
    n_parts: int
    kind: str


def by_folds(folds: NDArray[np.int32]) -> Partition:
    """The competition's folds as parts."""
    names, part = np.unique(folds, return_inverse=True)
    return Partition(part.astype(np.int64), len(names), f"the {len(names)} folds")


def by_images(groups: NDArray[np.int64], n_parts: int, n_partitions: int, seed: int) -> list[Partition]:
    """Random parts of equal numbers of images, groups whole. groups (m,): each image's group.

    Raises PipelineError for fewer groups than parts.
    """
    names, place, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < n_parts:
        raise PipelineError(
            f"{len(names)} images or groups of images; expected at least {n_parts}, one for each part that "
            "is scored by what was chosen on the others"
        )
    partitions = []
    for k in range(n_partitions):
        rng = np.random.default_rng([seed, k])
        load = np.zeros(n_parts, np.int64)
        part_of = np.empty(len(names), np.int64)
        shuffled = rng.permutation(len(names))
        for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:  # the largest first
            part_of[group] = int(np.argmin(load))
            load[part_of[group]] += sizes[group]
        partitions.append(Partition(part_of[place], n_parts, f"{n_parts} random parts of the images"))
    return partitions


def inner_weights(partitions: list[Partition]) -> NDArray[np.int64]:
    """(1 + parts of all partitions, m) 1 for images that a choice may look at: all, then all but a part."""
    m = len(partitions[0].part)
    rows = [np.ones(m, np.int64)]
    rows += [(p.part != k).astype(np.int64) for p in partitions for k in range(p.n_parts)]
    return np.stack(rows)


def part_weights(partitions: list[Partition]) -> NDArray[np.int64]:
    """(parts of all partitions, m) 1 for the images of one part."""
    return np.stack([(p.part == k).astype(np.int64) for p in partitions for k in range(p.n_parts)])
