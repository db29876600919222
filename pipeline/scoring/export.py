"""What a table would have lost by being exported with a score floor, or with fewer boxes an image."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.metric import MetricSpec
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import Found, HasBoxes, Truth

FLOORS = (0.01, 0.05, 0.3)
LIMIT = 100  # boxes an image; the detectors' usual setting, against 300 of the configs here


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the boxes; see `HasBoxes`."""

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    offsets: NDArray[np.int64]


def kept(found: Found, keep: NDArray[np.bool_]) -> HasBoxes:
    """The boxes of the rows where `keep` (n,) is true."""
    counted = np.concatenate([[0], np.cumsum(keep)])
    return _Part(found.boxes_xyxy[keep], found.scores[keep], found.labels[keep], counted[found.image_rows])


def export_losses(found: Found, truth: Truth, metric: MetricSpec, value: float) -> dict[str, float]:
    """How far the metric falls from `value` by each floor of FLOORS, and by LIMIT boxes an image.

    A negative loss is a gain: metrics that count every false box want a floor. A cut that leaves no
    box out is not listed.
    """
    place = np.arange(len(found.scores)) - np.repeat(found.image_rows[:-1], np.diff(found.image_rows))
    cuts = {f"floor {floor:g}": found.scores >= np.float32(floor) for floor in FLOORS}
    cuts[f"{LIMIT} boxes"] = place < LIMIT
    return {
        name: value - score(kept(found, keep), truth, metric, checked=True).value()
        for name, keep in cuts.items()
        if not keep.all()
    }
