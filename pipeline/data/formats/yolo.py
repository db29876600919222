"""YOLO: a text file of labels per photo, listed by a data.yaml (ultralytics, Roboflow) or by a folder.

A row is a class and a box (x and y of its centre, width, height), or a class and the points of an
outline, whose extent is the box; all as shares of the photo. Ours, since hotcoco reads one flat
folder, leaves out photos without a label file and refuses outlines, and globox knows photos by their
bare name and one suffix.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import exists, isdir, isfile, normpath
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.findings import Findings
from pipeline.data.formats.photos import list_photos, name_below
from pipeline.data.formats.shapes import (
    OUTLINED,
    box_record,
    extent_of,
    match_classes,
)
from pipeline.data.photos import complete_sizes
from pipeline.data.profile import Profile, SplitSpec
from pipeline.data.raw import Raw, Record
from pipeline.data.records import read_yaml
from pipeline.data.text import Corners, forward, photo_suffix, plain_numbers, read_text, same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown

BAD_ROW = "rows that are not a class with 4 numbers or with 3 or more points dropped (files and rows)"
NO_PHOTO = "label files without a photo refused"
CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels")  # beside label files, or one folder up


@dataclass(frozen=True)
class Layout:
    """Where photos and labels lie, and what classes are called.

    classes: the file's ids -> labels. sources: folders of photos and text files that list photos.
    mirror: folder of labels that is laid out as that of the photos; None: the last `images` in a photo's
    path is `labels` in that of its label file, which lies beside the photo where there is none.
    row_length: cells of a row with keypoints, 0 where rows have none.
    """

    classes: dict[int, int]
    sources: list[Path]
    lists_from: Path  # folder that paths in lists of photos are relative to
    mirror: Path | None = None
    row_length: int = 0


def read_yolo(profile: Profile, spec: SplitSpec, findings: Findings, with_boxes: bool = True) -> Raw:
    """`annotations` is a data.yaml, whose splits `image_sets` name, or a folder of label files.

    A photo without a label file has no objects. Boxes are named by their label file and row. Raises
    PipelineError for a data.yaml whose folders or classes do not fit, for two photos with one label
    file, and where no photo has one.
    """
    layout = layout_of(profile, spec)
    names = _photo_names(layout, profile, spec)
    sizes = complete_sizes(profile, spec, names, np.full((len(names), 2), np.nan)).tolist()
    images: list[Record] = [
        {"id": None, "file_name": name, "width": width, "height": height}
        for name, (width, height) in zip(names, sizes, strict=True)
    ]
    boxes: list[Record] = []
    files = _label_files(names, layout, profile, spec, findings) if with_boxes else []
    for index, file in enumerate(files):
        width, height = sizes[index]
        for identity, label, (x1, y1, x2, y2) in _read_labels(file, layout, profile, findings):
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            boxes.append(box_record(identity, index, label, *box))
    category_ids = sorted(layout.classes, key=lambda identity: layout.classes[identity])
    return Raw(images, boxes, tuple(category_ids))


def layout_of(profile: Profile, spec: SplitSpec) -> Layout:
    """What a split is made of. Raises PipelineError where one of its folders is missing."""
    path = profile.path(spec.annotations)
    return (_of_folder if path.is_dir() else _of_yaml)(path, profile, spec)


def _of_folder(folder: Path, profile: Profile, spec: SplitSpec) -> Layout:
    """Label files without a data.yaml. Classes are in the order of a class list, else of the profile."""
    places = [folder] if folder == profile.root else [folder, folder.parent]
    lists = [place / name for place in places for name in CLASS_LISTS]
    found = next((path for path in lists if path.exists()), None)
    names = profile.classes
    if found:
        names = tuple(filter(None, map(str.strip, read_text(found).split("\n"))))
    sources = [profile.path(name) for name in spec.image_sets or (spec.photos,)]
    for source in sources:
        if not source.exists():
            raise PipelineError(profile.missing("folder or list of photos", source))
    classes = match_classes(list(enumerate(names)), profile, found or folder)
    return Layout(classes, sources, profile.root, mirror=folder)


def _of_yaml(path: Path, profile: Profile, spec: SplitSpec) -> Layout:
    if not path.is_file():
        raise PipelineError(profile.missing("annotation file", path))
    data = read_yaml(path, "correct it")
    classes = match_classes(class_names(data.get("names"), path), profile, path)
    base = path.parent / str(data.get("path") or ".")
    if not isdir(base):  # the folder that it had on another machine
        base = path.parent
    if not spec.image_sets:
        splits = [key for key in ("train", "val", "valid", "test") if data.get(key)]
        raise PipelineError(
            f"competition '{profile.name}': format yolo needs image_sets, the splits of {shown(path)} that "
            f"are read; it has {', '.join(splits) or 'none'}"
        )
    photos = Path(normpath(profile.path(spec.photos)))
    sources = [place for key in spec.image_sets for place in _places(data, key, base, photos, path)]
    points = data.get("kpt_shape") or [0, 0]
    try:
        cells = int(points[0]) * int(points[1])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise PipelineError(f"{shown(path)}: kpt_shape {points}: expected two numbers") from None
    return Layout(classes, sources, base, row_length=5 + cells if cells else 0)


def class_names(names: Any, path: Path) -> list[tuple[int, str]]:
    """`names` of a data.yaml, a list or a mapping of ids."""
    pairs = list(enumerate(names)) if isinstance(names, list) else []
    pairs = list(names.items()) if isinstance(names, dict) else pairs
    if not pairs:
        raise PipelineError(
            f"{shown(path)}: names: expected the list of the classes, or a mapping of ids to it"
        )
    for identity, name in pairs:
        if not isinstance(name, str) and type(name) is not int:
            raise PipelineError(
                f"{shown(path)}: names: class {identity} is {name!r}, expected a text; put it in quotes"
            )
        if not re.fullmatch("[0-9]{1,9}", str(identity)):
            raise PipelineError(f"{shown(path)}: names: class id {identity!r}, expected a number from 0")
    return [(int(identity), str(name)) for identity, name in pairs]


def _places(data: dict[Any, Any], key: str, base: Path, photos: Path, path: Path) -> Iterator[Path]:
    """Folders and lists of photos of one split. Roboflow writes ../train/images for train/images."""
    entries = data.get(key)
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, str) or not entry:
            raise PipelineError(
                f"{shown(path)}: no split '{key}'; expected a folder or a list of photos as in 'train:'"
            )
        names = [forward(entry), forward(entry).removeprefix("../")]
        places = [Path(normpath(base / name)) for name in names if exists(base / name)]
        if not places:
            raise PipelineError(f"{shown(path)}: {key}: no {entry} below {base}; expected a folder of photos")
        yield next((place for place in places if place.is_relative_to(photos)), places[0])


def _photo_names(layout: Layout, profile: Profile, spec: SplitSpec) -> list[str]:
    """Names of all photos relative to the folder `photos`, each once, sorted."""
    folder = profile.path(spec.photos)
    names: list[str] = []
    for source in layout.sources:
        if source.is_dir():
            prefix = name_below(source, folder)
            found = list_photos(source)
            names += [posixpath.normpath(f"{prefix}/{name}") for name in found]
            if not found:
                raise PipelineError(f"no photo below {source}; put {profile.where} there")
            continue
        for number, line in enumerate(read_text(source).split("\n"), start=1):
            if line := forward(line).strip():
                places = (source.parent,) if line.startswith("./") else (layout.lists_from, source.parent)
                paths = [place / line for place in places]
                photo = next((path for path in paths if isfile(path)), paths[0])
                try:
                    names.append(name_below(photo, folder))
                except PipelineError as error:
                    raise PipelineError(f"{shown(source)}: row {number}: {error}") from None
    return sorted(set(names))


def _label_files(
    names: list[str], layout: Layout, profile: Profile, spec: SplitSpec, findings: Findings
) -> list[Path | None]:
    """The label file of each photo, None where there is none; files without a photo are findings."""
    photos = profile.path(spec.photos)
    base = layout.mirror or photos
    wanted = [_label_name(name, layout.mirror is not None) for name in names]
    owners: dict[str, str] = {}
    for name, label in zip(names, wanted, strict=True):
        if (other := owners.setdefault(same_text(label), name)) != name:
            raise PipelineError(
                f"{profile.path(spec.annotations)}: {other} and {name} have one label file, {label}; "
                "remove one of the photos or rename it with labels of its own"
            )
    whole = [source for source in layout.sources if source.is_dir()]
    tops = {_label_name(f"{name_below(source, photos)}/x", layout.mirror is not None) for source in whole}
    there = {
        same_text(path.relative_to(base).as_posix()): path
        for pattern, labels in (("**/*.txt", tops), ("*.txt", wanted))
        for folder in {posixpath.dirname(label) for label in labels}
        for form in dict.fromkeys((folder, *(unicodedata.normalize(form, folder) for form in ("NFC", "NFD"))))
        if isdir(base / form)
        for path in sorted((base / form).glob(pattern))
    }
    if not any(label in there for label in owners):
        raise PipelineError(
            f"{profile.path(spec.annotations)}: none of {len(names)} photos has a label file; expected "
            f"{base / wanted[0]} and so on"
        )
    if bare := sum(label not in there for label in owners):
        findings.notes.append(f"{bare} of {len(names)} photos have no label file, so no object")
    if len(whole) == len(layout.sources):  # a list names some of the photos
        alone = [path for label, path in there.items() if label not in owners and _holds_labels(path)]
        findings.lose("images", NO_PHOTO, *(path.relative_to(base).as_posix() for path in alone))
    return [there.get(same_text(label)) for label in wanted]


def _label_name(name: str, mirrored: bool) -> str:
    stem = name.removesuffix(photo_suffix(name))
    parts = stem.split("/")
    if not mirrored and "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return "/".join(parts) + ".txt"


def _holds_labels(path: Path) -> bool:
    rows = [line.split() for line in read_text(path).split("\n") if line.strip()]
    return path.name not in CLASS_LISTS and any(_numbers(row) is not None for row in rows)


def _numbers(cells: list[str]) -> list[float] | None:
    """The numbers of a row, a whole one and at least four more; None for anything else."""
    numbers = plain_numbers(cells)
    return numbers if numbers and len(numbers) >= 5 and numbers[0] == int(numbers[0]) else None


def _read_labels(
    path: Path | None, layout: Layout, profile: Profile, findings: Findings
) -> Iterator[tuple[str, int, Corners]]:
    """Name, label and corners (as shares of the photo) of each box of a label file; none without a file."""
    if path is None:
        return
    called = path.relative_to(profile.root).as_posix() if path.is_relative_to(profile.root) else str(path)
    for row, line in enumerate(read_text(path).split("\n"), start=1):
        cells = line.split()
        if not cells:
            continue
        identity, numbers = f"{called}:{row}", _numbers(cells)
        label = layout.classes.get(int(numbers[0])) if numbers else None
        corners: Corners | None = None
        if numbers and len(numbers) in (5, layout.row_length):
            x, y, width, height = numbers[1:5]
            corners = x - width / 2, y - height / 2, x + width / 2, y + height / 2
        elif numbers and len(numbers) >= 7 and (corners := extent_of([numbers[1:]])):
            findings.add(OUTLINED, identity)
        if numbers is None or corners is None:
            findings.lose("boxes", BAD_ROW, identity)
        elif label is None:
            kind = f"boxes of class {int(numbers[0])}, which has no name, dropped (label files and rows)"
            findings.lose("boxes", kind, identity)
        else:
            yield identity, label, corners
