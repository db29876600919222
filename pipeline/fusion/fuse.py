"""One call for all fusers, over packed boxes or over raw ones."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError
from pipeline.fusion import driver
from pipeline.fusion.checks import Report, checked_number, checked_weights
from pipeline.fusion.overlap import part_of
from pipeline.fusion.pack import Packed, pack
from pipeline.fusion.threads import chunks, over_chunks, thread_count
from pipeline.fusion.wbf import CONF_TYPES


@dataclass(frozen=True)
class Fuser:
    """An entry of the table: the kernel's number for the method and how it scales weights.

    `scale`: AS_GIVEN, by the TOTAL or by the HIGHEST of the image's weights; `scale_unset` is the
    same where no weights were given. `about`: one line for a help text.
    """

    method: int
    scale: int
    scale_unset: int
    about: str


FUSERS: dict[str, Fuser] = {
    "wbf": Fuser(
        driver.WBF,
        driver.AS_GIVEN,
        driver.AS_GIVEN,
        "weighted boxes fusion: clusters' mean boxes, scored by `conf_type`",
    ),
    "nms": Fuser(
        driver.NMS,
        driver.BY_TOTAL,
        driver.AS_GIVEN,
        "non-maximum suppression: the best box of each place, as it is",
    ),
    "soft_nms": Fuser(
        driver.SOFT_NMS,
        driver.BY_TOTAL,
        driver.AS_GIVEN,
        "soft NMS: all boxes, their scores decayed by overlap with better ones",
    ),
    "nmw": Fuser(
        driver.NMW,
        driver.BY_HIGHEST,
        driver.BY_HIGHEST,
        "non-maximum weighted: means around each best box, with its score",
    ),
}
SOFT_KINDS = ("linear", "gaussian")


@dataclass(frozen=True, eq=False)
class Fused:
    """Fused boxes, by image, then score (highest first), then x1, y1, x2, y2, then label.

    boxes_xyxy (k, 4) float32 pixels; scores (k,) float32 in (0, 1]; labels (k,) int16;
    offsets (m+1,) int64: image i has the rows offsets[i]:offsets[i+1]. `report`: what packing and
    fusing left out or mended.
    """

    boxes_xyxy: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int16]
    offsets: NDArray[np.int64]
    report: Report


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
    than the floor of the packing. weights: one number a source, 0 or more; None: all 1 for `wbf`
    and `nmw`, and scores as they are for `nms` and `soft_nms`. A source with weight 0 takes no
    part. conf_type: how `wbf` scores a cluster, a name in CONF_TYPES (see `wbf.py`).
    allows_overflow: for `avg`, counts all boxes of a cluster instead of at most one a source; a
    score never goes above 1 all the same. sigma: width of the gaussian of `soft_nms`.
    soft: "linear" or "gaussian". threads: None for all cores.

    Raises PipelineError for anything outside these ranges.
    """
    chosen = _settings(packed, method, iou, skip, weights, conf_type, allows_overflow, sigma, soft)
    given = checked_weights(weights, packed.n_sources)
    ranks = (given[None, :] > given[:, None]).sum(axis=1).astype(np.int32)
    table = packed.table
    n_threads = thread_count(threads)
    ranges = chunks(table.image_rows, n_threads)
    total = int(table.image_rows[-1])
    boxes = np.empty((total, 4), np.float32)
    scores = np.empty(total, np.float32)
    labels = np.empty(total, np.int16)
    sizes = np.zeros(packed.n_images, np.int64)
    counts = np.zeros((len(ranges), driver.N_COUNTS), np.int64)
    number = {span: k for k, span in enumerate(ranges)}

    def work(first: int, last: int) -> None:
        driver.fuse_images(
            first,
            last,
            table,
            given,
            ranks,
            packed.present,
            chosen,
            boxes,
            scores,
            labels,
            sizes,
            counts[number[first, last]],
        )

    over_chunks(work, ranges, n_threads)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    columns = [_joined(a, ranges, table.image_rows, offsets) for a in (boxes, scores, labels)]
    capped, unweighted = (int(count) for count in counts.sum(axis=0))
    report = packed.report.plus(capped_scores=capped, zero_weight_rows=unweighted)
    return Fused(*columns, offsets, report)


def _joined(
    column: NDArray[Any],
    ranges: list[tuple[int, int]],
    image_rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
) -> NDArray[Any]:
    """The chunks' results, each written from its first image's first row on, moved together."""
    for first, last in ranges[1:]:
        size = offsets[last] - offsets[first]
        start = image_rows[first]
        column[offsets[first] : offsets[last]] = column[start : start + size]
    return column[: offsets[-1]]


def _settings(
    packed: Packed,
    method: str,
    iou: float,
    skip: float,
    weights: ArrayLike | None,
    conf_type: str,
    allows_overflow: bool,
    sigma: float,
    soft: str,
) -> driver.Settings:
    for name, value, known in (
        ("method", method, tuple(FUSERS)),
        ("conf_type", conf_type, CONF_TYPES),
        ("soft", soft, SOFT_KINDS),
    ):
        if value not in known:
            raise PipelineError(f"{name}={value!r}: expected one of {', '.join(known)}")
    lowest = np.float32(checked_number(skip, "skip", 0.0, 1.0))
    if lowest < packed.floor:
        raise PipelineError(
            f"skip={skip}: the boxes were packed with a floor of {packed.floor:.6g}, which left the "
            "lower ones out; pass a skip of at least that, or pack again with a lower floor"
        )
    threshold = checked_number(iou, "iou", 0.0, 1.0)
    width = checked_number(sigma, "sigma", 0.0, float("inf"))
    if width == 0.0:
        raise PipelineError("sigma=0: expected a number above 0")
    given = checked_weights(weights, packed.n_sources)
    fuser = FUSERS[method]
    return driver.Settings(
        method=fuser.method,
        normalise=fuser.scale_unset if weights is None else fuser.scale,
        same_weights=bool((given == given[0]).all()),
        iou=threshold,
        part=part_of(threshold),
        skip=lowest,
        conf_type=CONF_TYPES.index(conf_type),
        allows_overflow=bool(allows_overflow),
        linear=soft == "linear",
        sigma=width,
    )


def fuse_arrays(
    boxes_xyxy: ArrayLike,
    scores: ArrayLike,
    labels: ArrayLike,
    source: ArrayLike,
    offsets: ArrayLike,
    *,
    n_sources: int,
    n_labels: int | None = None,
    present: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
    method: str = "wbf",
    skip: float = 0.001,
    threads: int | None = None,
    **options: Any,
) -> Fused:
    """Pack and fuse in one call; only the rows that reach `skip` are packed.

    The arguments are those of `pack` and, as `options`, the others of `fuse`.
    """
    packed = pack(
        boxes_xyxy,
        scores,
        labels,
        source,
        offsets,
        n_sources=n_sources,
        n_labels=n_labels,
        present=present,
        sizes=sizes,
        floor=skip,
        threads=threads,
    )
    return fuse(packed, method, skip=skip, threads=threads, **options)
