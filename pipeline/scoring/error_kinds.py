"""Kinds of errors and the mAP that each costs.

Source: Bolya, Foley, Hays, Hoffman: "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020, and its package tidecv 1.0.1, whose order of questions, choice of the box that is put right
and oracles are taken over. With tf the metric's IoU and tb = 0.1, a box that found no truth is of the
first kind that fits:

    localisation    its highest IoU with truth of its class lies in tb..tf
    classification  its highest IoU with truth of other classes reaches tf
    duplicate       its highest IoU with truth of its class exceeds tf: another box took that
    background      its highest IoU with any truth is at most tb
    both            what is left: wrong class and badly placed

A truth that nothing found is `missed` unless a localisation or classification error points at it. An
oracle puts right all errors of one kind: the best-scored of the errors that point at the same unfound
truth becomes a true box (of the truth's class), all other boxes of the kind vanish, missed truths
are not counted; what mAP rises by is what the kind cost. Costs do not add up: each is measured alone.

Other than tidecv, 100 boxes per image and class take part (there: an image), classes that never had
truth are left out of the mean, and boxes in crowds are no errors. Costs thus belong to the metric's mAP.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.jit import kernel
from pipeline.kernels.threads import chunks, over_chunks, thread_count
from pipeline.scoring.matching import FALSE, LEFT_OUT, TRUE, Matches, overlap
from pipeline.scoring.ranking import RECALLS, Ranked, average_precisions, rank

BACKGROUND_IOU = 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = range(len(KINDS))
NO_ERROR = -1


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of a set of matches at one IoU.

    kind (n,) int8: an index of KINDS for each box, or NO_ERROR. target (n,) int32: the truth that a
    localisation or classification error points at, else -1. fixed (n,) bool: the box becomes true when
    its kind is put right. taken, missed (t,) bool: truths that a box took, and those of kind MISSED.
    """

    matches: Matches
    kind: NDArray[np.int8]
    target: NDArray[np.int32]
    fixed: NDArray[np.bool_]
    taken: NDArray[np.bool_]
    missed: NDArray[np.bool_]

    def counts(self) -> dict[str, int]:
        """How many errors there are of each kind."""
        counts = np.bincount(self.kind[self.kind >= 0], minlength=len(KINDS))
        counts[MISSED] = self.missed.sum()
        return dict(zip(KINDS, counts.tolist(), strict=True))


def error_kinds(
    matches: Matches, iou: float, background_iou: float = BACKGROUND_IOU, threads: int | None = None
) -> Errors:
    """Classify each false box and each missed truth by the kind of error.

    matches: at the one IoU `iou`, made with `owners`; 0 < background_iou < iou.
    """
    rows = matches.truth.rows
    n, state = len(matches.boxes), matches.state[0]
    taken = np.zeros(len(rows.labels), np.bool_)
    taken[matches.owner[0, state == TRUE]] = True
    kind = np.empty(n, np.int8)
    target = np.empty(n, np.int32)
    n_threads = thread_count(threads)

    def work(_: int, first: int, last: int) -> None:
        explain(first, last, matches.boxes.rows, rows, state, iou, background_iou, kind, target)

    over_chunks(work, chunks(matches.boxes.offsets, n_threads), n_threads)
    pointing = np.flatnonzero(target >= 0)
    pointing = pointing[~taken[target[pointing]]]
    first_of_truth = np.unique(target[pointing], return_index=True)[1]  # within an image: the best score
    fixed = np.zeros(n, np.bool_)
    fixed[pointing[first_of_truth]] = True
    missed = ~taken & ~rows.crowd
    missed[target[pointing]] = False
    return Errors(matches, kind, target, fixed, taken, missed)


