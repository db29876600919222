"""The one compiled entry to all fusers: images, groups, weights, order of the result."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.fusion.nms import nms_group
from pipeline.fusion.nmw import nmw_group
from pipeline.fusion.overlap import new_blocks
from pipeline.fusion.soft_nms import soft_nms_group
from pipeline.fusion.wbf import N_SUMS, wbf_group
from pipeline.kernels.jit import inlined, kernel
from pipeline.kernels.order import key_of, row_of, settle_ties, sort_keys

WBF, NMS, SOFT_NMS, NMW = range(4)
AS_GIVEN, BY_TOTAL, BY_HIGHEST = range(3)  # how an image's weights are normalised
CAPPED, ZERO_WEIGHT = range(2)  # places in the counts of a chunk
N_COUNTS = 2


class Parameters(NamedTuple):
    """The parameters of a fuser, in the types that the kernels are compiled for."""

    method: int
    normalise: int
    same_weights: bool
    iou: float
    part: np.float32
    skip: np.float32
    conf_type: int
    allows_overflow: bool
    linear: bool
    sigma: float


class Weights(NamedTuple):
    """The sources' weights, the highest 1; `ranks` counts higher ones, `order` starts with the highest.

    Each (n_sources,).
    """

    values: NDArray[np.float64]
    ranks: NDArray[np.int32]
    order: NDArray[np.int64]


class Image(NamedTuple):
    """The weights that count in an image: (n_sources,), their sum, their highest, how many."""

    weights: NDArray[np.float64]
    total: float
    highest: float
    n_sources: float


class Rows(NamedTuple):
    """The rows that a group is read from: the table itself, or its rows in another order."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    source: NDArray[np.int16]


class Scratch(NamedTuple):
    """A thread's working memory, as long as the largest group; each fuser takes what it needs."""

    blocks: NDArray[np.float32]
    sums: NDArray[np.float64]
    seen: NDArray[np.uint64]
    decayed: NDArray[np.float64]
    heap: NDArray[np.int64]
    visited: NDArray[np.int64]


