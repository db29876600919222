"""Soft-NMS of one group (Bodla et al. 2017, arXiv 1704.04503), lazily.

The rule: take the box with the highest score, lower the scores of all that remain by their overlap
with it, repeat. Here the score of a box is updated, by the boxes taken since its last update, only
when its (then too high) score makes it the next candidate. Scores never rise, so if it is still the
highest it is the one; else it goes back into a heap. Boxes that fall to the threshold are never
looked at again. Equal scores: the box that came first in the declared order.
"""

import math

import numpy as np

from pipeline.fusion.overlap import LANE_BITS, LANES, exact_iou, lanes_over, lowest_bit, put
from pipeline.kernels.jit import inlined


@inlined
def _ahead(i, j, scores):
    return scores[i] > scores[j] or (scores[i] == scores[j] and i < j)


@inlined
def _push(heap, n, item, scores):
    """Add `item` to the binary heap heap[:n]; the highest score is at its top."""
    at = n
    while at > 0:
        parent = (at - 1) >> 1
        if not _ahead(item, heap[parent], scores):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = item


@inlined
def _drop_top(heap, n, scores):
    """Take the top from heap[:n]; heap[:n-1] is left."""
    item = heap[n - 1]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= n - 1:
            break
        if child + 1 < n - 1 and _ahead(heap[child + 1], heap[child], scores):
            child += 1
        if not _ahead(heap[child], item, scores):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = item


@inlined
def _decay(blocks, visited, n, x1, y1, x2, y2, score, parameters):
    """`score` lowered by its box's overlap with the taken boxes visited..n-1."""
    area = (x2 - x1) * (y2 - y1)
    part = parameters.part if parameters.linear else np.float32(0.0)
    squares = 0.0
    for block in range(visited >> LANE_BITS, (n + LANES - 1) >> LANE_BITS):
        mask = lanes_over(blocks, block, x1, y1, x2, y2, area, part)
        if block == visited >> LANE_BITS:
            mask &= np.uint32(0xFFFF) << np.uint32(visited & (LANES - 1))
        while mask != 0:
            iou = exact_iou(blocks, (block << LANE_BITS) + lowest_bit(mask), x1, y1, x2, y2)
            mask &= mask - np.uint32(1)
            if not parameters.linear:
                squares += iou * iou
            elif iou > parameters.iou:
                score *= 1.0 - iou
        if score <= parameters.skip:
            break  # lost already
    return score if parameters.linear else score * math.exp(-squares / parameters.sigma)


@inlined
def soft_nms_group(rows, lo, hi, image, parameters, scratch, out):
    """Decay the rows lo..hi-1, best first; return the number of boxes written.

    linear: score x (1 - IoU) where the IoU is above the threshold. gaussian: score x
    exp(-IoU^2 / sigma). Boxes whose decayed score is above `parameters.skip` stay.
    """
    scores, heap, visited = scratch.decayed, scratch.heap, scratch.visited
    start = out.n[0]
    total = hi - lo
    for i in range(total):
        scores[i] = image.weights[rows.source[lo + i]] * rows.scores[lo + i]
        visited[i] = 0
    n = 0
    fresh = 0  # the best box that was not a candidate yet: rows are in order
    waiting = 0  # size of the heap
    while fresh < total or waiting > 0:
        if waiting == 0 or (fresh < total and _ahead(fresh, heap[0], scores)):
            item = fresh
            fresh += 1
        else:
            item = heap[0]
            _drop_top(heap, waiting, scores)
            waiting -= 1
        if not scores[item] > parameters.skip:
            break
        x1 = rows.boxes_xyxy[lo + item, 0]
        y1 = rows.boxes_xyxy[lo + item, 1]
        x2 = rows.boxes_xyxy[lo + item, 2]
        y2 = rows.boxes_xyxy[lo + item, 3]
        score = _decay(scratch.blocks, visited[item], n, x1, y1, x2, y2, scores[item], parameters)
        visited[item] = n
        if score < scores[item]:
            scores[item] = score
            if score > parameters.skip:
                _push(heap, waiting, item, scores)
                waiting += 1
            continue
        put(scratch.blocks, n, x1, y1, x2, y2)
        out.boxes_xyxy[start + n, 0] = x1
        out.boxes_xyxy[start + n, 1] = y1
        out.boxes_xyxy[start + n, 2] = x2
        out.boxes_xyxy[start + n, 3] = y2
        out.scores[start + n] = score
        n += 1
    return n
