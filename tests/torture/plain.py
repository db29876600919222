"""Plain readers of what people write: Python's json, csv and minidom, and the rules of each format by hand.

They share no code with the pipeline. Each returns what a reader must have read, or raises: then a reader
must refuse the same bytes. Images are (file name, width, height), boxes (file name, class, x1, y1, x2, y2,
crowd) in pixels, both sorted.
"""

import csv
import io
import json
import math
import posixpath
import re
import unicodedata
from collections.abc import Callable, Sequence
from os.path import exists, isdir  # False for names that no file can have, where pathlib raises
from pathlib import Path
from typing import Any
from xml.dom import minidom

import yaml

DECIMAL = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", re.ASCII)
FLAGS = {"": 0, "0": 0, "false": 0, "no": 0, "-1": 0, "1": 1, "true": 1, "yes": 1}
MAY_LOSE = 0.1
Size = tuple[int, int]
SizeOf = Callable[[str], Size | None]  # of the photo with a name, None where there is none
Box = tuple[str, str, float, float, float, float, int]


class Refused(Exception):
    """No reader may read this."""


def text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")


def name_of(value: str) -> str:
    return value.replace("\\", "/")


def same(value: str) -> str:
    return unicodedata.normalize("NFC", value)


def number(value: Any) -> float:
    """A number, or a text that is one; NaN for anything else."""
    if isinstance(value, str):
        return float(value) if DECIMAL.fullmatch(value) else math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def identity(value: Any) -> str | None:
    """1, 1.0, "1" and "1.0" are one id."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    plain = str(value).strip().removesuffix(".0")
    return str(int(plain)) if re.fullmatch("-?[0-9]+", plain) else str(value)


def flag(value: Any) -> int:
    if value is None or value != value:
        return 0
    key = str(value).strip().lower().removesuffix(".0")
    if key not in FLAGS:
        raise Refused(f"flag {value!r}")
    return FLAGS[key]


def size(width: Any, height: Any, photo: Size | None) -> Size:
    """What the file states, else that of the photo."""
    stated = number(width), number(height)
    if all(1 <= side < 2**31 for side in stated):
        return int(stated[0]), int(stated[1])
    if photo is None:
        raise Refused("no size")
    return photo


class Boxes:
    """Boxes one by one: those that are none are counted as lost, of which there may not be many."""

    def __init__(self, sizes: dict[str, Size]) -> None:
        self.sizes, self.boxes, self.lost, self.total = sizes, {}, 0, 0  # type: ignore[var-annotated]

    def add(
        self, name: str | None, label: str | None, corners: Sequence[float] | None, crowd: int = 0
    ) -> None:
        self.total += 1
        if name is None or label is None or corners is None or not all(map(math.isfinite, corners)):
            self.lost += 1
            return
        x1, y1, x2, y2 = corners
        width, height = self.sizes[name]
        cut = [
            min(max(v, 0), limit) for v, limit in zip(corners, (width, height, width, height), strict=True)
        ]
        thin = x2 - x1 < 1e-3 or y2 - y1 < 1e-3 or cut[2] - cut[0] < 1e-3 or cut[3] - cut[1] < 1e-3
        if thin:
            self.lost += 1
        else:
            self.boxes.setdefault((name, label, *cut), crowd)

    def done(self) -> tuple[list[Any], list[Box]]:
        if self.lost > int(MAY_LOSE * self.total):
            raise Refused(f"{self.lost} of {self.total} boxes lost")
        boxes = [(*key[:2], *(round(v, 6) for v in key[2:]), crowd) for key, crowd in self.boxes.items()]
        return sorted((name, *size) for name, size in self.sizes.items()), sorted(boxes)


def coco(path: Path, classes: Sequence[str], size_of: SizeOf, with_boxes: bool = True) -> Any:
    data = json.loads(text(path))
    names, sizes = {}, {}
    for image in data["images"]:
        name, key = name_of(image["file_name"]), identity(image["id"])
        if key is None or key in names or same(name) in map(same, sizes):
            raise Refused("image id or name")
        names[key], sizes[name] = name, size(image.get("width"), image.get("height"), size_of(name))
    if not sizes:
        raise Refused("no images")
    boxes = Boxes(sizes)
    categories = data.get("categories") or []
    labels = {identity(category["id"]): same(category["name"]) for category in categories}
    known = sorted(map(same, classes))
    if (categories or with_boxes) and (sorted(labels.values()) != known or len(labels) < len(categories)):
        raise Refused("categories")
    for item in (data.get("annotations") or []) if with_boxes else []:
        crowd = flag(item.get("iscrowd"))
        corners, box = None, item.get("bbox")
        if isinstance(box, list) and len(box) == 4:
            x, y, w, h = map(number, box)
            corners = x, y, x + w, y + h
        elif not box:
            corners = outline(item.get("segmentation"))
        image, category = identity(item.get("image_id")), identity(item.get("category_id"))
        boxes.add(names.get(image), labels.get(category), corners, crowd)  # type: ignore[arg-type]
    return boxes.done()


def outline(parts: Any) -> tuple[float, float, float, float] | None:
    if not isinstance(parts, list) or not parts or not all(isinstance(part, list) for part in parts):
        return None
    points = [number(value) for part in parts for value in part]
    if not points or any(len(part) % 2 for part in parts) or not all(map(math.isfinite, points)):
        return None
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def voc(folder: Path, sets: Path, classes: Sequence[str], size_of: Callable[[str], Size | None]) -> Any:
    """Xml files of the stems that an image set names, one a line."""
    found: list[tuple[str, Any]] = []
    xmls = {same(path.stem): path for path in folder.glob("*.xml")}
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text(sets)) if line.strip()]
    stems = [line if same(line) in xmls else re.sub(r"(?i)\s+(-1|0|1)$|\.jpe?g$", "", line) for line in lines]
    for stem in dict.fromkeys(name_of(stem) for stem in stems):
        paths = [xmls[same(stem)]]
        found.append((stem, xml_of(paths[0])))
    boxes = Boxes({})
    for stem, root in found:
        stated = size(child_text(root, "size", "width"), child_text(root, "size", "height"), size_of(stem))
        boxes.sizes[stem] = stated
        for item in root.getElementsByTagName("object"):
            label = same((child_text(item, "name") or "").strip())
            box = [number(child_text(item, "bndbox", key) or "") for key in ("xmin", "ymin", "xmax", "ymax")]
            boxes.add(stem, label if label in map(same, classes) else None, box)
    if not boxes.sizes:
        raise Refused("no images")
    return boxes.done()


def xml_of(path: Path) -> Any:
    """The root of an xml file. Python decodes what expat cannot: encodings of several bytes per character."""
    data = path.read_bytes()
    try:
        return minidom.parseString(data).documentElement
    except ValueError:
        name = re.match(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)""", data)
        if name is None:
            raise
        return minidom.parseString(data.decode(name[1].decode())).documentElement


