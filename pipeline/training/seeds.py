"""Random numbers of a training: each epoch starts from a state that only the seed and the epoch decide.

So a training that goes on from a checkpoint draws what an undisturbed one draws.
"""

import random

import numpy as np
import torch


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


def seed_reader(worker_id: int) -> None:
    """Seed a process that reads photos by what torch gave it, which differs by process and epoch."""
    mixed = torch.initial_seed() % 2**32
    random.seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002
