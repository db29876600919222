"""Predictions of other tools in a folder: YOLO text files with scores, or VOC xml with scores."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pipeline.data.dataset import Dataset
from pipeline.data.exchange import Boxes, checked_boxes
from pipeline.data.findings import Findings
from pipeline.data.formats.shapes import match_classes
from pipeline.data.formats.voc import parse_xml
from pipeline.data.formats.yolo import CLASS_LISTS, class_names
from pipeline.data.profile import Profile
from pipeline.data.records import read_yaml
from pipeline.data.specs import CORNER_FIELDS
from pipeline.data.text import photo_stem, photo_suffix, read_text, same_text
from pipeline.errors import PipelineError
from pipeline.paths import shown

Row = tuple[str, list[float]]  # where it stands; label, score and corners


def read_results_folder(folder: Path, profile: Profile, dataset: Dataset, findings: Findings) -> Boxes:
    """Read a folder with a file per photo, named as the photo: xml where there is one, else text files.

    A row of text is class, x and y of the centre, width, height (shares of the photo) and score. Classes
    are those of a data.yaml, else the profile's order. Raises PipelineError for a file whose photo is
    unknown and for a row that is something else; an image counts as predicted when it has a file.
    """
    paths = sorted(folder.rglob("*.xml"))
    is_voc = bool(paths)
    paths = paths or [p for p in sorted(folder.rglob("*.txt")) if p.name not in CLASS_LISTS]
    find, labels = _ImageFinder(dataset), _labels(folder, profile)
    images = dataset.images[["image_id", "width", "height"]].to_numpy(np.int64).tolist()
    sizes = {image_id: (width, height) for image_id, width, height in images}
    named, ids = [], []
    rows: list[Row] = []
    for path in paths:
        named.append(find(path.relative_to(folder).with_suffix("").as_posix(), path))
        width, height = sizes[named[-1]]
        own = list(_voc_rows(path, profile) if is_voc else _yolo_rows(path, labels, width, height))
        rows += own
        ids += [named[-1]] * len(own)
    if not paths:
        raise PipelineError(f"{shown(folder)}: no text and no xml file below it; expected one per photo")
    values = np.array([numbers for _, numbers in rows], np.float64).reshape(-1, 6)
    places = [place for place, _ in rows]
    fields = ["label", "score", *CORNER_FIELDS]
    return checked_boxes(
        values,
        fields,
        np.array(ids, np.int64),
        np.array(named, np.int64),
        lambda box: places[box],
        dataset,
        findings,
    )


class _ImageFinder:
    """The image that a file of predictions is about, by the name of its photo."""

    def __init__(self, dataset: Dataset) -> None:
        ids, names = dataset.images["image_id"].tolist(), dataset.images["file_name"].tolist()
        self.split = dataset.split
        self.known: dict[str, list[int]] = {}
        for image_id, name in zip(ids, names, strict=True):
            stem = same_text(name.removesuffix(photo_suffix(name)))
            for key in {stem, photo_stem(name), f"{image_id:010d}"}:
                self.known.setdefault(same_text(key), []).append(image_id)

    def __call__(self, name: str, path: Path) -> int:
        """Of a path without suffix the longest end that is an image's."""
        parts = same_text(name).split("/")
        for start in range(len(parts)):
            found = self.known.get("/".join(parts[start:]), [])
            if len(found) == 1:
                return found[0]
        what = "names several photos" if found else "names no photo"
        raise PipelineError(f"{shown(path)}: {what} of the {self.split} set; expected the photo's own name")


def _labels(folder: Path, profile: Profile) -> dict[int, int]:
    """The folder's class number -> label."""
    path = folder / "data.yaml"
    if not path.exists():
        return {label: label for label in range(len(profile.classes))}
    return match_classes(class_names(read_yaml(path, "correct it").get("names"), path), profile, path)


def _yolo_rows(path: Path, labels: dict[int, int], width: float, height: float) -> Iterator[Row]:
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if cells := line.split():
            place = f"{shown(path)}: row {number}"
            label, (x, y, w, h, score) = _numbers(cells, 6, place, "class, x, y, width, height and score")
            if label not in labels:
                raise PipelineError(f"{place}: class {label:g}; expected one of {list(labels)}")
            corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
            yield place, [labels[int(label)], score, *corners]


def _voc_rows(path: Path, profile: Profile) -> Iterator[Row]:
    classes = {same_text(name): label for label, name in enumerate(profile.classes)}
    for number, item in enumerate(parse_xml(path).iter("object")):
        place, name = f"{shown(path)}: object {number}", same_text(item.findtext("name", "").strip())
        if name not in classes:
            raise PipelineError(f"{place}: class '{name}'; expected one of {', '.join(profile.classes)}")
        keys = ["score", *(f"bndbox/{key}" for key in ("xmin", "ymin", "xmax", "ymax"))]
        score, corners = _numbers([item.findtext(key, "") for key in keys], 5, place, "score and bndbox")
        yield place, [classes[name], score, *corners]


def _numbers(cells: Sequence[str], count: int, place: str, expected: str) -> tuple[float, list[float]]:
    """The first number and the others; raises PipelineError unless there are `count` finite ones."""
    try:
        first, *others = map(float, cells)
        good = len(cells) == count and bool(np.isfinite([first, *others]).all())
    except ValueError:
        good = False
    if not good:
        raise PipelineError(f"{place}: {' '.join(cells)[:80]!r}; expected {expected}")
    return first, others
