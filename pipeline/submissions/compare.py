"""How a submission differs from another one: boxes and images, matched by id and to the digit."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.profile import Profile
from pipeline.data.specs import box_fields
from pipeline.submissions.rows import Rows, read_rows


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
    rows, other_rows = read_rows(path, profile), read_rows(other, profile)
    index = {key: place for place, key in enumerate(dict.fromkeys([*rows.keys, *other_rows.keys]))}
    width = len(box_fields(profile.submission))
    new, old = _boxes(rows, index, width), _boxes(other_rows, index, width)
    boxes = pd.concat([new.assign(change=1), old.assign(change=-1)])
    change = boxes.groupby([*new.columns], sort=False, dropna=False)["change"].sum()
    differing = change[change != 0].index.get_level_values("image").nunique()
    missing = len(set(rows.keys) ^ set(other_rows.keys))
    return Difference(
        int(change.clip(lower=0).sum()),
        int(-change.clip(upper=0).sum()),
        len(new),
        max(differing, missing),
        len(index),
    )


def _boxes(rows: Rows, index: dict[str, int], width: int) -> pd.DataFrame:
    """The whole boxes: their image's place in `index`, and their values."""
    counts = rows.counts // width
    row = np.repeat(np.arange(len(counts)), counts)
    start = rows.offsets[row] + (np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)) * width
    image = np.array([index[key] for key in rows.keys], np.int64)[row]
    return pd.DataFrame({"image": image} | {str(i): rows.numbers[start + i] for i in range(width)})
