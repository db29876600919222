"""The sample submission of a folder: header, key of the images and the format of its rows."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os.path import basename
from typing import Any

import pandas as pd

from pipeline.data.discover.columns import pick, plain
from pipeline.data.text import photo_stem, same_text

BOXES = "predictionstring boxes annotations prediction predictions"
NAMES = ("sample", "submission", "submit")
KEYS: dict[str, Callable[[Any], str]] = {  # of the rows of an image table
    "{file_name}": lambda row: row.file_name,
    "{stem}": lambda row: photo_stem(row.file_name),
    "{image_id}": lambda row: str(row.file_id),
    "{position}": lambda row: str(row.position),
}
NOTHING = "0 0 1 1"  # the box that stands for none (vinbigdata's "14 1 0 0 1 1")


@dataclass(frozen=True)
class Sample:
    """A sample submission and its two columns."""

    path: str
    table: pd.DataFrame
    key: str
    boxes: str

    @property
    def ids(self) -> list[str]:
        return self.table[self.key].tolist()


def is_sample(path: str, table: pd.DataFrame) -> bool:
    """Whether a table looks like a submission: by its name, or by a column of prediction strings."""
    name = basename(path).lower()
    columns = list(map(plain, map(str, table.columns)))
    return len(columns) == 2 and (any(word in name for word in NAMES) or "predictionstring" in columns)


def find_sample(tables: dict[str, pd.DataFrame]) -> Sample | None:
    """The sample submission: a table with a column of boxes and one that names images."""
    for path, table in tables.items():
        if is_sample(path, table) and len(table):
            boxes = (pick(table, BOXES) or [str(table.columns[-1])])[0]
            key = next(str(column) for column in table.columns if str(column) != boxes)
            return Sample(path, table, key, boxes)
    return None


def describe_sample(
    sample: Sample, images: pd.DataFrame | None, classes: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys of `submission` that a sample states for the test images (None: not known), and comments."""
    values: dict[str, Any] = {"header": list(map(str, sample.table.columns))}
    comments: dict[str, str] = {}
    values |= {"image_column": sample.key, "boxes_column": sample.boxes}
    listed = set(map(same_text, sample.ids))
    ends = "_image" if all(key.endswith(("_image", "_study")) for key in listed) else ""
    rows = [] if images is None else list(images.itertuples(index=False))
    fitting = [
        template + ends
        for template, key in KEYS.items()
        if rows and all(same_text(key(row)) + ends in listed for row in rows)
    ]
    values["image"] = fitting[0] if fitting else "{stem}"
    if not fitting:
        why = (
            "the test images are not known yet"
            if images is None
            else "it names other images than the test set"
        )
        comments["image"] = f"assumed: {why}"
        values |= {"sample": sample.path} if images is None else {}
        return values, comments
    cells = [cell.split() for cell in sample.table[sample.boxes].drop_duplicates().tolist() if cell.strip()]
    values["box"], comments["box"] = _box(cells, classes)
    for cell in cells:
        if " ".join(cell[-4:]) == NOTHING and len(cell) in (5, 6) and cell[0] not in classes:
            values["empty"] = " ".join(cell)
    values |= {"ordered": False, "sample": sample.path}
    return values, comments


def _box(cells: list[list[str]], classes: Sequence[str]) -> tuple[str, str]:
    """The box string that the cells fit, and what was assumed."""
    sizes, corners = "{x} {y} {w} {h}", "{x1} {y1} {x2} {y2}"
    if cells and all(len(cell) % 5 == 0 for cell in cells) and len(classes) == 1:
        return f"{{score}} {sizes}", "assumed: five numbers, so a score and x y width height"
    if cells and all(len(cell) % 6 == 0 for cell in cells):
        reversed_order = all(_is_score(cell[0]) and not _is_score(cell[1]) for cell in cells)
        first = "{score} {label}" if reversed_order else "{label} {score}"
        return f"{first} {corners}", "assumed: six values, so a class, a score and two corners"
    label = "{label} " if len(classes) > 1 else ""
    return f"{label}{{score}} {corners}", "assumed: the sample shows no box"


def _is_score(text: str) -> bool:
    return bool(re.fullmatch(r"0?\.\d+|[01]\.0*", text))
