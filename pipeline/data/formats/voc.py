"""Pascal VOC: a folder of xml files, and image sets."""

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from pipeline.data.findings import Findings
from pipeline.data.formats.shapes import Shape, boxes_of_shapes, extent_of
from pipeline.data.locate import locate_photos
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record
from pipeline.data.text import forward, four_numbers, photo_stem, photo_suffix, read_text, same_text
from pipeline.errors import PipelineError, reason
from pipeline.paths import regular, shown

DECLARED = re.compile(rb"""<\?xml[^>]*?encoding\s*=\s*["']([\w.-]+)""")  # an encoding, in ASCII
FLAGGED = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # a stem of an image set and whether a class is on the photo


def read_voc(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """Pascal VOC: one xml per photo, ImageSets/Main lists of stems. Boxes marked difficult are kept.

    Without image sets every xml of the folder is read. A photo of a test set needs no xml.
    """
    folder = profile.path(spec.annotations)
    xmls = {same_text(path.stem): path for path in folder.glob("*.xml")}
    photos = profile.path(spec.photos)
    known = {same_text(photo_stem(path.name)) for path in photos.iterdir()} if photos.is_dir() else set()
    stems = _stems(profile, spec, known | set(xmls)) if spec.image_sets else list(xmls)
    doubled = sorted(stem for stem, count in Counter(stems).items() if count > 1)
    findings.add("stems named more than once in the image sets, taken once", *doubled)
    images: list[Record] = []
    boxes: list[Record] = []
    for stem in sorted(set(stems)):
        path = xmls.get(same_text(stem))
        if path is None and with_boxes:
            findings.lose("images", "stems without an xml file refused", stem)
            continue
        root = parse_xml(path) if path is not None else ElementTree.Element("annotation")
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
        text = read_text(profile.path(name), profile.missing("image set", profile.path(name)))
        for line in filter(None, map(str.strip, forward(text).split("\n"))):
            flagged = FLAGGED.fullmatch(line)
            candidates = [line, photo_stem(line), *([flagged[1]] if flagged else [])]
            stems.append(next((stem for stem in candidates if same_text(stem) in known), candidates[-1]))
    return stems


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an xml file. Raises PipelineError for a damaged one."""
    try:
        data = regular(path).read_bytes()
        # expat knows no encodings of several bytes per character, such as euc-kr: Python decodes them.
        declared = DECLARED.match(data)
        if declared and declared[1].lower() not in (b"utf-8", b"utf-16"):
            return ElementTree.fromstring(data.decode(declared[1].decode()))
        return ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise PipelineError(
            f"{shown(path)}: not a whole xml file ({reason(error)}); copy or export it again"
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
    shapes: list[Shape] = []
    offset = 1.0 if profile.inclusive else 0.0
    for position, item in enumerate(root.iter("object")):
        corners = four_numbers(
            [item.findtext(f"bndbox/{key}", "") for key in ("xmin", "ymin", "xmax", "ymax")]
        )
        outlined = corners is None and item.find("bndbox") is None
        if outlined:
            outline = item.find("polygon")
            points = [] if outline is None else [(node.tag[:1], node.text) for node in outline.iter()]
            values = [text for axis, text in points if axis in ("x", "y")]
            corners = extent_of([values]) if values else None
        if corners is not None:
            x1, y1, x2, y2 = corners
            corners = x1 - offset, y1 - offset, x2, y2
        name = item.findtext("name", "").strip()
        shapes.append(Shape(f"{stem}#{position}", name, corners, outlined))
    return boxes_of_shapes(shapes, image, profile, findings)
