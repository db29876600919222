"""The prediction table: one Parquet file of boxes, the only thing that stages hand to each other.

One row per box, sorted by image, then by score, highest first:

    image_id int32    id in the competition's image table of that split
    label    int16    0-based class index in the profile's order
    score    float32  in [0, 1]
    x1 y1 x2 y2 float32  corners in pixels of the photo, x2 > x1, y2 > y1, clipped to it

The file's metadata (key `pipeline`, json) says for which competition, split and image table the
boxes are, and which images were predicted, each with its fold or null: an image without a box is
known to be predicted and empty. Its last key is the digest of all other bytes of the file, and pages
carry checksums for other tools. A reader checks all of it.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from pipeline.boxes import Boxes, clip, sorted_rows
from pipeline.data.records import DIGEST, Record, note_unchecked, parse_record
from pipeline.errors import PipelineError
from pipeline.paths import atomic, regular, shown

if TYPE_CHECKING:  # fusing tables needs no pandas, which is slow and large to import
    import pandas as pd

KEY = b"pipeline"
BEFORE_DIGEST = f'"{DIGEST}": "'.encode()
DIGEST_LENGTH = 16
SPLITS = ("oof", "test")
SCHEMA = pa.schema(
    [("image_id", pa.int32()), ("label", pa.int16())]
    + [(name, pa.float32()) for name in ("score", "x1", "y1", "x2", "y2")]
)
CORNERS = ("x1", "y1", "x2", "y2")


@dataclass
class Meta:
    """The metadata of a table. `folds` runs parallel to `image_ids`; -1 means no fold."""

    competition: str
    split: str  # oof: ids of the train split's image table; test: of the test split's
    image_digest: str
    image_ids: NDArray[np.int32]
    folds: NDArray[np.int32]
    model: str = "unknown"
    view: str = "identity"
    made: dict[str, Any] = field(default_factory=dict)  # digests, versions, seconds, parameters


Id = Annotated[int, Field(ge=-(2**31), lt=2**31)]


@with_config(ConfigDict(strict=True, extra="allow", allow_inf_nan=False))
class Made(TypedDict, total=False):
    """How a table was made: what readers ask for. Other keys are for people."""

    checkpoint_digest: str
    config_digest: str
    folds_digest: str
    seconds: float
    cut: list[float] | None  # per class, the lowest score that is submitted
    tuned: str
    members: list[dict[str, Any]]
    repairs: list[str]


class TableMetadata(Record):
    """The metadata of a table's file."""

    format: Literal[1]
    competition: str
    split: Literal["oof", "test"]
    image_digest: str
    image_ids: list[Id]
    folds: list[Annotated[int, Field(ge=0, lt=2**31)] | None]
    model: str
    view: str
    made: Made
    record_digest: str = ""

    def as_meta(self) -> Meta:
        folds = [-1 if fold is None else fold for fold in self.folds]
        ids = np.array(self.image_ids, np.int32), np.array(folds, np.int32)
        made = dict(self.made)
        return Meta(self.competition, self.split, self.image_digest, *ids, self.model, self.view, made)


@dataclass(eq=False)
class Predictions(Boxes):
    """A prediction table in memory: boxes of the images `meta.image_ids`, in that order."""

    meta: Meta
    source: Path | None = None
    digest: str = ""  # of the file that it was read from
    is_checked: bool = True  # False: read from a file that carries no digest

    @property
    def image_id(self) -> NDArray[np.int32]:
        """(n,) the image id of each box."""
        return np.repeat(self.meta.image_ids, np.diff(self.offsets))

    def release(self) -> None:
        """Give up the boxes, to free their memory; the metadata stay."""
        self.boxes_xyxy, self.scores = np.empty((0, 4), np.float32), np.empty(0, np.float32)
        self.labels, self.offsets = np.empty(0, np.int16), np.zeros_like(self.offsets)
        pa.default_memory_pool().release_unused()

    @property
    def name(self) -> str:
        return shown(self.source) if self.source else f"{self.meta.model}/{self.meta.view}"


