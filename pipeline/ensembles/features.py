"""Features of a fused box for the rescoring model: what the members predict at its place.

Everything is taken from the boxes of the same image alone, so an image gives the same numbers
wherever it comes from: out-of-fold or test, alone or among others.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.kernels.jit import inlined, kernel
from pipeline.kernels.threads import chunks, over_chunks, thread_count

MEETS = 0.5  # a member's box with at least this IoU counts for a fused one
NEAR, HOLDS = 0.3, 0.8  # IoU of neighbours that are counted; share of a box that lies inside another

PER_MEMBER = ("best score", "its IoU", "boxes", "best score of another class")
SHARED = (
    "score",
    "votes",
    "lowest",
    "highest",
    "mean",
    "spread of the corners",
    "width",
    "height",
    "root of the area",
    "aspect",
    "centre x",
    "centre y",
    "left",
    "top",
    "right",
    "bottom",
    "class",
    "rank",
    "rank in its class",
    "best of the image",
    "best of its class",
    "sum of scores",
    "sum of its class",
    "boxes above 0.1",
    "boxes above 0.3",
    "boxes",
    "IoU with a better one",
    "score of that",
    "IoU with a worse one",
    "near ones of its class",
    "IoU with another class",
    "best score of another class",
    "sum of other classes",
    "that class",
    "IoU with that",
    "share inside a better one",
    "score of the outer",
    "share of a better one inside",
    "score of the inner",
    "boxes inside",
    "share inside a better one of its class",
    "share of a better one of its class inside",
    "its score among all classes here",
)


class MemberRows(NamedTuple):
    """The members' boxes as compiled code reads them: `Boxes` with the member (n,) of each box."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    member: NDArray[np.int16]
    offsets: NDArray[np.int64]


def feature_names(n_members: int) -> list[str]:
    """Names of the columns of `features`."""
    per_member = [f"member {k}: {name}" for k in range(n_members) for name in PER_MEMBER]
    return [*SHARED, *per_member]