def cvat(path: Path, classes: Sequence[str], size_of: SizeOf) -> Any:
    """CVAT for images: boxes, turned or not, and polygons."""
    root, boxes = xml_of(path), Boxes({})
    if root.tagName != "annotations" or any(node.nodeName == "track" for node in root.childNodes):
        raise Refused("no annotations")
    images = [node for node in root.childNodes if node.nodeName == "image"]
    for image in images:
        name = name_of(image.getAttribute("name"))
        if not name or same(name) in map(same, boxes.sizes):
            raise Refused("name")
        boxes.sizes[name] = size(image.getAttribute("width"), image.getAttribute("height"), size_of(name))
    known = {same(name): name for name in classes}
    for image in images:
        for item in [node for node in image.childNodes if node.nodeType == node.ELEMENT_NODE]:
            if item.tagName == "tag":
                continue
            corners = None
            if item.tagName == "box":
                corners = [number(item.getAttribute(key)) for key in ("xtl", "ytl", "xbr", "ybr")]
                angle = item.getAttribute("rotation") if item.hasAttribute("rotation") else "0"
                corners = turned(corners, number(angle))
            elif item.tagName == "polygon":
                points = [point.split(",") for point in item.getAttribute("points").split(";")]
                if all(len(point) == 2 for point in points):
                    corners = outline([[value for point in points for value in point]])
            label = known.get(same(item.getAttribute("label").strip()))
            boxes.add(name_of(image.getAttribute("name")), label, corners)
    if not images:
        raise Refused("no images")
    return boxes.done()


