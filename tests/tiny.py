"""Tiny competitions with real JPEGs, and prediction tables for them: what tests are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import folds
from pipeline.data import demo
from pipeline.data.dataset import Dataset
from pipeline.data.predictions import Meta, Predictions, make_predictions
from pipeline.data.records import DIGEST
from pipeline.data.run_card import JobDescription, RunCard
from pipeline.data.runs import Run

CLASSES = (
    "General trash",
    "Paper",
    "Paper pack",
    "Metal",
    "Glass",
    "Plastic",
    "Styrofoam",
    "Plastic bag",
    "Battery",
    "Clothing",
)
CELLS = ("RBC", "WBC", "Platelets")
WIDTH, HEIGHT = 48, 32


def write_photo(path: Path, width: int = WIDTH, height: int = HEIGHT, seed: int = 0, **options: Any) -> None:
    """A photo of smooth colours; options go to Pillow's save (exif=, quality=)."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 3, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours).resize((width, height), Image.Resampling.BILINEAR).save(path, **options)


def random_boxes(image_id: int, n_classes: int) -> list[tuple[int, list[int]]]:
    """One to three (label, [x, y, w, h]) inside a photo; every label comes up as ids go on."""
    rng = np.random.default_rng([7, image_id])
    boxes = []
    for k in range(1 + image_id % 3):
        x, y = int(rng.integers(0, WIDTH - 20)), int(rng.integers(0, HEIGHT - 16))
        boxes.append(((image_id + k) % n_classes, [x, y, int(rng.integers(8, 20)), int(rng.integers(8, 16))]))
    return boxes


