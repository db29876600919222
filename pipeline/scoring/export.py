"""The loss of a metric by exporting with a score floor, or with fewer boxes per image."""

import numpy as np

from pipeline.boxes import Boxes
from pipeline.data.metric import MetricSpec
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import Truth

FLOORS = (0.01, 0.05, 0.3)
LIMIT = 100  # boxes per image: the usual setting of detectors; the configs here have 300


def export_losses(boxes: Boxes, truth: Truth, metric: MetricSpec, value: float) -> dict[str, float]:
    """The loss from `value` by each floor of FLOORS, and by LIMIT boxes per image.

    A negative loss is a gain: metrics that count every false box want a floor. A cut that leaves no
    box out is not listed.
    """
    cuts = {f"floor {floor:g}": boxes.select(boxes.scores >= np.float32(floor)) for floor in FLOORS}
    cuts[f"{LIMIT} boxes"] = boxes.best_per_image(LIMIT)
    return {
        name: value - score(rest, truth, metric, checked=True).value()
        for name, rest in cuts.items()
        if len(rest) < len(boxes)
    }
