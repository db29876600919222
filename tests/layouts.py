"""One set of photos and boxes, written as the folders that people have: one function per layout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
from tiny import HEIGHT, WIDTH

CLASSES = ("cat", "dog", "red fox")
Boxes = list[tuple[int, list[int]]]  # label, x y w h
# Part -> (stem, boxes) of each photo; one of each part has no box.
CONTENT: dict[str, list[tuple[str, Boxes]]] = {
    part: [
        (f"{part} {i}.a", [] if i == 1 else [*tiny.random_boxes(first + i, 3), (0, [1, 1, 9, 9 + i])])
        for i in range(count)
    ]
    for part, first, count in (("train", 0, 6), ("val", 20, 3), ("test", 40, 3))
}


def photos(root: Path, folder: str, parts: tuple[str, ...] = tuple(CONTENT)) -> None:
    """Photos at folder.format(part=...)/<stem>.jpg."""
    for part in parts:
        for stem, _ in CONTENT[part]:
            tiny.write_photo(root / folder.format(part=part) / f"{stem}.jpg")


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def coco_json(part: str, prefix: str = "", first: int = 1, group: bool = False) -> dict[str, Any]:
    """A COCO file; category ids from `first`, as Roboflow writes it with a category that groups them."""
    images, boxes = [], []
    for i, (stem, found) in enumerate(CONTENT[part]):
        images.append({"id": i, "file_name": f"{prefix}{stem}.jpg", "width": WIDTH, "height": HEIGHT})
        for label, box in found:
            one = {"id": len(boxes), "image_id": i, "category_id": label + first, "bbox": box, "iscrowd": 0}
            boxes.append(one | {"area": box[2] * box[3]})
    group_category = [{"id": 0, "name": "animals", "supercategory": "none"}] if group else []
    above = {"supercategory": "animals"} if group else {}
    categories = [*group_category, *({"id": i + first, "name": n} | above for i, n in enumerate(CLASSES))]
    return {"images": images, "annotations": boxes, "categories": categories[::-1]}


def coco(root: Path) -> None:
    photos(root, "{part}2017")
    for part in ("train", "val"):
        tiny.write_json(root / f"annotations/instances_{part}2017.json", coco_json(part))
        tiny.write_json(root / f"annotations/captions_{part}2017.json", {"images": [], "annotations": []})
    content = coco_json("test")
    tiny.write_json(root / "annotations/image_info_test2017.json", content | {"annotations": []})


def roboflow_coco(root: Path) -> None:
    for part, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root, name, (part,))
        tiny.write_json(root / name / "_annotations.coco.json", coco_json(part, group=True))


def yolo_labels(root: Path, folder: str, part: str) -> None:
    for stem, boxes in CONTENT[part]:
        lines = (
            f"{label} {(x + w / 2) / WIDTH:.7f} {(y + h / 2) / HEIGHT:.7f} {w / WIDTH:.7f} {h / HEIGHT:.7f}"
            for label, (x, y, w, h) in boxes
        )
        text(root / folder.format(part=part) / f"{stem}.txt", *lines)


def yolo(root: Path) -> None:
    photos(root, "images/{part}")
    for part in CONTENT:
        yolo_labels(root, "labels/{part}", part)
    text(
        root / "data.yaml",
        "path: /content/drive/mine",
        "train: images/train",
        "val: images/val",
        "test: images/test",
        "names: {0: cat, 1: dog, 2: red fox}",
    )


def roboflow_yolo(root: Path) -> None:
    for part, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        photos(root, f"{name}/images", (part,))
        yolo_labels(root, f"{name}/labels", part)
    text(
        root / "data.yaml",
        "train: ../train/images",
        "val: ../valid/images",
        "test: ../test/images",
        "",
        "nc: 3",
        "names: ['cat', 'dog', 'red fox']",
    )


def yolo_without_yaml(root: Path) -> None:
    photos(root, "images/{part}", ("train", "test"))
    for part in ("train", "test"):
        yolo_labels(root, "labels/{part}", part)
    text(root / "labels" / "classes.txt", *CLASSES)


def yolo_beside_photos(root: Path) -> None:
    photos(root, "shots", ("train",))
    yolo_labels(root, "shots", "train")
    text(root / "shots" / "classes.txt", *CLASSES)


def voc_xmls(root: Path, folder: str, part: str) -> None:
    for stem, boxes in CONTENT[part]:
        corners = [(CLASSES[label], [x, y, x + w, y + h]) for label, (x, y, w, h) in boxes]
        text(root / folder / f"{stem}.xml", tiny.voc_xml(f"{stem}.jpg", corners))


def voc(root: Path) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    for part in CONTENT:
        photos(base, "JPEGImages", (part,))
        voc_xmls(base, "Annotations", part)
        text(base / f"ImageSets/Main/{part}.txt", *(stem for stem, _ in CONTENT[part]))
    text(base / "ImageSets/Main/cat_train.txt", "x -1")
    text(base / "ImageSets/Main/trainval.txt", *(s for part in ("train", "val") for s, _ in CONTENT[part]))


def voc_without_sets(root: Path) -> None:
    photos(root, "images", ("train",))
    voc_xmls(root, "annotations", "train")


def roboflow_voc(root: Path) -> None:
    for part, name in (("train", "train"), ("test", "test")):
        photos(root, name, (part,))
        voc_xmls(root, name, part)


def csv_rows(part: str, row: Callable[..., str], empty: Callable[[str], str] | None = None) -> list[str]:
    lines = []
    for stem, boxes in CONTENT[part]:
        lines += [row(stem, CLASSES[label], *box) for label, box in boxes]
        lines += [] if boxes or empty is None else [empty(stem)]
    return lines


def csv_of_corners(root: Path) -> None:
    """filename,width,height,class,xmin,ymin,xmax,ymax: tools for TensorFlow, and Roboflow."""
    photos(root, "train", ("train",))
    photos(root, "test", ("test",))

    def row(stem: str, name: str, x: int, y: int, w: int, h: int) -> str:
        return f"{stem}.jpg,{WIDTH},{HEIGHT},{name},{x},{y},{x + w},{y + h}"

    for part in ("train", "test"):
        header = "filename,width,height,class,xmin,ymin,xmax,ymax"
        text(
            root / f"{part}_labels.csv",
            header,
            *csv_rows(part, row, lambda s: f"{s}.jpg,{WIDTH},{HEIGHT},,,,,"),
        )


def kaggle_csv(root: Path) -> None:
    """train.csv, train/, test/, sample_submission.csv: wheat's kind, with classes."""
    photos(root, "train", ("train",))
    photos(root, "test", ("test",))

    def row(stem: str, name: str, x: int, y: int, w: int, h: int) -> str:
        return f'{stem},{WIDTH},{HEIGHT},"[{x}.0, {y}.0, {w}.0, {h}.0]",{name},{CLASSES.index(name)}'

    text(
        root / "train.csv",
        "image_id,width,height,bbox,category,category_id",
        *csv_rows("train", row, lambda s: f"{s},{WIDTH},{HEIGHT},[],,"),
    )
    rows = (f"{stem},0 1.0 0 0 10 10" for stem, _ in CONTENT["test"])
    text(root / "sample_submission.csv", "image_id,PredictionString", *rows)


