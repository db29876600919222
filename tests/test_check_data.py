"""`make check-data`: what is wrong with photos, boxes and splits is found, shown, and left as it is."""

import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image
from scipy.stats import mannwhitneyu

from pipeline import check_data
from pipeline.checks.boxes import odd_boxes
from pipeline.checks.photos import STATISTICS, check_photo, statistics
from pipeline.checks.similarity import compare_splits, delong
from pipeline.data.dataset import load_dataset
from pipeline.data.photos import EXIF_ORIENTATION, Photo
from pipeline.data.profile import load_profile
from pipeline.paths import runs_dir


def run(competition="recycle", *options):
    """(status, report, files that were written)."""
    status = check_data.main(["--competition", competition, *map(str, options)])
    folder = runs_dir(competition) / "data"
    card = json.loads((folder / "report.json").read_text())
    return status, card, sorted(path.name for path in folder.iterdir())


def found(card):
    return {(row["what"], row["split"]): row["where"] for row in card["findings"]}


def digests(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()
    }


def detailed(path, seed):
    """A photo whose looks no other shares."""
    colours = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(colours).resize((tiny.WIDTH, tiny.HEIGHT), Image.Resampling.BICUBIC)
    image.save(path, quality=95)


@pytest.fixture
def varied(recycle):
    """The tiny competition with photos that differ; seeds are 0.. for train, 100.. for test."""
    for path in recycle.rglob("*.jpg"):
        detailed(path, int(path.stem) + 100 * (path.parent.name == "test"))
    return recycle


def test_data_without_a_fault(varied, capsys):
    before = digests(varied)
    status, card, files = run()
    assert (status, card["findings"], files) == (0, [], ["report.json"])
    assert "nothing wrong was found" in capsys.readouterr().out
    assert card["photos_read"] == card["images"] == {"train": 12, "test": 5}
    assert card["sizes"] == {"train": {"48 x 32": 12}, "test": {"48 x 32": 5}}
    train = load_dataset(load_profile("recycle"), "train")
    assert card["classes"]["all"]["boxes"] == len(train.annotations) == card["classes"]["all"]["small"]
    assert card["test_like_train"] is None  # five photos tell nothing
    assert digests(varied) == before


def test_photos_that_cannot_be_used_and_those_that_are_repaired(varied, capsys):
    photos = varied / "train"
    (photos / "0000.jpg").unlink()
    (photos / "0001.jpg").write_bytes(b"")
    tiny.cut_in_half(photos / "0002.jpg")
    tiny.write_photo(photos / "0003.jpg", 40, 40, seed=99)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    tiny.write_photo(photos / "0004.jpg", 32, 48, seed=98, exif=exif)
    tiny.write_photo(photos / "0005.jpg", 96, 64, seed=97)
    (varied / "test" / "0001.jpg").write_text("<html>404</html>")
    before = digests(varied)
    status, card, files = run()
    assert status == 1
    rows = found(card)
    assert rows["photos missing", "train"] == ["train/0000.jpg"]
    assert rows["photos unreadable", "train"] == ["train/0001.jpg"]
    assert rows["photos truncated", "train"] == ["train/0002.jpg"]
    assert rows["photos of another shape than stated", "train"] == ["train/0003.jpg"]
    assert rows["photos with an EXIF rotation turned upright", "train"] == ["train/0004.jpg"]
    assert rows["photos of another size than stated, scaled to it", "train"] == ["train/0005.jpg"]
    assert rows["photos unreadable", "test"] == ["test/0001.jpg"]
    assert [row["stops_training"] for row in card["findings"][:5]] == [True] * 5
    assert "5 photos would stop a training or a prediction" in capsys.readouterr().out
    assert "sheet.png" in files
    assert digests(varied) == before


def test_boxes_that_are_refused_and_those_that_look_odd(varied):
    def change(value):
        boxes = value["annotations"]
        boxes[0]["bbox"] = [5, 5, 0, 0]
        boxes[1]["bbox"] = [40, 20, 20, 20]
        boxes[2]["bbox"] = [60, 40, 5, 5]
        for bbox, label in (
            ([0, 0, 48, 31.9], 0),
            ([10, 10, 3, 9], 1),
            ([10, 10, 20, 20], 2),
            ([10, 10, 20, 20], 2),
            ([10, 10, 20, 19], 2),
            ([10, 10, 20, 20], 3),
        ):
            boxes.append(
                {
                    "id": 100 + len(boxes),
                    "image_id": 11,
                    "category_id": label,
                    "bbox": bbox,
                    "area": 1,
                    "iscrowd": 0,
                }
            )

    tiny.edit_json(varied / "train.json", change)
    status, card, files = run()
    new = [box["id"] for box in json.loads((varied / "train.json").read_text())["annotations"][-6:]]
    assert status == 0
    assert found(card) == {
        ("boxes without area", "train"): [1],
        ("boxes outside the photo", "train"): [3],
        ("boxes that reach outside", "train"): [2],
        ("doubled boxes", "train"): [new[3]],
        ("huge boxes, over 95% of the photo", "train"): [new[0]],
        ("tiny boxes, a side under 4 px", "train"): [new[1]],
        ("boxes marked twice, IoU over 0.9", "train"): [new[4]],
        ("boxes of two classes, IoU over 0.95", "train"): [new[5]],
    }
    assert all(row["remedy"] for row in card["findings"])
    assert files == ["report.json", "sheet.png"]
    sheet = Image.open(runs_dir("recycle") / "data" / "sheet.png").convert("RGB")
    assert (255, 196, 0) in {colour for _, colour in sheet.getcolors(1 << 24)}  # the marks


