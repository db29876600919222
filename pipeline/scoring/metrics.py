"""The competitions' metrics: one function each, in one table; exact, and fast enough for a search.

    scored = score(boxes, truth, profile.metric)
    scored.value()            the metric
    scored.value(weights)     the same where image i counts weights[i] times (a bootstrap's resample)
    scored.per_class()        the metric of each class

`boxes` are a prediction table or a fused result, `truth` comes from `group_truth`. All metrics match
within a class, highest score first; see `matching.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.data.metric import MetricSpec
from pipeline.data.predictions import Predictions
from pipeline.errors import PipelineError
from pipeline.scoring.counting import Counts, count_states
from pipeline.scoring.cuts import counts_at_cuts, with_cut
from pipeline.scoring.matching import TRUE, Matches, match
from pipeline.scoring.ranking import AREA, RECALLS, Ranked, average_precisions, rank
from pipeline.scoring.truth import Truth, check_images, no_truth
from pipeline.scoring.validation import check_boxes

COCO_IOUS = np.linspace(0.5, 0.95, 10)  # as pycocotools makes them
COCO_LIMIT = 100  # boxes per image and class


class Scored(Protocol):
    """Boxes matched with truth, to be summed up over all images or over a resample of them."""

    def value(self, weights: NDArray[np.int64] | None = None) -> float:
        """The metric, image i counted weights[i] times; NaN when nothing is left to be scored."""

    def per_class(self) -> NDArray[np.float64]:
        """(n_classes,) the metric of each class on its own; NaN where it is not defined."""

    def at_cuts(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        """(w, G) the metric for each row of weights (w, m), at each of CUTS. G is 1, without a cut,
        for metrics that boxes of low score cannot lower."""

    def cut_at(self, cut: NDArray[np.float32]) -> "Scored":
        """The same without the boxes whose score is below the cut of their class, (n_classes,)."""


def _thresholds(options: Mapping[str, Any]) -> NDArray[np.float64]:
    """The thresholds of `ious`: first, last (included) and step, to the decimal.

    0.3 + 6 * 0.05 is a little more than 0.6, and an IoU of 0.6 is common among boxes of whole pixels.
    """
    first, last, step = options["ious"]
    return np.round(first + step * np.arange(int((last - first) / step + 1e-6) + 1), 9)


@dataclass(frozen=True, eq=False)
class _MeanAP:
    """Mean over classes with truth, and over IoUs, of the average precision."""

    ranked: Ranked
    recalls: NDArray[np.float64]
    matches: Matches

    def value(self, weights: NDArray[np.int64] | None = None) -> float:
        ap = average_precisions(self.ranked, self.recalls, weights)
        here = ~np.isnan(ap)
        return float(ap[here].mean()) if here.any() else float("nan")

    def per_class(self) -> NDArray[np.float64]:
        return average_precisions(self.ranked, self.recalls).mean(axis=0)

    def at_cuts(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.array([[self.value(row)] for row in weights])

    def cut_at(self, cut: NDArray[np.float32]) -> Scored:
        return _MeanAP(rank(with_cut(self.matches, cut)), self.recalls, self.matches)


@dataclass(frozen=True, eq=False)
class _ImageMean:
    """Mean over images of the mean over IoUs of TP / (TP + FP + FN)."""

    matches: Matches

    @cached_property
    def counts(self) -> Counts:
        return count_states(self.matches)

    def at_cuts(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        true, false, total = counts_at_cuts(self.matches)
        either = false + total[:, None, None]
        some = either[:, 0] > 0  # (m, G)
        share = np.divide(true, either, out=np.zeros(true.shape), where=either > 0).mean(axis=1)
        counted = weights @ some.astype(float)
        return np.divide(weights @ share, counted, out=np.full(counted.shape, np.nan), where=counted > 0)

    def cut_at(self, cut: NDArray[np.float32]) -> Scored:
        return _ImageMean(with_cut(self.matches, cut))

    def _of(self, label: int, weights: NDArray[np.int64] | None) -> float:
        true, false, total = (
            self.counts if label < 0 else count_states(self.matches, label)
        )  # (T, m) ... (m,)
        either = false + total  # TP + FP + FN: FP and all truths
        some = either[0] > 0
        share = (true[:, some] / either[:, some]).mean(axis=0)
        weight = np.ones(len(total)) if weights is None else weights
        counted = weight[some].sum()
        return float((share * weight[some]).sum() / counted) if counted else float("nan")

    def value(self, weights: NDArray[np.int64] | None = None) -> float:
        return self._of(-1, weights)

    def per_class(self) -> NDArray[np.float64]:
        return np.array([self._of(label, None) for label in range(self.matches.truth.n_classes)])


@dataclass(frozen=True, eq=False)
class _FScore:
    """Mean over IoUs of F-beta of TP, FP and FN pooled over all images and classes."""

    matches: Matches
    beta: float

    @cached_property
    def counts(self) -> Counts:
        return count_states(self.matches)

    def at_cuts(self, weights: NDArray[np.int64]) -> NDArray[np.float64]:
        true, false, total = counts_at_cuts(self.matches)
        rows = weights.astype(float)
        hits, wrong = (np.tensordot(rows, counts, axes=1) for counts in (true, false))  # (w, T, G)
        truths = (rows @ total)[:, None, None]
        square = self.beta**2
        below = (1 + square) * hits + square * (truths - hits) + wrong
        return np.divide((1 + square) * hits, below, out=np.full(below.shape, np.nan), where=below > 0).mean(
            axis=1
        )

    def cut_at(self, cut: NDArray[np.float32]) -> Scored:
        return _FScore(with_cut(self.matches, cut), self.beta)

    def _of(self, label: int, weights: NDArray[np.int64] | None) -> float:
        true, false, total = self.counts if label < 0 else count_states(self.matches, label)
        weight = np.ones(len(total)) if weights is None else weights
        hits, wrong, truths = true @ weight, false @ weight, total @ weight
        square = self.beta**2
        below = (1 + square) * hits + square * (truths - hits) + wrong
        if not below[0]:
            return float("nan")
        return float(((1 + square) * hits / below).mean())

    def value(self, weights: NDArray[np.int64] | None = None) -> float:
        return self._of(-1, weights)

    def per_class(self) -> NDArray[np.float64]:
        return np.array([self._of(label, None) for label in range(self.matches.truth.n_classes)])


def map50(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Scored:
    """COCO's average precision at IoU 0.5, the mean over the classes that have truth.

    Precision at 101 recall points, 100 boxes per image and class, crowd boxes ignored. Source:
    cocodataset.org, "Detection Evaluation"; equal to pycocotools.
    """
    matches = match(boxes, truth, COCO_IOUS[:1], limit=COCO_LIMIT, threads=threads)
    return _MeanAP(rank(matches, threads), RECALLS, matches)


def map50_95(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Scored:
    """The mean of COCO's average precision over the IoUs 0.50, 0.55 ... 0.95; else as map50."""
    matches = match(boxes, truth, COCO_IOUS, limit=COCO_LIMIT, threads=threads)
    return _MeanAP(rank(matches, threads), RECALLS, matches)


