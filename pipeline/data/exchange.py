"""Submission CSVs and COCO results json: the prediction table in other tools' formats.

Both read by the name of the image, never by position. What a reader drops or clips is counted.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.dataset import Dataset
from pipeline.data.findings import Findings
from pipeline.data.predictions import Predictions
from pipeline.data.profile import CORNER_FIELDS, SIZE_FIELDS, Profile, box_fields
from pipeline.errors import PipelineError
from pipeline.paths import shown, write_text

SCORE_DIGITS = 6
PIXEL_DIGITS = 2


@dataclass(frozen=True)
class Boxes:
    """Boxes read from a file: parallel arrays, not clipped yet, and the ids of the images it names."""

    image_id: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    boxes_xyxy: NDArray[np.float64]
    named_ids: NDArray[np.int64]


def image_keys(profile: Profile, images: pd.DataFrame) -> list[str]:
    """What a submission calls each image, in the order of the table."""
    template = profile.submission.image
    return [
        template.format(file_name=row.file_name, stem=Path(str(row.file_name)).stem, image_id=row.image_id)
        for row in images.itertuples(index=False)
    ]


def _number(values: NDArray[Any], digits: int) -> list[str]:
    """Plain decimals without exponent or trailing zeros; -0 is 0."""
    return [f"{v:.{digits}f}".rstrip("0").rstrip(".") or "0" for v in (values + 0.0).tolist()]


def write_submission(path: Path, profile: Profile, table: Predictions, images: pd.DataFrame) -> int:
    """Write the CSV: every image of the table `images` once, in the order of its annotation file.

    Boxes come best first. One that rounding leaves without area or with a score of 0 is not written.
    Returns how many boxes were.
    """
    spec = profile.submission
    fields = box_fields(spec)
    boxes = np.round(table.boxes_xyxy.astype(np.float64), PIXEL_DIGITS)
    score = np.round(table.score.astype(np.float64), SCORE_DIGITS)
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1) & (score > 0)
    corners, sizes = boxes[keep], xyxy_to_xywh(boxes[keep])
    columns = {"label": [str(v) for v in table.label[keep].tolist()],
               "score": _number(score[keep], SCORE_DIGITS)}  # fmt: skip
    columns |= {f: _number(corners[:, i], PIXEL_DIGITS) for i, f in enumerate(CORNER_FIELDS)}
    columns |= {f: _number(sizes[:, i], PIXEL_DIGITS) for i, f in enumerate(SIZE_FIELDS)}
    strings = [" ".join(parts) for parts in zip(*(columns[f] for f in fields), strict=True)]
    ids = table.image_id[keep]
    images = images.sort_values("position")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(spec.header)
    keys = image_keys(profile, images)
    for image_id, key in zip(images["image_id"].to_numpy(), keys, strict=True):
        first, last = np.searchsorted(ids, [image_id, image_id + 1])
        cells = {spec.image_column: key, spec.boxes_column: " ".join(strings[first:last]) or spec.empty}
        writer.writerow([cells[name] for name in spec.header])
    write_text(path, text.getvalue())
    return len(strings)


def read_submission(path: Path, profile: Profile, dataset: Dataset, findings: Findings) -> Boxes:
    """Read a submission CSV. Raises PipelineError with the row for anything that is not its format."""
    spec = profile.submission
    fields = box_fields(spec)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(2**31 - 1)
            rows = list(csv.reader(file))
    except (FileNotFoundError, IsADirectoryError):
        raise PipelineError(f"{shown(path)}: no such file") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({error})") from None
    header = rows[0] if rows else []
    if sorted(header) != sorted(spec.header):
        raise PipelineError(f"{shown(path)}: header {header}, expected {list(spec.header)}")
    if tuple(header) != spec.header:
        findings.notes.append(f"columns in another order than {','.join(spec.header)}; read by name")
    at_image, at_boxes = header.index(spec.image_column), header.index(spec.boxes_column)
    names = image_keys(profile, dataset.images)
    by_key = dict(zip(names, dataset.images["image_id"].tolist(), strict=True))
    if len(by_key) < len(names):
        raise PipelineError(f"competition '{profile.name}': submission.image names several images alike")
    ids, tokens = [], []
    seen: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue  # a blank line
        if len(row) != len(header):
            raise PipelineError(
                f"{shown(path)}: row {number}: {len(row)} columns, expected {len(header)}; is the "
                "file cut off?"
            )
        key = row[at_image]
        if key not in by_key:
            raise PipelineError(
                f"{shown(path)}: row {number}: image '{key}' is not in the {dataset.split} set of "
                f"'{profile.name}'; expected one like '{names[0]}'"
            )
        if key in seen:
            raise PipelineError(f"{shown(path)}: row {number}: image '{key}' is also in row {seen[key]}")
        seen[key] = number
        parts = row[at_boxes].split() if row[at_boxes].strip() != spec.empty else []
        if len(parts) % len(fields):
            raise PipelineError(
                f"{shown(path)}: row {number} ({key}): broken box string: {len(parts)} values, expected a "
                f"multiple of {len(fields)} ({spec.box})"
            )
        tokens.append(parts)
        ids.append(by_key[key])
    places = [f"{shown(path)}: row {number} ({key})" for key, number in seen.items()]
    counts = [len(parts) // len(fields) for parts in tokens]
    of_row = np.repeat(np.arange(len(ids)), counts)
    named = np.array(ids, np.int64)
    values = _parse(tokens, places, len(fields))
    return _boxes(values, fields, named[of_row], named, lambda box: places[of_row[box]], dataset, findings)


def _parse(tokens: list[list[str]], places: list[str], width: int) -> NDArray[np.float64]:
    """All box strings as numbers, (boxes, width); the first that is none is named with its row."""
    try:
        flat = np.array([v for parts in tokens for v in parts], dtype=np.float64)
    except ValueError:
        flat = np.array([np.nan])
    if not np.isfinite(flat).all():
        for parts, place in zip(tokens, places, strict=True):
            for value in parts:
                try:
                    good = np.isfinite(float(value))
                except ValueError:
                    good = False
                if not good:
                    raise PipelineError(f"{place}: broken box string: '{value}' is not a finite number")
    return flat.reshape(-1, width)


def _boxes(
    values: NDArray[np.float64], fields: list[str], image_id: NDArray[np.int64],
    named: NDArray[np.int64], place: Callable[[int], str], dataset: Dataset, findings: Findings,
) -> Boxes:  # fmt: skip
    """Check (n, fields) numbers; `place` says where in the file a box stands, for an error."""
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
    return _boxes(
        table[:, 1:], fields, image_id, np.unique(image_id),
        lambda box: f"{shown(path)}: detection {box}", dataset, findings,
    )  # fmt: skip


def write_coco_results(path: Path, table: Predictions, dataset: Dataset) -> None:
    """Write a COCO results json, with the category ids of the competition's own annotations."""
    boxes = xyxy_to_xywh(table.boxes_xyxy.astype(np.float64)).round(3).tolist()
    rows: Iterable[Any] = zip(
        table.image_id.tolist(), table.label.tolist(), table.score.tolist(), boxes, strict=True
    )
    items = [
        {"image_id": image_id, "category_id": dataset.category_ids[label], "bbox": box,
         "score": round(score, SCORE_DIGITS)}
        for image_id, label, score, box in rows
    ]  # fmt: skip
    write_text(path, json.dumps(items) + "\n")
