"""Calibration: a member's scores brought to a common scale by saved maps, never refitted on test.

A map is a rising line of knots, one for all classes or one per class; scores between two knots are
interpolated, so calibrated scores keep their order. Kinds, all fitted on out-of-fold boxes:

    minmax    the member's lowest and highest score go to LOWEST and 1
    rank      a score becomes the share of the member's boxes that are not above it
    isotonic  the share of correct boxes at that score, made rising (Zadrozny and Elkan, 2002); ties of
              its steps keep a hundredth of the old score, so that the order within a step survives
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from pipeline.data.records import STRICT

LOWEST = 0.001  # calibrated scores stay above 0: a score of 0 would be dropped when fusing
KINDS = ("none", "minmax", "rank", "isotonic")
_KNOTS = 65
_MIN_BOXES = 40  # correct boxes that a class needs for a map of its own
_KEPT_SLOPE = 0.01

Floats = NDArray[np.float64]


Line = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """Maps of one member: `lines[c]` = (scores, calibrated), both rising; one line: for all classes."""

    kind: str
    lines: tuple[Line, ...]

    def __post_init__(self) -> None:
        for scores, calibrated in self.lines:
            rising = all(a < b for a, b in pairwise(scores))
            if not scores or len(scores) != len(calibrated) or not rising:
                raise ValueError("expected lines of rising scores, with as many calibrated ones")

    def apply(self, scores: NDArray[np.float32], labels: NDArray[np.int16]) -> NDArray[np.float32]:
        """(n,) calibrated scores in [LOWEST, 1]."""
        if len(self.lines) == 1:
            return np.interp(scores, *self.lines[0]).astype(np.float32)
        out = np.empty(len(scores), np.float32)
        for label, line in enumerate(self.lines):
            of_class = labels == label
            out[of_class] = np.interp(scores[of_class], *line)
        return out


def fit_calibration(
    kind: str,
    per_class: bool,
    scores: NDArray[np.float32],
    labels: NDArray[np.int16],
    correct: Floats,
    n_classes: int,
) -> Calibration | None:
    """Fit maps to a member's boxes; None for kind "none" or without a box.

    scores, labels, correct (n,): correct is 1 for a box that matches a truth, else 0 (see `correctness`);
    only "isotonic" looks at it. A class with few boxes takes the map of all.
    """
    if kind == "none" or not len(scores):
        return None
    whole = _line(kind, scores, correct)
    if not per_class:
        return Calibration(kind, (whole,))
    lines = []
    for label in range(n_classes):
        of_class = labels == label
        counted = correct[of_class] if kind == "isotonic" else of_class
        enough = counted.sum() >= _MIN_BOXES
        lines.append(_line(kind, scores[of_class], correct[of_class]) if enough else whole)
    return Calibration(kind, tuple(lines))


def _line(kind: str, scores: NDArray[np.float32], correct: Floats) -> Line:
    s = scores.astype(np.float64)
    if kind == "minmax":
        return _rising(np.array([s.min(), s.max()]), np.array([LOWEST, 1.0]))
    if kind == "rank":
        shares = np.linspace(0, 1, _KNOTS)
        return _rising(np.quantile(s, shares), shares)
    from sklearn.isotonic import IsotonicRegression  # slow to import

    knots = np.unique(np.quantile(s, np.linspace(0, 1, _KNOTS)))
    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(s, correct)
    return _rising(knots, (1 - _KEPT_SLOPE) * fitted.predict(knots) + _KEPT_SLOPE * knots)


def _rising(x: Floats, y: Floats) -> Line:
    """Knots with different, rising x, of equal ones the last, and values in [LOWEST, 1]."""
    last = np.append(np.diff(x) > 0, True)
    values = np.maximum.accumulate(np.clip(y[last], LOWEST, 1.0))
    return tuple(x[last].tolist()), tuple(values.tolist())
