"""Boxes of other tools' formats, checked, and COCO results json. Submission CSVs: `submissions/`.

Read by the name or id of the image, never by position. What a reader drops is counted.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.dataset import Dataset
from pipeline.data.findings import Findings
from pipeline.data.predictions import Predictions
from pipeline.data.specs import CORNER_FIELDS, SIZE_FIELDS
from pipeline.errors import PipelineError
from pipeline.paths import shown, write_text

SCORE_DIGITS = 6


@dataclass(frozen=True)
class Boxes:
    """Boxes read from a file: parallel arrays, not clipped yet, and the ids of the images it names."""

    image_id: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    named_ids: NDArray[np.int64]


def checked_boxes(
    values: NDArray[np.float64],
    fields: list[str],
    image_id: NDArray[np.int64],
    named: NDArray[np.int64],
    place: Callable[[int], str],
    dataset: Dataset,
    findings: Findings,
) -> Boxes:
    """Check (n, fields) numbers of pixels; `place` says where in the file a box stands, for an error."""
    column = {name: values[:, i] for i, name in enumerate(fields)}
    if "x1" in column:
        boxes = np.stack([column[f] for f in CORNER_FIELDS], axis=1)
    else:
        boxes = np.stack([column[f] for f in SIZE_FIELDS], axis=1)
        boxes[:, 2:] += boxes[:, :2]
    label = column.get("label", np.zeros(len(values)))
    score, last = column["score"], len(dataset.category_ids) - 1
    for expected, good in (
        ("label that is a whole number", label == np.round(label)),
        (f"label from 0 to {last}", (label >= 0) & (label <= last)),
        ("score from 0 to 1", (score >= 0) & (score <= 1)),
    ):
        if not good.all():
            box = int(np.flatnonzero(~good)[0])
            raise PipelineError(f"{place(box)}: box {values[box].tolist()}: expected a {expected}")
    inverted: NDArray[np.bool_] = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    findings.add("boxes without area or with corners out of order dropped (image ids)", *image_id[inverted])
    if inverted.sum() > len(inverted) / 2 and "x1" in column:
        findings.notes.append(
            f"WARNING: {inverted.mean():.0%} of the boxes have corners out of order and the others are "
            "wrong too if it holds x y w h; then read it with --box '{label} {score} {x} {y} {w} {h}'"
        )
    keep = ~inverted
    return Boxes(image_id[keep], label[keep].astype(np.int64), score[keep], boxes[keep], named)


def read_coco_results(path: Path, dataset: Dataset, findings: Findings) -> Boxes:
    """Read a COCO results json: a list of {image_id, category_id, bbox x y w h, score}."""
    try:
        items = json.loads(Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise PipelineError(f"{shown(path)}: no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PipelineError(f"{shown(path)}: not a whole json file ({error})") from None
    if not isinstance(items, list):
        raise PipelineError(f"{shown(path)}: expected a list of detections (COCO results)")
    labels = {category: label for label, category in enumerate(dataset.category_ids)}
    known = set(dataset.images["image_id"].tolist())
    records = []
    for number, item in enumerate(items):
        try:
            record = (item["image_id"], labels[item["category_id"]], item["score"], *item["bbox"])
            values = np.array(record, np.float64)
            good = len(values) == 7 and bool(np.isfinite(values).all()) and record[0] in known
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise PipelineError(
                f"{shown(path)}: detection {number}: expected image_id of the {dataset.split} set, "
                f"category_id of {list(labels)}, bbox of 4 numbers and score; got {str(item)[:100]}"
            )
        records.append(values)
    table = np.array(records, np.float64).reshape(-1, 7)
    image_id = table[:, 0].astype(np.int64)
    fields = ["label", "score", *SIZE_FIELDS]
    return checked_boxes(
        table[:, 1:],
        fields,
        image_id,
        np.unique(image_id),
        lambda box: f"{shown(path)}: detection {box}",
        dataset,
        findings,
    )


def write_coco_results(path: Path, table: Predictions, dataset: Dataset) -> None:
    """Write a COCO results json, with the category ids of the competition's own annotations."""
    boxes = xyxy_to_xywh(table.boxes_xyxy.astype(np.float64)).round(3).tolist()
    rows: Iterable[Any] = zip(
        table.image_id.tolist(), table.labels.tolist(), table.scores.tolist(), boxes, strict=True
    )
    items = [
        {
            "image_id": image_id,
            "category_id": dataset.category_ids[label],
            "bbox": box,
            "score": round(score, SCORE_DIGITS),
        }
        for image_id, label, score, box in rows
    ]
    write_text(path, json.dumps(items) + "\n")
