"""How a submission differs from another one: boxes and images, matched by id and to the digit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.data.profile import Profile
from pipeline.data.specs import box_fields
from pipeline.submissions.scan import Scan, scan_submission

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Difference:
    """Boxes of the new file that the old one lacks and the other way round, images where any differs."""

    new: int
    gone: int
    boxes: int
    images_differ: int
    images: int

    def __str__(self) -> str:
        if not self.images_differ:
            return "the same boxes on every image"
        return (
            f"{self.new} of {self.boxes} boxes are new and {self.gone} are gone, on {self.images_differ} of "
            f"{self.images} images"
        )


def compare(path: Path, other: Path, profile: Profile) -> Difference:
    """Compare two CSVs of a competition. Raises PipelineError for one that cannot be read."""
    width = len(box_fields(profile.submission))
    a, b = scan_submission(path, profile), scan_submission(other, profile)
    index = {key: place for place, key in enumerate(dict.fromkeys([*a.keys, *b.keys]))}
    row_a, hash_a = _hashes(a, index, width)
    row_b, hash_b = _hashes(b, index, width)
    found, inverse = np.unique(np.concatenate([hash_a, hash_b]), return_inverse=True)
    count_a = np.bincount(inverse[: len(hash_a)], minlength=len(found))
    count_b = np.bincount(inverse[len(hash_a) :], minlength=len(found))
    change = count_a - count_b
    rows = np.concatenate([row_a, row_b])[change[inverse] != 0]
    missing = len(set(a.keys) ^ set(b.keys))
    return Difference(
        int(change.clip(0).sum()),
        int((-change).clip(0).sum()),
        len(hash_a),
        max(len(np.unique(rows)), missing),
        len(index),
    )


def _hashes(scan: Scan, index: dict[str, int], width: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """The image of each whole box, and a hash of image and numbers."""
    counts = np.diff(scan.offsets) // width
    rows = np.repeat(np.arange(len(counts)), counts)
    token = scan.offsets[rows] + (np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]) * width
    image = np.array([index[key] for key in scan.keys], np.int64)[rows]
    mixed = image.astype(np.uint64)
    for field in range(width):
        bits = (scan.values[token + field] + 0.0).view(np.uint64)
        mixed = (mixed ^ bits) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return image, mixed
