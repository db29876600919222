"""What the columns of a CSV are, from their names and their cells."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import dirname
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.discover.listing import Listing, part_of
from pipeline.data.findings import Findings
from pipeline.data.formats.csv import SIZE_COLUMNS, read_csv
from pipeline.data.profile import Profile
from pipeline.data.specs import ColumnSpec, SplitSpec
from pipeline.data.text import photo_stem, photo_suffix, same_text

# Names without case, spaces and signs; of several the first that fits is taken.
IMAGES = (
    "imageid imagename image imagefile imagefilename filename file filepath imagepath path img imgid imgname "
    "imgpath patientid photo photoid sopinstanceuid uid id name frame"
)
LABELS = (
    "classname labelname categoryname class label category species object name type classes labels classid "
    "labelid categoryid"
)
LISTS = "bbox bboxes box boxes boundingbox boundingboxes annotations annotation"
CORNERS = (
    "xmin ymin xmax ymax",
    "x1 y1 x2 y2",
    "x0 y0 x1 y1",
    "left top right bottom",
    "xleft ytop xright ybottom",
    "minx miny maxx maxy",
    "startx starty endx endy",
    "xtl ytl xbr ybr",
)
SIDES = (
    "x y w h",
    "x y width height",
    "xmin ymin width height",
    "xmin ymin w h",
    "left top width height",
    "x1 y1 width height",
    "x1 y1 w h",
)
CENTRES = ("xcenter ycenter width height", "xcenter ycenter w h", "cx cy w h", "xc yc w h")
CROWDS = "isgroupof iscrowd crowd"
WIDTHS = ("width height", "imagewidth imageheight", "imgwidth imgheight", "imwidth imheight", "imgw imgh")
MOST_CLASSES = 5000  # a column with more values names no classes
NUMBERS = re.compile(r"(-?\d+(\.\d+)?\s+){3}")  # a box string, not the name of a class
IMAGE_ROWS, STUDY_ROWS = "_image", "_study"  # what siim's ids end with


@dataclass
class Columns:
    """A table's columns as a profile describes them, and what they hold."""

    spec: dict[str, Any]  # the values of ColumnSpec
    images: list[str]  # the ids of the images, without their suffix
    photos: str  # the folder of the photos
    boxes: int = 0
    labels: Counter[str] = field(default_factory=Counter)  # boxes by the cell of their class
    comments: dict[str, str] = field(default_factory=dict)


def plain(name: str) -> str:
    """A column's name as it is compared."""
    text = re.sub(r"[^a-z0-9]", "", name.lower())
    return re.sub(r"^(bbox|box|boundingbox)(?=.)(?!es)", "", text) or text


def pick(table: pd.DataFrame, names: str) -> list[str]:
    """The table's columns of these names (separated by spaces), in the order of the names."""
    known = {plain(str(column)): str(column) for column in reversed(table.columns)}
    return [known[name] for name in names.split() if name in known]


def pick_all(table: pd.DataFrame, groups: Sequence[str]) -> list[str]:
    """The columns of the first group that is there as a whole, else none."""
    for names in groups:
        if len(found := pick(table, names)) == len(names.split()):
            return found
    return []


def image_column(table: pd.DataFrame, listing: Listing) -> str | None:
    """The column that names the images: the one whose cells most often name a photo, else the first."""
    columns = pick(table, IMAGES)

    def named(column: str) -> int:
        cells = table[column].drop_duplicates().head(200).map(same_text)
        return sum(
            cell.split("/")[-1] in listing.photos_by_name or photo_stem(cell) in listing.photos_by_stem
            for cell in cells
        )

    return max(columns, key=named, default=None)  # the first of the best


def describe(table: pd.DataFrame, path: str, listing: Listing) -> Columns | None:
    """The columns of a CSV of images, with boxes or without; None where it names no images."""
    if not len(table) or (image := image_column(table, listing)) is None:
        return None
    values: dict[str, Any] = {"image": image}
    ids = table[image].drop_duplicates()
    if ids.str.endswith((IMAGE_ROWS, STUDY_ROWS)).all() and ids.str.endswith(IMAGE_ROWS).any():
        values["suffix"] = IMAGE_ROWS
        ids = ids[ids.str.endswith(IMAGE_ROWS)].str.removesuffix(IMAGE_ROWS)
    names = ids.tolist()
    photos, found, _ = listing.photos_folder(names, part_of(path), dirname(path))
    made = Columns(values, names, photos if found else ".")
    values["file"] = "{id}" + listing.suffix_of(names)
    if not found and (several := _file_of_columns(table, listing)):
        values["file"], made.photos = several
    elif not found and listing.photos:
        made.comments["columns.file"] = "assumed: no photo of these names is there"
    _describe_boxes(table, path, listing, made)
    _describe_sizes(table, listing, made)
    return made


