"""The assessment of a prediction table: the competition's metric, COCO's numbers, the analysis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import Dataset
from pipeline.data.metric import MetricSpec
from pipeline.data.predictions import Predictions
from pipeline.scoring.analysis import analyse
from pipeline.scoring.bootstrap import compare, summary
from pipeline.scoring.coco import evaluate
from pipeline.scoring.export import export_losses
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth


@dataclass
class Assessment:
    """A table's scores, its analysis, and its metric on each resample of its images."""

    scores: dict[str, Any]
    analysis: dict[str, Any]
    images: NDArray[np.int32]
    resamples: NDArray[np.float64]


def assess(
    table: Predictions, dataset: Dataset, classes: tuple[str, ...], metric: MetricSpec, seed: int
) -> Assessment:
    """Score and analyse a table on the images that it predicted, against the dataset's truth.

    The competition's own metric comes from our kernels, with its 95 % interval and the loss by a score
    floor; COCO's numbers come from pycocotools. seed: of the bootstrap.
    """
    ids = table.meta.image_ids
    truth = group_truth(dataset.annotations, dataset.images, ids, len(classes))
    scored = score(table, truth, metric)
    own, values = summary(scored, metric, len(ids), seed)
    losses = export_losses(table, truth, metric, scored.value())
    own["lost_by_export"] = {name: round(loss, 5) for name, loss in losses.items()}
    scores = evaluate(table, dataset.annotations, classes) | {"split": table.meta.split, "competition": own}
    return Assessment(scores, analyse(table, truth, classes, iou=iou_of(metric)), ids, values)


def iou_of(metric: MetricSpec) -> float:
    """The metric's IoU, the lowest of several."""
    options = metric.options
    return float(options["ious"][0] if "ious" in options else options.get("iou", 0.5))


def comparisons(assessments: Mapping[str, Assessment]) -> list[dict[str, Any]]:
    """The first of two tables against the second, or the best of more against each other one.

    Only tables of the same images are compared.
    """
    if len(assessments) < 2:
        return []
    names = list(assessments)
    first = names[0] if len(names) == 2 else max(names, key=lambda name: value_of(assessments[name]))
    others = [
        name
        for name in names
        if name != first
        and assessments[name].scores["split"] == assessments[first].scores["split"]
        and np.array_equal(assessments[name].images, assessments[first].images)
    ]
    best = assessments[first]
    results = []
    for name in others:
        other = assessments[name]
        result = compare(value_of(best), best.resamples, value_of(other), other.resamples)
        gap = result.difference
        results.append(
            {
                "a": first,
                "b": name,
                "difference": round(gap.value, 5),
                "low": round(gap.low, 5),
                "high": round(gap.high, 5),
                "wins": round(result.wins, 4),
                "noise": result.is_noise,
            }
        )
    return results


def value_of(assessment: Assessment) -> float:
    return float(assessment.scores["competition"]["value"])
