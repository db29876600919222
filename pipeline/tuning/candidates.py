"""Candidates of the search: tuned ensembles without what is fitted, and their neighbours on fixed grids.

The grids are fixed, so that searches on different images meet at the same candidates, and a candidate
is fused once for all of them.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.ensembles.tables import Fusion
from pipeline.fusion import CONF_TYPES

FLOORS = (0.001, 0.01, 0.03, 0.05, 0.1)
MEMBER_NMS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9)
WEIGHTS = (0.25, 0.5, 1.0, 2.0, 4.0)
CALIBRATIONS = (
    "none",
    "minmax",
    "rank",
    "isotonic",
    "minmax per class",
    "rank per class",
    "isotonic per class",
)
IOUS = tuple(round(0.3 + 0.025 * k, 3) for k in range(25))
SIGMAS = (0.1, 0.3, 0.5, 1.0)
COARSE = slice(0, None, 2)  # of IOUS: every 0.05


@dataclass(frozen=True)
class Candidate:
    """One number or name a member; weight 0: left out. The weights that count reach 1 on average."""

    weights: tuple[float, ...]
    floors: tuple[float, ...]
    nms: tuple[float, ...]
    calibrations: tuple[str, ...]
    fusion: Fusion = field(default_factory=Fusion)

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(i for i, weight in enumerate(self.weights) if weight > 0)

    @property
    def looks_at_truth(self) -> bool:
        """Whether its calibration is fitted to truth: then it is another one for other images."""
        return any(self.calibrations[i].startswith("isotonic") for i in self.kept)

    def with_member(self, i: int, **settings: float | str) -> "Candidate":
        """With other settings of member i, by the names of the fields here."""
        changed: dict[str, Any] = {}
        for name, value in settings.items():
            row = list(getattr(self, name))
            row[i] = value
            changed[name] = tuple(row)
        return replace(self, **changed)


def start(n_members: int) -> Candidate:
    """All members alike, fused as an ensemble is without tuning."""
    return Candidate((1.0,) * n_members, (0.001,) * n_members, (0.0,) * n_members, ("none",) * n_members)


def alone(candidate: Candidate, i: int) -> Candidate:
    """Member i alone, its boxes as they are."""
    only = start(len(candidate.weights))
    return replace(
        only,
        weights=tuple(float(k == i) for k in range(len(only.weights))),
        fusion=Fusion(method="nms", iou=1.0),
    )


def methods(candidate: Candidate) -> Iterator[Candidate]:
    """Every method over a grid of IoUs."""
    for iou in IOUS[COARSE]:
        for conf_type in CONF_TYPES:
            yield replace(candidate, fusion=Fusion(iou=iou, conf_type=conf_type))
        yield replace(candidate, fusion=Fusion(method="nms", iou=iou))
        yield replace(candidate, fusion=Fusion(method="nmw", iou=iou))
        yield replace(candidate, fusion=Fusion(method="soft_nms", iou=iou, soft="linear"))
    for sigma in SIGMAS:
        yield replace(candidate, fusion=Fusion(method="soft_nms", soft="gaussian", sigma=sigma))


def fewer(candidate: Candidate) -> Iterator[Candidate]:
    """Each with one member less."""
    if len(candidate.kept) > 1:
        for i in candidate.kept:
            yield candidate.with_member(i, weights=0.0)


def more(candidate: Candidate) -> Iterator[Candidate]:
    """Each with one more of the members that were left out."""
    for i in range(len(candidate.weights)):
        if candidate.weights[i] == 0:
            yield candidate.with_member(i, weights=1.0)


def calibrated(candidate: Candidate) -> Iterator[Candidate]:
    """One kind of calibration for all members."""
    for kind in CALIBRATIONS:
        yield replace(candidate, calibrations=(kind,) * len(candidate.weights))


def member_settings(candidate: Candidate) -> Iterator[Candidate]:
    """Another floor, NMS, weight or calibration of one member."""
    for i in candidate.kept:
        for floor in FLOORS:
            yield candidate.with_member(i, floors=floor)
        for nms in MEMBER_NMS:
            yield candidate.with_member(i, nms=nms)
        if len(candidate.kept) > 1:
            for weight in WEIGHTS:
                yield candidate.with_member(i, weights=weight)
            for kind in CALIBRATIONS:
                yield candidate.with_member(i, calibrations=kind)


def fine(candidate: Candidate) -> Iterator[Candidate]:
    """Nearby IoUs, and the other scores of a cluster at the same IoU."""
    fusion = candidate.fusion
    place = int(np.argmin([abs(iou - fusion.iou) for iou in IOUS]))
    for step in (-4, -3, -2, -1, 1, 2, 3, 4):
        if 0 <= place + step < len(IOUS):
            yield replace(candidate, fusion=replace(fusion, iou=IOUS[place + step]))
    if fusion.method == "wbf":
        for conf_type in CONF_TYPES:
            yield replace(candidate, fusion=replace(fusion, conf_type=conf_type))


def mutated(candidate: Candidate, rng: np.random.Generator) -> Candidate:
    """Two or three settings changed at random."""
    for _ in range(int(rng.integers(2, 4))):
        neighbours = [*fine(candidate), *member_settings(candidate)]
        candidate = neighbours[int(rng.integers(len(neighbours)))]
    return candidate