def _file_of_columns(table: pd.DataFrame, listing: Listing) -> tuple[str, str] | None:
    """(template, folder) of photos that two columns name, as reef's video_{video_id}/{video_frame}.jpg."""
    plain_names = [column for column in table.columns if re.fullmatch(r"\w+", str(column))]
    rows = table.iloc[:: max(1, len(table) // 50)][plain_names].to_dict(orient="records")
    for path in (path for cell in rows[0].values() for path in listing.photos_by_stem.get(cell, ())):
        folder, _, name = dirname(path).rpartition("/")
        for of_name, of_folder in itertools.permutations(rows[0], 2):
            parts = re.split(rf"(?<![^\W_]){re.escape(rows[0][of_folder])}(?![^\W_])", name)
            if rows[0][of_name] != photo_stem(path) or not rows[0][of_folder] or len(parts) != 2:
                continue
            template = f"{parts[0]}{{{of_folder}}}{parts[1]}/{{{of_name}}}{photo_suffix(path)}"
            names = {f"{folder}/{template.format_map(row)}".lstrip("/") for row in rows}
            if names <= set(listing.photos):
                return template, folder or "."
    return None


def _describe_boxes(table: pd.DataFrame, path: str, listing: Listing, made: Columns) -> None:
    """The columns of the boxes, as the CSV reader reads them, and those of their classes."""
    tries = [(pick_all(table, CORNERS), True), (pick_all(table, SIDES), False)]
    tries += [([name], False) for name in pick(table, LISTS)]
    for box, xyxy in tries:
        if not box:
            continue
        columns = ColumnSpec(made.spec["image"], "{id}", box=tuple(box), xyxy=xyxy, size=(1, 1))
        spec = SplitSpec(path, columns=columns)
        boxes = read_csv(Profile("", "csv", spec, spec, root=listing.root), spec, Findings("")).boxes
        if len(boxes):
            break
    else:
        return
    made.spec |= {"box": box} | ({"xyxy": True} if xyxy else {})
    numbers = pd.DataFrame(boxes)[["x1", "y1", "x2", "y2"]].to_numpy(np.float64)
    made.boxes = len(numbers)
    if numbers.max() <= 1 and numbers.min() >= 0:
        made.spec["normalized"] = True
    if crowd := pick(table, CROWDS):
        made.spec["crowd"] = crowd[0]
    counts = np.bincount(pd.DataFrame(boxes)["id"].to_numpy(np.int64) - 2, minlength=len(table))
    _describe_labels(table, counts, made)


def _describe_labels(table: pd.DataFrame, counts: NDArray[np.int64], made: Columns) -> None:
    """The column of the classes, and the label of images without a box."""
    used = {made.spec["image"], *made.spec["box"]}
    with_box = counts > 0
    for column in (name for name in pick(table, LABELS) if name not in used):
        cells = table[column].map(same_text)
        names = cells[with_box]
        if not len(names) or (names == "").mean() > 0.1 or names.nunique() > MOST_CLASSES:
            continue
        if names.head(1000).map(lambda name: bool(NUMBERS.search(name))).any():
            continue
        made.spec["label"] = column
        made.labels = Counter(np.repeat(cells.to_numpy(object), counts).tolist())
        without = set(cells[~with_box]) - {""}
        if len(without) == 1 and not without & set(names):
            made.spec["no_label"] = without.pop()
        return


def _describe_sizes(table: pd.DataFrame, listing: Listing, made: Columns) -> None:
    """Columns of the photos' sizes, which are not those of a box."""
    columns = pick_all(table, WIDTHS)
    if columns and not set(columns) & set(made.spec.get("box", ())):
        numbers = table[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        if (numbers > 1).all(axis=1).mean() > 0.9:
            made.spec |= {"width": columns[0], "height": columns[1]}


def is_sizes(table: pd.DataFrame) -> bool:
    """Whether a table holds nothing but the sizes of photos, as the CSV reader knows them."""
    return any(set(names) <= set(table) for names in SIZE_COLUMNS) and len(table.columns) <= 5
