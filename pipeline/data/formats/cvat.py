"""CVAT xml, "CVAT for images 1.1" (docs.cvat.ai, XML annotation format).

Ours, since hotcoco does not turn boxes and leaves out ellipses and masks, and globox takes boxes only and
does not turn them.
"""

import math
import xml.etree.ElementTree as ElementTree
from os.path import exists

from pipeline.data.findings import Findings
from pipeline.data.formats.shapes import Shape, boxes_of_shapes, extent_of
from pipeline.data.formats.voc import parse_xml
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record
from pipeline.data.text import Corners, forward, plain_numbers
from pipeline.errors import PipelineError
from pipeline.paths import shown

# The attributes that an area is made of.
AREAS = {
    "box": ("xtl", "ytl", "xbr", "ybr"),
    "ellipse": ("cx", "cy", "rx", "ry"),
    "mask": ("left", "top", "width", "height"),
    "polygon": (),
}
NO_SHAPE = ("tag",)  # of the whole image


def read_cvat(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """`annotations` is the xml file; `image_sets` are subsets of a project, all where it names none.

    Boxes are named by image and position. Polylines, points, skeletons and cuboids have no box: they are
    lost. Raises PipelineError for a file of another kind; one of a video's tracks is exported anew.
    """
    path = profile.path(spec.annotations)
    if not path.is_file():
        raise PipelineError(profile.missing("annotation file", path))
    root = parse_xml(path)
    if root.tag != "annotations":
        raise PipelineError(f"{shown(path)}: <{root.tag}>: expected <annotations> of 'CVAT for images 1.1'")
    if root.find("track") is not None:
        raise PipelineError(
            f"{shown(path)}: holds tracks ('CVAT for video 1.1'); export the task as 'CVAT for images 1.1', "
            "which states them frame by frame"
        )
    entries = root.findall("image")
    subsets = {entry.get("subset", "") for entry in entries}
    if unknown := sorted(set(spec.image_sets) - subsets):
        raise PipelineError(
            f"{shown(path)}: no image of subset '{unknown[0]}'; it has {', '.join(sorted(subsets)) or 'none'}"
        )
    images: list[Record] = []
    boxes: list[Record] = []
    for position, entry in enumerate(entries):
        if not (name := forward(entry.get("name", ""))):
            raise PipelineError(f"{shown(path)}: image {position}: no name")
        if spec.image_sets and entry.get("subset", "") not in spec.image_sets:
            continue
        file_name = _file_name(name, entry.get("subset", ""), profile, spec)
        sizes = {"width": entry.get("width"), "height": entry.get("height")}
        images.append({"id": None, "file_name": file_name, **sizes})
        if with_boxes:
            found = [_shape(item, f"{file_name}#{i}", findings) for i, item in enumerate(entry)]
            kept = [shape for shape in found if shape is not None]
            boxes += boxes_of_shapes(kept, len(images) - 1, profile, findings)
    return Raw(images, boxes, tuple(range(len(profile.classes))))


def _file_name(name: str, subset: str, profile: Profile, spec: SplitSpec) -> str:
    """A project's photos lie in a folder per subset."""
    photos = profile.path(spec.photos)
    in_subset = bool(subset) and not exists(photos / name) and exists(photos / subset / name)
    return f"{subset}/{name}" if in_subset else name


def _shape(item: ElementTree.Element, identity: str, findings: Findings) -> Shape | None:
    """A shape of an image; None, and a finding, for one that encloses nothing."""
    if item.tag not in AREAS:
        if item.tag not in NO_SHAPE:
            findings.lose("boxes", f"shapes of type '{item.tag}', which have no box, dropped (ids)", identity)
        return None
    turned = item.tag == "box" and item.get("rotation", "0").strip("0.") != ""
    group, name = item.get("group_id", "0"), item.get("label", "").strip()
    outlined = item.tag != "box" or turned
    return Shape(identity, name, _corners(item), outlined, None if group in ("", "0") else group)


def _corners(item: ElementTree.Element) -> Corners | None:
    """Corners of the upright box around a shape, None where its attributes are no numbers."""
    if item.tag == "polygon":
        points = [point.split(",") for point in item.get("points", "").split(";")]
        numbers = plain_numbers([cell for point in points for cell in point])
        return extent_of([numbers]) if numbers and {len(point) for point in points} == {2} else None
    numbers = plain_numbers([*(item.get(key, "") for key in AREAS[item.tag]), item.get("rotation", "0")])
    if numbers is None:
        return None
    a, b, c, d, angle = numbers
    if item.tag == "mask":
        return a, b, a + c, b + d
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    if item.tag == "ellipse":
        half_x, half_y = math.hypot(c * cos, d * sin), math.hypot(c * sin, d * cos)
        return a - half_x, b - half_y, a + half_x, b + half_y
    if not angle or c <= a or d <= b:  # corners out of order stay without area, turned or not
        return a, b, c, d
    x, y, width, height = (a + c) / 2, (b + d) / 2, c - a, d - b
    half_x, half_y = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - half_x, y - half_y, x + half_x, y + half_y
