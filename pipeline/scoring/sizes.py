"""Average precision by the size of the boxes, as COCO has it.

Source: pycocotools, `evaluateImg` and `accumulate`, to which it is equal: truth of other sizes is
ignored like crowd boxes (but may be taken once only), and so are boxes of other sizes that find
nothing. It reads a true box's size from `area`, in COCO's own files that of the mask; here it is that
of the box.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.kernels.jit import kernel
from pipeline.kernels.threads import chunks, over_chunks, thread_count
from pipeline.scoring.matching import FALSE, IGNORED, LEFT_OUT, TRUE, Matches, overlap
from pipeline.scoring.ranking import average_precisions, rank
from pipeline.scoring.truth import Truth

SIZES = {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # pixels^2


@dataclass(frozen=True, eq=False)
class OfSize:
    """truths, ap (n_classes,): of one size, the latter NaN for a class without truth of that size."""

    truths: NDArray[np.int64]
    ap: NDArray[np.float64]

    def as_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Truths, mAP over the classes that have truth of this size, and AP of each class."""
        ap = [None if np.isnan(value) else round(float(value), 5) for value in self.ap]
        return {
            "truths": int(self.truths.sum()),
            "map": round(float(np.nanmean(self.ap)), 5) if self.truths.any() else None,
            "ap": dict(zip(classes, ap, strict=True)),
        }


def ap_by_size(
    boxes: Boxes, truth: Truth, iou: float, limit: int, threads: int | None = None
) -> dict[str, OfSize]:
    """Average precision at one IoU of the true boxes of each of SIZES; a bound belongs to both sizes.

    limit: boxes of an image and class that take part, from the highest score on.
    """
    n_threads = thread_count(threads)
    ranges = chunks(boxes.offsets, n_threads)
    sizes = {}
    for name, (low, high) in SIZES.items():
        area = truth.rows.boxes_xywh[:, 2] * truth.rows.boxes_xywh[:, 3]
        counted = ~truth.rows.crowd & (area >= low) & (area <= high)
        state = np.empty((1, len(boxes)), np.int8)
        rules = (truth.n_classes, counted, min(iou, 1 - 1e-10), limit, low, high, state[0])

        def work(_: int, first: int, last: int, rules: tuple[Any, ...] = rules) -> None:
            match_size(first, last, boxes.rows, truth.rows, *rules)

        over_chunks(work, ranges, n_threads)
        # What is not counted is not among the truths that recall divides by, as crowd boxes are not.
        of_size = replace(truth, rows=truth.rows._replace(crowd=~counted))
        ranked = rank(Matches(boxes, of_size, state, np.empty((1, 0), np.int32)), threads)
        sizes[name] = OfSize(of_size.counts, average_precisions(ranked)[0])
    return sizes


@kernel
def match_size(first, last, boxes, truth, n_classes, counted, iou, limit, low, high, state):
    """Write the state of each box of images first..last-1 when only `counted` truth counts."""
    seen = np.zeros(n_classes, np.int64)
    for image in range(first, last):
        lo, hi = truth.offsets[image], truth.offsets[image + 1]
        taken = np.zeros(hi - lo, np.bool_)
        seen[:] = 0
        for row in range(boxes.offsets[image], boxes.offsets[image + 1]):
            label = boxes.labels[row]
            seen[label] += 1
            if seen[label] > limit:
                state[row] = LEFT_OUT
                continue
            x1 = np.float64(boxes.boxes_xyxy[row, 0])
            y1 = np.float64(boxes.boxes_xyxy[row, 1])
            w = np.float64(boxes.boxes_xyxy[row, 2]) - x1
            h = np.float64(boxes.boxes_xyxy[row, 3]) - y1
            best = -1
            most = iou
            for g in range(lo, hi):
                if truth.labels[g] != label or (taken[g - lo] and not truth.crowd[g]):
                    continue
                inner = overlap(x1, y1, x1 + w, y1 + h, w * h, truth, g)
                if inner < iou or (best >= 0 and counted[best] and not counted[g]):
                    continue
                # The last of equal ones; one that counts before any that does not.
                if inner >= most or (counted[g] and not counted[best]):
                    most = inner
                    best = g
            if best < 0:
                state[row] = FALSE if low <= w * h <= high else IGNORED
                continue
            taken[best - lo] = True
            state[row] = TRUE if counted[best] else IGNORED
