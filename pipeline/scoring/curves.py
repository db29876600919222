"""Precision, recall and F1 over the score, and precision over recall."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring.matching import IGNORED, TRUE
from pipeline.scoring.ranking import RECALLS, Ranked

Floats = NDArray[np.float64]


class Measures(NamedTuple):
    """The measures of the boxes with at least a score; NaN where there is nothing to divide by.

    precision TP / (TP + FP), recall TP / (TP + FN), F1 = 2 TP / (2 TP + FP + FN).
    """

    score: float
    true: int
    false: int
    missed: int
    precision: float
    recall: float
    f1: float

    def as_json(self) -> dict[str, Any]:
        """Rounded but for the score, which keeps the same boxes when it is used; None for NaN."""
        rounded = {
            name: None if np.isnan(value) else round(value, 5) for name, value in self._asdict().items()
        }
        return rounded | {"score": self.score}


def measure(score: float, true: int, false: int, total: int) -> Measures:
    """The measures of so many true and false boxes with at least `score` among `total` truths."""

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return Measures(
        float(score),
        true,
        false,
        total - true,
        share(true, true + false),
        share(true, total),
        share(2 * true, true + false + total),
    )


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """True and false boxes with at least a score, for each score that occurs.

    scores (k,) float32 falling, each once; true, false (k,) int64; total: truths. Ignored boxes are
    left out. Boxes with lower scores do not change whether a box is true, so one matching serves all scores.
    """

    scores: NDArray[np.float32]
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    total: int

    def f1(self) -> Floats:
        """(k,) F1 of what has at least each score."""
        return 2 * self.true / (self.true + self.false + self.total)

    def at(self, score: float) -> Measures:
        """The measures of the boxes whose score is at least `score`."""
        kept = int(np.searchsorted(-self.scores, -np.float32(score), side="right"))
        true, false = (int(self.true[kept - 1]), int(self.false[kept - 1])) if kept else (0, 0)
        return measure(score, true, false, self.total)

    def best(self) -> Measures | None:
        """The measures at the score with the highest F1, the highest such score; None without truth
        or boxes."""
        if not self.total or not len(self.scores):
            return None
        return self.at(float(self.scores[np.argmax(self.f1())]))


def score_curve(scores: NDArray[np.float32], state: NDArray[np.int8], total: int) -> ScoreCurve:
    """The curve of boxes ranked by score, highest first; state: what became of each."""
    kept = state != IGNORED
    scores, hit = scores[kept], state[kept] == TRUE
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)) if len(scores) else np.arange(0)
    true = np.cumsum(hit)[last]
    return ScoreCurve(scores[last], true, last + 1 - true, total)


def class_curves(ranked: Ranked) -> list[ScoreCurve]:
    """One curve per class, at the first IoU."""
    totals = np.bincount(ranked.truth_labels, minlength=ranked.n_classes)
    return [score_curve(*_of_class(ranked, c), int(totals[c])) for c in range(ranked.n_classes)]


def pooled_curve(ranked: Ranked) -> ScoreCurve:
    """The curve of all classes together, at the first IoU."""
    order = np.argsort(-ranked.rows.scores, kind="stable")
    return score_curve(ranked.rows.scores[order], ranked.rows.state[0, order], len(ranked.truth_labels))


def _of_class(ranked: Ranked, label: int) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    rows = slice(ranked.rows.class_rows[label], ranked.rows.class_rows[label + 1])
    return ranked.rows.scores[rows], ranked.rows.state[0, rows]


class PRCurve(NamedTuple):
    """Precision over recall at each true box, best score first, boxes of equal score one by one.

    recall, precision (k,); envelope (k,): the highest precision at this recall or a higher one, which
    is what average precision reads.
    """

    recall: Floats
    precision: Floats
    envelope: Floats

    def at(self, recalls: Floats = RECALLS) -> tuple[Floats, Floats]:
        """Precision and envelope where each recall is first reached, 0 where it is not.

        The mean of the envelope at RECALLS is COCO's average precision.
        """
        place = np.searchsorted(self.recall, recalls)  # the first that is not lower
        return np.append(self.precision, 0.0)[place], np.append(self.envelope, 0.0)[place]


def pr_curve(ranked: Ranked, label: int) -> PRCurve | None:
    """The curve of a class at the first IoU; None when it has no truth."""
    total = int((ranked.truth_labels == label).sum())
    if not total:
        return None
    state = _of_class(ranked, label)[1]
    hit = state[state != IGNORED] == TRUE
    places = np.flatnonzero(hit)
    true = np.arange(1, len(places) + 1)
    precision = true / (places + 1)
    return PRCurve(true / total, precision, np.maximum.accumulate(precision[::-1])[::-1])
