"""Score cuts for metrics that count every box: the metric at many cuts, from one matching.

Boxes are matched from the highest score on, so a cut changes no match above it.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.jit import kernel
from pipeline.scoring.matching import FALSE, LEFT_OUT, TRUE, Matches

CUTS = np.array(
    [
        0.0,
        0.01,
        0.02,
        0.03,
        0.04,
        0.05,
        0.07,
        0.1,
        0.13,
        0.16,
        0.2,
        0.24,
        0.28,
        0.32,
        0.36,
        0.4,
        0.44,
        0.48,
        0.52,
        0.56,
        0.6,
        0.65,
        0.7,
        0.75,
        0.8,
        0.85,
        0.9,
    ],
    np.float32,
)


def counts_at_cuts(matches: Matches) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """(m, T, G) true and false boxes of each image at each of CUTS, and (m,) truths, crowd left out."""
    n_images = len(matches.truth.image_ids)
    true = np.zeros((n_images, len(matches.state), len(CUTS)), np.int32)
    false = np.zeros_like(true)
    total = np.zeros(n_images, np.int64)
    count_at_cuts(matches.boxes.rows, matches.truth.rows, matches.state, CUTS, true, false, total)
    return true, false, total


def with_cut(matches: Matches, cut: NDArray[np.float32]) -> Matches:
    """The matches without the boxes below their class's cut, (n_classes,)."""
    below = matches.boxes.scores < cut[matches.boxes.labels]
    return replace(matches, state=np.where(below, np.int8(LEFT_OUT), matches.state))


@kernel
def count_at_cuts(boxes, truth, state, cuts, true, false, total):
    """Count all images: each box at all cuts that it reaches."""
    for image in range(len(total)):
        for g in range(truth.offsets[image], truth.offsets[image + 1]):
            total[image] += not truth.crowd[g]
        for row in range(boxes.offsets[image], boxes.offsets[image + 1]):
            for g in range(len(cuts)):
                if boxes.scores[row] < cuts[g]:
                    break
                for t in range(len(state)):
                    true[image, t, g] += state[t, row] == TRUE
                    false[image, t, g] += state[t, row] == FALSE
