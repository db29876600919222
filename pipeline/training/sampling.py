"""How often each photo is taken in an epoch: once, or more often where it holds a rare class.

Balanced sampling is LVIS's (Gupta et al. 2019, arXiv 1908.03195): a photo's factor is the largest over its
classes of sqrt(t / share of the photos with that class), and at least 1. Their t of 0.001 does nothing on
sets of a few classes. An index stands for a photo and the number of its copy: photo + copy * photos.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Sampler

from pipeline.training.job import PhotoBoxes
from pipeline.training.seeds import epoch_seed

RARE = 0.1  # t: classes in a smaller share of the photos are repeated


class Repeats:
    """How often each photo is taken. All epochs have as many indices; which of the photos are taken once more
    for the part of their factor after the point is drawn anew in each, from the seed and the epoch alone."""

    def __init__(self, factors: NDArray[np.float64]) -> None:
        self.factors = factors
        self.whole = np.floor(factors).astype(np.int64)
        self.part = factors - self.whole
        self.more = round(float(self.part.sum()))  # copies that are drawn in each epoch

    @classmethod
    def of(cls, boxes: Sequence[PhotoBoxes]) -> Self:
        """Those of photos with these boxes; crowds count for nothing."""
        classes = [np.unique(photo.labels[~photo.crowd]) for photo in boxes]
        shares = np.bincount(np.concatenate(classes)) / len(boxes)
        of_class = np.sqrt(RARE / np.maximum(shares, 1 / len(boxes))).clip(min=1)
        return cls(np.array([of_class[own].max(initial=1) for own in classes]))

    def __len__(self) -> int:
        """Indices in an epoch."""
        return int(self.whole.sum()) + self.more

    def __str__(self) -> str:
        share, growth = (self.factors > 1).mean(), len(self) / len(self.factors) - 1
        return f"balanced sampling: {share:.0%} of the photos repeat, an epoch grows by {growth:.0%}"

    def drawn(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch, by copy and photo.

        Systematic sampling of photos in a drawn order: each one's chance is the part of its factor.
        """
        random = np.random.default_rng(np.random.SeedSequence([seed, epoch, 0, 1]))
        order = random.permutation(len(self.factors))
        ends = np.cumsum(self.part[order])
        marks = np.floor(ends * (self.more / max(ends[-1], 1e-9)) + random.random()).astype(np.int64)
        marks[-1] = self.more
        copies = self.whole.copy()
        copies[order] += np.diff(marks, prepend=0)
        rounds = [np.flatnonzero(copies > number) + number * len(copies) for number in range(copies.max())]
        return np.concatenate(rounds)


def repeats_of(boxes: Sequence[PhotoBoxes], sampling: str) -> Repeats | None:
    """How often photos are taken; None for once each."""
    return Repeats.of(boxes) if sampling == "balanced" else None


def epoch_order(count: int, repeats: Repeats | None, seed: int, epoch: int) -> Tensor:
    """The indices of an epoch in the order in which they are taken."""
    shuffled = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    if repeats is None:
        return torch.randperm(count, generator=shuffled)
    drawn = torch.from_numpy(repeats.drawn(seed, epoch))
    return drawn[torch.randperm(len(drawn), generator=shuffled)]


def share_of(order: Tensor, rank: int, processes: int) -> list[int]:
    """The part of one of several processes; all of them get as many."""
    each = -(-len(order) // processes)
    own: list[int] = order.repeat(processes)[: each * processes][rank::processes].tolist()
    return own


class RepeatingSampler(Sampler[int]):
    """The indices of one process, for a framework's batches; its dataset is one of `seeds.take_places`."""

    def __init__(self, dataset: Any, repeats: Repeats, seed: int, rank: int, processes: int) -> None:
        self.dataset, self.repeats, self.seed, self.epoch = dataset, repeats, seed, 0
        self.rank, self.processes = rank, processes

    def __len__(self) -> int:
        return -(-len(self.repeats) // self.processes)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = epoch_order(0, self.repeats, self.seed, self.epoch)
        return iter(share_of(order, self.rank, self.processes))
