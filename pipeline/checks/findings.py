"""The findings of all checks: what, where, how many, and what is or would be done about it."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checks.boxes import KINDS, odd_boxes
from pipeline.checks.photos import FATAL, PhotoCheck, check_photos
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.duplicates import NEAR, near_pairs
from pipeline.data.photos import Photo, photos_of
from pipeline.data.profile import Profile
from pipeline.errors import one_line

SPLITS = ("train", "test")
SHOWN = 4  # names in the table; report.json has all
# The last word of a reader's finding says what it does; the file itself stays as it is.
READER_REMEDIES = {
    "dropped": "left out by every stage; remove them from the annotations",
    "clipped": "cut at the photo's edge by every stage; correct the annotations",
    "refused": "the images are left out by every stage; correct the annotations",
}
SMALL = 10  # pixels; ultralytics leaves out photos with a shorter side
Pairs = NDArray[np.int64]  # (p, 3) row, row, distance in bits


@dataclass(frozen=True)
class CheckedData:
    """A competition's annotations and photos by split, and what decoding the photos showed.

    `photo_checks` is empty for a split without a single photo. `pairs`: near-duplicates within a split
    ("train") and between the splits ("train-test").
    """

    profile: Profile
    datasets: dict[str, Dataset]
    photos: dict[str, list[Photo]]
    photo_checks: dict[str, list[PhotoCheck]]
    pairs: dict[str, Pairs]


def check_data(profile: Profile) -> CheckedData:
    """Read the annotations and decode every photo of both splits."""
    datasets = {split: load_dataset(profile, split, strict=False) for split in SPLITS}
    photos = {split: photos_of(profile, split, datasets[split].images) for split in SPLITS}
    photo_checks = {
        split: check_photos(photos[split], f"check photos of {split}")
        if any(photo.path.is_file() for photo in photos[split])
        else []
        for split in SPLITS
    }
    return CheckedData(profile, datasets, photos, photo_checks, _duplicate_pairs(photo_checks))


@dataclass(frozen=True)
class Finding:
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
        found = one_line(f"{len(self.where):6d}  {self.split:10}  {self.what}: {names}")
        return f"{found}\n{'':20}{one_line(self.remedy)}"


def all_findings(data: CheckedData) -> list[Finding]:
    """Every finding; those that stop a training come first."""
    findings = []
    for split in SPLITS:
        if checks := data.photo_checks[split]:
            findings += _photo_findings(split, data.photos[split], checks)
    for split in SPLITS[:1] if data.profile.holds_out else SPLITS:  # both are in one file, or each has one
        findings += _reader_findings(data.datasets[split])
    for split in SPLITS:
        findings += _box_findings(data.datasets[split])
    findings += _duplicate_findings(data)
    return sorted(findings, key=lambda finding: not finding.fatal)


def _reader_findings(dataset: Dataset) -> list[Finding]:
    """What the annotation reader refused or repaired."""
    findings = []
    for kind, where in dataset.findings.kinds.items():
        text = kind.removesuffix(" (ids)").removesuffix(" (rows)").removesuffix(" (file names)")
        what, _, verb = text.rpartition(" ")
        remedy = READER_REMEDIES.get(verb)
        what = what if remedy else text
        findings.append(Finding(what, dataset.split, tuple(where), remedy or "as it says"))
    return findings


def _box_findings(dataset: Dataset) -> list[Finding]:
    """Boxes that are kept and look like mistakes."""
    ids = dataset.annotations["annotation_id"].to_numpy()
    return [
        Finding(kind, dataset.split, tuple(ids[rows].tolist()), KINDS[kind])
        for kind, rows in odd_boxes(dataset).items()
    ]


def _photo_findings(split: str, photos: Sequence[Photo], checks: Sequence[PhotoCheck]) -> list[Finding]:
    """Photos that cannot be used, and those that decoding repairs."""
    by_fault, by_repair = defaultdict(list), defaultdict(list)
    for photo, check in zip(photos, checks, strict=True):
        if check.fault:
            by_fault[check.fault].append((photo.name, check.message))
        elif check.repair:
            by_repair[check.repair].append(photo.name)
    findings = []
    for fault, remedy in FATAL.items():
        if bad := by_fault[fault]:
            text = f"photos of {fault} than stated" if fault == "another shape" else f"photos {fault}"
            remedy = bad[0][1] if fault == "too large" else remedy  # with the numbers
            findings.append(Finding(text, split, tuple(name for name, _ in bad), remedy, fatal=True))
    if small := tuple(photo.name for photo in photos if min(photo.width, photo.height) < SMALL):
        remedy = "ultralytics (YOLO) takes none of them; other frameworks do"
        findings.append(Finding(f"photos with a side under {SMALL} px", split, small, remedy))
    remedy = "repaired in memory whenever read; save them anew to be rid of it"
    return findings + [Finding(repair, split, tuple(names), remedy) for repair, names in by_repair.items()]


def _duplicate_pairs(photo_checks: Mapping[str, Sequence[PhotoCheck]]) -> dict[str, Pairs]:
    """Near-duplicates within a split ("train") and between the splits ("train-test")."""
    rows = {
        split: np.array([i for i, check in enumerate(checks) if check.hash is not None], np.int64)
        for split, checks in photo_checks.items()
    }
    hashes = {
        split: np.array([checks[i].hash for i in rows[split]], np.uint64).reshape(-1, 4)
        for split, checks in photo_checks.items()
    }
    found_pairs = {}
    for a, b in (("train", "train"), ("test", "test"), ("train", "test")):
        pairs = near_pairs(hashes[a], NEAR, None if a == b else hashes[b])
        if len(pairs):
            name = a if a == b else f"{a}-{b}"
            found_pairs[name] = np.stack([rows[a][pairs[:, 0]], rows[b][pairs[:, 1]], pairs[:, 2]], axis=1)
    return found_pairs


def _duplicate_findings(data: CheckedData) -> list[Finding]:
    remedies = {
        "train": "make folds GROUPS=near keeps each pair in one fold",
        "test": "nothing to do",
        "train-test": "scores on these test photos are too good",
    }
    findings = []
    for name, pairs in data.pairs.items():
        a, _, b = name.partition("-")
        photos_a, photos_b = data.photos[a], data.photos[b or a]
        names = tuple(f"{photos_a[i].name} = {photos_b[j].name}" for i, j, _ in pairs.tolist())
        what = f"near-duplicate pairs, at most {NEAR} of 256 bits apart"
        findings.append(Finding(what, name, names, remedies[name]))
    return findings


def count_sizes(photos: Sequence[Photo]) -> dict[str, int]:
    """Stated sizes, "width x height", and how many photos have each, the most common first."""
    return dict(Counter(f"{photo.width} x {photo.height}" for photo in photos).most_common())
