"""What formats share: four numbers, the extent of an outline, and the record of a box."""

import math
from typing import Any

from pipeline.data.raw import Record

NO_NUMBERS = "boxes that are not four finite numbers dropped (ids)"
OUTLINED = "boxes that only an outline states, taken from its extent (ids)"


def four_numbers(values: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers, also where they are written as text; None for anything else."""
    try:
        a, b, c, d = map(float, values)
    except (TypeError, ValueError):
        return None
    return (a, b, c, d) if all(map(math.isfinite, (a, b, c, d))) and not isinstance(values, str) else None


def extent_of(outline: Any) -> tuple[float, float, float, float] | None:
    """Corners of what a COCO segmentation outlines: polygons [x, y, x, y ...], or a run-length mask."""
    try:
        if isinstance(outline, dict):
            from pycocotools import mask  # C code that few need

            counts = outline["counts"]
            packed = mask.frPyObjects(outline, *outline["size"]) if isinstance(counts, list) else outline
            x, y, width, height = map(float, mask.toBbox(packed))
            return x, y, x + width, y + height
        values = [float(value) for part in outline for value in part]
        xs, ys = values[::2], values[1::2]
        corners = min(xs), min(ys), max(xs), max(ys)
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    return corners if len(values) % 2 == 0 and all(map(math.isfinite, corners)) else None


def box_record(
    identity: Any, image: int, label: int, x1: float, y1: float, x2: float, y2: float, crowd: bool = False
) -> Record:
    return {
        "id": identity,
        "image": image,
        "label": label,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "iscrowd": int(crowd),
    }
