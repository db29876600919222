"""Readers of annotation formats: each yields raw images and boxes; `dataset.py` checks them all alike.

A new format is one function and one entry in `READERS`; one that is a CSV needs neither, but the
`columns` of its profile (`csv_reader.py`). A reader returns `Raw`: two lists (or tables) of records,
images `{"id": int | None, "file_name", "width", "height", ...}` (more columns with a plain value, as
COCO's `date_captured`, are kept) and boxes `{"id", "image", "label", "x1", "y1", "x2", "y2", "iscrowd"}`,
where `image` is the index of the image's record and the corners are edges in pixels of the photo.
"""

import json
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from pipeline.data.csv_reader import read_csv
from pipeline.data.findings import Findings
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Reader, Record
from pipeline.errors import PipelineError
from pipeline.paths import shown


def read_coco(profile: Profile, spec: SplitSpec, findings: Findings) -> Raw:
    """COCO json (cocodataset.org, "Data format"): category ids are matched to classes by name."""
    path = profile.path(spec.annotations)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise PipelineError(
            f"no annotation file {path}: put {profile.where} into {profile.root}, or say where it "
            "lies with ROOT=<folder>"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PipelineError(
            f"{shown(path)}: not a whole json file ({error}); copy or download it again"
        ) from None
    for key in ("images", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise PipelineError(f"{shown(path)}: no list '{key}'; expected a COCO annotation file")
    annotations = data.get("annotations") or []
    if not isinstance(annotations, list):
        raise PipelineError(f"{shown(path)}: 'annotations': expected a list")
    labels = _category_labels(data["categories"], profile, path)
    images, index = [], {}
    for position, image in enumerate(data["images"]):
        if not _is_image(image):
            raise PipelineError(f"{shown(path)}: image {position}: expected id, file_name, width and height")
        if image["id"] in index:
            raise PipelineError(f"{shown(path)}: image id {image['id']} is there twice")
        index[image["id"]] = position
        images.append({key: value for key, value in image.items() if not isinstance(value, (dict, list))})
    boxes = []
    for position, item in enumerate(annotations):
        if not isinstance(item, dict):
            raise PipelineError(f"{shown(path)}: annotation {position}: expected a mapping, got {item!r}")
        identity, box = item.get("id", position), item.get("bbox")
        image_id, category_id = item.get("image_id"), item.get("category_id")
        if not isinstance(image_id, Hashable) or image_id not in index:
            findings.add("boxes of image ids that are not in 'images' dropped (ids)", identity)
        elif not isinstance(category_id, Hashable) or category_id not in labels:
            findings.add("boxes of category ids that are not in 'categories' dropped (ids)", identity)
        elif not isinstance(box, list) or not _is_four_numbers(box):
            findings.add("boxes that are not four finite numbers dropped (ids)", identity)
        else:
            x, y, width, height = map(float, box)
            boxes.append(
                _box(
                    identity,
                    index[image_id],
                    labels[category_id],
                    x,
                    y,
                    x + width,
                    y + height,
                    item.get("iscrowd") in (1, True),
                )
            )
    return Raw(images, boxes, tuple(sorted(labels, key=lambda category: labels[category])))


def _is_image(image: Any) -> bool:
    return (
        isinstance(image, dict)
        and {"id", "file_name", "width", "height"} <= set(image)
        and isinstance(image["id"], (int, str))
        and isinstance(image["file_name"], str)
    )


def _is_four_numbers(box: list[Any]) -> bool:
    return len(box) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in box)


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
    names = [str(category["name"]) for category in categories]
    if sorted(names) != sorted(profile.classes):
        missing = sorted(set(profile.classes) - set(names))
        unknown = sorted(set(names) - set(profile.classes))
        doubled = sorted(name for name, count in Counter(names).items() if count > 1)
        raise PipelineError(
            f"{shown(path)}: its categories are not the classes of competition '{profile.name}': "
            f"missing {missing or 'none'}, unknown {unknown or 'none'}, doubled {doubled or 'none'}"
        )
    labels: dict[Any, int] = {}
    for category, name in zip(categories, names, strict=True):
        if category["id"] in labels:
            raise PipelineError(f"{shown(path)}: category id {category['id']} is there twice")
        labels[category["id"]] = profile.classes.index(name)
    return labels


def read_voc(profile: Profile, spec: SplitSpec, findings: Findings) -> Raw:
    """Pascal VOC: one xml a photo, ImageSets/Main lists of stems. Boxes marked difficult are kept."""
    stems: list[str] = []
    for name in spec.image_sets:
        try:
            lines = profile.path(name).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            raise PipelineError(
                f"no image set {profile.path(name)}: put {profile.where} into {profile.root}, or "
                "say where it lies with ROOT=<folder>"
            ) from None
        stems += [line.split()[0] for line in lines if line.strip()]
    doubled = sorted(stem for stem, count in Counter(stems).items() if count > 1)
    findings.add("stems named more than once in the image sets, taken once", *doubled)
    images: list[Record] = []
    boxes: list[Record] = []
    offset = 1.0 if profile.inclusive else 0.0
    for stem in sorted(set(stems)):
        path = profile.path(spec.annotations) / f"{stem}.xml"
        try:
            root = ElementTree.parse(path).getroot()
            size = root.find("size")
            width, height = (int(size.findtext(key, "")) for key in ("width", "height"))  # type: ignore[union-attr]
            file_name = root.findtext("filename", "") or f"{stem}.jpg"
        except FileNotFoundError:
            findings.add("stems without an xml file refused", stem)
            continue
        except (ElementTree.ParseError, AttributeError, ValueError) as error:
            raise PipelineError(
                f"{shown(path)}: not a whole VOC annotation ({error}); expected size and objects"
            ) from None
        if Path(file_name).stem != stem:
            findings.add("xml files that name another photo (the xml's own stem was taken)", stem)
            file_name = stem + (Path(file_name).suffix or ".jpg")
        images.append({"id": None, "file_name": file_name, "width": width, "height": height})
        for position, item in enumerate(root.iter("object")):
            identity, name = f"{stem}#{position}", item.findtext("name", "").strip()
            corners = [item.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
            try:
                x1, y1, x2, y2 = map(float, corners)
            except ValueError:
                x1 = y1 = x2 = y2 = math.nan
            if not all(map(math.isfinite, (x1, y1, x2, y2))):
                findings.add("boxes that are not four finite numbers dropped (ids)", identity)
                continue
            if name not in profile.classes:
                findings.add(f"boxes of class '{name}', which the profile lacks, dropped (ids)", identity)
                continue
            boxes.append(
                _box(identity, len(images) - 1, profile.classes.index(name), x1 - offset, y1 - offset, x2, y2)
            )
    return Raw(images, boxes, tuple(range(len(profile.classes))))


READERS: dict[str, Reader] = {"coco": read_coco, "voc": read_voc, "csv": read_csv}
