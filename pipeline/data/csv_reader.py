"""Annotations in a CSV, whose columns the profile describes (`ColumnSpec`).

Made for the files that competitions publish: one row a box (wheat, rsna, vinbigdata, openimages), or
one row an image with its boxes in a cell (siim, reef), and sample submissions as lists of images.
"""

import json
import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.findings import Findings
from pipeline.data.photos import locator, photo_size
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw
from pipeline.data.specs import ColumnSpec
from pipeline.errors import PipelineError
from pipeline.paths import shown

SIZE_COLUMNS = (("image", "width", "height"), ("image_id", "width", "height"), ("image_id", "dim1", "dim0"))
NO_BOX = ("", "[]", "nan", "none")
BAD = "boxes that are not four finite numbers dropped (rows)"


def read_csv(profile: Profile, spec: SplitSpec, findings: Findings) -> Raw:
    """Read images and boxes. Boxes are named by the row they stand in (the header is row 1).

    Raises PipelineError for a file that is missing or damaged, and for a column that it lacks.
    """
    if spec.columns is None:
        raise PipelineError(
            f"competition '{profile.name}': format csv needs 'columns' for {spec.annotations}, which say "
            "what its columns are"
        )
    columns = spec.columns
    table = _read(profile, spec.annotations, _needed(columns))
    table["row"] = np.arange(2, len(table) + 2)
    table = table[table[columns.image].str.endswith(columns.suffix)]
    ids = table[columns.image].str.removesuffix(columns.suffix).to_numpy()
    image, names = pd.factorize(ids)
    images = table.iloc[np.unique(image, return_index=True)[1]]
    file_names = [
        columns.file.format_map({str(key): value for key, value in row.items()} | {"id": name})
        for name, row in zip(names, images.to_dict(orient="records"), strict=True)
    ]
    sizes = _sizes(profile, spec, columns, images, names, file_names)
    pictures = pd.DataFrame(
        {"id": None, "file_name": file_names, "width": sizes[:, 0], "height": sizes[:, 1]}
    )
    return Raw(
        pictures, _boxes(profile, columns, table, image, sizes, findings), tuple(range(len(profile.classes)))
    )


def _needed(columns: ColumnSpec) -> list[str]:
    in_name = [name for _, name, _, _ in string.Formatter().parse(columns.file) if name and name != "id"]
    own = [columns.image, columns.label, columns.crowd, columns.width, columns.height]
    return [name for name in dict.fromkeys([*own, *columns.box, *in_name]) if name]


def _read(profile: Profile, name: str, needed: list[str]) -> pd.DataFrame:
    path = profile.path(name)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError):
        raise PipelineError(
            f"no annotation file {path}: put {profile.where} into {profile.root}, or say where it "
            "lies with ROOT=<folder>"
        ) from None
    except (ValueError, OSError) as error:  # pandas' and the decoder's are ValueErrors
        reason = " ".join(str(error).split())
        raise PipelineError(f"{shown(path)}: not a whole CSV file ({reason})") from None
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
    """(images, 2) widths and heights in pixels, NaN where a cell is no number."""
    if columns.width:
        cells = images[[columns.width, columns.height]]
        return cells.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if columns.size is not None:
        return np.tile(np.array(columns.size, np.float64), (len(images), 1))
    if columns.sizes and profile.path(columns.sizes).exists():
        table = _read(profile, columns.sizes, [])
        found = next((names for names in SIZE_COLUMNS if set(names) <= set(table)), None)
        if found is None:
            raise PipelineError(
                f"{shown(profile.path(columns.sizes))}: expected columns image,width,height, or "
                "image_id,dim0,dim1 (height, width)"
            )
        keyed = table.drop_duplicates(found[0]).set_index(found[0]).reindex(names)
        return keyed[list(found[1:])].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if spec.stretched:
        raise PipelineError(
            f"competition '{profile.name}': photos that were resized do not say what size the boxes are "
            f"for; expected {profile.path(columns.sizes or 'sizes.csv')} with image_id,dim0,dim1"
        )
    locate = locator(profile, spec)
    with ThreadPoolExecutor(max_workers=8) as pool:
        return np.array(list(pool.map(lambda name: photo_size(locate(name)), file_names)), np.float64)


def _boxes(
    profile: Profile,
    columns: ColumnSpec,
    table: pd.DataFrame,
    image: NDArray[np.intp],
    sizes: NDArray[np.float64],
    findings: Findings,
) -> pd.DataFrame:
    """Boxes as corners in pixels, with the image's index, the label and the row as id."""
    empty = pd.DataFrame(columns=["id", "image", "label", "x1", "y1", "x2", "y2", "iscrowd"])
    if not columns.box:
        return empty
    if len(columns.box) == 4:
        place, values = _from_columns(columns, table, findings)
    else:
        place, values = _from_cells(columns, table, findings)
    if columns.normalized:
        values = values * np.tile(sizes[image[place]], 2)
    if not columns.xyxy:
        values[:, 2:] += values[:, :2]
    rows, label = table["row"].to_numpy()[place], np.zeros(len(place), np.int64)
    if columns.label:
        index = pd.Index(profile.labels or profile.classes)
        cells = table[columns.label].to_numpy()[place]
        label = index.get_indexer(pd.Index(cells)).astype(np.int64)
        for name in pd.unique(cells[label < 0]):
            where = rows[(label < 0) & (cells == name)]
            findings.add(f"boxes of class '{name}', which the profile lacks, dropped (rows)", *where)
    crowd = np.zeros(len(place), np.int8)
    if columns.crowd:
        crowd = (table[columns.crowd].to_numpy()[place] == "1").astype(np.int8)
    boxes = pd.DataFrame(
        {"id": rows, "image": image[place], "label": label, "iscrowd": crowd}
        | {name: values[:, i] for i, name in enumerate(("x1", "y1", "x2", "y2"))}
    )
    return boxes[label >= 0]


def _from_columns(
    columns: ColumnSpec, table: pd.DataFrame, findings: Findings
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows (by position) that hold a box in four columns, and its numbers; empty cells are no box."""
    cells = table[list(columns.box)]
    values = cells.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    none = cells.isin(["", "nan", "NaN"]).all(axis=1).to_numpy()
    if columns.no_label:
        none = none | (table[columns.label] == columns.no_label).to_numpy()
    good = np.isfinite(values).all(axis=1)
    findings.add(BAD, *table["row"].to_numpy()[~good & ~none])
    place = np.flatnonzero(good & ~none)
    return place, values[place]


def _from_cells(
    columns: ColumnSpec, table: pd.DataFrame, findings: Findings
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The same from one column of lists: [x, y, w, h], or mappings with x, y, width and height."""
    places, values = [], []
    for place, (row, cell) in enumerate(zip(table["row"], table[columns.box[0]], strict=True)):
        if cell.strip().lower() in NO_BOX:
            continue
        try:
            found = json.loads(cell.replace("'", '"'))
            boxes = [
                [item[key] for key in ("x", "y", "width", "height")] if isinstance(item, dict) else item
                for item in (found if isinstance(found[0], (dict, list)) else [found])
            ]
            numbers = np.array(boxes, np.float64).reshape(-1, 4)
            good = len(numbers) == len(boxes) and bool(np.isfinite(numbers).all())
        except (ValueError, KeyError, TypeError, IndexError):
            good = False
        if not good:
            findings.add(BAD, row)
            continue
        places += [place] * len(numbers)
        values.append(numbers)
    return np.array(places, np.intp), np.concatenate([np.empty((0, 4)), *values])
