"""Checks of boxes before they are scored: a clear error instead of a meaningless number."""

import numpy as np

from pipeline.boxes import Boxes
from pipeline.errors import PipelineError
from pipeline.kernels.jit import kernel
from pipeline.kernels.threads import chunks, over_chunks, thread_count
from pipeline.scoring.truth import Truth

MARGIN = 0.5  # pixels that a corner may lie outside its image
GOOD, SCORE, CORNER, AREA, OUTSIDE, LABEL, ORDER = range(7)
EXPECTED = {
    SCORE: "a score in [0, 1]",
    CORNER: "finite corners",
    AREA: "x2 > x1 and y2 > y1",
    OUTSIDE: "corners inside the image",
    LABEL: "a label of the competition",
    ORDER: "scores falling within an image",
}


def check_boxes(boxes: Boxes, truth: Truth, name: str = "boxes", threads: int | None = None) -> None:
    """Raise PipelineError at the first box that cannot be scored.

    A score that is not in [0, 1] or not finite, a corner that is not finite or lies more than MARGIN
    outside its image, a box without area, an unknown label, rows out of order.
    """
    n_threads = thread_count(threads)
    ranges = chunks(boxes.offsets, n_threads)
    faults = np.zeros((len(ranges), 3), np.int64)  # what, row, image

    def work(k: int, first: int, last: int) -> None:
        first_fault(first, last, boxes.rows, truth.sizes, truth.n_classes, MARGIN, faults[k])

    over_chunks(work, ranges, n_threads)
    for what, row, image in faults.tolist():
        if what != GOOD:
            width, height = truth.sizes[image]
            raise PipelineError(
                f"{name}: row {row} (image {truth.image_ids[image]}, {width:g} x {height:g}): expected "
                f"{EXPECTED[what]}; score {boxes.scores[row]}, box {boxes.boxes_xyxy[row].tolist()}, "
                f"label {boxes.labels[row]} of 0..{truth.n_classes - 1}"
            )


@kernel
def first_fault(first, last, boxes, sizes, n_classes, margin, fault):
    """Write the fault of the first bad row of images first..last-1, its row and image."""
    for image in range(first, last):
        lo = boxes.offsets[image]
        for row in range(lo, boxes.offsets[image + 1]):
            x1, y1 = boxes.boxes_xyxy[row, 0], boxes.boxes_xyxy[row, 1]
            x2, y2 = boxes.boxes_xyxy[row, 2], boxes.boxes_xyxy[row, 3]
            what = GOOD
            if not 0 <= boxes.scores[row] <= 1:  # NaN too
                what = SCORE
            elif not np.isfinite(x1 + y1 + x2 + y2):
                what = CORNER
            elif not (x2 > x1 and y2 > y1):
                what = AREA
            elif min(x1, y1) < -margin or x2 > sizes[image, 0] + margin or y2 > sizes[image, 1] + margin:
                what = OUTSIDE
            elif not 0 <= boxes.labels[row] < n_classes:
                what = LABEL
            elif row > lo and boxes.scores[row] > boxes.scores[row - 1]:
                what = ORDER
            if what != GOOD:
                fault[0], fault[1], fault[2] = what, row, image
                return
