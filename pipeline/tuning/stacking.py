"""Rescoring models for every set of images: trained on it, and on it without each other part.

For row (p, k), which must not see part k of partition p, the model trained on all other parts scores
part k; the models that leave out one part more, j, score part j, which shows whether rescoring wins
without the truth of k. The model without j and k serves both rows.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.boxes import Boxes
from pipeline.ensembles.fuse_tuned import to_be_rescored
from pipeline.ensembles.rescoring import MIN_SCORE, fit_rescoring, rescored
from pipeline.ensembles.tables import Fusion
from pipeline.kernels.threads import run, thread_count
from pipeline.scoring.metrics import correctness
from pipeline.tuning.candidates import Candidate, start
from pipeline.tuning.engine import Engine
from pipeline.tuning.parts import Partition
from pipeline.tuning.search import Budget, State

MIN_IOU = 0.7  # rescoring separates doubles better than merging them does: keep both
MAX_ROWS = 150_000  # boxes a model is trained on; more are drawn from
MIN_ROWS = 20
MAX_BYTES = 2 << 30  # of features that are kept; others are made again


@dataclass(frozen=True, eq=False)
class Base:
    """A candidate's fused boxes with their features; image (n,) is the place of each box's image."""

    boxes: Boxes
    rows: NDArray[np.float32]
    correct: NDArray[np.float64]
    image: NDArray[np.int64]

    @property
    def nbytes(self) -> int:
        return self.boxes.boxes_xyxy.nbytes + self.rows.nbytes + self.correct.nbytes + self.image.nbytes


def stack_fusion(fusion: Fusion) -> Fusion:
    """How boxes are fused for rescoring: weighted boxes, and doubles kept apart."""
    if fusion.method != "wbf":
        return Fusion(iou=MIN_IOU)
    return replace(fusion, iou=max(fusion.iou, MIN_IOU))


@dataclass(eq=False)
class Stacking:
    """The models; `partitions` are as many as the time was enough for, perhaps none."""

    engine: Engine
    states: list[State]
    partitions: list[Partition]
    seed: int
    budget: Budget
    bases: OrderedDict[str, Base] = field(default_factory=OrderedDict)
    models: dict[Any, str] = field(default_factory=dict)
    note: str | None = None

    def row_of(self, p: int, k: int) -> int:
        return 1 + sum(part.n_parts for part in self.partitions[:p]) + k

    def candidate(self, row: int) -> Candidate:
        """The row's candidate as a base for rescoring: its members and weights, but all of their boxes
        with their own scores: the trees use them better than floors, NMS and calibration do."""
        plain = start(len(self.engine.members))
        best = self.states[row].best
        return replace(plain, weights=best.weights, fusion=stack_fusion(best.fusion))

    def base(self, row: int) -> Base:
        """The row's boxes and features; rows may differ, and ten members of many boxes take gigabytes."""
        candidate = self.candidate(row)
        if candidate.key not in self.bases:
            self.bases[candidate.key] = self._make_base(candidate)
        self.bases.move_to_end(candidate.key)
        while len(self.bases) > 1 and sum(base.nbytes for base in self.bases.values()) > MAX_BYTES:
            self.bases.popitem(last=False)
        return self.bases[candidate.key]

    def _make_base(self, candidate: Candidate) -> Base:
        engine = self.engine
        tuned, sources = engine.tuned(candidate, 0), engine.sources_of(candidate)
        boxes, rows = to_be_rescored(tuned, sources, engine.truth.sizes, engine.truth.n_classes)
        image = boxes.image_index()
        return Base(boxes, rows, correctness(boxes, engine.truth, engine.metric), image)

    def _key(self, p: int, k: int, j: int = -1) -> Any:
        parts = (k,) if j < 0 else tuple(sorted((k, j)))
        return self.candidate(self.row_of(p, k)).key, p, parts

    def _train(self, key: Any, images: NDArray[np.bool_], base: Base, bar: Any) -> None:
        if self.budget.stop:
            return
        chosen = np.flatnonzero(images[base.image])
        if len(chosen) < MIN_ROWS:
            self.note = f"too few boxes for rescoring: {len(chosen)} without two parts of the images"
            return
        if len(chosen) > MAX_ROWS:
            drawn = np.random.default_rng(self.seed).choice(chosen, MAX_ROWS, replace=False)
            chosen = np.sort(drawn)
        self.models[key] = fit_rescoring(base.rows[chosen], base.correct[chosen], self.seed)
        bar.update()

    def fit(self) -> bool:
        """Train all models; False, with a note, where it was stopped or has no time for a partition."""
        n_threads = thread_count(None)
        everything = np.ones(len(self.engine.truth.image_ids), bool)
        bar: tqdm[Any]
        with tqdm(desc="rescoring", unit=" model", dynamic_ncols=True) as bar:
            began = time.monotonic()
            if not self.budget.stop:
                self._train("all", everything, self.base(0), bar)
            affordable = self._affordable(time.monotonic() - began)
            if affordable:
                self.partitions = self.partitions[:affordable]
                jobs = self._jobs()
                bar.total = 1 + sum(len(images_of) for _, images_of in jobs)
                for row, images_of in jobs:
                    base = self.base(row)
                    run([partial(self._train, *job, base, bar) for job in images_of.items()], n_threads)
        if self.budget.stop:
            self.note = "stopped before rescoring was trained"
        if self.note:
            self.models.clear()
        return bool(self.models)

    def _affordable(self, spent: float) -> int:
        """Partitions that there is time for where a model takes `spent` seconds; a note where none."""
        left = self.budget.seconds - (time.monotonic() - self.budget.began)
        parts, n_threads = self.partitions[0].n_parts, thread_count(None)
        each = spent * (parts + parts * (parts - 1) // 2) / n_threads
        if self.budget.stop:
            return 0
        if left < each:
            self.note = f"no time for rescoring: a budget of {each - left:.0f} s more would be enough"
            return 0
        return int(left / max(each, 1e-3)) or 1

    def _jobs(self) -> list[tuple[int, dict[Any, NDArray[np.bool_]]]]:
        """(a row, its models' keys and (m,) the images of each): rows with the same boxes share them."""
        jobs: dict[str, tuple[int, dict[Any, NDArray[np.bool_]]]] = {}
        for p, partition in enumerate(self.partitions):
            for k in range(partition.n_parts):
                row = self.row_of(p, k)
                _, images_of = jobs.setdefault(self.candidate(row).key, (row, {}))
                for j in (-1, *range(partition.n_parts)):
                    if j != k:
                        images_of[self._key(p, k, j)] = (partition.part != k) & (partition.part != j)
        return list(jobs.values())

    def outer_boxes(self, p: int, k: int) -> Boxes:
        """Part k's boxes with the scores of the model that did not see it; the others mean nothing."""
        base = self.base(self.row_of(p, k))
        here = self.partitions[p].part[base.image] == k
        scores = np.full(len(base.rows), MIN_SCORE, np.float32)
        scores[here] = rescored(self.models[self._key(p, k)], base.rows[here])
        return base.boxes.with_scores(scores)

    def inner_boxes(self, p: int, k: int) -> Boxes:
        """Each other part's boxes with the scores of the model that saw neither it nor part k."""
        base = self.base(self.row_of(p, k))
        part = self.partitions[p].part[base.image]
        scores = np.full(len(base.rows), MIN_SCORE, np.float32)
        for j in range(self.partitions[p].n_parts):
            if j != k:
                here = part == j
                scores[here] = rescored(self.models[self._key(p, k, j)], base.rows[here])
        return base.boxes.with_scores(scores)


def of_images(pieces: Sequence[tuple[Boxes, NDArray[np.bool_]]]) -> Boxes:
    """Boxes put together from several results over the same images: each gives those of its images.

    pieces: (boxes, (m,) whose images are taken from them), each image from at most one.
    """
    m = len(pieces[0][1])
    parts: list[tuple[NDArray[Any], ...]] = []
    for boxes, taken in pieces:
        image = boxes.image_index()
        keep = taken[image]
        parts.append((image[keep], boxes.boxes_xyxy[keep], boxes.scores[keep], boxes.labels[keep]))
    image, corners, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(image, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(image, minlength=m))])
    return Boxes(corners[order], scores[order], labels[order], offsets)
