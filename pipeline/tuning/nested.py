"""Nested scores: each part is scored by what was chosen on all other parts; and the tuned ensemble."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.ensembles.fuse_tuned import over_cut
from pipeline.ensembles.tuned import TunedEnsemble
from pipeline.kernels.threads import run, thread_count
from pipeline.scoring.bootstrap import draw
from pipeline.scoring.cuts import CUTS
from pipeline.scoring.metrics import Scored
from pipeline.tuning.engine import Engine
from pipeline.tuning.parts import Partition
from pipeline.tuning.search import Budget, State
from pipeline.tuning.stacking import Stacking, of_images

# Share of resamples in which rescoring must win to be used. It starts behind: its boxes are scored by
# models of fewer images, while the plain candidate is the best of many on these very images.
SURE = 0.5
_RESAMPLES = 200
Cut = NDArray[np.float32] | None
_CLASS_CUTS = (0.5, 0.7, 0.85, 1.2, 1.4, 2.0)  # factors of a class's cut, relative to that of all


@dataclass(frozen=True)
class Choice:
    """The choice on a row's images: rescoring or not, the cut of each, and the value there (inner)."""

    rescored: bool
    wins: float
    plain_cut: Cut
    rescored_cut: Cut
    inner: float

    @property
    def cut(self) -> Cut:
        return self.rescored_cut if self.rescored else self.plain_cut


@dataclass(frozen=True, eq=False)
class Nested:
    """Per partition: the boxes of each part, made by what was chosen without it, and their value.

    plain, rescored: the same where each part takes its fused, or its rescored boxes (None without them).
    """

    chosen: Boxes
    value: float
    plain: Boxes
    rescored: Boxes | None
    inner: float
    choices: list[Choice]


@dataclass(frozen=True, eq=False)
class TuningResult:
    """The ensemble fitted on everything, what was chosen for it, and the nested results."""

    ensemble: TunedEnsemble
    choice: Choice
    nested: list[Nested]
    note: str | None

    @property
    def value(self) -> float:
        return float(np.mean([nested.value for nested in self.nested]))

    @property
    def optimism(self) -> float:
        return float(np.mean([nested.inner - nested.value for nested in self.nested]))


def best_cut(
    engine: Engine, scored: Scored, weights: NDArray[np.int64]
) -> tuple[NDArray[np.float32] | None, float]:
    """The cut of each class that is best on the images counted, None where none can help, its value."""
    at_cuts = np.nan_to_num(scored.at_cuts(weights[None])[0])
    if len(at_cuts) == 1:
        return None, float(at_cuts[0])
    n_classes = engine.truth.n_classes
    value, cut = float(at_cuts.max()), np.full(n_classes, CUTS[int(at_cuts.argmax())], np.float32)
    if n_classes > 1:
        for label in range(n_classes):
            tried = []
            for factor in _CLASS_CUTS:
                other = cut.copy()
                other[label] = min(max(cut[label], 0.01) * factor, 0.95)
                tried.append((float(np.nan_to_num(scored.cut_at(other).value(weights))), factor, other))
            best, _, other = max(tried, key=lambda row: row[:2])
            if best > value + 1e-4:
                value, cut = best, other
    return cut, value


def share_of_wins(a: Scored, b: Scored, weights: NDArray[np.int64], seed: int) -> float:
    """Share of paired resamples of the counted images in which a is strictly better."""
    places = np.flatnonzero(weights)
    wins = np.zeros(_RESAMPLES, bool)

    def work(first: int) -> None:
        for i in range(first, _RESAMPLES, 8):
            drawn = np.zeros(len(weights), np.int64)
            drawn[places] = draw(len(places), seed, i)
            wins[i] = a.value(drawn) > b.value(drawn)

    run([partial(work, first) for first in range(8)], thread_count(None))
    return float(wins.mean())


