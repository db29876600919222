"""One call for all fusers, over packed boxes."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.boxes import Boxes
from pipeline.errors import PipelineError
from pipeline.fusion import driver
from pipeline.fusion.inputs import FusionReport, checked_number, checked_weights
from pipeline.fusion.overlap import part_of
from pipeline.fusion.packing import Packed
from pipeline.fusion.wbf import CONF_TYPES
from pipeline.kernels.threads import chunks, over_chunks, run, thread_count


@dataclass(frozen=True)
class Fuser:
    """An entry of the table: the kernel's number for the method and how it scales weights.

    `scale`: AS_GIVEN, by the TOTAL or by the HIGHEST of the image's weights; `scale_unset`: the same
    where no weights were given.
    """

    method: int
    scale: int
    scale_unset: int


FUSERS: dict[str, Fuser] = {
    "wbf": Fuser(driver.WBF, driver.AS_GIVEN, driver.AS_GIVEN),
    "nms": Fuser(driver.NMS, driver.BY_TOTAL, driver.AS_GIVEN),
    "soft_nms": Fuser(driver.SOFT_NMS, driver.BY_TOTAL, driver.AS_GIVEN),
    "nmw": Fuser(driver.NMW, driver.BY_HIGHEST, driver.BY_HIGHEST),
}
SOFT_KINDS = ("linear", "gaussian")


@dataclass(eq=False)
class Fused(Boxes):
    """Fused boxes, sorted as a prediction table is; `report`: what was left out or repaired."""

    report: FusionReport


def fuse(
    packed: Packed,
    method: str = "wbf",
    *,
    iou: float = 0.55,
    skip: float = 0.001,
    weights: ArrayLike | None = None,
    conf_type: str = "votes",
    allows_overflow: bool = False,
    sigma: float = 0.5,
    soft: str = "linear",
    threads: int | None = None,
) -> Fused:
    """Fuse packed boxes, label by label and image by image.

    method: a name in FUSERS. iou: boxes match above this IoU, 0 to 1. skip: boxes with a lower
    score are left out (for `soft_nms` also those whose decayed score is not above it); not lower
    than the floor of the packing. weights: one number per source, 0 or more; None: all 1 for `wbf`
    and `nmw`, and scores as they are for `nms` and `soft_nms`. A source with weight 0 takes no
    part. conf_type: how `wbf` scores a cluster, a name in CONF_TYPES (see `wbf.py`).
    allows_overflow: for `avg`, counts all boxes of a cluster instead of at most one per source; a
    score never goes above 1 all the same. sigma: width of the gaussian of `soft_nms`.
    soft: "linear" or "gaussian". threads: None for all cores.

    Raises PipelineError for anything outside these ranges.
    """
    given = checked_weights(weights, packed.n_sources)
    _check_names(method=(method, tuple(FUSERS)), conf_type=(conf_type, CONF_TYPES), soft=(soft, SOFT_KINDS))
    fuser = FUSERS[method]
    threshold = checked_number(iou, "iou", 0.0, 1.0)
    chosen = driver.Parameters(
        method=fuser.method,
        normalise=fuser.scale_unset if weights is None else fuser.scale,
        same_weights=bool((given == given[0]).all()),
        iou=threshold,
        part=part_of(threshold),
        skip=_checked_skip(skip, packed.floor),
        conf_type=CONF_TYPES.index(conf_type),
        allows_overflow=bool(allows_overflow),
        linear=soft == "linear",
        sigma=checked_number(sigma, "sigma", 1e-6, 1e6),
    )
    sources = driver.Weights(
        given,
        (given[None, :] > given[:, None]).sum(axis=1).astype(np.int32),
        np.argsort(-given, kind="stable"),
    )
    table = packed.table
    n_threads = thread_count(threads)
    ranges = chunks(table.image_rows, n_threads)
    total = int(table.image_rows[-1])
    boxes = np.empty((total, 4), np.float32)
    scores = np.empty(total, np.float32)
    labels = np.empty(total, np.int16)
    sizes = np.zeros(packed.n_images, np.int64)
    counts = np.zeros((len(ranges), driver.N_COUNTS), np.int64)

    def work(k: int, first: int, last: int) -> None:
        result = (boxes, scores, labels, sizes, counts[k])
        driver.fuse_images(first, last, table, sources, packed.present, chosen, *result)

    over_chunks(work, ranges, n_threads)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    capped, unweighted = (int(count) for count in counts.sum(axis=0))
    report = packed.report.plus(capped_scores=capped, zero_weight_rows=unweighted)
    written = _closed_up((boxes, scores, labels), ranges, table.image_rows, offsets, n_threads)
    return Fused(boxes[written], scores[written], labels[written], offsets, report)


def _closed_up(
    columns: tuple[NDArray[Any], ...],
    ranges: list[tuple[int, int]],
    image_rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    threads: int,
) -> slice:
    """Move the chunks' results together, each written from its first image's first row on.

    They are moved towards the middle one, so that both sides can move at once. Returns the rows
    where they are then.
    """
    if not ranges:
        return slice(0, 0)
    middle = len(ranges) // 2
    shift = int(image_rows[ranges[middle][0]] - offsets[ranges[middle][0]])

    def move(column: NDArray[Any], chunks_in_order: Iterable[tuple[int, int]]) -> None:
        flat = column.reshape(-1)  # of one dimension: NumPy moves that without a copy in between
        width = flat.size // max(len(column), 1)
        for first, last in chunks_in_order:
            start, to, size = (
                image_rows[first],
                offsets[first] + shift,
                offsets[last] - offsets[first],
            )
            moved = flat[start * width : (start + size) * width]
            flat[to * width : (to + size) * width] = moved

    sides = (ranges[:middle][::-1], ranges[middle + 1 :])
    run([partial(move, column, side) for column in columns for side in sides], threads)
    return slice(shift, shift + int(offsets[-1]))


def _check_names(**options: tuple[str, tuple[str, ...]]) -> None:
    for name, (value, known) in options.items():
        if value not in known:
            raise PipelineError(f"{name}={value!r}: expected one of {', '.join(known)}")


def _checked_skip(skip: float, floor: float) -> np.float32:
    lowest = np.float32(checked_number(skip, "skip", 0.0, 1.0))
    if lowest < floor:
        raise PipelineError(
            f"skip={skip}: the boxes were packed with a floor of {floor:.6g}, which left lower "
            "ones out; pass a skip of at least that, or pack again with a lower floor"
        )
    return lowest