def make_predictions(
    image_id: Any, label: Any, score: Any, boxes_xyxy: Any, meta: Meta, images: "pd.DataFrame"
) -> tuple[Predictions, dict[str, int]]:
    """Build a table from raw detections: clipped to the photos, sorted, boxes without area dropped.

    Returns the table and the counts of what was clipped and dropped. Raises PipelineError for ids
    that the image table lacks, and for values that are not finite or that no table may hold.
    """
    image_id = np.asarray(image_id, np.int64).reshape(-1)
    label = np.asarray(label, np.int64).reshape(-1)
    score = np.asarray(score, np.float64).reshape(-1)
    boxes = np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)
    rows: NDArray[np.intp] = images.set_index("image_id").index.get_indexer(image_id)
    tests: Sequence[tuple[str, Any]] = (
        ("an image id of the image table", rows >= 0),
        ("an image id among those predicted", np.isin(image_id, meta.image_ids)),
        ("finite corners", np.isfinite(boxes).all(axis=1)),
        ("a score in [0, 1]", (score >= 0) & (score <= 1)),
        ("a label from 0 to 32767", (label >= 0) & (label <= 32767)),
    )
    for expected, good in tests:
        if not good.all():
            row = int(np.argmin(good))
            values = f"score {score[row]}, box {boxes[row].tolist()}, label {label[row]}"
            raise PipelineError(f"box {row} (image {image_id[row]}): expected {expected}; {values}")
    limits = images[["width", "height"]].to_numpy(np.float64)[rows]
    inside = clip(boxes, limits[:, 0], limits[:, 1]).astype(np.float32)
    keep = (inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1])
    moved: NDArray[np.bool_] = np.any(np.abs(inside - boxes) > 1e-2, axis=1)
    counts = {
        "clipped": int((moved & keep).sum()),
        "without area": int((~keep).sum()),
    }
    columns = (label[keep].astype(np.int16), score[keep].astype(np.float32), inside[keep])
    return table_of_rows(image_id[keep].astype(np.int32), *columns, meta), counts


def table_of_rows(
    image_id: NDArray[np.int32],
    labels: NDArray[np.int16],
    scores: NDArray[np.float32],
    boxes_xyxy: NDArray[np.float32],
    meta: Meta,
) -> Predictions:
    """A table of rows in any order, one per box; each image is one of `meta.image_ids`."""
    order = sorted_rows(image_id, scores, boxes_xyxy, labels)
    offsets = _offsets(image_id[order], meta)
    return Predictions(boxes_xyxy[order], scores[order], labels[order], offsets, meta)


def _offsets(image_id: NDArray[np.int32], meta: Meta) -> NDArray[np.int64]:
    """(m+1,) first rows of the predicted images among rows that are sorted by image."""
    return np.append(np.searchsorted(image_id, meta.image_ids), len(image_id)).astype(np.int64)


def write_predictions(path: Path, table: Predictions) -> None:
    """Write a table atomically."""
    meta = table.meta
    text = json.dumps(
        {
            "format": 1,
            "competition": meta.competition,
            "split": meta.split,
            "image_digest": meta.image_digest,
            "image_ids": meta.image_ids.tolist(),
            "folds": [None if fold < 0 else fold for fold in meta.folds.tolist()],
            "model": meta.model,
            "view": meta.view,
            "made": meta.made,
            DIGEST: "0" * DIGEST_LENGTH,
        },
        allow_nan=False,
    )
    columns = [table.image_id, table.labels, table.scores, *table.boxes_xyxy.T]
    arrow = pa.table([np.ascontiguousarray(c) for c in columns], schema=SCHEMA)
    with atomic(Path(path)) as temporary:
        # Without Arrow's own copy of the schema, which would hold the metadata a second time.
        with pq.ParquetWriter(temporary, SCHEMA, write_page_checksum=True, store_schema=False) as writer:
            writer.write_table(arrow)
            writer.add_key_value_metadata({KEY: text.encode()})
        raw = temporary.read_bytes()
        place = _digest_place(raw)
        with open(temporary, "r+b") as file:
            file.seek(place)
            file.write(_digests(raw, place)[0].encode())


