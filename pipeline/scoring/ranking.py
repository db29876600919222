"""Average precision: boxes are ranked by score once, and summed for any weights of the images.

Source of the first form: pycocotools, `accumulate`: precision, made falling from the right, is read
at 101 recall points and averaged. Source of the second: VOC devkit 2010, `VOCap.m`: the area below
the same falling curve. Both are summed at true boxes only: there the recall rises and, between two
of them, precision can only fall.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.jit import inlined, kernel
from pipeline.kernels.order import key_of, row_of, sort_keys
from pipeline.kernels.threads import run, thread_count
from pipeline.scoring.matching import IGNORED, LEFT_OUT, TRUE, Matches

RECALLS = np.linspace(0.0, 1.0, 101)
AREA = np.empty(0)  # instead of recall points: the area below the curve
_EPS = np.spacing(1.0)  # pycocotools adds it to the denominator of precision


class RankedRows(NamedTuple):
    """Boxes by class, then score, highest first, then image; what the kernels read.

    state (T, k) int8, image (k,) int32, scores (k,) float32, class_rows (n_classes+1,) int64.
    """

    state: NDArray[np.int8]
    image: NDArray[np.int32]
    scores: NDArray[np.float32]
    class_rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """Ranked boxes with the truth they are counted against; made by `rank`."""

    rows: RankedRows
    truth_labels: NDArray[np.int16]  # (t,) of all that is not crowd
    truth_images: NDArray[np.int32]
    n_classes: int
    n_images: int


def rank(matches: Matches, threads: int | None = None) -> Ranked:
    """Sort the boxes that take part by class and score; equal scores stay in the order of images."""
    boxes, truth = matches.boxes, matches.truth
    n_classes = truth.n_classes
    n_threads = thread_count(threads)
    class_rows = np.zeros(n_classes + 1, np.int64)
    keys = np.empty(len(boxes), np.uint64)
    image_of = np.empty(len(boxes), np.int32)
    group_by_class(boxes.labels, boxes.scores, matches.state, boxes.offsets, class_rows, keys, image_of)
    keys = keys[: class_rows[-1]]
    state = np.empty((len(matches.state), len(keys)), np.int8)
    rows = RankedRows(state, np.empty(len(keys), np.int32), np.empty(len(keys), np.float32), class_rows)
    widest = np.argsort(-np.diff(class_rows), kind="stable")  # long ones first: threads end together
    run(
        [partial(sort_class, int(c), keys, boxes.scores, matches.state, image_of, rows) for c in widest],
        n_threads,
    )
    images = np.repeat(np.arange(len(truth.image_ids), dtype=np.int32), np.diff(truth.rows.offsets))
    counted = ~truth.rows.crowd
    return Ranked(rows, truth.rows.labels[counted], images[counted], n_classes, len(truth.image_ids))


def average_precisions(
    ranked: Ranked, recalls: NDArray[np.float64] = RECALLS, weights: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """(T, n_classes) AP; NaN for a class without truth.

    recalls: points at which precision is read, or AREA. weights (m,): how often each image counts.
    """
    if weights is None:
        weights = np.ones(ranked.n_images, np.int64)
    out = np.empty((len(ranked.rows.state), ranked.n_classes), np.float64)
    precisions(ranked.rows, ranked.truth_labels, ranked.truth_images, recalls, weights, out)
    return out


@kernel
def group_by_class(labels, scores, state, offsets, class_rows, keys, image_of):
    """Write the sort keys of all boxes that take part, class by class, and where classes begin."""
    for image in range(len(offsets) - 1):
        for row in range(offsets[image], offsets[image + 1]):
            image_of[row] = image
            if state[0, row] != LEFT_OUT:
                class_rows[labels[row] + 1] += 1
    for c in range(1, len(class_rows)):
        class_rows[c] += class_rows[c - 1]
    to = class_rows.copy()
    for row in range(len(labels)):
        if state[0, row] != LEFT_OUT:
            keys[to[labels[row]]] = key_of(scores[row], row)
            to[labels[row]] += 1


@kernel
def sort_class(c, keys, scores, state, image_of, ranked):
    """Sort one class's keys, and gather its rows in that order."""
    first, last = ranked.class_rows[c], ranked.class_rows[c + 1]
    class_keys = keys[first:last]
    sort_keys(class_keys, np.empty_like(class_keys), last - first, np.empty((4, 256), np.int32))
    for k in range(last - first):
        row = row_of(class_keys[k])
        ranked.image[first + k] = image_of[row]
        ranked.scores[first + k] = scores[row]
        for t in range(len(state)):
            ranked.state[t, first + k] = state[t, row]


@inlined
def _read_curve(hits, precision, n, total, recalls):
    """AP of the points (recall hits/total, precision), n of them; precision is made falling here."""
    for k in range(n - 2, -1, -1):
        precision[k] = max(precision[k], precision[k + 1])
    summed = 0.0
    if len(recalls) == 0:
        before = 0
        for k in range(n):
            summed += (hits[k] - before) / total * precision[k]
            before = hits[k]
        return summed
    k = 0
    for wanted in recalls:
        while k < n and hits[k] / total < wanted:
            k += 1
        if k == n:
            break
        summed += precision[k]
    return summed / len(recalls)


@kernel
def precisions(ranked, truth_labels, truth_images, recalls, weights, out):
    """AP of each class at each IoU."""
    n_classes = len(ranked.class_rows) - 1
    totals = np.zeros(n_classes, np.int64)
    for g in range(len(truth_labels)):
        totals[truth_labels[g]] += weights[truth_images[g]]
    hits = np.empty(len(truth_labels), np.int64)
    precision = np.empty(len(truth_labels), np.float64)
    for t in range(len(ranked.state)):
        for c in range(n_classes):
            if totals[c] == 0:
                out[t, c] = np.nan
                continue
            true = 0
            false = 0
            n = 0
            for k in range(ranked.class_rows[c], ranked.class_rows[c + 1]):
                state = ranked.state[t, k]
                weight = weights[ranked.image[k]]
                if state == TRUE:
                    if weight > 0:
                        true += weight
                        hits[n] = true
                        precision[n] = true / (true + false + _EPS)
                        n += 1
                elif state != IGNORED:
                    false += weight
            out[t, c] = _read_curve(hits, precision, n, totals[c], recalls)
