"""Groups: which images must not be separated, because they show the same thing.

A grouping says which pairs of images belong together, and why; images that are linked, directly or
through others, form a group. `GROUPS=` names one or more: `bursts:10`, `near:56`, `column:scene`,
`csv:mine.csv`, joined by commas.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.data.dataset import Dataset, ids_of_rows
from pipeline.data.duplicates import NEAR, hash_photos, near_pairs
from pipeline.data.photos import photos_of
from pipeline.data.profile import Profile
from pipeline.data.text import read_table
from pipeline.errors import PipelineError
from pipeline.names import number
from pipeline.paths import shown

Ints = NDArray[np.int64]
BURST_SECONDS = 10.0


@dataclass(frozen=True)
class Links:
    """Pairs of rows of the image table that belong together, (p, 2), and the distance of each, if any."""

    pairs: Ints
    text: str  # what joins them, for the card
    distance: Ints | None = None


def bursts(profile: Profile, train: Dataset, option: str) -> Links:
    """Images whose `date_captured` follows another's within so many seconds; none without a time."""
    seconds = _number("bursts", option, BURST_SECONDS)
    times = capture_times(train.images)
    if not len(times):
        raise PipelineError(
            f"{train.findings.source}: no image has a date_captured of its own, so bursts cannot be found; "
            "GROUPS=near compares the photos, GROUPS=csv:FILE reads your own groups"
        )
    unknown = len(train.images) - len(times)
    text = f"photos taken within {seconds:g} s of each other"
    return Links(
        neighbours(times, seconds), text + (f" ({unknown} without a time stay alone)" if unknown else "")
    )


def capture_times(images: pd.DataFrame) -> pd.Series:
    """date_captured of the rows that have one, in the order of time: text, or seconds since 1970.

    One time for all images is what a tool filled in, and no time.
    """
    stated = images["date_captured"]
    seconds = pd.to_numeric(stated, errors="coerce")
    texts = stated.where(seconds.isna()).astype(object)
    times = pd.to_datetime(texts, errors="coerce", utc=True, format="mixed")
    times = times.fillna(pd.to_datetime(seconds.where(seconds > 0), errors="coerce", utc=True, unit="s"))
    times = times.dropna().sort_values(kind="stable")
    return times.iloc[:0] if len(times) > 1 and times.iloc[0] == times.iloc[-1] else times


def neighbours(times: pd.Series, seconds: float) -> Ints:
    """(p, 2) rows that follow each other in time within so many seconds; `times` ascend."""
    gaps = times.diff().dt.total_seconds().to_numpy()[1:]
    rows = times.index.to_numpy(np.int64)
    return np.stack([rows[:-1], rows[1:]], axis=1)[gaps <= seconds]


def split_bursts(train: Dataset, fold: NDArray[np.int32]) -> dict[str, Any] | None:
    """How many photos of bursts are in another fold than the photo just before; None without bursts."""
    pairs = neighbours(capture_times(train.images), BURST_SECONDS)
    if not len(pairs):
        return None
    apart = int((fold[pairs[:, 0]] != fold[pairs[:, 1]]).sum())
    return {"seconds": BURST_SECONDS, "neighbours": len(pairs), "in_different_folds": apart}


def near(profile: Profile, train: Dataset, option: str) -> Links:
    """Photos whose perceptual hashes differ in at most so many of 256 bits. Reads all photos."""
    threshold = int(_number("near", option, NEAR))
    hashes = hash_photos(photos_of(profile, "train", train.images))
    pairs = near_pairs(hashes, threshold)
    return Links(pairs[:, :2], f"photos whose hashes differ in at most {threshold} of 256 bits", pairs[:, 2])


def column(profile: Profile, train: Dataset, option: str) -> Links:
    """Images with the same value in a column of the annotations' image table."""
    if option not in train.images:
        known = sorted(set(map(str, train.images.columns)) - {"image_id", "position"})
        raise PipelineError(
            f"groups column:{option}: {train.findings.source} has no such column of images; "
            f"there are: {', '.join(known)}"
        )
    return Links(_same(train.images[option]), f"images with the same {option}")


def table(profile: Profile, train: Dataset, option: str) -> Links:
    """Groups of the user's: a CSV with the columns group and image_id or file_name."""
    path = Path(option).expanduser()
    rows = read_table(path, f"groups csv:{option}: no such file")
    if "group" not in rows:
        raise PipelineError(
            f"{shown(path)}: header {list(rows.columns)}, expected group and image_id or file_name"
        )
    ids = ids_of_rows(rows, train, path)
    groups = pd.Series(rows["group"].to_numpy(object), index=ids)
    group = train.images["image_id"].map(groups[groups != ""])
    return Links(_same(group), f"groups of {path.name}")


Grouping = Callable[[Profile, Dataset, str], Links]
GROUPINGS: dict[str, Grouping] = {"bursts": bursts, "near": near, "column": column, "csv": table}


def find_links(profile: Profile, train: Dataset, groupings: Iterable[str]) -> list[Links]:
    """The links of several groupings, as in ["bursts:10", "near"]."""
    links = []
    for entry in groupings:
        name, _, option = entry.partition(":")
        if name not in GROUPINGS:
            raise PipelineError(
                f"groups '{entry}': expected bursts[:SECONDS], near[:BITS], column:NAME or csv:FILE"
            )
        links.append(GROUPINGS[name](profile, train, option))
    return links


def join(image_id: Ints, links: Sequence[Links]) -> Ints:
    """(n,) group of each image: the smallest image id that it is linked to; ids ascend."""
    n = len(image_id)
    pairs = np.concatenate([np.empty((0, 2), np.int64), *(link.pairs for link in links)])
    graph = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    _, first, inverse = np.unique(part, return_index=True, return_inverse=True)
    return np.asarray(image_id, np.int64)[first][inverse]


def _same(values: pd.Series) -> Ints:
    """(p, 2) rows that follow each other among those with the same value; missing values are alone."""
    known = values.dropna().astype(str).sort_values(kind="stable")
    rows, text = known.index.to_numpy(np.int64), known.to_numpy()
    return np.stack([rows[:-1], rows[1:]], axis=1)[text[1:] == text[:-1]]


def _number(name: str, option: str, default: float) -> float:
    try:
        value = number(option) if option else default
    except ValueError:
        value = -1
    if value < 0:
        raise PipelineError(f"groups {name}:{option}: expected a number from 0")
    return value
