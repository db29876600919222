"""Matching of boxes with truth, by the rules of COCO and of VOC, at any number of IoUs.

COCO's (pycocotools, `evaluateImg`; also that of the F-scores and the image means): class by class,
highest score first, a box takes the truth with the highest IoU among those not taken yet, the last
one of equal IoUs; a crowd box may be taken several times, only when no other fits, and a box
that takes it does not count. IoU with a crowd box is the share of the box that it covers.

VOC's (devkit 2010, `VOCevaldet.m`): a box may take only the truth with its highest IoU of all, the
first of equal ones; when that one is taken the box is false. Crowd boxes stand for VOC's difficult
ones: a box whose highest IoU is with one does not count.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.kernels.jit import inlined, kernel
from pipeline.kernels.threads import chunks, over_chunks, thread_count
from pipeline.scoring.truth import Truth

TRUE, FALSE, IGNORED, LEFT_OUT = 1, 0, -1, -2  # the state of a box after matching
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Matches:
    """The result of matching for each box.

    state (T, n) int8: TRUE, FALSE, IGNORED (took a crowd box), LEFT_OUT (beyond the limit).
    owner (T, n) int32: row of the truth that a box took, else -1; without columns unless `owners`.
    """

    boxes: Boxes
    truth: Truth
    state: NDArray[np.int8]
    owner: NDArray[np.int32]


def match(
    boxes: Boxes,
    truth: Truth,
    ious: NDArray[np.float64],
    *,
    limit: int = NO_LIMIT,
    strict: bool = False,
    best_of_all: bool = False,
    owners: bool = False,
    threads: int | None = None,
) -> Matches:
    """Match boxes with truth at each of `ious` (T,).

    limit: boxes of an image and class that take part, from the highest score on. strict: the IoU must
    exceed the threshold, else reach it. best_of_all: VOC's matching instead of COCO's. owners: also
    return which truth each box took.
    """
    n_threads = thread_count(threads)
    n = len(boxes)
    state = np.empty((len(ious), n), np.int8)
    owner = np.empty((len(ious), n if owners else 0), np.int32)
    # pycocotools asks for a little less than an IoU of 1, which rounding may not let equal boxes reach
    thresholds = np.minimum(np.asarray(ious, np.float64), 1 - 1e-10)
    rules = (thresholds, limit, strict, best_of_all)

    def work(_: int, first: int, last: int) -> None:
        match_images(first, last, boxes.rows, truth.rows, truth.n_classes, *rules, state, owner)

    over_chunks(work, chunks(boxes.offsets, n_threads), n_threads)
    return Matches(boxes, truth, state, owner)


@inlined
def overlap(x1, y1, x2, y2, area, truth, g):
    """IoU of a box with one truth, in the order of operations of pycocotools."""
    gx = truth.boxes_xywh[g, 0]
    gw = truth.boxes_xywh[g, 2]
    width = min(x2, gx + gw) - max(x1, gx)
    if width <= 0:
        return 0.0
    gy = truth.boxes_xywh[g, 1]
    gh = truth.boxes_xywh[g, 3]
    height = min(y2, gy + gh) - max(y1, gy)
    if height <= 0:
        return 0.0
    inner = width * height
    return inner / area if truth.crowd[g] else inner / (area + gw * gh - inner)


@inlined
def _coco(overlaps, truth, start, end, taken, threshold, strict):
    """The truth that a box takes among start..end-1, those of its class on the image, or -1."""
    best = -1
    least = threshold
    for g in range(start, end):
        iou = overlaps[g - start]
        if iou < least or (strict and iou <= threshold):
            continue
        crowd = truth.crowd[g]
        if crowd:
            if best >= 0 and not truth.crowd[best]:
                break
        elif taken[g - start]:
            continue
        least = iou
        best = g
    return best


@inlined
def _voc(overlaps, start, end, threshold, strict):
    """The truth with the highest IoU, taken or not, or -1."""
    best = start
    for g in range(start + 1, end):
        if overlaps[g - start] > overlaps[best - start]:
            best = g
    most = overlaps[best - start]
    return -1 if most < threshold or (strict and most <= threshold) else best


@inlined
def _match_one(overlaps, truth, start, end, taken, threshold, strict, best_of_all):
    """The state of a box, and the truth it took, or -1."""
    if best_of_all:
        best = _voc(overlaps, start, end, threshold, strict)
    else:
        best = _coco(overlaps, truth, start, end, taken, threshold, strict)
    if best < 0:
        return FALSE, -1
    if truth.crowd[best]:
        return IGNORED, best
    if taken[best - start]:
        return FALSE, -1
    taken[best - start] = True
    return TRUE, best


@kernel
def match_images(first, last, boxes, truth, n_classes, thresholds, limit, strict, best_of_all, state, owner):
    """Match the boxes of images first..last-1."""
    largest = 1
    for image in range(first, last):
        largest = max(largest, truth.offsets[image + 1] - truth.offsets[image])
    overlaps = np.empty(largest, np.float64)
    taken = np.zeros((len(thresholds), largest), np.bool_)
    class_first = np.zeros(n_classes, np.int64)
    class_last = np.zeros(n_classes, np.int64)
    seen = np.zeros(n_classes, np.int64)
    for image in range(first, last):
        lo, hi = truth.offsets[image], truth.offsets[image + 1]
        for label in range(n_classes):
            class_last[label] = -1
            seen[label] = 0
        for g in range(lo, hi):
            label = truth.labels[g]
            if class_last[label] < 0:
                class_first[label] = g
            class_last[label] = g + 1
        for t in range(len(thresholds)):
            for k in range(hi - lo):
                taken[t, k] = False
        for row in range(boxes.offsets[image], boxes.offsets[image + 1]):
            label = boxes.labels[row]
            seen[label] += 1
            start, end = class_first[label], class_last[label]
            if seen[label] > limit or end < 0:
                for t in range(len(thresholds)):
                    state[t, row] = LEFT_OUT if seen[label] > limit else FALSE
                    if owner.shape[1]:
                        owner[t, row] = -1
                continue
            x1 = np.float64(boxes.boxes_xyxy[row, 0])
            y1 = np.float64(boxes.boxes_xyxy[row, 1])
            w = np.float64(boxes.boxes_xyxy[row, 2]) - x1
            h = np.float64(boxes.boxes_xyxy[row, 3]) - y1
            most = 0.0
            for g in range(start, end):
                overlaps[g - start] = overlap(x1, y1, x1 + w, y1 + h, w * h, truth, g)
                most = max(most, overlaps[g - start])
            for t in range(len(thresholds)):
                result, best = FALSE, -1
                if most >= thresholds[t]:
                    class_taken = taken[t, start - lo : end - lo]
                    result, best = _match_one(
                        overlaps, truth, start, end, class_taken, thresholds[t], strict, best_of_all
                    )
                state[t, row] = result
                if owner.shape[1]:
                    owner[t, row] = best
