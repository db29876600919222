"""The embedded competition: reproducible, valid COCO, and not to be solved by colour and size."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools import mask as masks

from pipeline.data import demo
from pipeline.data.demo_objects import FREQUENCIES, OBJECTS, Sprite, pick_colours
from pipeline.data.demo_scenes import MIN_INSIDE, MIN_VISIBLE, Scene
from pipeline.errors import PipelineError

SMALL: dict[str, int] = {"n_train": 14, "n_test": 7, "size": 96}
RECYCLE = [
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
]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small competition, which no test may change."""
    root = tmp_path_factory.mktemp("data") / "demo"
    demo.generate(root, seed=3, **SMALL)
    return root


def test_same_seed_gives_the_same_files(small: Path, tmp_path: Path) -> None:
    demo.generate(tmp_path / "again", seed=3, processes=2, **SMALL)  # with any number of processes
    assert contents(tmp_path / "again") == contents(small)


def test_other_seed_gives_other_photos_and_boxes(small: Path, tmp_path: Path) -> None:
    demo.generate(tmp_path / "other", seed=4, **SMALL)
    ours, theirs = contents(small), contents(tmp_path / "other")
    assert ours.keys() == theirs.keys()
    assert all(ours[name] != theirs[name] for name in ours if name.endswith(".jpg"))
    boxes = [
        [a["bbox"] for a in read(root / "train.json")["annotations"]] for root in (small, tmp_path / "other")
    ]
    assert boxes[0] != boxes[1]


def test_a_photo_does_not_depend_on_how_many_there_are(small: Path, tmp_path: Path) -> None:
    demo.generate(tmp_path / "fewer", seed=3, n_train=3, n_test=1, size=SMALL["size"])
    fewer, all_ = contents(tmp_path / "fewer"), contents(small)
    photos = [name for name in fewer if name.endswith(".jpg")]
    assert len(photos) == 4
    assert all(fewer[name] == all_[name] for name in photos)


def test_train_and_test_share_no_photo(small: Path) -> None:
    photos = [data for name, data in contents(small).items() if name.endswith(".jpg")]
    assert len(set(photos)) == SMALL["n_train"] + SMALL["n_test"]


@pytest.mark.parametrize("name", ["train.json", "hidden/test_truth.json"])
def test_annotations_are_valid_coco(small: Path, name: str) -> None:
    coco = read(small / name)
    assert coco["categories"] == [{"id": i, "name": n} for i, n in enumerate(demo.CLASSES)]
    images = {image["id"]: image for image in coco["images"]}
    assert len(images) == len(coco["images"])
    for image in images.values():
        photo = cv2.imread(str(small / image["file_name"]))
        assert photo.shape == (image["height"], image["width"], 3)
    annotations = coco["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    for a in annotations:
        x, y, w, h = a["bbox"]
        image = images[a["image_id"]]
        assert min(x, y) >= 0 and x + w <= image["width"] and y + h <= image["height"]
        assert min(w, h) > 0 and a["area"] == w * h and a["iscrowd"] == 0
    counts = np.bincount([a["image_id"] for a in annotations], minlength=len(images))
    assert counts.min() >= 1 and counts.max() <= 7
    # Photo i shows class i, so that not even the smallest set lacks one.
    shown = {(a["image_id"], a["category_id"]) for a in annotations}
    assert {(i, i) for i in range(len(demo.CLASSES))} <= shown


def test_the_test_file_hides_its_truth(small: Path) -> None:
    test, truth = read(small / "test.json"), read(small / "hidden/test_truth.json")
    assert test["annotations"] == [] and truth["annotations"]
    assert {**truth, "annotations": []} == test
    assert [i["file_name"] for i in test["images"]] == [f"test/{k:04d}.jpg" for k in range(7)]


def test_classes_are_recycle_trash_ones_in_its_order_and_uneven() -> None:
    positions = [RECYCLE.index(name) for name in demo.CLASSES]
    assert positions == sorted(positions) and len(positions) >= 5
    assert FREQUENCIES.keys() == OBJECTS.keys()
    assert max(FREQUENCIES.values()) >= 4 * min(FREQUENCIES.values())


def test_colour_and_size_do_not_give_the_class_away(tmp_path: Path) -> None:
    """Mean colour, its spread and the size of the true boxes classify less than 60 % of them."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_score

    demo.generate(tmp_path / "demo", n_train=170, n_test=1)
    coco = read(tmp_path / "demo/train.json")
    files = {i["id"]: str(tmp_path / "demo" / i["file_name"]) for i in coco["images"]}
    photos = {image_id: cv2.imread(file) for image_id, file in files.items()}
    features = []
    for a in coco["annotations"]:
        x, y, w, h = a["bbox"]
        pixels = photos[a["image_id"]][y : y + h, x : x + w].reshape(-1, 3).astype(np.float64)
        features.append([*pixels.mean(0), *pixels.std(0), w, h, w * h])
    labels = np.array([a["category_id"] for a in coco["annotations"]])
    forest = RandomForestClassifier(100, random_state=0)
    accuracy = cross_val_score(forest, np.array(features), labels, cv=5).mean()
    chance = np.bincount(labels).max() / len(labels)
    assert chance < accuracy < 0.58  # not above chance would mean that the measurement is broken


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_fits_its_canvas(name: str) -> None:
    """Nothing is cut off at the canvas, and no colour is brighter than its opacity allows."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sprite = Sprite(rng, 200, *pick_colours(rng, np.full(3, 120, np.float32)))
        OBJECTS[name](sprite)
        rgb, alpha = sprite.rgba[..., :3], sprite.rgba[..., 3]
        edges = (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])
        assert max(edge.max() for edge in edges) == 0
        assert (alpha > 0.25).mean() > 0.1
        assert (rgb <= alpha[..., None] * 255 + 0.01).all() and rgb.min() >= 0