def voc_ap(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Scored:
    """PASCAL VOC's average precision since 2010 at one IoU, the mean over classes that have truth.

    The area below the precision curve, made falling, at every recall; all boxes of an image take
    part; each may take the truth with its highest IoU only. Corners are continuous: without the
    devkit's +1, which belongs to `inclusive` profiles. `strict`: IoU above the threshold (as
    VinBigData and SIIM say), else at or above (as the devkit does it). Source: "The PASCAL Visual
    Object Classes Challenge 2012 Development Kit", 3.4.1; VOCevaldet.m.
    """
    rules: dict[str, Any] = {"strict": options["strict"], "best_of_all": True}
    matches = match(boxes, truth, np.array([options["iou"]]), threads=threads, **rules)
    return _MeanAP(rank(matches, threads), AREA, matches)


def wheat(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Scored:
    """Mean over images of the mean over IoUs of TP / (TP + FP + FN).

    An image without truth scores 0 when there is a box; without truth and boxes it is left out of
    the mean. Every box counts, whatever its score: apply a score floor first. Several classes:
    boxes match within theirs, an image's counts are pooled. Source: Kaggle, Global Wheat Detection
    (IoU 0.5 to 0.75) and RSNA Pneumonia Detection Challenge (0.4 to 0.75), "Evaluation".
    """
    rules: dict[str, Any] = {"strict": options["strict"]}
    return _ImageMean(match(boxes, truth, _thresholds(options), threads=threads, **rules))


def f1(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Scored:
    """Harmonic mean of precision and recall, F = 2 TP / (2 TP + FN + FP), averaged over IoUs; see f2."""
    return _FScore(_counted(boxes, truth, options, threads), 1.0)


def f2(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Scored:
    """F2 = 5 TP / (5 TP + 4 FN + FP), its mean over IoUs; recall counts more than precision.

    TP, FP and FN are pooled over all images (and classes) at each IoU, then F2 is averaged over the
    IoUs. Every box counts, whatever its score. Source: Kaggle, TensorFlow - Help Protect the Great
    Barrier Reef, "Evaluation" (IoU 0.3 to 0.8 by 0.05).
    """
    return _FScore(_counted(boxes, truth, options, threads), 2.0)


def _counted(boxes: Boxes, truth: Truth, options: Mapping[str, Any], threads: int | None) -> Matches:
    return match(boxes, truth, _thresholds(options), strict=options["strict"], threads=threads)


def correctness(boxes: Boxes, truth: Truth, metric: MetricSpec) -> NDArray[np.float64]:
    """(n,) the share of the metric's IoUs at which each box finds a truth; boxes that do not count: 0."""
    if "ious" in metric.options:
        ious = _thresholds(metric.options)
    elif metric.name == "map50_95":
        ious = COCO_IOUS
    else:
        ious = np.array([metric.options.get("iou", 0.5)])
    rules = {"strict": metric.options.get("strict", False), "best_of_all": metric.name == "voc_ap"}
    return (match(boxes, truth, ious, **rules).state == TRUE).mean(axis=0)


Measure = Callable[[Boxes, Truth, Mapping[str, Any], int | None], Scored]
METRICS: dict[str, Measure] = {
    "map50": map50,
    "map50_95": map50_95,
    "voc_ap": voc_ap,
    "wheat": wheat,
    "f1": f1,
    "f2": f2,
}


def score(
    boxes: Boxes,
    truth: Truth,
    metric: MetricSpec,
    *,
    checked: bool = False,
    threads: int | None = None,
) -> Scored:
    """Match boxes with truth, by the rules of a metric.

    boxes: a prediction table of the truth's images, or a fused result over them, in their order.
    checked: the boxes are known to be valid, as fused boxes are.
    Raises PipelineError for images that are not the truth's, for no truth at all, and, unless
    checked, for a box that cannot be scored.
    """
    check_images(boxes, truth)
    name = boxes.name if isinstance(boxes, Predictions) else "boxes"
    if not checked:
        check_boxes(boxes, truth, name, threads)
    if truth.rows.crowd.all():  # also when there is none
        raise PipelineError(f"{name}: {no_truth(len(truth.image_ids), len(truth))}")
    return METRICS[metric.name](boxes, truth, metric.options, threads)
