"""What formats share: numbers, extents, the shapes of annotation tools as boxes, classes by name."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.data.findings import Findings
from pipeline.data.profile import Profile
from pipeline.data.raw import Record
from pipeline.data.text import Corners, plain_numbers, same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown

NO_NUMBERS = "boxes that are not four finite numbers dropped (ids)"
OUTLINED = "boxes that only an outline states, taken from its extent (ids)"
GROUPED = "shapes of one class and group taken for one object (ids)"


class Shape(NamedTuple):
    """An object as an annotation tool states it.

    corners: in pixels of the photo, None where they are not finite numbers. outlined: whether they are the
    extent of a polygon, a circle, a turned box. group: of the shapes that together are one object.
    """

    identity: str
    name: str  # of its class
    corners: Corners | None
    outlined: bool = False
    group: Any = None


def boxes_of_shapes(
    shapes: Iterable[Shape], image: int, profile: Profile, findings: Findings
) -> list[Record]:
    """The boxes of an image's shapes; those without numbers or of an unknown class are lost."""
    classes = {same_text(name): label for label, name in enumerate(profile.classes)}
    boxes: list[Record] = []
    groups: dict[tuple[int, Any], Record] = {}
    for shape in shapes:
        label = classes.get(same_text(shape.name))
        if shape.corners is None:
            findings.lose("boxes", NO_NUMBERS, shape.identity)
            continue
        if label is None:
            kind = f"boxes of class '{shape.name}', which the profile lacks, dropped (ids)"
            findings.lose("boxes", kind, shape.identity)
            continue
        findings.add(OUTLINED, *[shape.identity] * shape.outlined)
        box = box_record(shape.identity, image, label, *shape.corners)
        whole = box if shape.group is None else groups.setdefault((label, shape.group), box)
        if whole is box:
            boxes.append(box)
            continue
        findings.add(GROUPED, shape.identity)
        whole |= {side: min(whole[side], box[side]) for side in ("x1", "y1")}
        whole |= {side: max(whole[side], box[side]) for side in ("x2", "y2")}
    return boxes


def extent_of(outline: Any) -> Corners | None:
    """Corners of what a COCO segmentation outlines: polygons [x, y, x, y ...], or a run-length mask."""
    if isinstance(outline, dict):
        return _extent_of_mask(outline)
    if not isinstance(outline, list) or not all(isinstance(part, list) for part in outline):
        return None
    if any(len(part) % 2 for part in outline):
        return None
    values = plain_numbers([value for part in outline for value in part])
    if not values:
        return None
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def _extent_of_mask(outline: dict[str, Any]) -> Corners | None:
    from pycocotools import mask  # C code that few need

    try:
        counts = outline["counts"]
        packed = mask.frPyObjects(outline, *outline["size"]) if isinstance(counts, list) else outline
        x, y, width, height = map(float, mask.toBbox(packed))
    except Exception:  # it raises what it likes for what is no mask
        return None
    return x, y, x + width, y + height


def box_record(
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


def match_classes(named: Sequence[tuple[Any, str]], profile: Profile, path: Path) -> dict[Any, int]:
    """The file's class id -> 0-based label in the profile's order, from (id, name) pairs.

    Raises PipelineError, naming the file, for any difference in names and for an id that is there twice.
    """
    names = [same_text(name) for _, name in named]
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
    for (identity, _), name in zip(named, names, strict=True):
        if identity in labels:
            raise PipelineError(f"{shown(path)}: category id {identity} is there twice")
        labels[identity] = classes.index(name)
    return labels
