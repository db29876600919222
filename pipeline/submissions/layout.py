"""The rows that a submission must have: header, keys in order, and which image each one names."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.profile import Profile
from pipeline.data.text import photo_stem, same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown
from pipeline.submissions.rows import read_csv


@dataclass(frozen=True)
class Layout:
    """Parallel over the rows: key, image id (-1: names no image) and the box cell of those rows."""

    header: tuple[str, ...]
    keys: list[str]
    image_ids: NDArray[np.int64]
    cells: list[str]


def image_keys(profile: Profile, images: pd.DataFrame) -> list[str]:
    """What a submission calls each image, in the order of the table."""
    template = profile.submission.image
    columns = (images["file_name"].tolist(), images["file_id"].tolist(), images["position"].tolist())
    try:
        keys = [
            template.format(file_name=name, stem=photo_stem(name), image_id=image_id, position=position)
            for name, image_id, position in zip(*columns, strict=True)
        ]
    except ValueError:  # digits for an id that is a text
        raise PipelineError(
            f"competition '{profile.name}': submission.image '{template}': ids are no numbers"
        ) from None
    if len(set(keys)) < len(keys):
        raise PipelineError(f"competition '{profile.name}': submission.image names several images alike")
    return keys


def layout_of(profile: Profile, images: pd.DataFrame, split: str = "test") -> Layout:
    """The rows for a table of images: those of the sample submission, else of the annotation file.

    Raises PipelineError when the sample submission names other images than the table.
    """
    spec = profile.submission
    images = images.sort_values("position")
    keys = image_keys(profile, images)
    ids = images["image_id"].to_numpy(np.int64)
    sample = profile.path(spec.sample)
    if split != "test" or not spec.sample or not sample.exists():
        return Layout(spec.header, keys, ids, [""] * len(keys))
    header, cells = _read_cells(profile, sample)
    others = _read_cells(profile, profile.path(spec.others))[1] if _has_others(profile) else {}
    by_key = dict(zip(map(same_text, keys), ids.tolist(), strict=True))
    listed = set(map(same_text, cells))
    if missing := [key for key in keys if same_text(key) not in listed]:
        raise PipelineError(
            f"{shown(sample)}: no row for {len(missing)} of {len(keys)} test images, the first is "
            f"'{missing[0]}'"
        )
    unknown = [key for key in cells if same_text(key) not in by_key]
    if unknown and not spec.other_labels:
        raise PipelineError(f"{shown(sample)}: '{unknown[0]}' names no image of the test set")
    if strange := [key for key in others if key not in unknown]:
        raise PipelineError(f"{shown(profile.path(spec.others))}: '{strange[0]}' is no row of the sample")
    return Layout(
        header,
        list(cells),
        np.array([by_key.get(same_text(key), -1) for key in cells], np.int64),
        ["" if same_text(key) in by_key else others.get(key, cell) for key, cell in cells.items()],
    )


def _has_others(profile: Profile) -> bool:
    return bool(profile.submission.others) and profile.path(profile.submission.others).exists()


def _read_cells(profile: Profile, path: Path) -> tuple[tuple[str, ...], dict[str, str]]:
    """Header and key -> box cell of a sample submission or of a file like it."""
    spec = profile.submission
    rows, _ = read_csv(path)
    header = tuple(rows[0]) if rows else ()
    if {spec.image_column, spec.boxes_column} - set(header):
        raise PipelineError(
            f"{shown(path)}: header {','.join(header)} lacks '{spec.image_column}' or '{spec.boxes_column}'"
        )
    at_key, at_cell = header.index(spec.image_column), header.index(spec.boxes_column)
    cells: dict[str, str] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header) or row[at_key] in cells:
            raise PipelineError(
                f"{shown(path)}: row {number}: expected {len(header)} columns, and each "
                f"{spec.image_column} once"
            )
        cells[row[at_key]] = row[at_cell]
    return header, cells
