"""LabelMe: a json file per photo, with its shapes.

Ours, since hotcoco does not read it, and globox keeps the slashes of Windows in names, leaves out
circles and masks without a word and does not join the shapes of a group, as LabelMe's own converter does.
"""

import math
import posixpath
from pathlib import Path, PureWindowsPath
from typing import Any

from pipeline.data.findings import Findings
from pipeline.data.formats.photos import list_photos
from pipeline.data.formats.shapes import Shape, boxes_of_shapes, extent_of
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record
from pipeline.data.text import Corners, forward, photo_stem, photo_suffix, read_json, same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown

AREAS = ("rectangle", "polygon", "oriented_rectangle", "rotation", "circle", "mask")  # what has an extent
OTHER_PHOTO = "json files whose imagePath is not there (the photo of their own name was taken)"


def read_labelme(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """All json files below the folder `annotations`, or below the folders of it that `image_sets` names.

    Boxes are named by file and position. Points and lines have no box: they are lost. Raises PipelineError
    for a json file that is no annotation of LabelMe.
    """
    folder = profile.path(spec.annotations)
    finder = _PhotoFinder(folder, profile.path(spec.photos))
    images: list[Record] = []
    boxes: list[Record] = []
    for top in [folder / name for name in spec.image_sets] or [folder]:
        names = list_photos(top, lambda name: ".json" if name.lower().endswith(".json") else "")
        if not names:
            raise PipelineError(profile.missing("json file of LabelMe below", top))
        for path in (top / name for name in names):
            data = read_json(path)
            shapes = data.get("shapes") if isinstance(data, dict) else None
            if not isinstance(shapes, list) or not isinstance(data.get("imagePath"), str):
                raise PipelineError(f"{shown(path)}: no shapes and imagePath; expected a LabelMe annotation")
            file_name = finder.find(path, data["imagePath"], findings)
            sizes = {"width": data.get("imageWidth"), "height": data.get("imageHeight")}
            images.append({"id": None, "file_name": file_name, **sizes})
            if with_boxes:
                called = path.relative_to(folder).as_posix()
                found = [_shape(item, f"{called}#{i}", findings) for i, item in enumerate(shapes)]
                kept = [shape for shape in found if shape is not None]
                boxes += boxes_of_shapes(kept, len(images) - 1, profile, findings)
    finder.note_others([image["file_name"] for image in images], findings)
    return Raw(images, boxes, tuple(range(len(profile.classes))))


class _PhotoFinder:
    """Which photo a json file is about: names relative to the folder of the photos."""

    def __init__(self, folder: Path, photos: Path) -> None:
        self.folder = folder
        self.photos = photos
        self.names = {same_text(name): name for name in list_photos(photos)}
        self.stems: dict[str, list[str]] = {}
        for key, name in self.names.items():
            self.stems.setdefault(key.removesuffix(photo_suffix(key)), []).append(name)

    def find(self, path: Path, image_path: str, findings: Findings) -> str:
        """The photo that imagePath names from the json file on, else the one of this name in its place.

        Its place is the json file's in the folder of json files. Where neither is there, the photo of the
        json file's own name, since both are often renamed together.
        """
        below = path.parent.relative_to(self.folder).as_posix()
        here = posixpath.relpath(path.parent.as_posix(), self.photos.as_posix())
        stated = posixpath.normpath(f"{here}/{forward(image_path)}")
        in_place = posixpath.normpath(f"{below}/{posixpath.basename(forward(image_path))}")
        for name in (stated, in_place):
            if (known := self.names.get(same_text(name))) is not None:
                return known
        own = self.stems.get(same_text(posixpath.normpath(f"{below}/{path.stem}")), [])
        if len(own) == 1:
            if same_text(photo_stem(own[0])) != same_text(photo_stem(in_place)):
                findings.add(OTHER_PHOTO, path.relative_to(self.folder).as_posix())
            return own[0]
        foreign = stated.startswith("../") or PureWindowsPath(image_path).anchor
        return in_place if foreign else stated

    def note_others(self, file_names: list[str], findings: Findings) -> None:
        """Note the photos beside those of json files that have none: nobody has looked at them yet."""
        folders, known = {posixpath.dirname(name) for name in file_names}, set(file_names)
        others = [n for n in self.names.values() if posixpath.dirname(n) in folders and n not in known]
        if others:
            findings.notes.append(
                f"{len(others)} photos without a json file are not annotated and left out, the first is "
                f"{others[0]}"
            )


def _shape(item: Any, identity: str, findings: Findings) -> Shape | None:
    """One entry of `shapes`; None, and a finding, for one that encloses nothing."""
    if not isinstance(item, dict):
        item = {}
    kind = item.get("shape_type") or "polygon"
    if kind not in AREAS:
        findings.lose("boxes", f"shapes of type '{kind}', which have no box, dropped (ids)", identity)
        return None
    corners, group = _corners(kind, item.get("points")), item.get("group_id")
    group = group if isinstance(group, (int, str)) else None
    return Shape(identity, str(item.get("label")).strip(), corners, kind != "rectangle", group)


def _corners(kind: str, points: Any) -> Corners | None:
    if not isinstance(points, list) or not all(isinstance(p, list) and len(p) == 2 for p in points):
        return None
    corners = extent_of(points)
    if corners is None:
        return None
    if kind == "circle":
        if len(points) != 2:
            return None
        (x, y), edge = (float(value) for value in points[0]), [float(value) for value in points[1]]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    x1, y1, x2, y2 = corners
    # The points of a mask are its first and last pixel.
    return (x1, y1, x2 + 1, y2 + 1) if kind == "mask" else corners
