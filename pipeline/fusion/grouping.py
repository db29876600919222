"""The kernels of packing: filter, repair, group by image and label, sort by the declared order."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.jit import kernel
from pipeline.kernels.order import key_of, row_of, settle_ties, sort_keys

# Places in the table of counts that `pack_images` fills, one row per chunk.
BELOW, SCORE_NAN, SCORE_ZERO, BOX_NAN, INVERTED, OUTSIDE, EMPTY, ABSENT = range(8)
N_COUNTS = 8


class Raw(NamedTuple):
    """The caller's rows.

    `offsets` (parts, m+1): part p holds the rows offsets[p, i]:offsets[p, i+1] of image i. `sizes`
    (m, 2) and `present` (m, n_sources) may have no rows, for "not given".
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    source: NDArray[np.int16]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.float32]
    present: NDArray[np.bool_]


class Table(NamedTuple):
    """Rows grouped by image and label, each group in the declared order.

    Rows of image i lie within image_rows[i]:image_rows[i+1]; its groups are the entries
    group_first[i]:group_first[i+1] of `group_rows` (first and last row) and `group_labels`, unused
    entries at the end being empty ones.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    source: NDArray[np.int16]
    image_rows: NDArray[np.int64]
    group_first: NDArray[np.int64]
    group_rows: NDArray[np.int64]
    group_labels: NDArray[np.int16]


@kernel
def count_rows(first, last, scores, offsets, floor, counts):
    """Write to counts[i] how many rows of image i reach the floor (a NaN does not)."""
    for image in range(first, last):
        n = 0
        for part in range(offsets.shape[0]):
            for row in range(offsets[part, image], offsets[part, image + 1]):
                n += scores[row] >= floor
        counts[image] = n


@kernel
def pack_images(first, last, raw, floor, n_labels, table, counts):
    """Fill the table's rows and groups of images first..last-1, and this chunk's counts.

    Three steps per image: copy the good rows; sort them by score and distribute them to their labels,
    which keeps that order; put equal scores of a label into the declared order.
    """
    has_sizes = raw.sizes.shape[0] > 0
    has_present = raw.present.shape[0] > 0
    capacity = 1
    for image in range(first, last):
        capacity = max(capacity, table.image_rows[image + 1] - table.image_rows[image])
    boxes = np.empty((capacity, 4), np.float32)
    scores = np.empty(capacity, np.float64)
    labels = np.empty(capacity, np.int16)
    source = np.empty(capacity, np.int16)
    keys = np.empty(capacity, np.uint64)
    spare = np.empty(capacity, np.uint64)
    digits = np.empty((4, 256), np.int32)
    label_rows = np.empty(n_labels + 1, np.int64)
    zero = np.float32(0.0)
    for image in range(first, last):
        width = height = np.float32(0.0)
        if has_sizes:
            width = raw.sizes[image, 0]
            height = raw.sizes[image, 1]
        n = 0
        for part in range(raw.offsets.shape[0]):
            for row in range(raw.offsets[part, image], raw.offsets[part, image + 1]):
                score = raw.scores[row]
                if has_present and not raw.present[image, raw.source[row]]:
                    counts[ABSENT] += 1
                if not score >= floor:
                    counts[BELOW if np.isfinite(score) else SCORE_NAN] += 1
                    continue
                if score == zero or score == np.inf:
                    counts[SCORE_ZERO if score == zero else SCORE_NAN] += 1
                    continue
                x1 = raw.boxes_xyxy[row, 0] + zero  # turns -0 into 0
                y1 = raw.boxes_xyxy[row, 1] + zero
                x2 = raw.boxes_xyxy[row, 2] + zero
                y2 = raw.boxes_xyxy[row, 3] + zero
                if not (np.isfinite(x1) and np.isfinite(y1) and np.isfinite(x2) and np.isfinite(y2)):
                    counts[BOX_NAN] += 1
                    continue
                if x2 < x1 or y2 < y1:
                    counts[INVERTED] += 1
                    x1, x2 = min(x1, x2), max(x1, x2)
                    y1, y2 = min(y1, y2), max(y1, y2)
                if has_sizes and (x1 < zero or y1 < zero or x2 > width or y2 > height):
                    counts[OUTSIDE] += 1
                    x1, x2 = min(max(x1, zero), width), max(min(x2, width), zero)
                    y1, y2 = min(max(y1, zero), height), max(min(y2, height), zero)
                if not (x2 - x1) * (y2 - y1) > zero:
                    counts[EMPTY] += 1
                    continue
                boxes[n, 0] = x1
                boxes[n, 1] = y1
                boxes[n, 2] = x2
                boxes[n, 3] = y2
                scores[n] = score
                labels[n] = raw.labels[row]
                source[n] = raw.source[row]
                keys[n] = key_of(score, n)
                n += 1
        sort_keys(keys, spare, n, digits)
        for label in range(n_labels + 1):
            label_rows[label] = 0
        for k in range(n):
            label_rows[labels[k] + 1] += 1
        start = table.image_rows[image]
        group = table.group_first[image]
        for label in range(n_labels):
            here = label_rows[label + 1]
            label_rows[label + 1] += label_rows[label]
            if here > 0:
                table.group_rows[group, 0] = start + label_rows[label]
                table.group_rows[group, 1] = start + label_rows[label + 1]
                table.group_labels[group] = label
                group += 1
        for k in range(n):
            label = labels[row_of(keys[k])]
            spare[label_rows[label]] = keys[k]
            label_rows[label] += 1
        for g in range(table.group_first[image], group):
            lo = table.group_rows[g, 0] - start
            hi = table.group_rows[g, 1] - start
            settle_ties(spare, keys, lo, hi, scores, boxes, source)
        for k in range(n):
            row = row_of(spare[k])
            for c in range(4):
                table.boxes_xyxy[start + k, c] = boxes[row, c]
            table.scores[start + k] = scores[row]
            table.source[start + k] = source[row]