def features(
    fused: Boxes,
    members: MemberRows,
    sizes: NDArray[np.float64],
    n_members: int,
    n_classes: int,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """(n, columns) features of the fused boxes, which lie by image and then by score, highest first.

    sizes (m, 2): width and height of the images.
    """
    out = np.zeros((len(fused.scores), len(feature_names(n_members))), np.float32)
    n_threads = thread_count(threads)

    def work(_: int, first: int, last: int) -> None:
        describe_images(first, last, fused.rows, members, sizes, n_members, n_classes, out)

    over_chunks(work, chunks(fused.offsets, n_threads), n_threads)
    return out


@inlined
def _inner(boxes, i, others, j):
    """Area that a box shares with another."""
    width = min(boxes[i, 2], others[j, 2]) - max(boxes[i, 0], others[j, 0])
    height = min(boxes[i, 3], others[j, 3]) - max(boxes[i, 1], others[j, 1])
    return 0.0 if width <= 0 or height <= 0 else float(width) * float(height)


@inlined
def _area(boxes, i):
    return float(boxes[i, 2] - boxes[i, 0]) * float(boxes[i, 3] - boxes[i, 1])


@inlined
def _describe_members(i, area, fused, members, lo, hi, n_members, at_place, corners, row, start):
    """Per member the best box at this place: columns from `start` on, and the summary of all."""
    at_place[:] = 0.0
    for j in range(lo, hi):
        inner = _inner(fused.boxes_xyxy, i, members.boxes_xyxy, j)
        if inner <= 0.0:
            continue
        iou = inner / (area + _area(members.boxes_xyxy, j) - inner)
        if iou < MEETS:
            continue
        s = members.member[j]
        score = members.scores[j]
        if members.labels[j] != fused.labels[i]:
            at_place[s, 3] = max(at_place[s, 3], score)
            continue
        at_place[s, 2] += 1
        if score > at_place[s, 0]:
            at_place[s, 0] = score
            at_place[s, 1] = iou
            for c in range(4):
                corners[s, c] = members.boxes_xyxy[j, c]
    votes = 0
    lowest, highest, total = 2.0, 0.0, 0.0
    for s in range(n_members):
        votes += at_place[s, 2] > 0
        lowest = min(lowest, at_place[s, 0])
        highest = max(highest, at_place[s, 0])
        total += at_place[s, 0]
        for k in range(4):
            row[start + 4 * s + k] = at_place[s, k]
    spread = 0.0
    if votes > 1:
        for c in range(4):
            mean, square = 0.0, 0.0
            for s in range(n_members):
                if at_place[s, 2] > 0:
                    mean += corners[s, c] / votes
            for s in range(n_members):
                if at_place[s, 2] > 0:
                    square += (corners[s, c] - mean) ** 2 / votes
            side = fused.boxes_xyxy[i, 2 + c % 2] - fused.boxes_xyxy[i, c % 2]
            spread += np.sqrt(square) / side
    row[1], row[2], row[3], row[4], row[5] = votes, lowest, highest, total / n_members, spread


@inlined
def _place(i, area, fused, width, height, row):
    """Size, shape and place in parts of the image."""
    x1, y1 = fused.boxes_xyxy[i, 0], fused.boxes_xyxy[i, 1]
    x2, y2 = fused.boxes_xyxy[i, 2], fused.boxes_xyxy[i, 3]
    row[6], row[7] = (x2 - x1) / width, (y2 - y1) / height
    row[8], row[9] = np.sqrt(area / (width * height)), (x2 - x1) / (y2 - y1)
    row[10], row[11] = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
    row[12], row[13], row[14], row[15] = x1 / width, y1 / height, 1 - x2 / width, 1 - y2 / height


@inlined
def _neighbours(i, area, fused, lo, hi, row):
    """Other fused boxes of the image that overlap this one; those before it have higher scores."""
    label = fused.labels[i]
    before = 0
    other_sum, other_best, other_class, other_iou = 0.0, 0.0, -1.0, 0.0
    for j in range(lo, hi):
        if j == i:
            continue
        same = fused.labels[j] == label
        before += same and j < i
        inner = _inner(fused.boxes_xyxy, i, fused.boxes_xyxy, j)
        if inner <= 0.0:
            continue
        other_area = _area(fused.boxes_xyxy, j)
        score = fused.scores[j]
        iou = inner / (area + other_area - inner)
        share, other_share = inner / area, inner / other_area
        if same:
            row[29] += iou > NEAR
            if j < i:
                if iou > row[26]:
                    row[26], row[27] = iou, score
                row[40] = max(row[40], share)
                row[41] = max(row[41], other_share)
            else:
                row[28] = max(row[28], iou)
        elif iou > MEETS:
            other_sum += score
            row[30] = max(row[30], iou)
            if score > other_best:
                other_best, other_class, other_iou = score, float(fused.labels[j]), iou
        if j < i:
            if share > row[35]:
                row[35], row[36] = share, score
            if other_share > row[37]:
                row[37], row[38] = other_share, score
        row[39] += other_share > HOLDS
    row[18] = before
    row[31], row[32], row[33], row[34] = other_best, other_sum, other_class, other_iou
    row[42] = fused.scores[i] / (fused.scores[i] + other_sum)


@kernel
def describe_images(first, last, fused, members, sizes, n_members, n_classes, out):
    """Write the features of images first..last-1."""
    at_place = np.zeros((n_members, 4), np.float64)
    corners = np.zeros((n_members, 4), np.float64)
    class_sum = np.zeros(n_classes, np.float64)
    class_best = np.zeros(n_classes, np.float64)
    start = 43
    for image in range(first, last):
        lo, hi = fused.offsets[image], fused.offsets[image + 1]
        class_sum[:] = 0.0
        class_best[:] = 0.0
        total, sure, surer = 0.0, 0, 0
        for i in range(lo, hi):
            score = fused.scores[i]
            total += score
            sure += score > 0.1
            surer += score > 0.3
            class_sum[fused.labels[i]] += score
            class_best[fused.labels[i]] = max(class_best[fused.labels[i]], score)
        for i in range(lo, hi):
            row = out[i]
            label = fused.labels[i]
            area = _area(fused.boxes_xyxy, i)
            row[0] = fused.scores[i]
            _describe_members(
                i,
                area,
                fused,
                members,
                members.offsets[image],
                members.offsets[image + 1],
                n_members,
                at_place,
                corners,
                row,
                start,
            )
            _place(i, area, fused, sizes[image, 0], sizes[image, 1], row)
            row[16], row[17] = label, i - lo
            row[19], row[20], row[21], row[22] = fused.scores[lo], class_best[label], total, class_sum[label]
            row[23], row[24], row[25] = sure, surer, hi - lo
            _neighbours(i, area, fused, lo, hi, row)