def turned(corners: Sequence[float], angle: float) -> list[float]:
    """The extent of a box that is turned around its centre by an angle in degrees."""
    x1, y1, x2, y2 = corners
    if not angle or x2 <= x1 or y2 <= y1:
        return list(corners)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    points = [
        (
            (x - (x1 + x2) / 2) * cos - (y - (y1 + y2) / 2) * sin,
            (x - (x1 + x2) / 2) * sin + (y - (y1 + y2) / 2) * cos,
        )
        for x, y in ((x1, y1), (x2, y1), (x1, y2), (x2, y2))
    ]
    xs, ys = [p[0] + (x1 + x2) / 2 for p in points], [p[1] + (y1 + y2) / 2 for p in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def labelme(folder: Path, classes: Sequence[str], size_of: SizeOf) -> Any:
    """A json file per photo, beside it; rectangles, polygons and circles, of which a group is one object."""
    known, boxes = {same(name): name for name in classes}, Boxes({})
    photos = {same(path.name): path.name for path in folder.glob("*.jpg")}
    found = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(text(path))
        stated = posixpath.normpath(name_of(data["imagePath"]))
        name = next(
            photos[same(n)]
            for n in (stated, posixpath.basename(stated), path.stem + ".jpg")
            if same(n) in photos
        )
        if name in boxes.sizes:
            raise Refused("a photo twice")
        boxes.sizes[name] = size(data.get("imageWidth"), data.get("imageHeight"), size_of(name))
        if not isinstance(data["shapes"], list):
            raise Refused("shapes")
        found += [(name, shape) for shape in data["shapes"]]
    groups: dict[Any, list[Any]] = {}
    for position, (name, shape) in enumerate(found):
        item = shape if isinstance(shape, dict) else {}
        label, corners = known.get(same(str(item.get("label")).strip())), extent_of_shape(item)
        group = item.get("group_id")
        whole = label is not None and corners is not None and all(map(math.isfinite, corners))
        if not whole or type(group) not in (int, str, bool):
            group = ("alone", position)
        groups.setdefault((name, label, group), []).append(corners)
    for (name, label, _), parts in groups.items():
        if parts[0] is None or not all(map(math.isfinite, parts[0])):
            boxes.add(name, label, parts[0])
            continue
        x1, y1, x2, y2 = zip(*parts, strict=True)
        boxes.add(name, label, (min(x1), min(y1), max(x2), max(y2)))
    return boxes.done()


def extent_of_shape(item: dict[str, Any]) -> Sequence[float] | None:
    kind, points = item.get("shape_type") or "polygon", item.get("points")
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        return None
    if kind == "circle" and len(points) == 2:
        (x, y), (u, v) = [[number(value) for value in point] for point in points]
        radius = math.hypot(x - u, y - v)
        return x - radius, y - radius, x + radius, y + radius
    return outline(points) if kind in ("rectangle", "polygon") else None


def yolo(data_yaml: Path, photos: Path, classes: Sequence[str], size_of: SizeOf) -> Any:
    """The split train of a data.yaml; label files lie where a photo's path has `labels` for `images`."""
    data = yaml.safe_load(text(data_yaml))
    names = data["names"] if isinstance(data["names"], dict) else dict(enumerate(data["names"]))
    names = {int(number(str(key))): same(str(name)) for key, name in names.items()}
    if sorted(names.values()) != sorted(map(same, classes)):
        raise Refused("classes")
    base = data_yaml.parent / str(data.get("path") or ".")
    base = base if isdir(base) else data_yaml.parent
    entries = data["train"] if isinstance(data["train"], list) else [data["train"]]
    found: dict[str, Path] = {}
    for entry in entries:
        tried = [base / name_of(entry), base / name_of(entry).removeprefix("../")]
        folder = next(place for place in tried if exists(place))
        found |= {
            path.resolve().relative_to(photos.resolve()).as_posix(): path for path in folder.rglob("*.jpg")
        }
    boxes = Boxes({name: size_of(name) for name in found})  # type: ignore[misc]
    labelled = 0
    for name in found:
        parts = name.removesuffix(".jpg").split("/")
        for i in range(len(parts) - 2, -1, -1):
            if parts[i] == "images":
                parts[i] = "labels"
                break
        path = photos.joinpath(*parts).with_name(parts[-1] + ".txt")
        if not path.is_file():
            continue
        labelled += 1
        for line in re.split(r"\r\n|\r|\n", text(path)):
            if not (cells := line.split()):
                continue
            values, corners = [number(cell) for cell in cells], None
            good = all(map(math.isfinite, values)) and values[0] == int(values[0])
            if good and len(values) == 5:
                _, x, y, w, h = values
                corners = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            elif good and len(values) >= 7 and len(values) % 2:
                corners = min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2])
            label = names.get(int(values[0])) if good else None
            width, height = boxes.sizes[name]
            scaled = corners and [v * s for v, s in zip(corners, (width, height) * 2, strict=True)]
            boxes.add(name, label, scaled)
    if not labelled:
        raise Refused("no label file")
    return boxes.done()