def error_costs(
    errors: Errors, recalls: NDArray[np.float64] = RECALLS, threads: int | None = None
) -> dict[str, Any]:
    """The mAP, and for each kind how many errors there are and the mAP that they cost.

    Also that of all `false_boxes` (gone, with recall as it is) and of all `unfound_truths` (not
    counted, with precision as it is). A cost below 0 is rounding of the recall points, and given as 0.
    """
    matches = errors.matches
    state = matches.state[0]
    before = rank(matches, threads)
    total = _mean(before, before, recalls)
    here = ~matches.truth.rows.crowd

    def cost(count: int, after: Ranked) -> dict[str, Any]:
        return {"count": count, "map_lost": round(max(_mean(after, before, recalls) - total, 0.0), 5)}

    def without_truths(gone: NDArray[np.bool_]) -> Ranked:
        left = ~gone[here]
        return replace(before, truth_labels=before.truth_labels[left], truth_images=before.truth_images[left])

    counts = errors.counts()
    kinds = {
        name: cost(
            counts[name], without_truths(errors.missed) if k == MISSED else _put_right(errors, k, threads)
        )
        for k, name in enumerate(KINDS)
    }
    no_false = replace(matches, state=np.where(state == FALSE, np.int8(LEFT_OUT), state)[None])
    unfound = here & ~errors.taken
    return {
        "map": round(total, 5),
        "kinds": kinds,
        "false_boxes": cost(int((state == FALSE).sum()), rank(no_false, threads)),
        "unfound_truths": cost(int(unfound.sum()), without_truths(unfound)),
    }


def _put_right(errors: Errors, kind: int, threads: int | None) -> Ranked:
    """The boxes ranked anew, with all errors of a kind put right."""
    matches = errors.matches
    of_kind = errors.kind == kind
    right = of_kind & errors.fixed
    state = matches.state.copy()
    state[0, of_kind] = LEFT_OUT
    state[0, right] = TRUE
    labels = matches.boxes.labels.copy()
    labels[right] = matches.truth.rows.labels[errors.target[right]]
    return rank(replace(matches, boxes=replace(matches.boxes, labels=labels), state=state), threads)


def _mean(ranked: Ranked, before: Ranked, recalls: NDArray[np.float64]) -> float:
    """mAP over the classes that had truth before.

    One that has none left (all missed, not counted) scores 0 while it has boxes, else it is left
    out, as in tidecv.
    """
    had = np.bincount(before.truth_labels, minlength=ranked.n_classes) > 0
    ap = average_precisions(ranked, recalls)[0]
    ap[had & np.isnan(ap) & (np.diff(ranked.rows.class_rows) > 0)] = 0
    ap = ap[had & ~np.isnan(ap)]
    return float(ap.mean()) if len(ap) else 0.0


@kernel
def explain(first, last, boxes, truth, state, iou, background_iou, kind, target):
    """Write the kind of each false box of images first..last-1, and the truth it points at."""
    for image in range(first, last):
        for row in range(boxes.offsets[image], boxes.offsets[image + 1]):
            kind[row] = NO_ERROR
            target[row] = -1
            if state[row] != FALSE:
                continue
            x1 = np.float64(boxes.boxes_xyxy[row, 0])
            y1 = np.float64(boxes.boxes_xyxy[row, 1])
            w = np.float64(boxes.boxes_xyxy[row, 2]) - x1
            h = np.float64(boxes.boxes_xyxy[row, 3]) - y1
            own, other = 0.0, 0.0
            own_at, other_at = -1, -1
            for g in range(truth.offsets[image], truth.offsets[image + 1]):
                if truth.crowd[g]:
                    continue
                inner = overlap(x1, y1, x1 + w, y1 + h, w * h, truth, g)
                if truth.labels[g] != boxes.labels[row]:
                    if inner > other:
                        other, other_at = inner, g
                    continue
                if inner > own:
                    own, own_at = inner, g
            if background_iou <= own <= iou:
                kind[row], target[row] = LOCALISATION, own_at
            elif other >= iou:
                kind[row], target[row] = CLASSIFICATION, other_at
            elif own > iou:
                kind[row] = DUPLICATE
            elif max(own, other) <= background_iou:
                kind[row] = BACKGROUND
            else:
                kind[row] = BOTH
