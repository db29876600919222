"""Fusing and joining prediction tables: which belong together, and the metadata of the result."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from pydantic.dataclasses import dataclass

from pipeline.data.predictions import (
    Meta,
    Predictions,
    check_alike,
    join_predictions,
    source_digest,
)
from pipeline.data.records import STRICT
from pipeline.errors import PipelineError
from pipeline.fusion.fusers import FUSERS, SOFT_KINDS, fuse
from pipeline.fusion.packing import Packed, pack
from pipeline.fusion.wbf import CONF_TYPES


@dataclass(frozen=True, config=STRICT)
class Fusion:
    """How boxes are fused: the parameters of `pipeline.fusion.fuse` but for the weights."""

    method: str = "wbf"
    iou: float = 0.55
    skip: float = 0.001
    conf_type: str = "votes"
    allows_overflow: bool = False
    soft: str = "linear"
    sigma: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("method", FUSERS), ("conf_type", CONF_TYPES), ("soft", SOFT_KINDS)):
            if (value := getattr(self, name)) not in known:
                raise PipelineError(f"{name} '{value}': expected one of {', '.join(known)}")
        for name, most in (("iou", 1), ("skip", 1), ("sigma", 10)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise PipelineError(f"{name} {value}: expected a number from 0 to {most}")


FUSION_KEYS = tuple(item.name for item in fields(Fusion))
# What fuses the K folds' results on the test set; fitted on nothing, the same always.
ACROSS_FOLDS = Fusion()


def check_members(tables: Sequence[Predictions]) -> None:
    """Raise PipelineError unless all tables are alike (`check_alike`) and each has a box."""
    check_alike(tables)
    for table in tables:
        if len(table) == 0:
            raise PipelineError(
                f"{table.name}: an empty member, not one box on {len(table.meta.image_ids)} images; "
                "leave it out or predict again"
            )


def _packed(tables: Sequence[Predictions], floor: float, release: bool) -> Packed:
    """Pack the tables' boxes, table after table, each one source. See `fuse_same_images`."""
    sizes = [len(table) for table in tables]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    offsets = np.stack([table.offsets + start for table, start in zip(tables, starts, strict=True)])
    n = int(ends[-1])
    boxes, scores = np.empty((n, 4), np.float32), np.empty(n, np.float32)
    labels, source = np.empty(n, np.int16), np.empty(n, np.int16)
    for k, table in enumerate(tables):
        rows = slice(starts[k], ends[k])
        boxes[rows], scores[rows], labels[rows], source[rows] = (
            table.boxes_xyxy,
            table.scores,
            table.labels,
            k,
        )
        if release:
            table.release()
    return pack(boxes, scores, labels, source, offsets, n_sources=len(tables), floor=floor)


def fuse_same_images(
    tables: Sequence[Predictions],
    fusion: Fusion,
    weights: Sequence[float] | None = None,
    name: str = "ensemble",
    release: bool = False,
) -> Predictions:
    """Fuse tables that predicted the same images; every table is one source.

    With `release` each table gives up its boxes as soon as they are gathered, so that a large
    ensemble is in memory once.
    """
    check_members(tables)
    ids = tables[0].meta.image_ids
    for table in tables[1:]:
        if not np.array_equal(table.meta.image_ids, ids):
            raise PipelineError(f"{table.name}: other images than {tables[0].name}")
    members = [source_digest(t) for t in tables]
    fused = fuse(_packed(tables, fusion.skip, release), weights=weights, **asdict(fusion))
    folds = tables[0].meta.folds
    same_folds = all(np.array_equal(t.meta.folds, folds) for t in tables)
    first = tables[0].meta
    meta = Meta(
        first.competition,
        first.split,
        first.image_digest,
        ids,
        folds if same_folds else np.full(len(ids), -1, np.int32),
        name,
        "fused",
        {
            "fusion": asdict(fusion),
            "weights": list(weights) if weights is not None else None,
            "members": members,
            "repairs": fused.report.lines(),
        },
    )
    return Predictions(fused.boxes_xyxy, fused.scores, fused.labels, fused.offsets, meta)


def fuse_and_join(
    tables: Sequence[Predictions],
    fusion: Fusion,
    weights: Sequence[float] | None = None,
    name: str = "ensemble",
    release: bool = False,
) -> Predictions:
    """Fuse tables with the same images, join those with disjoint images, refuse anything between.

    `release` as in `fuse_same_images`.
    """
    check_members(tables)
    groups: dict[bytes, list[int]] = {}
    for index, table in enumerate(tables):
        groups.setdefault(table.meta.image_ids.tobytes(), []).append(index)
    firsts = [tables[members[0]] for members in groups.values()]
    for i, table in enumerate(firsts):
        for other in firsts[i + 1 :]:
            shared = np.intersect1d(table.meta.image_ids, other.meta.image_ids)
            if len(shared):
                raise PipelineError(
                    f"{table.name} and {other.name} share {len(shared)} images of "
                    f"{len(table.meta.image_ids)} and {len(other.meta.image_ids)}; expected the same images "
                    "(to be fused) or none (to be joined)"
                )
    parts = []
    for members in groups.values():
        chosen = [weights[i] for i in members] if weights is not None else None
        parts.append(fuse_same_images([tables[i] for i in members], fusion, chosen, name, release))
    if len(parts) == 1:
        return parts[0]
    joined = join_predictions(parts)
    joined.meta.made = {
        "fusion": asdict(fusion),
        "weights": list(weights) if weights is not None else None,
        "members": [entry for part in parts for entry in part.meta.made["members"]],
        "repairs": [line for part in parts for line in part.meta.made["repairs"]],
    }
    joined.meta.view = "fused"
    return joined


def describe(fusion: Fusion) -> dict[str, Any]:
    """The parameters that matter for the method, for a card or a printed line."""
    used = {"method", "iou", "skip"}
    if fusion.method == "wbf":
        used |= {"conf_type", "allows_overflow"} if fusion.conf_type == "avg" else {"conf_type"}
    elif fusion.method == "soft_nms":
        used |= {"soft", "sigma"}
    return {key: value for key, value in asdict(fusion).items() if key in used}
