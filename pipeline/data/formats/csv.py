"""Annotations in a CSV, whose columns the profile describes (`ColumnSpec`).

Made for the files that competitions publish: one row a box (wheat, rsna, vinbigdata, openimages), or
one row an image with its boxes in a cell (siim, reef), and sample submissions as lists of images.
"""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.findings import Findings
from pipeline.data.photos import complete_sizes
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw
from pipeline.data.specs import ColumnSpec
from pipeline.data.text import Corners, as_flag, forward, four_numbers, read_table, same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown

SIZE_COLUMNS = (("image", "width", "height"), ("image_id", "width", "height"), ("image_id", "dim1", "dim0"))
ROW = "row of the file"  # a column that no file has
NO_BOX = ("", "[]", "nan", "none")
NO_BOXES = pd.DataFrame(columns=["id", "image", "label", "x1", "y1", "x2", "y2", "iscrowd"])
TEMPLATE = re.compile(r"\{([^{}]+)\}")  # a column's name in that of a file
BAD = "boxes that are not four finite numbers dropped (rows)"


def read_csv(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """Read images and boxes. Boxes are named by the row they stand in (the header is row 1).

    Raises PipelineError for a file that is missing or damaged, and for a column that it lacks.
    """
    if spec.columns is None:
        raise PipelineError(
            f"competition '{profile.name}': format csv needs 'columns' for {spec.annotations}, which say "
            "what its columns are"
        )
    columns = spec.columns
    table = _read(profile, spec.annotations, _needed(columns, with_boxes))
    table[ROW] = np.arange(2, len(table) + 2)
    if (nameless := (table[columns.image] == "").to_numpy()).any():
        row = table[ROW][nameless].iloc[0]
        raise PipelineError(f"{shown(profile.path(spec.annotations))}: row {row}: no {columns.image}")
    table = table[table[columns.image].str.endswith(columns.suffix)]
    ids = table[columns.image].str.removesuffix(columns.suffix).to_numpy()
    image, names = pd.factorize(ids)
    images = table.iloc[np.unique(image, return_index=True)[1]]
    parts = TEMPLATE.split(columns.file)  # texts and names of columns in turn
    file_names = [
        forward("".join(row[part] if i % 2 else part for i, part in enumerate(parts)))
        for row in images.assign(id=names).to_dict(orient="records")
    ]
    sizes = _sizes(profile, spec, columns, images, names, file_names)
    pictures = pd.DataFrame(
        {"id": None, "file_name": file_names, "width": sizes[:, 0], "height": sizes[:, 1]}
    )
    boxes = _boxes(profile, columns, table, image, sizes, findings) if with_boxes else NO_BOXES
    return Raw(pictures, boxes, tuple(range(len(profile.classes))))


def _needed(columns: ColumnSpec, with_boxes: bool) -> list[str]:
    in_name = [name for name in TEMPLATE.findall(columns.file) if name != "id"]
    own = [columns.image, columns.width, columns.height]
    of_boxes = [columns.label, columns.crowd, *columns.box] if with_boxes else []
    return [name for name in dict.fromkeys([*own, *of_boxes, *in_name]) if name]


def _read(profile: Profile, name: str, needed: list[str]) -> pd.DataFrame:
    path = profile.path(name)
    table = read_table(path, profile.missing("annotation file", path))
    if missing := [column for column in needed if column not in table]:
        raise PipelineError(
            f"{shown(path)}: no column '{missing[0]}'; it has {', '.join(map(str, table.columns))}"
        )
    return table


def _sizes(
    profile: Profile,
    spec: SplitSpec,
    columns: ColumnSpec,
    images: pd.DataFrame,
    names: Any,
    file_names: list[str],
) -> NDArray[np.float64]:
    """(images, 2) widths and heights in pixels, NaN where neither a cell nor a photo states one."""
    sizes = np.full((len(images), 2), np.nan)
    if columns.width:
        sizes = _numbers(images[[columns.width, columns.height]])
    elif columns.size is not None:
        return np.tile(np.array(columns.size, np.float64), (len(images), 1))
    elif columns.sizes and profile.path(columns.sizes).exists():
        table = _read(profile, columns.sizes, [])
        found = next((names for names in SIZE_COLUMNS if set(names) <= set(table)), None)
        if found is None:
            raise PipelineError(
                f"{shown(profile.path(columns.sizes))}: expected columns image,width,height, or "
                "image_id,dim0,dim1 (height, width)"
            )
        key = table[found[0]].map(same_text)
        keyed = table.assign(**{found[0]: key}).drop_duplicates(found[0]).set_index(found[0])
        sizes = _numbers(keyed.reindex(list(map(same_text, names)))[list(found[1:])])
    elif spec.stretched:
        raise PipelineError(
            f"competition '{profile.name}': photos that were resized do not say what size the boxes are "
            f"for; expected {profile.path(columns.sizes or 'sizes.csv')} with image_id,dim0,dim1"
        )
    return complete_sizes(profile, spec, file_names, sizes)


def _numbers(cells: pd.DataFrame) -> NDArray[np.float64]:
    """The cells as numbers, NaN for what is none."""
    return cells.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)