def open_images(root: Path) -> None:
    """Shares of the photo, labels by code, names in a file of their own; without the photo without boxes."""
    photos(root, "train", ("train",))
    photos(root, "test", ("test",))

    def row(stem: str, name: str, x: int, y: int, w: int, h: int) -> str:
        corners = f"{x / WIDTH:.7f},{(x + w) / WIDTH:.7f},{y / HEIGHT:.7f},{(y + h) / HEIGHT:.7f}"
        return f"{stem},xclick,/m/0{CLASSES.index(name)},1,{corners},0,0,0,0,0"

    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    text(root / "train-annotations-bbox.csv", f"{header},IsDepiction,IsInside", *csv_rows("train", row))
    text(root / "class-descriptions.csv", *(f"/m/0{i},{name}" for i, name in enumerate(CLASSES)))
    rows = (f"{stem}," for stem, _ in CONTENT["test"])
    text(root / "sample_submission.csv", "ImageId,PredictionString", *rows)


def train_json_and_test_folder(root: Path) -> None:
    """COCO for train, and nothing but photos for test."""
    photos(root, "images/{part}", ("train", "test"))
    tiny.write_json(root / "train.json", coco_json("train"))


def train_json_and_sample(root: Path) -> None:
    """COCO for train, and a sample submission that names the test photos."""
    photos(root, "{part}", ("train", "test"))
    tiny.write_json(root / "train.json", coco_json("train", "train/"))
    rows = (f",test/{stem}.jpg" for stem, _ in CONTENT["test"])
    text(root / "sample_submission.csv", "PredictionString,image_id", *rows)