def child_text(node: Any, *path: str) -> str | None:
    """The text of the first child of a name, of the first child of the next name in that ..."""
    for name in path:
        node = next((child for child in node.childNodes if child.nodeName == name), None)
        if node is None:
            return None
    first = node.firstChild
    return (
        first.data
        if first is not None and first.nodeType in (first.TEXT_NODE, first.CDATA_SECTION_NODE)
        else ""
    )


def rows_of(path: Path, skip_blank: bool = True) -> list[list[str]]:
    """The rows of a CSV but for blank ones, as wide as the first; a comma at the end of all is left out."""
    rows = [row for row in csv.reader(io.StringIO(text(path), newline=""), strict=True) if row]
    if not rows:
        raise Refused("empty")
    width = len(rows[0])
    if len(rows) > 1 and all(len(row) == width + 1 and row[-1] == "" for row in rows[1:]):
        rows[1:] = [row[:-1] for row in rows[1:]]
    if any(len(row) != width for row in rows):
        raise Refused("a row of another width")
    return [rows[0], *(row for row in rows[1:] if not skip_blank or any(row))]


def table(path: Path) -> list[dict[str, str]]:
    header, *rows = rows_of(path)
    if len(set(filter(None, header))) < len(list(filter(None, header))):
        raise Refused("a column twice")
    return [dict(zip(header, row, strict=True)) for row in rows]


def csv_boxes(
    path: Path,
    classes: Sequence[str],
    size_of: Callable[[str, dict[str, str]], Any],
    columns: dict[str, Any],
    labels: Sequence[str] = (),
) -> Any:
    """One row a box; `columns` are the keys of a profile's; `labels`: what the file calls classes."""
    rows = table(path)
    boxes = Boxes({})
    for row in rows:
        if (key := row[columns["image"]]) == "":
            raise Refused("a row without an image")
        name = name_of(columns["file"].format_map(row))
        if name not in boxes.sizes:
            width, height = row.get(columns.get("width", "")), row.get(columns.get("height", ""))
            boxes.sizes[name] = columns.get("size") or size(width, height, size_of(name))  # type: ignore[call-arg]
        del key
    if not boxes.sizes:
        raise Refused("no images")
    known = {same(name): own for name, own in zip(labels or classes, classes, strict=True)}
    for row in rows:
        name = name_of(columns["file"].format_map(row))
        label = known.get(same(row[columns["label"]])) if "label" in columns else classes[0]
        crowd = flag(row[columns["crowd"]]) if "crowd" in columns else 0
        cells = [row[column] for column in columns["box"]]
        if len(cells) == 4 and all(cell in ("", "nan", "NaN") for cell in cells):
            continue
        if len(cells) == 1:
            if cells[0].strip().lower() in ("", "[]", "nan", "none"):
                continue
            values = list_of(cells[0])
        else:
            values = [[number(cell) for cell in cells]]
        for box in values if values is not None else [None]:
            if box is not None and not columns.get("xyxy"):
                box = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            if box is not None and columns.get("normalized"):
                box = [value * side for value, side in zip(box, boxes.sizes[name] * 2, strict=True)]
            boxes.add(name, label, box, crowd)
    return boxes.done()


def list_of(cell: str) -> list[list[float]] | None:
    """The boxes in a cell: [x, y, w, h], or a list of these or of mappings."""
    try:
        value = json.loads(cell.replace("'", '"'))
        many = value if isinstance(value[0], (list, dict)) else [value]
        boxes = [
            [box[k] for k in ("x", "y", "width", "height")] if isinstance(box, dict) else box for box in many
        ]
        plain = [[number(v) for v in box] for box in boxes]
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return None
    return plain if all(len(box) == 4 and all(map(math.isfinite, box)) for box in plain) else None


