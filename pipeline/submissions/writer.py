"""Write a submission CSV, on all cores, without a Python object per box."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.predictions import Predictions
from pipeline.data.profile import Profile
from pipeline.data.specs import BOX_FIELDS, box_fields
from pipeline.errors import PipelineError
from pipeline.kernels.threads import chunks, run, thread_count
from pipeline.paths import atomic
from pipeline.submissions import digits
from pipeline.submissions.layout import Layout, layout_of

# What numbers are rounded to. On the out-of-fold boxes of a Swin-L (27,912 on 940 photos) mAP50 and the
# AP50 of each class stay the same in all five digits, mAP50-95 changes by 1e-5.
SCORE_PLACES = 6
PIXEL_PLACES = 2
SHARE_PLACES = 6  # of normalised coordinates: 0.001 pixels of a photo of 1,000
SPECIAL = re.compile(r'[,"\n\r]')
NUMBER_LENGTH = 22  # the longest number, with a space after it
Bytes = NDArray[np.uint8]


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
    layout = layout_of(profile, images, table.meta.split)
    parts, count = submission_bytes(profile, table, layout, images, min_scores)
    with atomic(Path(path)) as temporary, open(temporary, "wb", buffering=0) as file:
        for part in parts:
            file.write(part.data)
    return count


def submission_bytes(
    profile: Profile,
    table: Predictions,
    layout: Layout,
    images: pd.DataFrame,
    min_scores: NDArray[np.float32] | None = None,
    threads: int | None = None,
) -> tuple[list[Bytes], int]:
    """The file in UTF-8, in pieces that follow each other, and the number of boxes in it."""
    spec, count = profile.submission, thread_count(threads)
    names = profile.labels or tuple(map(str, range(len(profile.classes))))
    if len(table) and int(table.label.max()) >= len(names):
        raise PipelineError(f"{table.name}: label {table.label.max()}, expected 0..{len(names) - 1}")
    floors = np.zeros(len(names), np.float32) if min_scores is None else np.asarray(min_scores, np.float32)
    if floors.shape != (len(names),):
        raise PipelineError(f"minimum scores of shape {floors.shape} for {len(names)} classes")
    fields = box_fields(spec)
    codes = np.array([BOX_FIELDS.index(name) for name in fields])
    begin = np.searchsorted(table.image_id, layout.image_ids)
    end = np.searchsorted(table.image_id, layout.image_ids, side="right")
    sides = np.ones((len(begin), 2))
    if spec.normalized:
        rows = np.searchsorted(images["image_id"].to_numpy(), layout.image_ids)
        sides = images[["width", "height"]].to_numpy(np.float64)[np.minimum(rows, len(images) - 1)]
    label_text, label_at = _joined(names)
    head, tail = _around(profile, layout)
    (head_text, head_at), (tail_text, tail_at) = _joined(head), _joined(tail)
    label_length = int(np.diff(label_at).max())
    places = SHARE_PLACES if spec.normalized else PIXEL_PLACES

    def piece(first: int, last: int, empty: Bytes) -> tuple[Bytes, int]:
        texts = head_at[last] - head_at[first] + tail_at[last] - tail_at[first] + (last - first) * len(empty)
        room = int(np.sum(end[first:last] - begin[first:last]))
        out = np.empty(texts + room * (label_length + 1 + NUMBER_LENGTH * len(fields)), np.uint8)
        size, written = digits.put_rows(
            out,
            begin,
            end,
            table.boxes_xyxy,
            table.score,
            table.label,
            floors,
            sides,
            codes,
            SCORE_PLACES,
            places,
            label_text,
            label_at,
            head_text,
            head_at,
            tail_text,
            tail_at,
            empty,
            first,
            last,
        )
        return out[:size], written

    named = layout.image_ids >= 0
    jobs: list[tuple[int, int, Bytes]] = []
    for first, last in _runs(named):
        # A row that names no image has its cell in `head`, and nothing for an empty box string.
        empty = np.frombuffer(spec.empty.encode() if named[first] else b"", np.uint8)
        rows = np.append(0, np.cumsum(end[first:last] - begin[first:last] + 1))
        jobs += [(first + a, first + b, empty) for a, b in chunks(rows, count)]
    pieces: list[tuple[Bytes, int]] = [(np.empty(0, np.uint8), 0)] * len(jobs)

    def work(k: int) -> None:
        pieces[k] = piece(*jobs[k])

    run([partial(work, k) for k in range(len(jobs))], count)
    header = np.frombuffer((",".join(map(_cell, layout.header)) + "\n").encode(), np.uint8)
    return [header, *(text for text, _ in pieces)], sum(written for _, written in pieces)


def _around(profile: Profile, layout: Layout) -> tuple[list[str], list[str]]:
    """The text before and after the box string of each row; all of it for a row that names no image."""
    spec = profile.submission
    if set(layout.header) != {spec.image_column, spec.boxes_column}:
        raise PipelineError(f"header {','.join(layout.header)}: expected the image and its boxes, no more")
    keys = [_cell(key) for key in layout.keys]
    cells = [_cell(cell) for cell in layout.cells]
    if layout.header[0] == spec.image_column:
        return [f"{key},{cell}" for key, cell in zip(keys, cells, strict=True)], ["\n"] * len(keys)
    return cells, [f",{key}\n" for key in keys]


def _cell(text: str) -> str:
    """A CSV cell, in quotes where it needs them."""
    if SPECIAL.search(text):
        return '"' + text.replace('"', '""') + '"'
    return text


def _joined(texts: Sequence[str]) -> tuple[Bytes, NDArray[np.int64]]:
    """Texts end to end as bytes, and where each begins (len + 1,)."""
    parts = [text.encode() for text in texts]
    ends = np.cumsum([0, *map(len, parts)]).astype(np.int64)
    return np.frombuffer(b"".join(parts), np.uint8), ends


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Ranges of equal flags, one after the other."""
    cuts = np.flatnonzero(np.diff(flags)) + 1
    return list(zip([0, *cuts.tolist()], [*cuts.tolist(), len(flags)], strict=True)) if len(flags) else []