def _digest_place(raw: bytes) -> int:
    """Where the digest begins in the bytes of a table's file; 0 when it has none."""
    place = raw.rfind(BEFORE_DIGEST)
    return 0 if place < 0 else place + len(BEFORE_DIGEST)


def _digests(raw: bytes, place: int) -> tuple[str, str]:
    """Digests of all bytes but those of the digest at `place`, and of all bytes."""
    bytes_view = memoryview(raw)
    others = hashlib.sha256(bytes_view[:place])
    every = others.copy()
    others.update(bytes_view[place + DIGEST_LENGTH :])
    every.update(bytes_view[place:])
    return others.hexdigest()[:DIGEST_LENGTH], every.hexdigest()[:DIGEST_LENGTH]


def read_predictions(path: Path) -> Predictions:
    """Read and check a table. Raises PipelineError with file, row and expected value."""
    path = Path(path)
    arrow, digest, is_checked = _read_file(path)
    raw = (arrow.schema.metadata or {}).get(KEY)
    missing = [name for name in SCHEMA.names if name not in arrow.schema.names]
    if raw is None or missing:
        what = f"no column {missing[0]}" if missing else "no metadata of the pipeline"
        raise PipelineError(
            f"{shown(path)}: not a prediction table ({what}); bring boxes made elsewhere in with "
            "python -m pipeline.convert"
        )
    metadata = parse_record(raw, TableMetadata, f"{shown(path)}: metadata", "predict again")
    if metadata.record_digest and not is_checked:
        raise _changed(path)
    try:
        arrow = arrow.select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise PipelineError(f"{shown(path)}: column types: {error}") from None
    if any(column.null_count for column in arrow.columns):
        raise PipelineError(f"{shown(path)}: empty cells; expected a number in every cell")
    image_id, labels, scores, *corners = (column.to_numpy() for column in arrow.columns)
    meta = metadata.as_meta()
    offsets = _offsets(image_id, meta)
    boxes_xyxy = np.stack(corners, axis=1)
    table = Predictions(boxes_xyxy, scores, labels, offsets, meta, path, digest, is_checked)
    del arrow, corners
    pa.default_memory_pool().release_unused()  # it would keep the corners' memory for the next file
    _check(table, image_id)
    if not is_checked:
        note_unchecked(path, "; make predict writes the tables of runs anew")
    return table


def _read_file(path: Path) -> tuple[pa.Table, str, bool]:
    """A table's file: its columns, the digest of its bytes, and whether they are those that were written."""
    try:
        raw = regular(path).read_bytes()
        place = _digest_place(raw)
        digest, file_digest = _digests(raw, place)
        if place and raw[place : place + DIGEST_LENGTH] != digest.encode():
            raise _changed(path)
        # Without threads of Arrow's: one that still ends when Python does aborts the process (seen once).
        options = {"page_checksum_verification": not place, "pre_buffer": False}
        with pq.ParquetFile(pa.BufferReader(raw), **options) as file:
            return file.read(use_threads=False), file_digest, place > 0
    except FileNotFoundError:
        raise PipelineError(f"{shown(path)}: no such prediction table") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"{shown(path)}: not a whole Parquet file ({reason}); predict again") from None


def _changed(path: Path) -> PipelineError:
    return PipelineError(f"{shown(path)}: changed since it was written ({DIGEST} differs); predict again")


