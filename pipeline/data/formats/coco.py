"""COCO json."""

from pathlib import Path
from posixpath import join
from typing import Any

from pipeline.data.findings import Findings
from pipeline.data.formats.photos import name_below
from pipeline.data.formats.shapes import (
    NO_NUMBERS,
    OUTLINED,
    box_record,
    extent_of,
    match_classes,
)
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record, as_list
from pipeline.data.text import (
    as_flag,
    find_key,
    forward,
    four_numbers,
    leads_outside,
    read_json,
    same_text,
)
from pipeline.errors import PipelineError
from pipeline.paths import shown


def read_coco(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """COCO json (cocodataset.org, "Data format"): category ids are matched to classes by name.

    A test set's file needs no categories. An annotation without bbox is the extent of its segmentation.
    `image_sets` are several files below the folder `annotations`, each beside its photos (Roboflow); their
    images have no ids of their own, since each file counts from 0.
    """
    folder = profile.path(spec.annotations)
    if not spec.image_sets:
        return _read_file(folder, profile, findings, with_boxes)
    images: list[Record] = []
    boxes: list[Record] = []
    for name in spec.image_sets:
        part = _read_file(folder / name, profile, findings, with_boxes, called=f"{name}#")
        beside = name_below((folder / name).parent, profile.path(spec.photos))
        prefix = "" if beside == "." else beside
        boxes += [box | {"image": box["image"] + len(images)} for box in as_list(part.boxes)]
        for image in as_list(part.images):
            own = image["file_name"]
            images.append(image | {"id": None, "file_name": own if leads_outside(own) else join(prefix, own)})
    return Raw(images, boxes, part.category_ids)


def _read_file(path: Path, profile: Profile, findings: Findings, with_boxes: bool, called: str = "") -> Raw:
    """One file; `called` is what the ids of its boxes begin with."""
    data = read_json(path, profile.missing("annotation file", path))
    for key in ("images", "categories")[: 1 + with_boxes]:
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise PipelineError(f"{shown(path)}: no list '{key}'; expected a COCO annotation file")
    annotations, categories = (data.get(key) or [] for key in ("annotations", "categories"))
    if not isinstance(annotations, list) or not isinstance(categories, list):
        raise PipelineError(f"{shown(path)}: annotations and categories: expected lists")
    labels: dict[Any, int] = {}
    if categories or with_boxes:
        labels = _category_labels(categories, annotations, profile, path, findings)
    images: list[Record] = []
    index: dict[Any, int] = {}
    for position, image in enumerate(data["images"]):
        if not _is_image(image):
            raise PipelineError(f"{shown(path)}: image {position}: expected id, file_name, width and height")
        if image["id"] in index:
            raise PipelineError(f"{shown(path)}: image id {image['id']} is there twice")
        index[image["id"]] = position
        plain = {key: value for key, value in image.items() if not isinstance(value, (dict, list))}
        sizes = {"width": image.get("width"), "height": image.get("height")}
        images.append(plain | sizes | {"file_name": forward(image["file_name"])})
    boxes = _coco_boxes(
        annotations if with_boxes else [], index, labels, findings, path, profile.xyxy, called
    )
    return Raw(images, boxes, tuple(sorted(labels, key=lambda category: labels[category])))


def _is_image(image: Any) -> bool:
    return (
        isinstance(image, dict)
        and {"id", "file_name"} <= set(image)
        and type(image["id"]) in (int, str)
        and isinstance(image["file_name"], str)
    )


def _coco_boxes(
    annotations: list[Any],
    index: dict[Any, int],
    labels: dict[Any, int],
    findings: Findings,
    path: Path,
    xyxy: bool,
    called: str,
) -> list[Record]:
    boxes = []
    for position, item in enumerate(annotations):
        if not isinstance(item, dict):
            raise PipelineError(f"{shown(path)}: annotation {position}: expected a mapping, got {item!r}")
        identity = item.get("id", position)
        identity = f"{called}{identity}" if called else identity
        image_id, category_id = item.get("image_id"), item.get("category_id")
        image, category = find_key(image_id, index), find_key(category_id, labels)
        crowd = as_flag(item.get("iscrowd"))
        if crowd is None:
            raise PipelineError(
                f"{shown(path)}: annotation {position}: iscrowd {item['iscrowd']!r}, expected 0 or 1"
            )
        if image is None:
            findings.lose("boxes", "boxes of image ids that are not in 'images' dropped (ids)", identity)
            continue
        if category is None:
            findings.lose(
                "boxes", "boxes of category ids that are not in 'categories' dropped (ids)", identity
            )
            continue
        if type(image) is not type(image_id) or type(category) is not type(category_id):
            findings.add(
                "boxes whose ids are text where the lists have numbers, or numbers where text (ids)", identity
            )
        corners = four_numbers(item.get("bbox"))
        if corners is not None and not xyxy:
            x, y, width, height = corners
            corners = x, y, x + width, y + height
        elif (
            corners is None
            and not item.get("bbox")
            and (corners := extent_of(item.get("segmentation"))) is not None
        ):
            findings.add(OUTLINED, identity)
        if corners is None:
            findings.lose("boxes", NO_NUMBERS, identity)
            continue
        box = box_record(identity, index[image], labels[category], *corners, crowd)
        if segmentation := item.get("segmentation"):
            box["segmentation"] = segmentation
        boxes.append(box)
    return boxes


def _category_labels(
    categories: list[Any], annotations: list[Any], profile: Profile, path: Path, findings: Findings
) -> dict[Any, int]:
    """Category id -> 0-based label in the profile's order; any difference in names is an error.

    A category that only groups others, as Roboflow writes one with id 0, is no class.
    """
    for position, category in enumerate(categories):
        known = isinstance(category, dict) and {"id", "name"} <= set(category)
        if not known or type(category["id"]) not in (int, str, float):
            raise PipelineError(f"{shown(path)}: category {position}: expected id and name")
    names = [(category["id"], same_text(str(category["name"]))) for category in categories]
    groups = {same_text(str(category.get("supercategory"))) for category in categories}
    groups -= set(map(same_text, profile.classes))
    if groups & {name for _, name in names}:
        used = {str(item.get("category_id")) for item in annotations if isinstance(item, dict)}
        left_out = [name for identity, name in names if name in groups and str(identity) not in used]
        findings.notes += [f"category '{name}' groups others and has no box: no class" for name in left_out]
        names = [pair for pair in names if pair[1] not in left_out]
    return match_classes(names, profile, path)
