"""Write a submission CSV, column by column, without a Python object per box."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.predictions import Predictions
from pipeline.data.profile import Profile
from pipeline.data.specs import CORNER_FIELDS, SIZE_FIELDS, box_fields
from pipeline.errors import PipelineError
from pipeline.kernels.threads import run, thread_count
from pipeline.paths import atomic
from pipeline.submissions.layout import layout_of

# What numbers are rounded to. On the out-of-fold boxes of a Swin-L (27,912 on 940 photos) mAP50 and the
# AP50 of each class stay the same in all five digits, mAP50-95 changes by 1e-5.
SCORE_PLACES = 6
PIXEL_PLACES = 2
SHARE_PLACES = 6  # of normalised coordinates: 0.001 pixels of a photo of 1,000
SPECIAL = re.compile(r'[,"\n\r]')
Numbers = NDArray[np.float64]


def write_submission(
    path: Path,
    profile: Profile,
    table: Predictions,
    images: pd.DataFrame,
    min_scores: NDArray[np.float32] | None = None,
) -> int:
    """Write the CSV: every image of `images` once, in the order of the sample or of the annotation file.

    Boxes come best first. One that rounding leaves without area or with a score of 0 is not written,
    nor is one whose score is below its class's in `min_scores` (classes,). Returns how many were.
    """
    spec, layout = profile.submission, layout_of(profile, images, table.meta.split)
    if set(layout.header) != {spec.image_column, spec.boxes_column}:
        raise PipelineError(f"header {','.join(layout.header)}: expected the image and its boxes, no more")
    image_ids, strings = _box_strings(profile, table, images, min_scores)
    ids, first = np.unique(image_ids, return_index=True)
    lists = pa.ListArray.from_arrays(pa.array(np.append(first, len(strings)), pa.int32()), strings)
    by_image = dict(zip(ids.tolist(), pc.binary_join(lists, " ").to_pylist(), strict=True))
    if any(map(SPECIAL.search, profile.labels)):
        by_image = {image_id: _cell(cell) for image_id, cell in by_image.items()}
    lines = [",".join(map(_cell, layout.header))]
    for key, image_id, other in zip(layout.keys, layout.image_ids.tolist(), layout.cells, strict=True):
        boxes = by_image.get(image_id, _cell(spec.empty)) if image_id >= 0 else _cell(other)
        cells = (_cell(key), boxes) if layout.header[0] == spec.image_column else (boxes, _cell(key))
        lines.append(",".join(cells))
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(("\n".join(lines) + "\n").encode())
    return len(strings)


def _box_strings(
    profile: Profile, table: Predictions, images: pd.DataFrame, min_scores: NDArray[np.float32] | None
) -> tuple[NDArray[np.int32], Any]:
    """Image id and text of each box that is written, in the table's order."""
    spec, names = profile.submission, profile.labels or tuple(map(str, range(len(profile.classes))))
    if len(table) and int(table.labels.max()) >= len(names):
        raise PipelineError(f"{table.name}: label {table.labels.max()}, expected 0..{len(names) - 1}")
    floors = np.zeros(len(names), np.float32) if min_scores is None else np.asarray(min_scores, np.float32)
    if floors.shape != (len(names),):
        raise PipelineError(f"minimum scores of shape {floors.shape} for {len(names)} classes")
    places, corners = PIXEL_PLACES, table.boxes_xyxy.astype(np.float64)
    if spec.normalized:
        sizes = images.set_index("image_id")[["width", "height"]].reindex(table.image_id)
        places, corners = SHARE_PLACES, corners / np.tile(sizes.to_numpy(np.float64), 2)
    # Whole numbers of the last place, so that differences are exact.
    scores = np.rint(table.scores.astype(np.float64) * 10**SCORE_PLACES)
    corners = np.rint(corners * 10**places)
    sizes_xywh = xyxy_to_xywh(corners)
    keep = (sizes_xywh[:, 2:] > 0).all(axis=1) & (scores > 0) & (table.scores >= floors[table.labels])
    keep &= np.isin(table.image_id, images["image_id"])
    columns = dict(zip((*CORNER_FIELDS, *SIZE_FIELDS), (*corners.T, *sizes_xywh.T), strict=True))
    texts: dict[str, Any] = {}

    def put(field: str) -> None:
        if field == "label":
            texts[field] = pa.array(names, pa.string()).take(pa.array(table.labels[keep]))
        elif field == "score":
            texts[field] = _decimals(scores[keep], SCORE_PLACES)
        else:
            texts[field] = _decimals(columns[field][keep], places)

    fields = box_fields(spec)
    run([partial(put, field) for field in fields], thread_count(None))
    return table.image_id[keep], pc.binary_join_element_wise(*(texts[field] for field in fields), " ")


def _decimals(values: Numbers, places: int) -> Any:
    """(n,) whole numbers of the last of `places` decimals as text: the shortest, without an exponent."""
    if len(values) and values.max() < len(values):  # format each number once
        table = _decimals(np.append(np.arange(values.max() + 1), np.inf), places)
        return table.take(pa.array(values.astype(np.int64)))
    return pc.cast(pa.array(values / 10**places + 0.0), pa.string())  # + 0.0: no -0


def _cell(text: str) -> str:
    """A CSV cell, in quotes where it needs them."""
    if SPECIAL.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text