def _check(table: Predictions, image_id: NDArray[np.int32]) -> None:
    """Raise PipelineError at the first row that breaks the format; image_id (n,): the column as read."""
    meta, boxes = table.meta, table.boxes_xyxy
    if meta.folds.shape != meta.image_ids.shape or (np.diff(meta.image_ids) <= 0).any():
        raise PipelineError(f"{table.name}: ids of predicted images must be sorted, each once")
    same = np.diff(image_id) == 0
    tests: Sequence[tuple[str, Any]] = (  # true for a row, or for each value of one
        ("score in [0, 1]", (table.scores >= 0) & (table.scores <= 1)),
        ("finite corners", np.isfinite(boxes)),
        ("x2 > x1 and y2 > y1", boxes[:, 2:] > boxes[:, :2]),
        ("corners that are not negative", boxes[:, :2] >= 0),
        ("label >= 0", table.labels >= 0),
        ("an image id among those predicted", np.isin(image_id, meta.image_ids)),
        ("rows sorted by image", np.append(True, np.diff(image_id) >= 0)),
        ("scores falling within an image", np.append(True, ~same | (np.diff(table.scores) <= 0))),
    )
    for expected, good in tests:
        if len(table) and not good.all():
            row = int(np.argwhere(~good)[0, 0])
            values = f"score {table.scores[row]}, box {boxes[row].tolist()}, label {table.labels[row]}"
            raise PipelineError(
                f"{table.name}: row {row} (image {image_id[row]}): expected {expected}; {values}"
            )


def check_belongs(
    table: Predictions, competition: str, image_digest: str | None = None, n_classes: int | None = None
) -> None:
    """Raise PipelineError unless the table is of this competition, image table and class list."""
    meta = table.meta
    if meta.competition != competition:
        raise PipelineError(
            f"{table.name}: made for competition '{meta.competition}', expected '{competition}'"
        )
    if image_digest is not None and meta.image_digest != image_digest:
        raise PipelineError(
            f"{table.name}: made for another image table (digest {meta.image_digest}, the data now "
            f"give {image_digest}); predict again, or point ROOT at the data it was made with"
        )
    if n_classes is not None and len(table) and table.labels.max() >= n_classes:
        row = int(np.argmax(table.labels))
        raise PipelineError(
            f"{table.name}: row {row}: label {table.labels[row]}, expected 0..{n_classes - 1}"
        )


def not_scored(table: Predictions, images: "pd.DataFrame") -> list[str]:
    """A note on the images that a table of no known folds leaves out: some tools list no empty ones."""
    left_out = len(images) - len(table.meta.image_ids)
    if not left_out or (table.meta.folds >= 0).all():
        return []
    return [
        f"{left_out} of {len(images)} images are not in it and not scored; if nothing was found on them, "
        "convert it with --folds and a CSV of file_name,fold that lists them (make convert FOLDS=), or with "
        "--fold"
    ]


def check_alike(tables: Sequence[Predictions]) -> None:
    """Raise PipelineError unless all tables are of one competition, split and image table."""
    first = tables[0]
    for table in tables:
        check_belongs(table, first.meta.competition, first.meta.image_digest)
        if table.meta.split != first.meta.split:
            raise PipelineError(
                f"{table.name}: split '{table.meta.split}', but {first.name} has '{first.meta.split}'; "
                "combine out-of-fold with out-of-fold, test with test"
            )


def join_predictions(tables: Sequence[Predictions]) -> Predictions:
    """Pool tables of disjoint images (the folds of an OOF) into one.

    Raises PipelineError when they share images, or are of another competition, split or image table.
    """
    first = tables[0].meta
    check_alike(tables)
    ids = np.concatenate([t.meta.image_ids for t in tables])
    order = np.argsort(ids, kind="stable")
    if (np.diff(ids[order]) == 0).any():
        raise PipelineError("tables to be joined share images: " + ", ".join(t.name for t in tables))
    folds = np.concatenate([t.meta.folds for t in tables])
    same_view = len({t.meta.view for t in tables}) == 1
    meta = Meta(
        first.competition,
        first.split,
        first.image_digest,
        ids[order],
        folds[order],
        first.model,
        first.view if same_view else "mixed",
        {"joined": [t.name for t in tables]},
    )
    return table_of_rows(
        np.concatenate([t.image_id for t in tables]),
        np.concatenate([t.labels for t in tables]),
        np.concatenate([t.scores for t in tables]),
        np.concatenate([t.boxes_xyxy for t in tables]),
        meta,
    )


def source_digest(table: Predictions) -> dict[str, str]:
    """How a card names a table: its file, model, view and the digest of the file's bytes."""
    entry = {"model": table.meta.model, "view": table.meta.view}
    if table.source:
        entry |= {"file": shown(table.source), "digest": table.digest}
    return entry
