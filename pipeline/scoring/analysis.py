"""The analysis of a prediction table: measures, curves and errors, in one dictionary for json."""

from typing import Any

import numpy as np

from pipeline.boxes import Boxes
from pipeline.data.predictions import Predictions
from pipeline.errors import PipelineError
from pipeline.scoring.confusion import confusion
from pipeline.scoring.crowding import crowding_table
from pipeline.scoring.curves import ScoreCurve, class_curves, pooled_curve, pr_curve
from pipeline.scoring.error_kinds import BACKGROUND_IOU, error_costs, error_kinds
from pipeline.scoring.localisation import overlaps
from pipeline.scoring.matching import match
from pipeline.scoring.metrics import COCO_LIMIT
from pipeline.scoring.ranking import RECALLS, Ranked, average_precisions, rank
from pipeline.scoring.sizes import ap_by_size
from pipeline.scoring.truth import Truth, check_images, no_truth
from pipeline.scoring.validation import check_boxes

GRID = np.linspace(0, 1, 101)  # scores at which the score curves are sampled
BACKGROUND = "background"


def analyse(
    boxes: Boxes,
    truth: Truth,
    classes: tuple[str, ...],
    *,
    iou: float = 0.5,
    score: float = 0.5,
    background_iou: float = BACKGROUND_IOU,
    threads: int | None = None,
) -> dict[str, Any]:
    """Analyse a prediction table of the truth's images, or a fused result over them.

    iou: a box with at least this IoU is true, in (background_iou, 1]. score: precision, recall and F1
    are given at this score, and at the best one: that with the highest F1 of all classes pooled.
    Average precision is COCO's, with 100 boxes per image and class. The confusion matrix and the IoUs
    are those of the boxes with at least the best score. Numbers that are not defined (a class without
    truth) are None.
    Raises PipelineError as `pipeline.scoring.metrics.score` does.
    """
    if not background_iou < iou <= 1:
        raise PipelineError(f"iou={iou:g}: expected an IoU above {background_iou:g}, at most 1")
    name = boxes.name if isinstance(boxes, Predictions) else "boxes"
    check_images(boxes, truth)
    check_boxes(boxes, truth, name, threads)
    if not truth.counts.any():
        raise PipelineError(f"{name}: {no_truth(len(truth.image_ids), len(truth))}")
    matches = match(boxes, truth, np.array([iou]), limit=COCO_LIMIT, owners=True, threads=threads)
    ranked = rank(matches, threads)
    pooled, single = pooled_curve(ranked), class_curves(ranked)
    best = pooled.best()
    at = best.score if best else score
    ap = average_precisions(ranked)[0]
    sizes = ap_by_size(boxes, truth, iou, COCO_LIMIT, threads)
    matrix = confusion(boxes, truth, iou=iou, score=at, threads=threads)
    return {
        "iou": iou,
        "images": len(truth.image_ids),
        "truths": int(truth.counts.sum()),
        "boxes": len(boxes),
        "score": score,
        "best_score": at,
        "all": {"map": round(float(np.nanmean(ap)), 5), **_measures(pooled, score)},
        "classes": {
            name: {
                "truths": curve.total,
                "ap": None if np.isnan(ap[c]) else round(float(ap[c]), 5),
                **_measures(curve, score),
            }
            for c, (name, curve) in enumerate(zip(classes, single, strict=True))
        },
        "confusion": {
            "classes": [*classes, BACKGROUND],
            "counts": matrix.counts.tolist(),
            "shares": matrix.shares().round(5).tolist(),
        },
        "matched_iou": overlaps(matches, iou, at).as_json(),
        "errors": error_costs(error_kinds(matches, iou, background_iou, threads), threads=threads),
        "by_size": {size: of_size.as_json(classes) for size, of_size in sizes.items()},
        "by_truths_in_image": crowding_table(ranked, at),
        "curves": _curves(ranked, classes, pooled, single),
    }


def _measures(curve: ScoreCurve, score: float) -> dict[str, Any]:
    """The measures at the given score and at the curve's own best."""
    best = curve.best()
    return {"at_score": curve.at(score).as_json(), "at_best": best.as_json() if best else None}


def _curves(
    ranked: Ranked, classes: tuple[str, ...], pooled: ScoreCurve, single: list[ScoreCurve]
) -> dict[str, Any]:
    """Precision over recall of each class with truth, raw and as AP reads it, and measures over the score."""
    over_recall = {}
    for label, name in enumerate(classes):
        if curve := pr_curve(ranked, label):
            precision, envelope = curve.at()
            over_recall[name] = {
                "precision": precision.round(5).tolist(),
                "envelope": envelope.round(5).tolist(),
            }

    def over_score(curve: ScoreCurve) -> dict[str, Any]:
        points = [curve.at(score).as_json() for score in GRID]
        return {name: [point[name] for point in points] for name in ("precision", "recall", "f1")}

    return {
        "recalls": RECALLS.round(5).tolist(),
        "over_recall": over_recall,
        "scores": GRID.round(5).tolist(),
        "over_score": over_score(pooled),
        "over_score_of_class": {
            name: over_score(curve) for name, curve in zip(classes, single, strict=True) if curve.total
        },
    }
