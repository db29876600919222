"""The kernels of packing: filter, repair, group by image and label, sort by the declared order."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.fusion.jit import inlined, kernel
from pipeline.fusion.order import key_of, row_of, settle_ties, sort_keys

# Places in the table of counts that `pack_images` fills, one row a chunk.
BELOW, SCORE_NAN, SCORE_ZERO, BOX_NAN, INVERTED, OUTSIDE, EMPTY, ABSENT = range(8)
N_COUNTS = 8


class Raw(NamedTuple):
    """The caller's rows. `offsets` (parts, m+1): part p holds the rows offsets[p, i]:offsets[p, i+1]
    of image i. `sizes` (m, 2) and `present` (m, n_sources) may have no rows, for "not given"."""

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


@inlined
def _mix(value):
    """Finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit depends on all."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@inlined
def _order_twins(keys, spare, lo, hi, scores, boxes, source, tags, content):
    """Order equal boxes of different sources by what these sources hold in the whole group.

    The sum of the hashes of a source's boxes does not depend on rows' or sources' order. Sources
    that hold exactly the same are interchangeable, so for them the number decides.
    """
    for k in range(len(content)):
        content[k] = 0
    for k in range(lo, hi):
        row = row_of(keys[k])
        code = np.uint64(np.float32(scores[row]).view(np.uint32))
        for c in range(4):
            code = _mix((code << np.uint64(1)) ^ np.uint64(np.float32(boxes[row, c]).view(np.uint32)))
        content[source[row]] += code
    for k in range(lo, hi):
        row = row_of(keys[k])
        mine = source[row]
        rank = 0
        for other in range(len(content)):
            less = content[other] < content[mine]
            rank += less or (content[other] == content[mine] and other < mine)
        tags[row] = rank
    settle_ties(keys, spare, lo, hi, scores, boxes, tags)


@inlined
def _has_twins(keys, lo, hi, scores, boxes, source):
    """Whether two sources have the same box with the same score; keys are in order by then."""
    for k in range(lo + 1, hi):
        i = row_of(keys[k - 1])
        j = row_of(keys[k])
        if scores[i] == scores[j] and source[i] != source[j]:
            same = True
            for c in range(4):
                same = same and boxes[i, c] == boxes[j, c]
            if same:
                return True
    return False


@kernel
def pack_images(first, last, raw, floor, n_labels, n_sources, table, counts):
    """Fill the table's rows and groups of images first..last-1, and this chunk's counts."""
    has_sizes = raw.sizes.shape[0] > 0
    has_present = raw.present.shape[0] > 0
    capacity = 1
    for image in range(first, last):
        capacity = max(capacity, table.image_rows[image + 1] - table.image_rows[image])
    boxes = np.empty((capacity, 4), np.float32)
    scores = np.empty(capacity, np.float64)
    labels = np.empty(capacity, np.int16)
    source = np.empty(capacity, np.int16)
    tags = np.empty(capacity, np.int32)
    keys = np.empty(capacity, np.uint64)
    spare = np.empty(capacity, np.uint64)
    digits = np.empty((4, 256), np.int32)
    label_rows = np.empty(n_labels + 1, np.int64)
    content = np.empty(n_sources, np.uint64)
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
                tags[n] = raw.source[row]
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
            settle_ties(spare, keys, lo, hi, scores, boxes, tags)
            if _has_twins(spare, lo, hi, scores, boxes, source):
                _order_twins(spare, keys, lo, hi, scores, boxes, source, tags, content)
        for k in range(n):
            row = row_of(spare[k])
            for c in range(4):
                table.boxes_xyxy[start + k, c] = boxes[row, c]
            table.scores[start + k] = scores[row]
            table.source[start + k] = source[row]