def cut_boxes(boxes: Boxes, cut: Sequence[float] | NDArray[np.float32] | None) -> Boxes:
    """The boxes that reach their class's cut."""
    if cut is None:
        return boxes
    return boxes.select(over_cut(boxes.scores, boxes.labels, [float(c) for c in cut]))


class _Chooser:
    """Choices and nested results from the search's states and the rescoring models."""

    def __init__(self, engine: Engine, states: list[State], stacking: Stacking, seed: int) -> None:
        self.engine, self.states, self.stacking, self.seed = engine, states, stacking, seed
        self.stacked = bool(stacking.models)

    def value(self, boxes: Boxes) -> float:
        return float(np.nan_to_num(self.engine.scored(boxes).value()))

    def compare(self, row: int, plain: Boxes, stacked: Boxes | None) -> Choice:
        """Plain or rescored, on the images of the row."""
        weights = self.engine.weights[row]
        simple = self.engine.scored(plain)
        cut, value = best_cut(self.engine, simple, weights)
        if stacked is None:
            return Choice(False, float("nan"), cut, None, value)
        other = self.engine.scored(stacked)
        other_cut, other_value = best_cut(self.engine, other, weights)
        pair = [
            scored if c is None else scored.cut_at(c) for scored, c in ((other, other_cut), (simple, cut))
        ]
        wins = share_of_wins(pair[0], pair[1], weights, self.seed)
        wins_enough = wins >= SURE
        return Choice(wins_enough, wins, cut, other_cut, other_value if wins_enough else value)

    def nested(self, p: int, partition: Partition) -> tuple[Nested, Boxes, Boxes | None]:
        """Partition p: chosen boxes; and those of plain and of rescored everywhere, before any cut."""
        chosen, plain, stacked, choices = [], [], [], []
        plain_cut, stacked_cut = [], []
        for k in range(partition.n_parts):
            row, in_part = self.stacking.row_of(p, k), partition.part == k
            simple = self.engine.mapped(self.states[row].best, row)[0]
            inner = self.stacking.inner_boxes(p, k) if self.stacked else None
            outer = self.stacking.outer_boxes(p, k) if self.stacked else None
            choice = self.compare(row, simple, inner)
            choices.append(choice)
            taken = outer if choice.rescored and outer is not None else simple
            chosen.append((cut_boxes(taken, choice.cut), in_part))
            plain.append((simple, in_part))
            plain_cut.append((cut_boxes(simple, choice.plain_cut), in_part))
            if outer is not None:
                stacked.append((outer, in_part))
                stacked_cut.append((cut_boxes(outer, choice.rescored_cut), in_part))
        boxes = of_images(chosen)
        rescored = of_images(stacked_cut) if stacked else None
        inner_mean = float(np.mean([choice.inner for choice in choices]))
        result = Nested(boxes, self.value(boxes), of_images(plain_cut), rescored, inner_mean, choices)
        return result, of_images(plain), of_images(stacked) if stacked else None


def conclude(
    engine: Engine, states: list[State], partitions: list[Partition], budget: Budget, seed: int
) -> TuningResult:
    """From the search's states: rescoring models, nested results, and the ensemble tuned on everything."""
    stacking = Stacking(engine, states, partitions, seed, budget)
    stacking.fit()
    chooser = _Chooser(engine, states, stacking, seed)
    results = [chooser.nested(p, partition) for p, partition in enumerate(stacking.partitions)]
    _, plain, stacked = results[0]
    choice = chooser.compare(0, plain, stacked)
    best = states[0].best
    ensemble = replace(engine.tuned(best, 0), output=engine.mapped(best, 0)[1])
    if choice.rescored:
        ensemble = engine.tuned(stacking.candidate(0), 0)
        ensemble = replace(ensemble, rescoring=stacking.models["all"])
    cut = None if choice.cut is None else tuple(float(c) for c in choice.cut)
    return TuningResult(replace(ensemble, cut=cut), choice, [result for result, *_ in results], stacking.note)