class Out(NamedTuple):
    """The fused boxes of one image, as long as the image with most rows; `n` (1,) are written."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float64]
    labels: NDArray[np.int32]
    n: NDArray[np.int64]


@inlined
def _image_weights(image, weights, present, out, normalise):
    """The image's weights, written to `out`: absent sources get 0.

    Summed from the highest to the lowest, so that the order of sources does not move the last bit.
    """
    total = 0.0
    highest = 0.0
    count = 0.0
    for source in weights.order:
        weight = weights.values[source]
        if present.shape[0] > 0 and not present[image, source]:
            weight = 0.0
        out[source] = weight
        total += weight
        highest = max(highest, weight)
        count += weight > 0.0
    if normalise != AS_GIVEN and total > 0.0:
        by = total if normalise == BY_TOTAL else highest
        for source in range(len(out)):
            out[source] /= by
    return Image(out, total, highest, count)


@inlined
def _end_of_prefix(scores, lo, hi, skip):
    """First row of lo..hi-1, sorted highest first, with a score below `skip`."""
    while lo < hi:
        middle = (lo + hi) >> 1
        if scores[middle] >= skip:
            lo = middle + 1
        else:
            hi = middle
    return lo


@inlined
def _reorder(table, lo, hi, weights, keys, spare, digits, weighted, tags, rows):
    """Copy the rows lo..hi-1 that have a weight to `rows`, by weighted score; return how many.

    Equal weighted scores: by corners, then the higher weight, then as in the table.
    """
    n = 0
    for row in range(lo, hi):
        source = table.source[row]
        if weights.values[source] > 0.0:
            weighted[row - lo] = weights.values[source] * table.scores[row]
            tags[row - lo] = weights.ranks[source]
            keys[n] = key_of(weighted[row - lo], row - lo)
            n += 1
    sort_keys(keys, spare, n, digits)
    settle_ties(keys, spare, 0, n, weighted, table.boxes_xyxy[lo:hi], tags)
    for k in range(n):
        row = lo + row_of(keys[k])
        rows.boxes_xyxy[k] = table.boxes_xyxy[row]
        rows.scores[k] = table.scores[row]
        rows.source[k] = table.source[row]
    return n


@inlined
def _fuse_group(rows, lo, hi, image, parameters, scratch, out):
    """A new fuser gets its line here."""
    if parameters.method == WBF:
        return wbf_group(rows, lo, hi, image, parameters, scratch, out)
    if parameters.method == NMS:
        return nms_group(rows, lo, hi, image, parameters, scratch, out)
    if parameters.method == SOFT_NMS:
        return soft_nms_group(rows, lo, hi, image, parameters, scratch, out)
    return nmw_group(rows, lo, hi, image, parameters, scratch, out)


@kernel
def fuse_images(first, last, table, weights, present, parameters, boxes_xyxy, scores, labels, sizes, counts):
    """Fuse images first..last-1; write them one after another from image_rows[first] on.

    sizes[i] becomes image i's number of fused boxes; `counts` (N_COUNTS,) is this chunk's.
    """
    longest = 1
    largest = 1
    for image in range(first, last):
        longest = max(longest, table.image_rows[image + 1] - table.image_rows[image])
        for group in range(table.group_first[image], table.group_first[image + 1]):
            largest = max(largest, table.group_rows[group, 1] - table.group_rows[group, 0])
    words = (len(weights.values) + 63) // 64
    scratch = Scratch(
        new_blocks(largest),
        np.empty((largest, N_SUMS), np.float64),
        np.empty((largest, words), np.uint64),
        np.empty(largest, np.float64),
        np.empty(largest, np.int64),
        np.empty(largest, np.int64),
    )
    out = Out(
        np.empty((longest, 4), np.float32),
        np.empty(longest, np.float64),
        np.empty(longest, np.int32),
        np.zeros(1, np.int64),
    )
    keys = np.empty(longest, np.uint64)
    spare = np.empty(longest, np.uint64)
    digits = np.empty((4, 256), np.int32)
    tags = np.empty(largest, np.int32)
    direct = Rows(table.boxes_xyxy, table.scores, table.source)
    sorted_rows = Rows(
        np.empty((largest, 4), np.float32),
        np.empty(largest, np.float32),
        np.empty(largest, np.int16),
    )
    image_weights = np.empty(len(weights.values), np.float64)
    to = table.image_rows[first]
    for number in range(first, last):
        image = _image_weights(number, weights, present, image_weights, parameters.normalise)
        out.n[0] = 0
        for group in range(table.group_first[number], table.group_first[number + 1]):
            lo = table.group_rows[group, 0]
            hi = _end_of_prefix(table.scores, lo, table.group_rows[group, 1], parameters.skip)
            rows = direct
            if not parameters.same_weights:
                kept = _reorder(
                    table,
                    lo,
                    hi,
                    weights,
                    keys,
                    spare,
                    digits,
                    scratch.decayed,
                    tags,
                    sorted_rows,
                )
                counts[ZERO_WEIGHT] += hi - lo - kept
                rows = sorted_rows
                lo = 0
                hi = kept
            if lo < hi:
                n = _fuse_group(rows, lo, hi, image, parameters, scratch, out)
                label = np.int32(table.group_labels[group])
                for k in range(out.n[0], out.n[0] + n):
                    out.labels[k] = label
                out.n[0] += n
        n = out.n[0]
        for k in range(n):
            score = np.float64(np.float32(out.scores[k]))
            if score > 1.0:
                score = 1.0
                counts[CAPPED] += 1
            out.scores[k] = score
            keys[k] = key_of(score, k)
        sort_keys(keys, spare, n, digits)
        settle_ties(keys, spare, 0, n, out.scores, out.boxes_xyxy, out.labels)
        for k in range(n):
            row = row_of(keys[k])
            for c in range(4):
                boxes_xyxy[to + k, c] = out.boxes_xyxy[row, c]
            scores[to + k] = np.float32(out.scores[row])
            labels[to + k] = np.int16(out.labels[row])
        sizes[number] = n
        to += n
