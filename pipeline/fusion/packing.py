"""Packing: flat arrays in, a table grouped by image and label and sorted by score out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError
from pipeline.fusion import grouping, inputs
from pipeline.fusion.grouping import Raw, Table
from pipeline.kernels.threads import chunks, over_chunks, thread_count


@dataclass(frozen=True, eq=False)
class Packed:
    """Boxes ready to be fused, as often as wanted, with any weights and thresholds.

    Made by `pack`. `present` (m, n_sources) bool, or no rows when every source predicted every
    image. `floor`: rows with a lower score were left out. `report`: what was left out and repaired.
    """

    table: Table
    n_sources: int
    n_labels: int
    present: NDArray[np.bool_]
    floor: float
    report: inputs.FusionReport

    @property
    def n_images(self) -> int:
        """How many images there are, those without a box included."""
        return len(self.table.image_rows) - 1


def pack(
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
    floor: float = 0.0,
    threads: int | None = None,
) -> Packed:
    """Filter, check, group and sort the boxes of all sources and images once.

    boxes_xyxy: (n, 4) float32, corners in pixels. scores: (n,) float32 in [0, 1].
    labels: (n,) integers in [0, n_labels), n_labels at most 32768 (None: the highest label + 1).
    source: (n,) integers in [0, n_sources): which source (model, view, fold) a row comes from.
    offsets: (m+1,) int64, the rows of image i are offsets[i]:offsets[i+1]. Or (parts, m+1) for
    tables that were put one after another: the rows of image i in part p are
    offsets[p, i]:offsets[p, i+1], so ten prediction tables need not be merged first.
    present: (m, n_sources) bool, whether a source predicted an image at all; only those count in
    that image's total weight. None: all did, and a source without boxes there detected nothing.
    sizes: (m, 2) width and height, to clip boxes to their image. None: no clipping.
    floor: rows with a lower score are left out before anything else is done.

    Raises PipelineError for the errors that the package's docstring lists; its repairs are counted
    in the `report` of the result.
    """
    boxes = inputs.checked_boxes(boxes_xyxy)
    n = len(boxes)
    rows = inputs.checked_offsets(offsets, n)
    m = rows.shape[1] - 1
    if not 1 <= n_sources <= 32768:
        raise PipelineError(f"n_sources={n_sources}: expected 1 to 32768")
    if n_labels is not None and not 1 <= n_labels <= 32768:
        raise PipelineError(f"n_labels={n_labels}: expected 1 to 32768")
    raw = Raw(
        boxes,
        inputs.checked_scores(scores, n),
        inputs.checked_integers(labels, n, "labels", n_labels),
        inputs.checked_integers(source, n, "source", n_sources),
        rows,
        inputs.checked_sizes(sizes, m),
        inputs.checked_present(present, m, n_sources),
    )
    if n_labels is None:
        n_labels = int(raw.labels.max()) + 1 if n else 1
    lowest = np.float32(inputs.checked_number(floor, "floor", 0.0, 1.0))

    n_threads = thread_count(threads)
    per_image = np.diff(rows, axis=1).sum(axis=0)
    ranges = chunks(np.concatenate([[0], np.cumsum(per_image)]), n_threads)
    kept = np.zeros(m, np.int64)

    def count(_: int, first: int, last: int) -> None:
        grouping.count_rows(first, last, raw.scores, rows, lowest, kept)

    over_chunks(count, ranges, n_threads)
    table = _empty_table(kept, n_labels)
    counts = np.zeros((len(ranges), grouping.N_COUNTS), np.int64)

    def fill(k: int, first: int, last: int) -> None:
        grouping.pack_images(first, last, raw, lowest, n_labels, table, counts[k])

    over_chunks(fill, ranges, n_threads)
    return Packed(table, n_sources, n_labels, raw.present, float(lowest), _report(counts))


def _empty_table(kept: NDArray[np.int64], n_labels: int) -> Table:
    """An empty table with room for `kept` rows per image."""
    image_rows = np.concatenate([[0], np.cumsum(kept)])
    group_first = np.concatenate([[0], np.cumsum(np.minimum(kept, n_labels))])
    total = int(image_rows[-1])
    return Table(
        np.empty((total, 4), np.float32),
        np.empty(total, np.float32),
        np.empty(total, np.int16),
        image_rows,
        group_first,
        np.zeros((int(group_first[-1]), 2), np.int64),
        np.zeros(int(group_first[-1]), np.int16),
    )


def _report(counts: NDArray[np.int64]) -> inputs.FusionReport:
    total = [int(count) for count in counts.sum(axis=0)]
    if total[grouping.ABSENT]:
        raise PipelineError(
            f"present: {total[grouping.ABSENT]} rows belong to a source that is marked as absent "
            "for their image; mark it as present or leave its rows out"
        )
    return inputs.FusionReport(
        below_floor=total[grouping.BELOW],
        non_finite_scores=total[grouping.SCORE_NAN],
        zero_scores=total[grouping.SCORE_ZERO],
        non_finite_boxes=total[grouping.BOX_NAN],
        inverted=total[grouping.INVERTED],
        outside=total[grouping.OUTSIDE],
        empty=total[grouping.EMPTY],
    )