def labelme_json(root: Path, folder: str, part: str) -> None:
    for stem, boxes in CONTENT[part]:
        shapes = [
            {"label": CLASSES[label], "shape_type": "rectangle", "points": [[x, y], [x + w, y + h]]}
            for label, (x, y, w, h) in boxes
        ]
        sizes = {"imageWidth": WIDTH, "imageHeight": HEIGHT, "imageData": None}
        tiny.write_json(
            root / folder / f"{stem}.json", {"shapes": shapes, "imagePath": f"{stem}.jpg"} | sizes
        )


def labelme(root: Path) -> None:
    for part in ("train", "test"):
        photos(root, "{part}", (part,))
        labelme_json(root, part, part)


def labelme_apart_from_photos(root: Path) -> None:
    photos(root, "images", ("train",))
    labelme_json(root, "labels", "train")


def cvat_xml(parts: tuple[str, ...], subsets: bool) -> str:
    images = ""
    for part in parts:
        subset = f' subset="{part.capitalize()}"' if subsets else ""
        for stem, boxes in CONTENT[part]:
            shapes = "".join(
                f'<box label="{CLASSES[label]}" xtl="{x}" ytl="{y}" xbr="{x + w}" ybr="{y + h}"/>'
                for label, (x, y, w, h) in boxes
            )
            size = f'width="{WIDTH}" height="{HEIGHT}"'
            images += f'<image id="0" name="{stem}.jpg"{subset} {size}>{shapes}</image>'
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?><annotations>{meta}{images}</annotations>'


def cvat(root: Path) -> None:
    photos(root, "images", ("train",))
    text(root / "annotations.xml", cvat_xml(("train",), subsets=False))


def cvat_project(root: Path) -> None:
    for part in ("train", "test"):
        photos(root, f"images/{part.capitalize()}", (part,))
    text(root / "annotations.xml", cvat_xml(("train", "test"), subsets=True))


# Layout -> its writer, the parts that are for training, and those for testing.
LAYOUTS: dict[str, tuple[Callable[[Path], None], tuple[str, ...], tuple[str, ...]]] = {
    "coco": (coco, ("train",), ("test",)),
    "roboflow coco": (roboflow_coco, ("train", "val"), ("test",)),
    "yolo": (yolo, ("train", "val"), ("test",)),
    "roboflow yolo": (roboflow_yolo, ("train", "val"), ("test",)),
    "yolo without data.yaml": (yolo_without_yaml, ("train",), ("test",)),
    "yolo beside photos": (yolo_beside_photos, ("train",), ()),
    "voc": (voc, ("train", "val"), ("test",)),
    "voc without image sets": (voc_without_sets, ("train",), ()),
    "roboflow voc": (roboflow_voc, ("train",), ("test",)),
    "csv of corners": (csv_of_corners, ("train",), ("test",)),
    "kaggle csv": (kaggle_csv, ("train",), ("test",)),
    "open images": (open_images, ("train",), ("test",)),
    "labelme": (labelme, ("train",), ("test",)),
    "labelme apart from photos": (labelme_apart_from_photos, ("train",), ()),
    "cvat": (cvat, ("train",), ()),
    "cvat project": (cvat_project, ("train",), ("test",)),
    "train.json and test folder": (train_json_and_test_folder, ("train",), ("test",)),
    "train.json and sample": (train_json_and_sample, ("train",), ("test",)),
}
