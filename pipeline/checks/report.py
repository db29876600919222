"""The findings of all checks as rows: what, where, how many, and what is or would be done about it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checks.boxes import KINDS, odd_boxes
from pipeline.checks.look import FATAL, Look
from pipeline.data.dataset import Dataset
from pipeline.data.duplicates import NEAR, near_pairs
from pipeline.data.photos import Photo

SHOWN = 4  # names in the table; report.json has all
# The last word of a reader's finding says what it does; the file itself stays as it is.
READ = {
    "dropped": "left out by every stage; remove them from the annotations",
    "clipped": "cut at the photo's edge by every stage; correct the annotations",
    "refused": "the images are left out by every stage; correct the annotations",
}
Pairs = NDArray[np.int64]  # (p, 3) row, row, distance in bits


@dataclass(frozen=True)
class Row:
    """`where`: ids of boxes or names of photos; `fatal`: training or prediction would stop at it."""

    what: str
    split: str
    where: tuple[Any, ...]
    remedy: str
    fatal: bool = False

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "split": self.split,
            "count": len(self.where),
            "remedy": self.remedy,
            "stops_training": self.fatal,
            "where": list(self.where),
        }

    def line(self) -> str:
        names = ", ".join(map(str, self.where[:SHOWN])) + (", ..." if len(self.where) > SHOWN else "")
        return f"{len(self.where):6d}  {self.split:10}  {self.what}: {names}\n{'':20}{self.remedy}"


def reader_rows(dataset: Dataset) -> list[Row]:
    """What the annotation reader refused or repaired."""
    rows = []
    for kind, where in dataset.findings.kinds.items():
        text = kind.removesuffix(" (ids)").removesuffix(" (rows)").removesuffix(" (file names)")
        what, _, verb = text.rpartition(" ")
        known = verb in READ
        rows.append(Row(what if known else text, dataset.split, tuple(where), READ.get(verb, "as it says")))
    return rows


def box_rows(dataset: Dataset) -> list[Row]:
    """Boxes that are kept and look like mistakes."""
    ids = dataset.annotations["annotation_id"].to_numpy()
    return [
        Row(kind, dataset.split, tuple(ids[rows].tolist()), KINDS[kind])
        for kind, rows in odd_boxes(dataset).items()
    ]


def photo_rows(split: str, photos: Sequence[Photo], looks: Sequence[Look]) -> list[Row]:
    """Photos that cannot be used, and those that decoding puts right."""
    rows, repaired = [], Counter(look.repair for look in looks if look.repair)
    for fault, remedy in FATAL.items():
        where = tuple(p.name for p, look in zip(photos, looks, strict=True) if look.fault == fault)
        if where:
            text = f"photos of {fault} than stated" if fault == "another shape" else f"photos {fault}"
            rows.append(Row(text, split, where, remedy, fatal=True))
    for repair in repaired:
        where = tuple(p.name for p, look in zip(photos, looks, strict=True) if look.repair == repair)
        rows.append(
            Row(repair, split, where, "repaired in memory whenever read; save them anew to be rid of it")
        )
    return rows


def duplicate_pairs(looks: Mapping[str, Sequence[Look]]) -> dict[str, Pairs]:
    """Near-duplicates within a split ("train") and between the splits ("train-test")."""
    rows = {
        split: [i for i, look in enumerate(seen) if look.hash is not None] for split, seen in looks.items()
    }
    hashes = {
        split: np.array([looks[split][i].hash for i in rows[split]], np.uint64).reshape(-1, 4)
        for split in looks
    }
    found = {}
    for a, b in (("train", "train"), ("test", "test"), ("train", "test")):
        pairs = near_pairs(hashes[a], NEAR, None if a == b else hashes[b])
        if len(pairs):
            index_a, index_b = np.array(rows[a]), np.array(rows[b])
            name = a if a == b else f"{a}-{b}"
            found[name] = np.stack([index_a[pairs[:, 0]], index_b[pairs[:, 1]], pairs[:, 2]], axis=1)
    return found


def duplicate_rows(pairs: Mapping[str, Pairs], photos: Mapping[str, Sequence[Photo]]) -> list[Row]:
    rows = []
    for name, found in pairs.items():
        a, _, b = name.partition("-")
        where = tuple(f"{photos[a][i].name} = {photos[b or a][j].name}" for i, j, _ in found.tolist())
        remedy = {
            "train": "make folds GROUPS=near keeps each pair in one fold",
            "test": "nothing to do",
            "train-test": "scores on these test photos are too good",
        }[name]
        rows.append(Row(f"near-duplicate pairs, at most {NEAR} of 256 bits apart", name, where, remedy))
    return rows


def size_counts(photos: Sequence[Photo]) -> dict[str, int]:
    """Stated sizes, "width x height", and how many photos have each, the most common first."""
    return dict(Counter(f"{photo.width} x {photo.height}" for photo in photos).most_common())
