"""Boxes of other tools' formats, checked, and COCO results json. Submission CSVs: `submissions/`.

Read by the name or id of the image, never by position. What a reader drops is counted.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.boxes import clip, xyxy_to_xywh
from pipeline.data.dataset import Dataset
from pipeline.data.findings import MAY_LOSE, Findings
from pipeline.data.predictions import Predictions
from pipeline.data.specs import CORNER_FIELDS, SIZE_FIELDS
from pipeline.data.text import find_key, four_numbers, plain_numbers, read_json
from pipeline.data.units import doubts_of
from pipeline.errors import PipelineError
from pipeline.paths import shown, write_text

SCORE_DIGITS = 6
SCORE_SLACK = 1e-6  # above 1, as rounding in float32 leaves it


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
        ("score from 0 to 1", (score >= 0) & (score <= 1 + SCORE_SLACK)),
    ):
        if not good.all():
            box = int(np.flatnonzero(~good)[0])
            raise PipelineError(f"{place(box)}: box {values[box].tolist()}: expected a {expected}")
    rows: NDArray[np.intp] = dataset.images.set_index("image_id").index.get_indexer(pd.Index(image_id))
    sizes = dataset.images[["width", "height"]].to_numpy(np.float64)[rows]
    findings.refusals += doubts_of(boxes, sizes)
    inside = clip(boxes, sizes[:, 0], sizes[:, 1])
    inverted: NDArray[np.bool_] = np.any(boxes[:, 2:] <= boxes[:, :2], axis=1)
    outside = ~inverted & np.any(inside[:, 2:] <= inside[:, :2], axis=1)
    for kind, left_out in (
        ("boxes without area or with corners out of order dropped (image ids)", inverted),
        ("boxes wholly outside their photo dropped (image ids)", outside),
    ):
        findings.lose("boxes", kind, *image_id[left_out])
    findings.refuse_losses("boxes", len(boxes), int(MAY_LOSE * len(boxes)), "Correct the file")
    keep = ~inverted & ~outside
    return Boxes(image_id[keep], label[keep].astype(np.int64), np.minimum(score[keep], 1), boxes[keep], named)


def read_coco_results(path: Path, dataset: Dataset, findings: Findings) -> Boxes:
    """Read a COCO results json: a list of {image_id, category_id, bbox x y w h, score}.

    Or the annotations of a COCO file, each with a score.
    """
    items = read_json(Path(path))
    if isinstance(items, dict):
        items = items.get("annotations")
    if not isinstance(items, list):
        raise PipelineError(f"{shown(path)}: expected a list of detections (COCO results)")
    labels = {category: label for label, category in enumerate(dataset.category_ids)}
    images = dict(zip(dataset.images["file_id"].tolist(), dataset.images["image_id"].tolist(), strict=True))
    records = []
    for number, item in enumerate(items):
        try:
            image, category = find_key(item["image_id"], images), find_key(item["category_id"], labels)
            score, box = plain_numbers([item["score"]]), four_numbers(item["bbox"])
            values = [images[image], labels[category], *(score or ()), *(box or ())]
        except (KeyError, TypeError):
            values = []
        if len(values) != 7:
            raise PipelineError(
                f"{shown(path)}: detection {number}: expected image_id of the {dataset.split} set as "
                f"{next(iter(images))!r}, category_id of {list(labels)}, bbox of 4 numbers and score; got "
                f"{str(item)[:100]}"
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
    """Write a COCO results json, with the ids of images and categories of the competition's annotations."""
    file_id = dict(zip(dataset.images["image_id"].tolist(), dataset.images["file_id"].tolist(), strict=True))
    boxes = xyxy_to_xywh(table.boxes_xyxy.astype(np.float64)).round(3).tolist()
    rows: Iterable[Any] = zip(
        table.image_id.tolist(), table.labels.tolist(), table.scores.tolist(), boxes, strict=True
    )
    items = [
        {
            "image_id": file_id[image_id],
            "category_id": dataset.category_ids[label],
            "bbox": box,
            "score": round(score, SCORE_DIGITS),
        }
        for image_id, label, score, box in rows
    ]
    write_text(path, json.dumps(items) + "\n")
