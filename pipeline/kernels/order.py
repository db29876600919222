"""The declared order of boxes, and sorting by it.

Boxes are sorted by score, highest first; equal scores by x1, y1, x2, y2, lowest first; then by a `tag`
that the caller chooses; boxes that are equal in all of that keep their order. Sorting is a radix
sort of 64-bit keys: in the high half the float32 score's bits (turned, so that the highest comes
first), in the low half the row. Runs of equal keys are then sorted by a merge sort that compares
everything, so that even 100,000 equal scores take n log n steps.
"""

import numpy as np

from pipeline.kernels.jit import inlined

_FEW = 24  # below this an insertion sort is the faster one


@inlined
def key_of(score, row):
    """Sort key of a score in [0, 1], in the row `row` of the arrays to be sorted."""
    bits = np.float32(score).view(np.uint32)
    return (np.uint64(np.uint32(0x3F800000) - bits) << np.uint64(32)) | np.uint64(row)


@inlined
def row_of(key):
    """The row that a sort key belongs to."""
    return np.int64(key & np.uint64(0xFFFFFFFF))


@inlined
def sort_keys(keys, spare, n, counts):
    """Sort keys[:n]; `spare` is as long as `keys`, `counts` an int32 (4, 256) scratch array."""
    if n <= _FEW:
        for i in range(1, n):
            key = keys[i]
            j = i - 1
            while j >= 0 and keys[j] > key:
                keys[j + 1] = keys[j]
                j -= 1
            keys[j + 1] = key
        return
    for digit in range(4):
        for value in range(256):
            counts[digit, value] = 0
    for i in range(n):
        high = keys[i] >> np.uint64(32)
        counts[0, high & np.uint64(255)] += 1
        counts[1, (high >> np.uint64(8)) & np.uint64(255)] += 1
        counts[2, (high >> np.uint64(16)) & np.uint64(255)] += 1
        counts[3, high >> np.uint64(24)] += 1
    for digit in range(4):
        total = 0
        for value in range(256):
            here = counts[digit, value]
            counts[digit, value] = total
            total += here
    source = keys
    target = spare
    for digit in range(4):
        shift = np.uint64(32 + 8 * digit)
        for i in range(n):
            key = source[i]
            value = (key >> shift) & np.uint64(255)
            target[counts[digit, value]] = key
            counts[digit, value] += 1
        source, target = target, source


@inlined
def _before(i, j, scores, boxes, tags):
    """Whether row i comes strictly before row j."""
    if scores[i] != scores[j]:
        return scores[i] > scores[j]
    for c in range(4):
        if boxes[i, c] != boxes[j, c]:
            return boxes[i, c] < boxes[j, c]
    return tags[i] < tags[j]


@inlined
def _sort_run(keys, spare, lo, hi, scores, boxes, tags):
    """Stable sort of keys[lo:hi] by the whole rule: insertion in short pieces, then merging."""
    for first in range(lo, hi, _FEW):
        for i in range(first + 1, min(first + _FEW, hi)):
            key = keys[i]
            j = i - 1
            while j >= first and _before(row_of(key), row_of(keys[j]), scores, boxes, tags):
                keys[j + 1] = keys[j]
                j -= 1
            keys[j + 1] = key
    width = _FEW
    while width < hi - lo:
        for first in range(lo, hi - width, 2 * width):
            middle = first + width
            last = min(middle + width, hi)
            for k in range(first, middle):
                spare[k] = keys[k]
            left, right, to = first, middle, first
            while left < middle and right < last:
                if _before(row_of(keys[right]), row_of(spare[left]), scores, boxes, tags):
                    keys[to] = keys[right]
                    right += 1
                else:
                    keys[to] = spare[left]
                    left += 1
                to += 1
            while left < middle:
                keys[to] = spare[left]
                left += 1
                to += 1
        width *= 2


@inlined
def settle_ties(keys, spare, lo, hi, scores, boxes, tags):
    """Put the runs of equal scores in sorted keys[lo:hi] into the declared order."""
    i = lo
    while i < hi - 1:
        high = keys[i] >> np.uint64(32)
        end = i + 1
        while end < hi and keys[end] >> np.uint64(32) == high:
            end += 1
        if end - i > 1:
            _sort_run(keys, spare, i, end, scores, boxes, tags)
        i = end