def test_limits_of_odd_boxes(varied):
    train = load_dataset(load_profile("recycle"), "train")
    corners = [
        [0, 0, 4, 30],
        [0, 0, 3.9, 30],
        [0, 0, 48, 30.4],
        [0, 0, 48, 30.5],
        [10, 10, 30, 30],
        [10, 10, 30, 28],
        [10, 10, 30, 27.9],
    ]
    boxes = pd.DataFrame(corners, columns=["x1", "y1", "x2", "y2"], dtype=float)
    boxes = boxes.assign(image_id=np.array([0, 1, 2, 3, 4, 4, 5], np.int32), label=0, annotation_id=range(7))
    rows = odd_boxes(type(train)("train", train.images, boxes, train.findings, train.digest, ()))
    assert {kind.split(",")[0]: where.tolist() for kind, where in rows.items()} == {
        "tiny boxes": [1],
        "huge boxes": [3],  # 30.4 of 32 is 0.95 of the photo
    }  # an IoU of 0.9 is not over 0.9


def test_near_duplicates_within_train_and_between_train_and_test(varied):
    detailed(varied / "train" / "0007.jpg", 3)  # as train 3
    Image.open(varied / "train" / "0009.jpg").save(varied / "test" / "0002.jpg", quality=40)
    _, card, files = run()
    rows = found(card)
    between = [where for (_, split), where in rows.items() if split == "train-test"]
    within = [where for (_, split), where in rows.items() if split == "train"]
    assert (between, len(within)) == ([["train/0009.jpg = test/0002.jpg"]], 1)
    assert len(within[0]) == 1 and "0007.jpg" in within[0][0]
    assert files == ["pairs-train-test.png", "pairs-train.png", "report.json"]
    for name in files[:2]:
        Image.open(runs_dir("recycle") / "data" / name).verify()


def test_pictures_of_an_earlier_check_go_away(varied):
    detailed(varied / "train" / "0007.jpg", 3)
    assert "pairs-train.png" in run()[2]
    detailed(varied / "train" / "0007.jpg", 77)
    detailed(varied / "train" / "0003.jpg", 78)
    assert run()[2] == ["report.json"]


def test_annotations_without_photos(home, capsys):
    tiny.write_coco(home / "data" / "recycle", photos=False)
    status, card, files = run()
    assert (status, card["findings"], files) == (0, [], ["report.json"])
    assert card["photos_read"] == {"train": 0, "test": 0}
    said = capsys.readouterr().out
    assert "not one photo of train is there; only its annotations were checked" in said
    assert "nothing wrong was found in the annotations; photos of train and test were not checked" in said


def test_a_photo_looked_at(tmp_path):
    path = tmp_path / "a.png"
    half = np.zeros((60, 80, 3), np.uint8)
    half[:, 40:] = (255, 0, 0)
    Image.fromarray(half).save(path)
    values = dict(zip(STATISTICS, check_photo(Photo(path, 80, 60)).statistics.tolist(), strict=True))
    assert (values["width"], values["height"]) == (80, 60)
    assert values["bytes a pixel"] == path.stat().st_size / 4800
    assert values["red"] == values["spread of red"] == values["saturation"] == pytest.approx(0.5)
    assert values["green"] == values["blue"] == 0
    assert values["brightness"] == pytest.approx(0.299 / 2, abs=2e-3)  # the grey of ITU-R 601
    assert (values["darkest"], values["brightest"]) == pytest.approx((0, 0.299), abs=3e-3)
    flat = statistics(Image.new("RGB", (9, 9), (10, 10, 10)), 9)
    assert flat[STATISTICS.index("sharpness")] == 0 < values["sharpness"]


def test_delong_is_the_area_and_its_error():
    rng = np.random.default_rng(0)
    negative, positive = rng.normal(0, 1, 80).round(1), rng.normal(0.7, 1, 50).round(1)
    auc, error = delong(negative, positive)
    assert auc == pytest.approx(mannwhitneyu(positive, negative).statistic / (80 * 50))
    # The textbook's sums over all pairs.
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    assert error**2 == pytest.approx(wins.mean(1).var(ddof=1) / 50 + wins.mean(0).var(ddof=1) / 80)


def test_splits_that_differ_are_told_apart_and_alike_ones_are_not():
    rng = np.random.default_rng(3)
    train, test = rng.normal(size=(80, 3)), rng.normal(size=(60, 3))
    same = compare_splits(train, test, ("a", "b", "c"))
    assert same.low <= 0.5 and same.verdict == "test looks like train"
    test[:, 1] += 2.5
    other = compare_splits(train, test, ("a", "b", "c"))
    assert other.low > 0.85 and other.high <= 1 and other.verdict == "test differs from train"
    assert other.top_features[0] == "b"
    assert compare_splits(train, test[:19], ("a", "b", "c")) is None


def test_the_real_blood_cells(home, shared_data):
    status, card, files = run("bccd", "--root", shared_data / "bccd")
    rows = found(card)
    assert status == 0
    assert rows["boxes without area", "train"] == ["BloodImage_00338#12", "BloodImage_00343#3"]
    assert rows["near-duplicate pairs, at most 56 of 256 bits apart", "train"] == [
        "BloodImage_00037.jpg = BloodImage_00038.jpg"
    ]
    assert files == ["pairs-train.png", "report.json", "sheet.png"]
    assert card["images"] == card["photos_read"] == {"train": 292, "test": 72}