def block(colour: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    return np.tile(np.array([*colour, 1], np.float32), (height, width, 1))


def test_a_box_is_tight_and_at_least_half_the_object_is_inside() -> None:
    rng = np.random.default_rng(0)
    placed = clipped = 0
    for _ in range(300):
        scene = Scene(np.zeros((60, 80, 3), np.float32), np.zeros(2, np.float32))
        if not scene.place(rng, "Metal", block((255, 0, 0), 30, 50), MIN_VISIBLE):
            continue
        drawn = (scene.pixels[..., 0] > 250).astype(np.uint8)
        assert scene.boxes[0].xywh == tuple(cv2.boundingRect(drawn))
        assert drawn.sum() >= MIN_INSIDE * 30 * 50
        placed += 1
        clipped += int(drawn.sum()) < 30 * 50
    assert placed > clipped > 0


def test_a_covered_object_keeps_its_box_and_stays_visible_enough() -> None:
    rng = np.random.default_rng(0)
    least = 1.0
    for _ in range(300):
        scene = Scene(np.zeros((60, 80, 3), np.float32), np.zeros(2, np.float32))
        while not scene.place(rng, "Metal", block((255, 0, 0), 30, 40), MIN_VISIBLE):
            pass
        whole, area = scene.boxes[0].xywh, int((scene.pixels[..., 0] > 250).sum())
        before = scene.pixels.copy()
        if not scene.place(rng, "Glass", block((0, 255, 0), 30, 40), MIN_VISIBLE):
            assert np.array_equal(scene.pixels, before) and len(scene.boxes) == 1
            continue
        assert scene.boxes[0].xywh == whole
        covered = int((scene.pixels[..., 1] > 250)[whole[1] :, whole[0] :][: whole[3], : whole[2]].sum())
        least = min(least, 1 - covered / area)
    assert MIN_VISIBLE <= least < MIN_VISIBLE + 0.1


@pytest.mark.parametrize("name", OBJECTS)
def test_an_outline_follows_its_silhouette(name: str) -> None:
    """To a pixel, but for holes, which polygons cannot have."""
    rng = np.random.default_rng(1)
    sprite = Sprite(rng, 120, *pick_colours(rng, np.full(3, 120, np.float32)))
    OBJECTS[name](sprite)
    for _ in range(5):
        scene = Scene(np.zeros((160, 160, 3), np.float32), np.zeros(2, np.float32))
        while not scene.place(rng, name, sprite.rgba, MIN_VISIBLE):
            pass
        (x, y, w, h), outline = scene.boxes[0].xywh, scene.boxes[0].outline
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in outline])
        assert np.abs([*points.min(0), *points.max(0)] - np.array([x, y, x + w, y + h])).max() <= 1
        drawn = masks.decode(masks.merge(masks.frPyObjects(outline, 160, 160)))
        silhouette = scene.silhouettes[0].astype(np.uint8)
        edges = cv2.findContours(silhouette, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        filled = cv2.drawContours(silhouette.copy(), edges, -1, 1, cv2.FILLED)
        assert (drawn & filled).sum() > 0.95 * (drawn | filled).sum()


def test_a_fitting_folder_is_left_alone_and_another_replaced(tmp_path: Path) -> None:
    root = tmp_path / "data" / "demo"
    assert demo.generate(root, n_train=2, n_test=1, size=64)
    times = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert not demo.generate(root, n_train=2, n_test=1, size=64)
    assert times == {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    for parameters in ({"n_train": 1}, {"n_test": 2}, {"size": 96}, {"seed": 1}):
        assert demo.generate(root, **{"n_train": 2, "n_test": 1, "size": 64, **parameters})
        assert demo.generate(root, n_train=2, n_test=1, size=64)
    assert len(list((root / "train").iterdir())) == 2
    assert [p.name for p in root.parent.iterdir()] == ["demo"]


def test_what_another_version_made_is_replaced(small: Path, tmp_path: Path) -> None:
    root = tmp_path / "demo"
    shutil.copytree(small, root)
    stamp = read(root / "demo.json")
    (root / "demo.json").write_text(json.dumps({**stamp, "version": stamp["version"] - 1}))
    assert demo.generate(root, seed=3, **SMALL)
    assert contents(root) == contents(small)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "mine.jpg").write_bytes(b"precious")
    with pytest.raises(PipelineError, match=r"photos: has no demo\.json"):
        demo.generate(photos, n_train=1, n_test=1, size=64)
    with pytest.raises(PipelineError, match=r"mine\.jpg: is a file"):
        demo.generate(photos / "mine.jpg", n_train=1, n_test=1, size=64)
    assert contents(tmp_path) == {"photos/mine.jpg": b"precious"}


@pytest.mark.parametrize("wrong", [{"n_train": 0}, {"n_test": 0}, {"size": 63}, {"seed": -1}])
def test_wrong_parameters_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(PipelineError, match=next(iter(wrong))):
        demo.generate(tmp_path / "demo", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("before", [False, True])
def test_a_failure_leaves_the_old_folder_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    root = tmp_path / "demo"
    if before:
        demo.generate(root, n_train=1, n_test=1, size=64)
    old = contents(tmp_path)
    photos: list[Path] = []

    def fail_at_the_third(path: Path, *args: Any, **kwargs: Any) -> None:
        photos.append(path)
        if len(photos) == 3:
            raise OSError("no space left on device")
        path.write_bytes(b"photo")

    monkeypatch.setattr(demo, "_write_jpeg", fail_at_the_third)
    with pytest.raises(OSError, match="no space"):
        demo.generate(root, seed=1, n_train=3, n_test=1, size=64)
    assert len(photos) == 3
    assert contents(tmp_path) == old
    assert [p.name for p in tmp_path.iterdir()] == ["demo"] * before


def test_the_slower_of_two_processes_keeps_the_photos_of_the_faster(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, write_json = tmp_path / "demo", demo._write_json

    def finish_elsewhere_first(path: Path, content: Any) -> None:
        write_json(path, content)
        if not root.exists():
            shutil.copytree(small, root)

    monkeypatch.setattr(demo, "_write_json", finish_elsewhere_first)
    demo.generate(root, seed=3, **SMALL)
    assert (root / "train.json").stat().st_mtime_ns == (small / "train.json").stat().st_mtime_ns
    assert [p.name for p in tmp_path.iterdir()] == ["demo"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    root, left = tmp_path / "demo", []

    class Killed(BaseException):
        pass

    def leave(*_: Any) -> None:
        left.extend(tmp_path.glob(".demo*"))
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_write_photos", leave)
        with pytest.raises(Killed):
            demo.generate(root, **SMALL)
    (folder,) = left
    gone = folder.with_name(folder.name.replace(f"-{os.getpid()}.", "-999999999."))
    (gone / "new").mkdir(parents=True)
    demo.generate(root, **SMALL)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == ["demo"]
