"""Checks of the input: errors that stop, and repairs that are counted."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError

_INT16_MAX = 32767
_MIN_WEIGHT = 1e-9


@dataclass(frozen=True)
class FusionReport:
    """Counts of what packing and fusing left out or repaired; all zero for a clean table.

    `below_floor` and `zero_weight_rows` (rows of sources with weight 0) follow from the caller's
    parameters; the others are repairs. A box can count as inverted, outside and empty at once.
    """

    below_floor: int = 0
    zero_weight_rows: int = 0
    non_finite_scores: int = 0
    zero_scores: int = 0
    non_finite_boxes: int = 0
    inverted: int = 0
    outside: int = 0
    empty: int = 0
    capped_scores: int = 0

    _REPAIRS: ClassVar[dict[str, str]] = {
        "non_finite_scores": "boxes dropped, score NaN or infinite",
        "zero_scores": "boxes dropped, score 0",
        "non_finite_boxes": "boxes dropped, a corner NaN or infinite",
        "inverted": "boxes repaired, corners swapped that were in the wrong order",
        "outside": "boxes repaired, clipped to the image",
        "empty": "boxes dropped, no area inside the image",
        "capped_scores": "fused boxes repaired, score above 1 set to 1",
    }

    def lines(self) -> list[str]:
        """One line per kind of repair that occurred: what was done, why, how often."""
        counted = [(getattr(self, name), text) for name, text in self._REPAIRS.items()]
        return [f"{text}: {count}" for count, text in counted if count]

    def plus(self, **counts: int) -> "FusionReport":
        """This report with `counts` added to its own."""
        return FusionReport(**{f.name: getattr(self, f.name) + counts.get(f.name, 0) for f in fields(self)})


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view, so that arrays from pyarrow and from NumPy share one compiled kernel."""
    view = np.require(array, requirements=["C", "A"]).view()
    view.flags.writeable = False
    return view


