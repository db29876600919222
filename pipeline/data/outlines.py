"""Outlines of objects, which models with a mask head learn from: COCO's `segmentation`, checked.

An outline is polygons [x, y, x, y ...] in pixels of the photo, or a run-length mask of the photo's size
(cocodataset.org, "Data format"). In a box table it is JSON text.
"""

import json
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.findings import Findings
from pipeline.data.specs import CORNER_FIELDS
from pipeline.data.text import Corners, plain_numbers

SEGMENTATION = "segmentation"  # the column of a box table, where a model asks for it
FAR = 1e7  # pixels; what lies farther off is no coordinate
Outline = list[list[float]] | dict[str, Any]
Size = tuple[int, int]  # width, height


class _FaultError(Exception):
    """What is wrong with an outline, said of its box."""


def checked_outlines(boxes: pd.DataFrame, findings: Findings) -> list[str]:
    """The outline of each box of a table with corners, iscrowd, width and height of the photo, as JSON.

    An object whose outline cannot be used has its box as one, and counts among the lost "outlines". So has a
    crowd, without a word: frameworks ignore where it is. Polygons are clipped to the photo.
    """
    outlines = []
    columns = boxes[["id", SEGMENTATION, "iscrowd", "width", "height", *CORNER_FIELDS]]
    for identity, stated, crowd, width, height, *corners in columns.itertuples(index=False):
        x1, y1, x2, y2 = corners
        outline: Outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
        if not crowd:
            try:
                outline, notes = _checked(stated, (width, height), (x1, y1, x2, y2))
                for note in notes:
                    findings.add(note, identity)
            except _FaultError as fault:
                findings.lose("outlines", f"boxes {fault}, learned as rectangles (ids)", identity)
        outlines.append(json.dumps(outline, separators=(",", ":")))
    return outlines


def _checked(stated: Any, size: Size, corners: Corners) -> tuple[Outline, list[str]]:
    """An outline of the object in a box, and what was repaired. Raises _FaultError where none can be used."""
    notes: list[str] = []
    outline: Outline
    if isinstance(stated, dict):
        outline, extent = _checked_mask(stated, size)
    elif isinstance(stated, list) and stated:
        outline, notes = _checked_polygons(stated, size)
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in outline] or [np.zeros((1, 2))])
        extent = *points.min(0), *points.max(0)
    else:
        raise _FaultError("without an outline")
    x1, y1, x2, y2 = corners
    if min(x2, extent[2]) <= max(x1, extent[0]) or min(y2, extent[3]) <= max(y1, extent[1]):
        raise _FaultError("beside which their outline lies")
    return outline, notes


def _checked_polygons(stated: list[Any], size: Size) -> tuple[list[list[float]], list[str]]:
    """The good ones of some polygons, clipped to the photo; raises _FaultError where there is none."""
    good, faults, notes = [], set(), []
    for polygon in stated:
        numbers = plain_numbers(polygon)
        if numbers is None or max(map(abs, numbers), default=0) > FAR:
            faults.add("coordinates that are no finite numbers")
        elif len(numbers) % 2:
            faults.add("an odd number of coordinates")
        elif len(numbers) < 6:
            faults.add("fewer than three points")
        else:
            good.append(numbers)
    if faults and not good:
        raise _FaultError(f"whose outline has {min(faults)}")
    notes = [f"outlines with a polygon of {fault}, which is left out (ids)" for fault in sorted(faults)]
    clipped = [_clipped(polygon, size) for polygon in good]
    if clipped != good:
        notes.append("outlines that reach outside clipped (ids)")
    return [polygon for polygon in clipped if len(polygon) >= 6], notes


def _clipped(polygon: list[float], size: Size) -> list[float]:
    """A polygon's part inside the photo (Sutherland and Hodgman, Communications of the ACM 17, 1974)."""
    points = np.reshape(polygon, (-1, 2))
    for axis, limit, sign in ((0, 0, 1), (1, 0, 1), (0, size[0], -1), (1, size[1], -1)):
        inside = (points[:, axis] - limit) * sign >= 0
        if inside.all():
            continue
        kept = []
        for i, point in enumerate(points):
            before = points[i - 1]
            if inside[i] != inside[i - 1]:
                crossing = before + (point - before) * (limit - before[axis]) / (point - before)[axis]
                crossing[axis] = limit
                kept.append(crossing)
            if inside[i]:
                kept.append(point)
        points = np.reshape(kept, (-1, 2))
    return points.ravel().tolist()


def _checked_mask(stated: dict[str, Any], size: Size) -> tuple[Outline, Corners]:
    """A run-length mask in its compressed form, and its extent."""
    from pycocotools import mask  # C code that few need

    width, height = size
    if plain_numbers(stated.get("size")) != [height, width]:
        raise _FaultError("whose run-length mask is not of the photo's size")
    counts = stated.get("counts")
    runs = _runs(counts) if isinstance(counts, str) else plain_numbers(counts)
    if not runs or any(run < 0 or run % 1 for run in runs) or sum(runs) != width * height:
        raise _FaultError("whose run-length mask does not fill the photo")
    packed = mask.frPyObjects({"size": [height, width], "counts": list(map(int, runs))}, height, width)
    x, y, w, h = map(float, mask.toBbox(packed))
    return {"size": [height, width], "counts": packed["counts"].decode()}, (x, y, x + w, y + h)


def _runs(text: str) -> list[float] | None:
    """The run lengths of a compressed mask, None where it is none.

    Five bits a character, the lowest first; from the third on differences to the last but one (rleFrString in
    pycocotools, which does not check them).
    """
    runs: list[float] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 50:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs
