"""Writers of annotation formats: a folder of photos and boxes that other tools read, and our readers too.

A new format is one function and one entry in `WRITERS`. Boxes may have scores: predictions.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pandas as pd
import yaml

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.findings import Findings
from pipeline.data.photos import Photo, check_photos, stage_photos, staged_suffix
from pipeline.data.text import photo_suffix, same_text
from pipeline.errors import PipelineError
from pipeline.paths import scratch_folder, shown

PIXEL_DIGITS = 3
SHARE_DIGITS = 9  # 0.00001 pixels of a photo of 10,000
SCORE_DIGITS = 6


@dataclass(frozen=True)
class Part:
    """Images and boxes that go together, as train or val.

    images: image_id, file_id, width, height and `name`: what the photo is called in the folder `images`.
    boxes: image_id, label, x1 y1 x2 y2 (pixels), iscrowd; of predictions also score.
    """

    images: pd.DataFrame
    boxes: pd.DataFrame
    classes: tuple[str, ...]
    category_ids: tuple[Any, ...]

    def rows(self) -> Iterator[tuple[Any, list[Any]]]:
        """Each image with its boxes, as rows of the tables."""
        boxes: dict[int, list[Any]] = {image_id: [] for image_id in self.images["image_id"].tolist()}
        for box in self.boxes.itertuples(index=False):
            boxes[cast(Any, box).image_id].append(box)
        for image in self.images.itertuples(index=False):
            yield image, boxes[cast(Any, image).image_id]


Writer = Callable[[Path, Mapping[str, Part]], None]


def write_folder(
    target: Path, format: str, parts: Mapping[str, Part], photos: Mapping[str, Sequence[Photo]]
) -> Findings:
    """Write parts and links to their photos into a new folder; returns what was left out or repaired.

    photos: of each part, in the order of its images; photos that frameworks would read in another way are
    copied as they should be seen, missing ones are left out. Raises PipelineError for a folder that is
    there and not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise PipelineError(f"{shown(target)} is there already; choose another folder, or remove it first")
    findings = Findings(shown(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    stems = _stems(pd.concat([part.images for part in parts.values()]), flat=format == "voc")
    with scratch_folder(target) as scratch:
        new, named = scratch / "new", {}
        for name, part in parts.items():
            kept = part.boxes[part.boxes["iscrowd"] == 0] if format in WITHOUT_CROWDS else part.boxes
            if crowds := len(part.boxes) - len(kept):
                findings.notes.append(f"{crowds} crowds left out: as {format} they would be objects")
            images = part.images.assign(name=part.images["image_id"].map(stems))
            below = new / PHOTO_FOLDERS[format].format(part=name)
            images["name"] = _link_photos(below, images["name"].tolist(), photos[name], findings)
            named[name] = Part(images, kept, part.classes, part.category_ids)
        WRITERS[format](new, named)
        if target.is_dir():
            target.rmdir()
        new.rename(target)
    return findings


def _link_photos(
    folder: Path, stems: Sequence[str], photos: Sequence[Photo], findings: Findings
) -> list[str]:
    """Lay photos into a folder under these names; returns the names with the photos' suffixes."""
    there = [photo for photo in photos if photo.path.is_file()]
    repaired = check_photos(there, findings)
    if missing := len(photos) - len(there):
        findings.notes.append(f"{missing} of {len(photos)} photos are not there: no link was made")
    known = {photo.path for photo in there}
    suffixes = [
        staged_suffix(photo, repaired) if photo.path in known else photo_suffix(photo.name) or ".jpg"
        for photo in photos
    ]
    names = [f"{stem}{suffix}" for stem, suffix in zip(stems, suffixes, strict=True)]
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / name for name, photo in zip(names, photos, strict=True) if photo.path in known]
    stage_photos(there, targets, repaired)
    return names


def _stems(images: pd.DataFrame, flat: bool) -> dict[int, str]:
    """Image id -> a name without suffix: that of the photo where it tells them apart, else the id."""
    ids, names = images["image_id"].tolist(), images["file_name"].tolist()
    stems = [name.removesuffix(photo_suffix(name)) for name in names]
    if flat:
        stems = [PurePosixPath(stem).name for stem in stems]
    inside = all(not PurePosixPath(stem).is_absolute() and ".." not in stem.split("/") for stem in stems)
    if not inside or len({same_text(stem).lower() for stem in stems}) < len(stems):
        stems = [f"{image_id:010d}" for image_id in ids]
    return dict(zip(ids, stems, strict=True))


def write_coco(folder: Path, parts: Mapping[str, Part]) -> None:
    """<part>.json (instances; a score beside each box of predictions), photos in images/."""
    for name, part in parts.items():
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image, boxes in part.rows():
            sizes = {"width": image.width, "height": image.height}
            images.append({"id": image.file_id, "file_name": image.name, **sizes})
            for box in boxes:
                corners = np.array([[box.x1, box.y1, box.x2, box.y2]], np.float64)
                x, y, w, h = xyxy_to_xywh(corners)[0].round(PIXEL_DIGITS).tolist()
                item = {"id": len(annotations) + 1, "image_id": image.file_id}
                item |= {"category_id": part.category_ids[box.label], "bbox": [x, y, w, h]}
                item |= {"area": round(w * h, PIXEL_DIGITS), "iscrowd": box.iscrowd}
                score = {"score": round(box.score, SCORE_DIGITS)} if "score" in part.boxes else {}
                annotations.append(item | score)
        categories = [
            {"id": identity, "name": called}
            for identity, called in zip(part.category_ids, part.classes, strict=True)
        ]
        content = {"images": images, "annotations": annotations, "categories": categories}
        text = json.dumps(content, ensure_ascii=False, default=int)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write_yolo(folder: Path, parts: Mapping[str, Part]) -> None:
    """data.yaml, labels/<part>/*.txt of `class cx cy w h [score]` as shares of the photo, images/<part>/.

    The score comes last, as ultralytics writes it (save_conf).
    """
    for name, part in parts.items():
        for image, boxes in part.rows():
            lines = []
            for box in boxes:
                shares = (
                    (box.x1 + box.x2) / 2 / image.width,
                    (box.y1 + box.y2) / 2 / image.height,
                    (box.x2 - box.x1) / image.width,
                    (box.y2 - box.y1) / image.height,
                )
                score = [f"{box.score:.{SCORE_DIGITS}f}"] if "score" in part.boxes else []
                numbers = [f"{value:.{SHARE_DIGITS}f}" for value in shares]
                lines.append(" ".join([str(box.label), *numbers, *score]))
            path = folder / "labels" / name / f"{image.name.removesuffix(photo_suffix(image.name))}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    classes = next(iter(parts.values())).classes
    content: dict[str, Any] = {name: f"images/{name}" for name in parts} | {"names": dict(enumerate(classes))}
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


def write_voc(folder: Path, parts: Mapping[str, Part]) -> None:
    """Annotations/*.xml (a score in each object of predictions), ImageSets/Main/<part>.txt, JPEGImages/."""
    for name, part in parts.items():
        stems = []
        for image, boxes in part.rows():
            root = ElementTree.Element("annotation")
            ElementTree.SubElement(root, "filename").text = image.name
            size = ElementTree.SubElement(root, "size")
            for key, value in (("width", image.width), ("height", image.height), ("depth", 3)):
                ElementTree.SubElement(size, key).text = str(value)
            for row in boxes:
                item = ElementTree.SubElement(root, "object")
                ElementTree.SubElement(item, "name").text = part.classes[row.label]
                if "score" in part.boxes:
                    ElementTree.SubElement(item, "score").text = f"{row.score:.{SCORE_DIGITS}f}"
                box = ElementTree.SubElement(item, "bndbox")
                for key, value in zip(
                    ("xmin", "ymin", "xmax", "ymax"), (row.x1, row.y1, row.x2, row.y2), strict=True
                ):
                    ElementTree.SubElement(box, key).text = f"{value:.{PIXEL_DIGITS}f}"
            ElementTree.indent(root)
            stems.append(image.name.removesuffix(photo_suffix(image.name)))
            path = folder / "Annotations" / f"{stems[-1]}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(ElementTree.tostring(root, encoding="unicode") + "\n", encoding="utf-8")
        sets = folder / "ImageSets" / "Main" / f"{name}.txt"
        sets.parent.mkdir(parents=True, exist_ok=True)
        sets.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


WRITERS: dict[str, Writer] = {"coco": write_coco, "yolo": write_yolo, "voc": write_voc}
PHOTO_FOLDERS = {"coco": "images", "yolo": "images/{part}", "voc": "JPEGImages"}
WITHOUT_CROWDS = ("yolo", "voc")
