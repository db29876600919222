"""Readers of annotation formats: each yields raw images and boxes; `dataset.py` checks them all alike.

A new format is one function and one entry in `READERS`; one that is a CSV needs neither, but the
`columns` of its profile (`csv_reader.py`). A reader returns `Raw`: two lists (or tables) of records,
images `{"id": int | str | None, "file_name", "width", "height", ...}` (more columns with a plain value,
as COCO's `date_captured`, are kept) and boxes `{"id", "image", "label", "x1", "y1", "x2", "y2",
"iscrowd"}`, where `image` is the index of the image's record and the corners are edges in pixels of the
photo. A size that the file does not state is NaN or 0; `dataset.py` reads it from the photo.
"""

import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.data.csv_reader import read_csv
from pipeline.data.findings import Findings
from pipeline.data.locate import locate_photos
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Reader, Record
from pipeline.data.text import (
    as_flag,
    find_key,
    forward,
    photo_stem,
    photo_suffix,
    read_json,
    read_text,
    same_text,
)
from pipeline.errors import PipelineError
from pipeline.paths import shown

NO_NUMBERS = "boxes that are not four finite numbers dropped (ids)"
OUTLINED = "boxes that only an outline states, taken from its extent (ids)"


def read_coco(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """COCO json (cocodataset.org, "Data format"): category ids are matched to classes by name.

    A test set's file needs no categories. An annotation without bbox is the extent of its segmentation.
    """
    path = profile.path(spec.annotations)
    data = read_json(
        path,
        f"no annotation file {path}: put {profile.where} into {profile.root}, or say where it lies with "
        "ROOT=<folder>",
    )
    for key in ("images", "categories")[: 1 + with_boxes]:
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise PipelineError(f"{shown(path)}: no list '{key}'; expected a COCO annotation file")
    annotations = data.get("annotations") or []
    if not isinstance(annotations, list):
        raise PipelineError(f"{shown(path)}: 'annotations': expected a list")
    categories = data.get("categories") or []
    labels = _category_labels(categories, profile, path) if categories or with_boxes else {}
    images, index = [], {}
    for position, image in enumerate(data["images"]):
        if not _is_image(image):
            raise PipelineError(f"{shown(path)}: image {position}: expected id, file_name, width and height")
        if image["id"] in index:
            raise PipelineError(f"{shown(path)}: image id {image['id']} is there twice")
        index[image["id"]] = position
        plain = {key: value for key, value in image.items() if not isinstance(value, (dict, list))}
        sizes = {"width": image.get("width"), "height": image.get("height")}
        images.append(plain | sizes | {"file_name": forward(image["file_name"])})
    boxes = _coco_boxes(annotations if with_boxes else [], index, labels, findings, path, profile.xyxy)
    return Raw(images, boxes, tuple(sorted(labels, key=lambda category: labels[category])))


def _is_image(image: Any) -> bool:
    return (
        isinstance(image, dict)
        and {"id", "file_name"} <= set(image)
        and isinstance(image["id"], (int, str))
        and isinstance(image["file_name"], str)
    )


def _coco_boxes(
    annotations: list[Any],
    index: dict[Any, int],
    labels: dict[Any, int],
    findings: Findings,
    path: Path,
    xyxy: bool,
) -> list[Record]:
    boxes = []
    for position, item in enumerate(annotations):
        if not isinstance(item, dict):
            raise PipelineError(f"{shown(path)}: annotation {position}: expected a mapping, got {item!r}")
        identity = item.get("id", position)
        image_id, category_id = item.get("image_id"), item.get("category_id")
        image, category = find_key(image_id, index), find_key(category_id, labels)
        crowd = as_flag(item.get("iscrowd"))
        if image is None:
            findings.lose("boxes", "boxes of image ids that are not in 'images' dropped (ids)", identity)
            continue
        if category is None:
            findings.lose(
                "boxes", "boxes of category ids that are not in 'categories' dropped (ids)", identity
            )
            continue
        if crowd is None:
            raise PipelineError(
                f"{shown(path)}: annotation {position}: iscrowd {item['iscrowd']!r}, expected 0 or 1"
            )
        if type(image) is not type(image_id) or type(category) is not type(category_id):
            findings.add(
                "boxes whose ids are text where the lists have numbers, or numbers where text (ids)", identity
            )
        corners = _four_numbers(item.get("bbox"))
        if corners is not None and not xyxy:
            x, y, width, height = corners
            corners = x, y, x + width, y + height
        elif (
            corners is None
            and not item.get("bbox")
            and (corners := _extent(item.get("segmentation"))) is not None
        ):
            findings.add(OUTLINED, identity)
        if corners is None:
            findings.lose("boxes", NO_NUMBERS, identity)
            continue
        boxes.append(_box(identity, index[image], labels[category], *corners, crowd))
    return boxes


def _four_numbers(values: Any) -> tuple[float, float, float, float] | None:
    """Four finite numbers, also where they are written as text; None for anything else."""
    try:
        a, b, c, d = map(float, values)
    except (TypeError, ValueError):
        return None
    return (a, b, c, d) if all(map(math.isfinite, (a, b, c, d))) and not isinstance(values, str) else None


def _extent(outline: Any) -> tuple[float, float, float, float] | None:
    """Corners of what a COCO segmentation outlines: polygons [x, y, x, y ...], or a run-length mask."""
    try:
        if isinstance(outline, dict):
            from pycocotools import mask  # C code that few need

            counts = outline["counts"]
            packed = mask.frPyObjects(outline, *outline["size"]) if isinstance(counts, list) else outline
            x, y, width, height = map(float, mask.toBbox(packed))
            return x, y, x + width, y + height
        values = [float(value) for part in outline for value in part]
        xs, ys = values[::2], values[1::2]
        corners = min(xs), min(ys), max(xs), max(ys)
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    return corners if len(values) % 2 == 0 and all(map(math.isfinite, corners)) else None


def _box(
    identity: Any, image: int, label: int, x1: float, y1: float, x2: float, y2: float, crowd: bool = False
) -> Record:
    return {
        "id": identity,
        "image": image,
        "label": label,
        "x1": x1,
        "y1": y1,
        "x2": x2,
        "y2": y2,
        "iscrowd": int(crowd),
    }


def _category_labels(categories: list[Any], profile: Profile, path: Path) -> dict[Any, int]:
    """Category id -> 0-based label in the profile's order; any difference in names is an error."""
    for position, category in enumerate(categories):
        if not isinstance(category, dict) or not {"id", "name"} <= set(category):
            raise PipelineError(f"{shown(path)}: category {position}: expected id and name")
    names = [same_text(str(category["name"])) for category in categories]
    classes = [same_text(name) for name in profile.classes]
    if sorted(names) != sorted(classes):
        missing = sorted(set(classes) - set(names))
        unknown = sorted(set(names) - set(classes))
        doubled = sorted(name for name, count in Counter(names).items() if count > 1)
        raise PipelineError(
            f"{shown(path)}: its categories are not the classes of competition '{profile.name}': "
            f"missing {missing or 'none'}, unknown {unknown or 'none'}, doubled {doubled or 'none'}"
        )
    labels: dict[Any, int] = {}
    for category, name in zip(categories, names, strict=True):
        if category["id"] in labels:
            raise PipelineError(f"{shown(path)}: category id {category['id']} is there twice")
        labels[category["id"]] = classes.index(name)
    return labels


def read_voc(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """Pascal VOC: one xml per photo, ImageSets/Main lists of stems. Boxes marked difficult are kept.

    A photo of a test set needs no xml.
    """
    folder = profile.path(spec.annotations)
    xmls = {same_text(path.stem): path for path in folder.glob("*.xml")}
    photos = profile.path(spec.photos)
    known = {same_text(photo_stem(path.name)) for path in photos.iterdir()} if photos.is_dir() else set()
    stems = _stems(profile, spec, known | set(xmls))
    doubled = sorted(stem for stem, count in Counter(stems).items() if count > 1)
    findings.add("stems named more than once in the image sets, taken once", *doubled)
    images: list[Record] = []
    boxes: list[Record] = []
    for stem in sorted(set(stems)):
        path = xmls.get(same_text(stem))
        if path is None and with_boxes:
            findings.lose("images", "stems without an xml file refused", stem)
            continue
        root = _parse(path) if path is not None else ElementTree.Element("annotation")
        file_name = forward(root.findtext("filename", "") or "").strip()
        if same_text(photo_stem(file_name or stem)) != same_text(stem):
            findings.add("xml files that name another photo (the xml's own stem was taken)", stem)
        file_name = stem + photo_suffix(file_name)
        width, height = (root.findtext(f"size/{key}") for key in ("width", "height"))
        images.append({"id": None, "file_name": file_name, "width": width, "height": height})
        if with_boxes:
            boxes += _voc_boxes(root, stem, len(images) - 1, profile, findings)
    _complete_suffixes(images, profile, spec)
    return Raw(images, boxes, tuple(range(len(profile.classes))))


def _stems(profile: Profile, spec: SplitSpec, known: set[str]) -> list[str]:
    """The stems that the image sets name, one a line, with or without a class's flag or a photo's suffix."""
    stems: list[str] = []
    for name in spec.image_sets:
        text = read_text(
            profile.path(name),
            f"no image set {profile.path(name)}: put {profile.where} into {profile.root}, or say where it "
            "lies with ROOT=<folder>",
        )
        for line in filter(None, map(str.strip, forward(text).split("\n"))):
            word, _, flag = line.rpartition(" ")
            candidates = (
                [line, photo_stem(line)] + [word.rstrip()] * (flag in ("-1", "0", "1")) + line.split()[:1]
            )
            default = word.rstrip() if flag in ("-1", "0", "1") and word else photo_stem(line)
            stems.append(next((stem for stem in candidates if same_text(stem) in known), default))
    return stems


def _parse(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise PipelineError(
            f"{shown(path)}: not a whole VOC annotation ({error}); expected size and objects"
        ) from None


def _complete_suffixes(images: list[Record], profile: Profile, spec: SplitSpec) -> None:
    """Give names without a suffix that of the photo in the folder, else .jpg."""
    bare = [image for image in images if not photo_suffix(image["file_name"])]
    if bare:
        paths = locate_photos(profile, spec, [image["file_name"] for image in bare])
        for image, path in zip(bare, paths, strict=True):
            image["file_name"] += photo_suffix(path.name) if path.is_file() else ".jpg"


def _voc_boxes(
    root: ElementTree.Element, stem: str, image: int, profile: Profile, findings: Findings
) -> list[Record]:
    boxes = []
    offset = 1.0 if profile.inclusive else 0.0
    classes = {same_text(name): label for label, name in enumerate(profile.classes)}
    for position, item in enumerate(root.iter("object")):
        identity, name = f"{stem}#{position}", item.findtext("name", "").strip()
        corners = _four_numbers(
            [item.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
        )
        if corners is None and item.find("bndbox") is None:
            outline = item.find("polygon")
            points = [] if outline is None else [(node.tag[:1], node.text) for node in outline.iter()]
            values = [text for axis, text in points if axis in ("x", "y")]
            corners = _extent([values]) if values else None
            findings.add(OUTLINED, *[identity] * (corners is not None))
        if corners is None:
            findings.lose("boxes", NO_NUMBERS, identity)
        elif same_text(name) not in classes:
            findings.lose(
                "boxes", f"boxes of class '{name}', which the profile lacks, dropped (ids)", identity
            )
        else:
            x1, y1, x2, y2 = corners
            boxes.append(_box(identity, image, classes[same_text(name)], x1 - offset, y1 - offset, x2, y2))
    return boxes


READERS: dict[str, Reader] = {"coco": read_coco, "voc": read_voc, "csv": read_csv}