def submission(path: Path, keys: Sequence[str], n_classes: int, whole: bool, size: Size) -> Any:
    """`PredictionString,image_id` with `label score x1 y1 x2 y2` in each cell -> boxes by key.

    Each key at most once; `whole`: each of them, in their order, with nothing that a site refuses.
    """
    header, *rows = rows_of(path, skip_blank=False)
    if sorted(filter(None, header)) != ["PredictionString", "image_id"]:
        raise Refused("header")
    at_key, at_cell = header.index("image_id"), header.index("PredictionString")
    found = [row[at_key] for row in rows]
    if len(set(map(same, found))) < len(found) or set(map(same, found)) - set(map(same, keys)):
        raise Refused("keys")
    if whole and (
        header != ["PredictionString", "image_id"] or list(map(same, found)) != list(map(same, keys))
    ):
        raise Refused("not the rows of the test set")
    boxes, lost, total = [], 0, 0
    for row in rows:
        words = [word for word in re.split("[ \t\n\r\v\f]+", row[at_cell]) if word]
        if len(words) % 6:
            raise Refused("values")
        for start in range(0, len(words), 6):
            if not all(DECIMAL.fullmatch(word) for word in words[start : start + 6]):
                raise Refused("not a number")
            label, score, *corners = map(float, words[start : start + 6])
            if not all(map(math.isfinite, corners)) or not 0 <= score <= 1 + 1e-6:
                raise Refused("not finite, or no score")
            if label != int(label) or not 0 <= label < n_classes:
                raise Refused("label")
            x1, y1, x2, y2 = corners
            flat, (width, height) = x2 <= x1 or y2 <= y1, size
            total += 1
            if flat or min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
                lost += 1
                continue
            if whole and not (x1 >= -0.5 and y1 >= -0.5 and x2 <= width + 0.5 and y2 <= height + 0.5):
                raise Refused("outside")
            boxes.append((same(row[at_key]), int(label), min(score, 1), *corners))
    if lost > (0 if whole else int(MAY_LOSE * total)):
        raise Refused("boxes without area")
    return sorted(boxes)


def results(path: Path, ids: Sequence[Any], categories: Sequence[Any], size: Size) -> Any:
    """COCO results: image_id, category_id, bbox x y w h, score."""
    images, labels = ({identity(key): i for i, key in enumerate(keys)} for keys in (ids, categories))
    boxes, lost, items = [], 0, json.loads(text(path))
    if not isinstance(items, list):
        raise Refused("no list")
    for item in items:
        if not isinstance(item["bbox"], list):
            raise Refused("bbox")
        x, y, w, h = map(number, item["bbox"])
        score = number(item["score"])
        if not all(map(math.isfinite, (x, y, w, h))) or not 0 <= score <= 1 + 1e-6:
            raise Refused("not finite, or no score")
        corners = x, y, x + w, y + h
        place = images[identity(item["image_id"])], labels[identity(item["category_id"])]
        inside = min(x + w, size[0]) > max(x, 0) and min(y + h, size[1]) > max(y, 0)
        if x + w <= x or y + h <= y or not inside:
            lost += 1
        else:
            boxes.append((*place, min(score, 1), *corners))
    if lost > int(MAY_LOSE * len(items)):
        raise Refused("boxes without area")
    return sorted(boxes)


def assignment(
    path: Path, names: Sequence[str], key: str = "file_name", value: str = "fold"
) -> dict[str, int]:
    """Name -> whole number from 0 of a CSV that names each image once."""
    found: dict[str, int] = {}
    for row in table(path):
        name, cell = same(name_of(row[key])), number(row[value])
        if name in found or not cell >= 0 or cell != int(cell) or name not in map(same, names):
            raise Refused(f"row {row}")
        found[name] = int(cell)
    return found


def keys_of(value: Any, record: Any) -> bool:
    """Whether a record holds exactly the plain values of a mapping, wherever it names one."""
    if isinstance(value, dict):
        get = record.get if isinstance(record, dict) else lambda key: getattr(record, key)
        return all(keys_of(item, get(key)) for key, item in value.items())
    if isinstance(value, list):
        return (
            isinstance(record, (list, tuple))
            and len(value) == len(record)
            and all(map(keys_of, value, record))
        )
    if isinstance(value, float) or isinstance(record, float):
        return not isinstance(value, bool) and float(value) == float(record)
    return type(value) is type(record) and value == record
