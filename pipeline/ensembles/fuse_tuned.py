"""Making a tuned ensemble's boxes of one fold, on held-out and on test photos alike.

Each member's boxes are floored, put through an NMS of their own and calibrated; then they are fused;
then rescored. Tuning, out-of-fold and test all use `fuse_tuned`: each image
is made on its own, and nothing is fitted.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.data.predictions import Predictions
from pipeline.ensembles.calibration import Calibration
from pipeline.ensembles.features import MemberRows, features
from pipeline.ensembles.rescoring import rescored
from pipeline.ensembles.tuned import TunedEnsemble
from pipeline.fusion import Fused, Packed, fuse, pack

MAX_BOXES = 150  # fused boxes per image that are rescored; more only cost time


def prepare(source: Boxes, floor: float, nms: float, calibration: Calibration | None) -> Boxes:
    """A member's boxes after its score floor, its own NMS and its calibration."""
    keep = source.scores >= np.float32(floor)
    if not keep.all():
        source = source.select(keep)
    if nms:
        source = fuse(pack_sources([source]), "nms", iou=nms, skip=0.0)
    if calibration is not None:
        source = replace(source, scores=calibration.apply(source.scores, source.labels))
    return source


def pack_sources(sources: Sequence[Boxes]) -> Packed:
    """Pack members' boxes of the same images, each member one source."""
    sizes = np.array([len(source) for source in sources])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return pack(
        np.concatenate([source.boxes_xyxy for source in sources]),
        np.concatenate([source.scores for source in sources]),
        np.concatenate([source.labels for source in sources]),
        np.repeat(np.arange(len(sources), dtype=np.int16), sizes),
        np.stack([source.offsets + start for source, start in zip(sources, starts, strict=True)]),
        n_sources=len(sources),
    )


def describe_boxes(
    fused: Boxes, packed: Packed, sizes: NDArray[np.float64], n_classes: int
) -> NDArray[np.float32]:
    """(n, columns) the features of each fused box; see `features`."""
    table = packed.table
    labels = np.repeat(table.group_labels, np.diff(table.group_rows, axis=1)[:, 0])
    members = MemberRows(table.boxes_xyxy, table.scores, labels, table.source, table.image_rows)
    return features(fused, members, sizes, packed.n_sources, n_classes)


def fuse_members(tuned: TunedEnsemble, sources: Sequence[Boxes]) -> tuple[Packed, Fused]:
    """The members' boxes, prepared and packed, and fused."""
    ready = [
        prepare(source, member.floor, member.nms, member.calibration)
        for source, member in zip(sources, tuned.members, strict=True)
    ]
    packed = pack_sources(ready)
    weights = [member.weight for member in tuned.members]
    return packed, fuse(packed, weights=weights, **asdict(tuned.fusion))


def to_be_rescored(
    tuned: TunedEnsemble, sources: Sequence[Boxes], sizes: NDArray[np.float64], n_classes: int
) -> tuple[Boxes, NDArray[np.float32]]:
    """The fused boxes that are rescored, and the features of each; to fit and to apply."""
    packed, fused = fuse_members(tuned, sources)
    boxes = fused.best_per_image(MAX_BOXES)
    return boxes, describe_boxes(boxes, packed, sizes, n_classes)


def fuse_tuned(
    tuned: TunedEnsemble, sources: Sequence[Boxes], sizes: NDArray[np.float64], n_classes: int
) -> Boxes:
    """Make the fused boxes of a tuned ensemble, before its cut.

    sources: one for each member, in its order, on the same images. sizes (m, 2): the images'.
    """
    if tuned.rescoring is not None:
        boxes, rows = to_be_rescored(tuned, sources, sizes, n_classes)
        return boxes.with_scores(rescored(tuned.rescoring, rows))
    _, fused = fuse_members(tuned, sources)
    if tuned.output is None:
        return fused
    return fused.with_scores(tuned.output.apply(fused.scores, fused.labels))


def over_cut(
    scores: NDArray[np.float32], labels: NDArray[np.int16], cut: Sequence[float]
) -> NDArray[np.bool_]:
    """(n,) whether a box reaches its class's cut."""
    return scores >= np.asarray(cut, np.float32)[labels]


def submitted(table: Predictions) -> Predictions:
    """The boxes of an ensemble's table that its submission holds: those that reach the tuned cut."""
    cut = table.meta.made.get("cut")
    if cut is None:
        return table
    return table.select(over_cut(table.scores, table.labels, cut))
