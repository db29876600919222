"""Random numbers of a training: each epoch starts from a state that only the seed and the epoch decide.

What is drawn for a photo is decided by the seed, the epoch and the photo alone. So a training that goes on
from a checkpoint draws what an undisturbed one draws, with any number of processes that read.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

Place = tuple[int, int]  # epoch (from 0), index of a photo and its copy, see `sampling`


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A 32-bit seed for one epoch (from 0) of one process; neighbouring seeds share no epoch."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1)[0])


def reseed(seed: int, epoch: int, rank: int = 0) -> int:
    """Seed Python, NumPy and torch (all devices) for an epoch; returns the seed used."""
    mixed = epoch_seed(seed, epoch, rank)
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002  what the frameworks' augmentations draw from
    torch.manual_seed(mixed)
    return mixed


@contextlib.contextmanager
def drawing(seed: int, epoch: int, position: int) -> Iterator[None]:
    """Within it Python, NumPy and torch draw what the seed, the epoch and a photo's position alone decide."""
    python, numpy, state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    mixed = epoch_seed(seed, epoch, position)
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002
    torch.default_generator.manual_seed(mixed)  # not those of devices, which reading processes must not touch
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(state)


class Places:
    """A framework's batches of positions, as batches of places (epoch, position).

    Each pass is the next epoch's, from `epoch` on: a loader whose processes live on asks for it early. The
    order within an epoch depends on the seed and the epoch alone.
    """

    def __init__(self, batches: Any, seed: int) -> None:
        self.batches, self.sampler, self.seed, self.epoch = batches, batches.sampler, seed, 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        else:
            self.sampler.generator.manual_seed(epoch_seed(self.seed, epoch))
        for batch in self.batches:
            yield [(epoch, position) for position in batch]


def take_places(dataset: Any, seed: int) -> None:
    """Let a framework's dataset take places; what it draws for one depends on no other and on no process.

    It notes the place's epoch as its `epoch`.
    """
    positions = type(dataset)

    class TakesPlaces(positions):  # type: ignore[misc, valid-type]
        def __getitem__(self, place: Place) -> Any:
            self.epoch = place[0]
            with drawing(seed, *place):
                return super().__getitem__(place[1] % len(self))

        def get_data_info(self, index: int) -> Any:  # what mmdet's batch samplers ask for
            return super().get_data_info(index % len(self))

    dataset.__class__ = TakesPlaces