def coco(
    split: str, count: int, classes: tuple[str, ...] = CLASSES, with_boxes: bool = True
) -> dict[str, Any]:
    """A COCO dictionary; image ids 0.., annotation ids 1.., category ids are the class indices."""
    images, annotations = [], []
    for i in range(count):
        name = f"{split}/{i:04d}.jpg"
        images.append({"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT})
        for label, box in random_boxes(i, len(classes)) if with_boxes else []:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def job_description(run: Run, **changes: Any) -> JobDescription:
    """What a training of a run would be asked to be."""
    values = dict.fromkeys(("backend", "image_digest", "folds_digest", "annotations_digest"), "?")
    values |= {"competition": run.competition, "model": run.model, "config_digest": "?"}
    numbers = {"fold": run.fold, "seed": 0, "epochs": 1, "image_size": 64, "batch": 1}
    return JobDescription(**values | numbers | changes)


def run_card(run: Run, **changes: Any) -> RunCard:
    """The card of a run that was never trained."""
    values = dict(job_description(run)) | {"classes": CLASSES, "checkpoint": "best.pt"}
    values |= {"checkpoint_digest": "?", "config": "config.json", "best_epoch": 1, "framework_map50": 0.5}
    return RunCard(**values | changes)


def table_path(folder: Path, split: str, view: str) -> Path:
    """Where the prediction table of a view is in a run's folder."""
    return folder / split / f"{view}.parquet"


def write_card(run: Run, **changes: Any) -> Path:
    """Write a run's card without a training; returns the run's folder."""
    run.write_card(run_card(run, **changes))
    return run.folder


def write_coco(
    root: Path, n_train: int = 12, n_test: int = 5, classes: tuple[str, ...] = CLASSES, photos: bool = True
) -> Path:
    """train.json and test.json (without boxes) and their photos, as in `recycle`; returns root."""
    for split, count in (("train", n_train), ("test", n_test)):
        content = coco(split, count, classes, with_boxes=split == "train")
        write_json(root / f"{split}.json", content)
        for i, image in enumerate(content["images"]):
            if photos:
                write_photo(root / image["file_name"], seed=i)
    return root


def edit_json(path: Path, change: Any) -> None:
    """Read a json file, let `change` alter the value in place, write it back without a digest."""
    value = json.loads(path.read_text())
    value.pop(DIGEST, None)
    change(value)
    path.write_text(json.dumps(value))


def voc_xml(
    file_name: str, boxes: list[tuple[str, list[Any]]], size: tuple[int, int] = (WIDTH, HEIGHT)
) -> str:
    """A Pascal VOC annotation; boxes are (name, [xmin, ymin, xmax, ymax])."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for name, (x1, y1, x2, y2) in boxes
    )
    return (
        f"<annotation><filename>{file_name}</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def write_voc(root: Path, n_train: int = 12, n_test: int = 5, photos: bool = True) -> Path:
    """Annotations, ImageSets and JPEGImages, as in `bccd`; returns root."""
    base = root / "BCCD"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    stems = [f"cell_{i:03d}" for i in range(n_train + n_test)]
    for i, stem in enumerate(stems):
        boxes = [(CELLS[c], [x, y, x + w, y + h]) for c, (x, y, w, h) in random_boxes(i, len(CELLS))]
        (base / f"Annotations/{stem}.xml").write_text(voc_xml(f"{stem}.jpg", boxes))
        if photos:
            write_photo(base / f"JPEGImages/{stem}.jpg", seed=i)
    (base / "ImageSets/Main/trainval.txt").write_text("\n".join(stems[:n_train]) + "\n")
    (base / "ImageSets/Main/test.txt").write_text("\n".join(stems[n_train:]) + "\n")
    return root


def write_folds(path: Path, images: pd.DataFrame, n_folds: int) -> Path:
    """A fold file that deals the images out in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fold, group = np.arange(len(images)) % n_folds, images["image_id"]
    table = images[["image_id", "file_name"]].assign(fold=fold, group=group)
    table.to_csv(path, index=False)
    return path


def cut_in_half(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def table(
    dataset: Dataset,
    rows: list[tuple[Any, ...]],
    *,
    competition: str = "recycle",
    split: str | None = None,
    image_ids: Any = None,
    fold: int = -1,
    model: str = "m",
    view: str = "identity",
    **made: Any,
) -> Predictions:
    """A prediction table of rows (image_id, label, score, x1, y1, x2, y2); default: all images."""
    ids = np.array(dataset.images["image_id"] if image_ids is None else image_ids, np.int32)
    split = split or ("oof" if dataset.split == "train" else "test")
    meta = Meta(
        competition, split, dataset.digest, ids, np.full(len(ids), fold, np.int32), model, view, dict(made)
    )
    values = np.array(rows, np.float64).reshape(-1, 7)
    return make_predictions(values[:, 0], values[:, 1], values[:, 2], values[:, 3:], meta, dataset.images)[0]


def guesses(
    images: pd.DataFrame, seed: int, per_image: int = 3, n_classes: int = 10
) -> list[tuple[Any, ...]]:
    """Random boxes inside each photo, as rows for `table`."""
    rng = np.random.default_rng(seed)
    rows = []
    for image_id in images["image_id"]:
        for _ in range(per_image):
            x, y = rng.uniform(0, WIDTH - 20), rng.uniform(0, HEIGHT - 16)
            w, h = rng.uniform(5, 20), rng.uniform(5, 16)
            rows.append((image_id, rng.integers(n_classes), rng.uniform(0.05, 1), x, y, x + w, y + h))
    return rows


def found(dataset: Dataset, images: pd.DataFrame, score: float = 0.6) -> list[tuple[Any, ...]]:
    """The true boxes of some images of a dataset, as rows for `table`."""
    boxes = dataset.annotations[dataset.annotations["image_id"].isin(images["image_id"])]
    columns = ["image_id", "label", "x1", "y1", "x2", "y2"]
    return [(i, label, score, *corners) for i, label, *corners in boxes[columns].itertuples(index=False)]


def write_demo(home: Path, n_train: int, size: int) -> Path:
    """A small demo and its two folds in a home, which is returned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_HOME", str(home))
        demo.generate(home / "data" / "demo", n_train=n_train, n_test=2, size=size)
        folds.main(["--competition", "demo", "--folds", "2"])
    return home
