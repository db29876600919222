"""Real predictions for the parity tests, where they are on this machine."""

import csv
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fusion_oracle import Rows

SIDE = 1024.0


def folder() -> Path:
    """`predictions/` under $PIPELINE_DATA or ../shared/data; skips the test where there is none."""
    root = Path(__file__).resolve().parents[1]
    data = Path(os.environ.get("PIPELINE_DATA", root.parent / "shared" / "data"))
    if not (data / "predictions").is_dir():
        pytest.skip(f"no real predictions in {data}: set PIPELINE_DATA to their folder")
    return data / "predictions"


def read(path: Path) -> dict[str, np.ndarray]:
    """image_id -> (n, 6) float64 of label, score, x1, y1, x2, y2."""
    with path.open(newline="") as file:
        return {
            row["image_id"]: np.array(row["PredictionString"].split(), float).reshape(-1, 6)
            for row in csv.DictReader(file)
        }


def stacked(names: list[str], limit: int) -> Rows:
    """The files' boxes on the first `limit` images that all have, untied and within the image.

    Equal scores get apart by less than rounding to float32 would move a score of six digits:
    parity is a promise for untied scores. Clipping and inverted corners have tests of their own.
    """
    tables = [read(folder() / name) for name in names]
    images = sorted(set.intersection(*(set(table) for table in tables)))[:limit]
    blocks, source = [], []
    for image in images:
        for s, table in enumerate(tables):
            blocks.append(table[image])
            source.append(np.full(len(table[image]), s))
    rows = np.concatenate(blocks)
    source = np.concatenate(source)
    image_of_row = np.repeat(np.arange(len(images) * len(tables)), [len(b) for b in blocks])
    image_of_row //= len(tables)
    boxes = np.clip(rows[:, 2:], 0, SIDE).astype(np.float32)
    good = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    scores = np.clip(rows[:, 1], 1e-6, 1).astype(np.float32)
    for image in range(len(images)):
        mine = np.flatnonzero(image_of_row == image)
        scores[mine] = _untied(scores[mine])
    counts = np.bincount(image_of_row[good], minlength=len(images))
    return Rows(
        boxes[good],
        scores[good],
        rows[good, 0].astype(np.int16),
        source[good].astype(np.int16),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.full((len(images), 2), SIDE, np.float32),
        len(names),
    )


def _untied(scores: np.ndarray) -> np.ndarray:
    """The scores with equal ones moved down, one float32 step at a time."""
    order = np.argsort(-scores, kind="stable")
    out = scores.copy()
    for before, here in pairwise(order):
        if out[here] >= out[before]:
            out[here] = np.nextafter(out[before], np.float32(0))
    return out