def _boxes(
    profile: Profile,
    columns: ColumnSpec,
    table: pd.DataFrame,
    image: NDArray[np.intp],
    sizes: NDArray[np.float64],
    findings: Findings,
) -> pd.DataFrame:
    """Boxes as corners in pixels, with the image's index, the label and the row as id."""
    if not columns.box:
        return NO_BOXES
    if len(columns.box) == 4:
        place, values = _from_columns(columns, table, findings)
    else:
        place, values = _from_cells(columns, table, findings)
    if columns.normalized:
        values = values * np.tile(sizes[image[place]], 2)
    if not columns.xyxy:
        values[:, 2:] += values[:, :2]
    rows, label = table[ROW].to_numpy()[place], np.zeros(len(place), np.int64)
    if columns.label:
        index = pd.Index(list(map(same_text, profile.labels or profile.classes)), dtype=object)
        cells = table[columns.label].map(same_text).to_numpy(object)[place]
        label = index.get_indexer(pd.Index(cells, dtype=object)).astype(np.int64)
        for name in pd.unique(cells[label < 0]):
            where = rows[(label < 0) & (cells == name)]
            findings.lose(
                "boxes", f"boxes of class '{name}', which the profile lacks, dropped (rows)", *where
            )
    crowd = np.zeros(len(place), np.int8)
    if columns.crowd:
        crowd = _flags(table, columns.crowd, findings)[place]
    boxes = pd.DataFrame(
        {"id": rows, "image": image[place], "label": label, "iscrowd": crowd}
        | {name: values[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    )
    return boxes[label >= 0]


def _flags(table: pd.DataFrame, column: str, findings: Findings) -> NDArray[np.int8]:
    """(rows,) 1 where a flag is set; raises PipelineError at a cell that is no flag."""
    flags = [as_flag(cell) for cell in table[column]]
    if None in flags:
        at = flags.index(None)
        row, cell = table[ROW].iloc[at], table[column].iloc[at]
        raise PipelineError(f"{findings.source}: row {row}: {column} '{cell}', expected 1 or 0")
    return np.array(flags, np.int8)


def _from_columns(
    columns: ColumnSpec, table: pd.DataFrame, findings: Findings
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows (by position) that hold a box in four columns, and its numbers; empty cells are no box."""
    cells = table[list(columns.box)]
    values = _numbers(cells)
    none = cells.isin(["", "nan", "NaN"]).all(axis=1).to_numpy()
    if columns.no_label:
        none = none | (table[columns.label] == columns.no_label).to_numpy()
    good = np.isfinite(values).all(axis=1)
    findings.lose("boxes", BAD, *table[ROW].to_numpy()[~good & ~none])
    place = np.flatnonzero(good & ~none)
    return place, values[place]


def _from_cells(
    columns: ColumnSpec, table: pd.DataFrame, findings: Findings
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The same from one column of lists: [x, y, w, h], or mappings with x, y, width and height."""
    places: list[int] = []
    values: list[Corners] = []
    for place, (row, cell) in enumerate(zip(table[ROW], table[columns.box[0]], strict=True)):
        if cell.strip().lower() in NO_BOX:
            continue
        try:
            found = json.loads(cell.replace("'", '"'))
            boxes = [
                [item[key] for key in ("x", "y", "width", "height")] if isinstance(item, dict) else item
                for item in (found if isinstance(found[0], (dict, list)) else [found])
            ]
            numbers = [corners for box in boxes if (corners := four_numbers(box)) is not None]
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            numbers, boxes = [], [None]
        if len(numbers) < len(boxes):
            findings.lose("boxes", BAD, row)
            continue
        places += [place] * len(numbers)
        values += numbers
    return np.array(places, np.intp), np.array(values, np.float64).reshape(-1, 4)
