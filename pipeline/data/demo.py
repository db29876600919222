"""The embedded competition `demo`: a seeded synthetic data set in the layout of the real one.

root/demo.json                 stamp: generator version, seed, sizes
root/train.json  train/*.jpg   COCO annotations, outlines among them, and photos
root/test.json   test/*.jpg    images and categories only
root/hidden/test_truth.json    the test set's annotations, which no stage but the demo reads
"""

import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.data.demo_objects import OBJECTS
from pipeline.data.demo_scenes import Photo, render
from pipeline.data.records import Record, read_record, write_record
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import scratch_folder

VERSION = 5  # raise it when the same seed gives other photos or annotations
STAMP = "demo.json"
CLASSES: tuple[str, ...] = tuple(OBJECTS)  # six of the Recycle Trash classes, in their order
SPLITS = ("train", "test")


def generate(
    root: Path,
    *,
    seed: int = 0,
    n_train: int = 240,
    n_test: int = 80,
    size: int = 256,
    processes: int = 1,
) -> bool:
    """Write the whole competition below `root`, unless it is there; one with other parameters is replaced.

    The photos are rendered into a temporary sibling folder, which is then renamed: `root` holds all
    of a competition or none of it. Photo i of a split depends on seed, size and i alone.

    Args:
        root: The folder to write. One that exists must be empty or carry the stamp.
        seed: At least 0; seeds every photo.
        n_train: Number of training photos, at least 1.
        n_test: Number of test photos, at least 1.
        size: Longer side of the photos in pixels, at least 64. A fifth has the other side shorter.
        processes: That render side by side; the photos are the same with any number of them.

    Returns:
        True if photos were written, False if they were there.

    Raises:
        PipelineError: A parameter is out of range, or `root` holds something else.
    """
    stamp = _stamp(seed, n_train, n_test, size)
    if _read_stamp(root) == stamp:
        return False
    root = root.resolve()  # a link to a folder on a larger disk stays a link
    _check_replaceable(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(root) as scratch:
        new = scratch / "new"
        counts = {"train": n_train, "test": n_test}
        truth = {split: _write_photos(new, split, counts[split], seed, size, processes) for split in SPLITS}
        _write_json(new / "train.json", truth["train"])
        _write_json(new / "test.json", {**truth["test"], "annotations": []})
        _write_json(new / "hidden" / "test_truth.json", truth["test"])
        write_record(new / STAMP, stamp)
        with locked(root):
            if _read_stamp(root) == stamp:
                return False  # another process was faster, and its photos may be in use already
            if root.exists():
                root.rename(scratch / "old")
            new.rename(root)
    return True


class Stamp(Record):
    """demo.json: what the photos were made with."""

    version: int
    seed: int
    n_train: int
    n_test: int
    size: int


def _stamp(seed: int, n_train: int, n_test: int, size: int) -> Stamp:
    stamp = Stamp(version=VERSION, seed=seed, n_train=n_train, n_test=n_test, size=size)
    for name, least in {"seed": 0, "n_train": 1, "n_test": 1, "size": 64}.items():
        if (value := getattr(stamp, name)) < least:
            raise PipelineError(f"demo: {name} is {value}, it must be at least {least}")
    return stamp


def _read_stamp(root: Path) -> Stamp | None:
    """The stamp of a folder; None where there is none that can be read, so that it is made anew."""
    try:
        return read_record(root / STAMP, Stamp, "make the demo again")
    except PipelineError:
        return None


def _check_replaceable(root: Path) -> None:
    if not root.exists():
        return
    if not root.is_dir():
        raise PipelineError(f"{root}: is a file, the demo needs a folder; give another path")
    if not (root / STAMP).is_file() and any(root.iterdir()):
        raise PipelineError(
            f"{root}: has no {STAMP}, so it was not made by the demo and is left as it is; "
            "give another path or remove the folder"
        )


def _write_photos(root: Path, split: str, count: int, seed: int, size: int, processes: int) -> dict[str, Any]:
    """Render one split into `root/<split>` and return its COCO dictionary."""
    (root / split).mkdir(parents=True)
    write = partial(_write_photo, root, split, seed, size)
    if processes == 1:
        written = list(map(write, range(count)))
    else:
        with ProcessPoolExecutor(processes, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
            written = list(pool.map(write, range(count), chunksize=4))
    annotations = [annotation for _, of_photo in written for annotation in of_photo]
    return {
        "info": {"description": "demo, an embedded synthetic competition", "version": VERSION},
        "images": [image for image, _ in written],
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)],
    }


def _write_photo(
    root: Path, split: str, seed: int, size: int, image_id: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Render a photo; returns its image and its annotations, which lack their ids."""
    rng = np.random.default_rng([seed, size, SPLITS.index(split), image_id])
    short = size * 3 // 4
    shapes = [(size, size)] * 8 + [(size, short), (short, size)]
    width, height = shapes[rng.integers(len(shapes))]
    # The first photos show one class each, so that no class is missing in a small set.
    first = CLASSES[image_id] if image_id < len(CLASSES) else None
    photo, boxes = render(rng, width, height, first)
    file_name = f"{split}/{image_id:04d}.jpg"
    _write_jpeg(root / file_name, photo, quality=int(rng.integers(55, 95)))
    annotations = [
        {
            "image_id": image_id,
            "category_id": CLASSES.index(box.name),
            "bbox": list(box.xywh),
            "area": box.xywh[2] * box.xywh[3],
            "segmentation": box.outline,
            "iscrowd": 0,
        }
        for box in boxes
    ]
    return {"id": image_id, "file_name": file_name, "width": width, "height": height}, annotations


def _write_jpeg(path: Path, photo: Photo, quality: int) -> None:
    bgr = np.ascontiguousarray(photo[..., ::-1])
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise PipelineError(f"{path}: OpenCV could not encode the photo as JPEG")
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
