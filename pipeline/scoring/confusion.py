"""Confusion matrix of a detector, with background.

The matching is that of ultralytics (`ConfusionMatrix.process_batch`, since 8.4): classes play no part;
of the boxes with at least a score, the highest score first, each takes the truth with the highest IoU
among those not taken yet, if it is at least the threshold (theirs must exceed it). Of truths with
equal IoU (one object, two labels) a box takes one of its own class, else the first; a box that takes
none and lies in a crowd box of its class does not count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.kernels.jit import kernel
from pipeline.kernels.threads import chunks, over_chunks, thread_count
from pipeline.scoring.matching import overlap
from pipeline.scoring.truth import Truth

NOTHING, IN_CROWD, BELOW = -1, -2, -3  # instead of a truth's row


@dataclass(frozen=True, eq=False)
class Confusion:
    """counts (n+1, n+1) int64: rows truth, columns predicted, the last one of both is background.

    counts[i, n]: truths of class i that nothing took; counts[n, j]: boxes of class j that took
    nothing; counts[n, n] is always 0.
    """

    counts: NDArray[np.int64]
    iou: float
    score: float

    def shares(self) -> NDArray[np.float64]:
        """Each row divided by its sum; a row without anything stays 0."""
        return self.counts / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)


def confusion(
    boxes: Boxes, truth: Truth, *, iou: float, score: float, threads: int | None = None
) -> Confusion:
    """Count which class was detected as which, for the boxes whose score is at least `score`."""
    n = truth.n_classes
    took = np.empty(len(boxes), np.int32)
    n_threads = thread_count(threads)
    limits = (np.float32(score), min(iou, 1 - 1e-10))  # the latter as in `match`

    def work(_: int, first: int, last: int) -> None:
        match_any_class(first, last, boxes.rows, truth.rows, *limits, took)

    over_chunks(work, chunks(boxes.offsets, n_threads), n_threads)
    counts = np.zeros((n + 1, n + 1), np.int64)
    matched = took >= 0
    np.add.at(counts, (truth.rows.labels[took[matched]], boxes.labels[matched]), 1)
    counts[n, :n] = np.bincount(boxes.labels[took == NOTHING], minlength=n)
    counts[:n, n] = truth.counts - counts[:n].sum(axis=1)
    return Confusion(counts, iou, score)


@kernel
def match_any_class(first, last, boxes, truth, least_score, iou, took):
    """Write the row of the truth that each box of images first..last-1 took, or why it took none."""
    for image in range(first, last):
        lo, hi = truth.offsets[image], truth.offsets[image + 1]
        taken = np.zeros(hi - lo, np.bool_)
        for row in range(boxes.offsets[image], boxes.offsets[image + 1]):
            if boxes.scores[row] < least_score:
                took[row] = BELOW
                continue
            x1 = np.float64(boxes.boxes_xyxy[row, 0])
            y1 = np.float64(boxes.boxes_xyxy[row, 1])
            w = np.float64(boxes.boxes_xyxy[row, 2]) - x1
            h = np.float64(boxes.boxes_xyxy[row, 3]) - y1
            best = NOTHING
            most = 0.0
            for g in range(lo, hi):
                inner = overlap(x1, y1, x1 + w, y1 + h, w * h, truth, g)
                own = truth.labels[g] == boxes.labels[row]
                if inner < iou or taken[g - lo] or (truth.crowd[g] and not own):
                    continue
                if truth.crowd[g]:
                    if best < 0:
                        best = IN_CROWD
                elif (
                    best < 0
                    or inner > most
                    or (inner == most and own and truth.labels[best] != boxes.labels[row])
                ):
                    best = g
                    most = inner
            if best >= 0:
                taken[best - lo] = True
            took[row] = best
