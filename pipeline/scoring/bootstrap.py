"""Intervals of scores by the bootstrap over images, for one table and for two on the same images.

A resample draws as many images as there are, with replacement; an image that is drawn twice counts
twice. Boxes are matched once: drawing images again changes no match. Resample i of a seed draws the
same images for every table, so that differences are paired. Source: Efron and Tibshirani, "An
Introduction to the Bootstrap" (1993), chapters 13 (percentile intervals) and 15 (paired).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.metric import MetricSpec
from pipeline.errors import PipelineError
from pipeline.kernels.threads import run, thread_count
from pipeline.scoring.metrics import Scored

Summary = dict[str, Any]
Resamples = NDArray[np.float64]
RESAMPLES = 1000
_BATCH = 25  # resamples per job of a thread


@dataclass(frozen=True)
class Interval:
    """A score, and the middle 95 % of its resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Comparison:
    """Two scores on the same images: their difference, its interval, the share of wins."""

    difference: Interval
    wins: float  # share of resamples in which the first is strictly higher

    @property
    def is_noise(self) -> bool:
        """Whether the interval holds 0: these images do not tell the two apart."""
        return self.difference.low <= 0 <= self.difference.high


def draw(n_images: int, seed: int, resample: int) -> NDArray[np.int64]:
    """(n_images,) how often each image is drawn in a resample."""
    rng = np.random.default_rng([seed, resample])
    return np.bincount(rng.integers(0, n_images, n_images), minlength=n_images)


def resampled(
    scored: Scored, n_images: int, n: int = RESAMPLES, seed: int = 0, threads: int | None = None
) -> NDArray[np.float64]:
    """(n,) the metric on each resample; NaN where a resample holds no truth."""
    values = np.empty(n)

    def work(first: int) -> None:
        for i in range(first, min(first + _BATCH, n)):
            values[i] = scored.value(draw(n_images, seed, i))

    run([partial(work, first) for first in range(0, n, _BATCH)], thread_count(threads))
    return values


def interval(value: float, values: NDArray[np.float64]) -> Interval:
    """The middle 95 % of resampled values. Raises PipelineError when there are none."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        raise PipelineError("no resample holds a true box: too few images for an interval")
    low, high = np.quantile(defined, [0.025, 0.975])
    return Interval(value, float(low), float(high))


def summary(scored: Scored, metric: MetricSpec, n_images: int, seed: int) -> tuple[Summary, Resamples]:
    """A score with its 95 % interval as metrics.json and cards have it, and its resamples."""
    value, values = scored.value(), resampled(scored, n_images, seed=seed)
    bounds = interval(value, values)
    return {
        "metric": str(metric),
        "value": round(value, 5),
        "low": round(bounds.low, 5),
        "high": round(bounds.high, 5),
        "resamples": len(values),
        "seed": seed,
    }, values


def compare(a: float, a_values: NDArray[np.float64], b: float, b_values: NDArray[np.float64]) -> Comparison:
    """Compare two tables' scores and their resamples of one seed, on the same images."""
    gap = a_values - b_values
    wins = gap[~np.isnan(gap)] > 0
    return Comparison(interval(a - b, gap), float(wins.mean()) if len(wins) else float("nan"))
