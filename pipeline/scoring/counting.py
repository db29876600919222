"""Counts of true boxes, false boxes and truths per image."""

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.jit import kernel
from pipeline.scoring.matching import FALSE, TRUE, Matches

Counts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def count_states(matches: Matches, label: int = -1) -> Counts:
    """(T, m) true boxes, (T, m) false boxes, (m,) truths of each image, crowd boxes not counted.

    label: one class only; -1: all.
    """
    n_images = len(matches.truth.image_ids)
    true = np.zeros((len(matches.state), n_images), np.int64)
    false = np.zeros_like(true)
    total = np.zeros(n_images, np.int64)
    count_images(matches.boxes.rows, matches.truth.rows, matches.state, label, true, false, total)
    return true, false, total


@kernel
def count_images(boxes, truth, state, label, true, false, total):
    """Count all images."""
    for image in range(len(total)):
        for g in range(truth.offsets[image], truth.offsets[image + 1]):
            if not truth.crowd[g] and (label < 0 or truth.labels[g] == label):
                total[image] += 1
        for row in range(boxes.offsets[image], boxes.offsets[image + 1]):
            if label < 0 or boxes.labels[row] == label:
                for t in range(len(state)):
                    true[t, image] += state[t, row] == TRUE
                    false[t, image] += state[t, row] == FALSE