def _array(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError:
        raise PipelineError(f"{name}: expected rows of equal length") from None


def _first_row(wrong: NDArray[np.bool_]) -> int:
    return int(np.argmax(wrong))


def checked_boxes(boxes_xyxy: ArrayLike) -> NDArray[np.float32]:
    """The corners as (n, 4) float32."""
    boxes = _array(boxes_xyxy, "boxes_xyxy")
    if boxes.size == 0 and boxes.shape in ((0,), (0, 4)):
        return frozen(np.zeros((0, 4), np.float32))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise PipelineError(f"boxes_xyxy: expected numbers of shape (n, 4), got {boxes.dtype} {boxes.shape}")
    return frozen(boxes.astype(np.float32, copy=False))


def checked_scores(scores: ArrayLike, n: int) -> NDArray[np.float32]:
    """The scores as (n,) float32; NaN and infinite ones pass, to be dropped and counted."""
    values = _column(scores, n, "scores", "fiu").astype(np.float32, copy=False)
    if n and not (values.min() >= 0 and values.max() <= 1):
        wrong = np.isfinite(values) & ((values < 0) | (values > 1))
        if wrong.any():
            row = _first_row(wrong)
            raise PipelineError(
                f"scores, row {row}: {values[row]!s}, expected 0 to 1; calibrate or rescale first "
                f"({int(wrong.sum())} such rows)"
            )
    return frozen(values)


def checked_integers(values: ArrayLike, n: int, name: str, below: int | None) -> NDArray[np.int16]:
    """Labels or sources as (n,) int16, each in [0, below)."""
    numbers = _column(values, n, name, "iu")
    limit = _INT16_MAX + 1 if below is None else below
    if n and not (numbers.min() >= 0 and numbers.max() < limit):
        row = _first_row((numbers < 0) | (numbers >= limit))
        raise PipelineError(f"{name}, row {row}: {numbers[row]}, expected 0 to {limit - 1}")
    return frozen(numbers.astype(np.int16, copy=False))


def _column(values: ArrayLike, n: int, name: str, kinds: str) -> NDArray[Any]:
    column = _array(values, name)
    if column.shape != (n,):
        raise PipelineError(f"{name}: expected one value per box, shape ({n},), got shape {column.shape}")
    if n and column.dtype.kind not in kinds:
        expected = "integers" if kinds == "iu" else "numbers"
        raise PipelineError(f"{name}: expected {expected}, got {column.dtype}")
    return column if n else np.zeros(0, np.int16)


def checked_offsets(offsets: ArrayLike, n: int) -> NDArray[np.int64]:
    """The offsets as (parts, m+1) int64: rising, from 0 to n, part after part."""
    rows = np.atleast_2d(_array(offsets, "offsets"))
    if rows.ndim != 2 or rows.shape[1] < 1 or rows.dtype.kind not in "iu":
        raise PipelineError(
            f"offsets: expected integers of shape (m+1,) or (parts, m+1), got {rows.dtype} {rows.shape}"
        )
    rows = rows.astype(np.int64, copy=False)
    if (rows[:, 1:] < rows[:, :-1]).any() or (rows[1:, 0] != rows[:-1, -1]).any():
        raise PipelineError("offsets: expected rising row numbers, each part where the last one ended")
    if rows[0, 0] != 0 or rows[-1, -1] != n:
        raise PipelineError(
            f"offsets: run from {rows[0, 0]} to {rows[-1, -1]}, expected 0 to {n}, one row per box"
        )
    return frozen(rows)


def checked_present(present: ArrayLike | None, m: int, n_sources: int) -> NDArray[np.bool_]:
    """The mask of sources that predicted an image, (m, n_sources), or no rows for None."""
    if present is None:
        return frozen(np.zeros((0, n_sources), np.bool_))
    mask = _array(present, "present")
    if mask.shape != (m, n_sources) or mask.dtype != np.bool_:
        raise PipelineError(
            f"present: expected bool of shape ({m}, {n_sources}), got {mask.dtype} {mask.shape}"
        )
    return frozen(mask)


def checked_sizes(sizes: ArrayLike | None, m: int) -> NDArray[np.float32]:
    """Width and height of the images, (m, 2), or no rows for None."""
    if sizes is None:
        return frozen(np.zeros((0, 2), np.float32))
    values = _array(sizes, "sizes")
    if values.shape != (m, 2) or values.dtype.kind not in "fiu":
        raise PipelineError(
            f"sizes: expected width and height, shape ({m}, 2), got {values.dtype} {values.shape}"
        )
    values = values.astype(np.float32, copy=False)
    wrong = ~(np.isfinite(values) & (values > 0)).all(axis=1)
    if wrong.any():
        image = _first_row(wrong)
        raise PipelineError(f"sizes, image {image}: {values[image].tolist()}, expected above 0")
    return frozen(values)


def checked_number(value: float, name: str, low: float, high: float) -> float:
    """A finite number in [low, high]."""
    if not isinstance(value, (int, float, np.number)) or not low <= value <= high:
        raise PipelineError(f"{name}={value}: expected {low:g} to {high:g}")
    return float(value)


def checked_weights(weights: ArrayLike | None, n_sources: int) -> NDArray[np.float64]:
    """One weight per source, (n_sources,) float64, the highest 1 and none negative; ones for None.

    Only their ratios matter to any fuser.
    """
    if weights is None:
        return np.ones(n_sources)
    values = _array(weights, "weights")
    if values.shape != (n_sources,) or values.dtype.kind not in "fiu":
        raise PipelineError(
            f"weights: expected one number for each of {n_sources} sources, got {values.dtype} {values.shape}"
        )
    values = values.astype(np.float64)
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        source = _first_row(wrong)
        raise PipelineError(f"weights, source {source}: {values[source]}, expected 0 or more")
    if not values.any():
        raise PipelineError("weights: all are 0; give at least one source a weight")
    values = values / values.max()
    wrong = (values > 0) & (values < _MIN_WEIGHT)
    if wrong.any():
        source = _first_row(wrong)
        raise PipelineError(
            f"weights, source {source}: {values[source]:g} of the highest, expected 0 or at least "
            f"{_MIN_WEIGHT:g} of it"
        )
    return values
