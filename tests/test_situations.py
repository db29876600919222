"""Situations that people reported in public, each made in small, with the value that is right.

Where COCO's own code, Pillow or a sum by hand gives the value, the test says so.
"""

import io
import json
import re
import unicodedata
from contextlib import redirect_stdout

import competitions
import numpy as np
import pandas as pd
import pytest
import tiny
import yaml
from PIL import Image
from pycocotools.coco import COCO

from pipeline import check_data, convert, folds
from pipeline import evaluate as scores
from pipeline import predict as predict_stage
from pipeline import train as train_stage
from pipeline.data import profile as profiles
from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.photos import (
    Photo,
    check_photos,
    load_photo,
    photos_of,
    refuse_small,
    stage_photos,
    staged_suffix,
)
from pipeline.data.predictions import read_predictions
from pipeline.data.profile import load_profile
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv, runs_dir
from pipeline.scoring.coco import evaluate
from pipeline.submissions.check import check_submission
from pipeline.submissions.layout import image_keys
from pipeline.training.fold import photo_set

WIDTH, HEIGHT = 128, 96


@pytest.fixture
def case(home, tmp_path, monkeypatch):
    """`case(**keys)` writes the profile of a competition; the value is the folder of its data."""
    monkeypatch.setattr(profiles, "CONFIGS", tmp_path / "configs")
    root = home / "data" / "case"
    root.mkdir(parents=True)

    def write(**keys):
        values = {
            "title": "Case",
            "format": "coco",
            "train": {"annotations": "train.json"},
            "test": {"annotations": "test.json"},
            "classes": ["cell", "bubble"],
        }
        path = tmp_path / "configs/competitions/case.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(values | keys, allow_unicode=True))
        return root

    return write


def load(split="train", strict=True):
    return load_dataset(load_profile("case"), split, strict)


def coco(root, count=4, split="train", classes=("cell", "bubble"), change=None, photos=False):
    """`count` images with a box of each class at (10, 10, 30, 26) and (50, 10, 30, 26)."""
    images = [
        {"id": i + 1, "file_name": f"im{i}.jpg", "width": WIDTH, "height": HEIGHT} for i in range(count)
    ]
    boxes = [
        {"id": 2 * i + c + 1, "image_id": i + 1, "category_id": c + 1, "bbox": [10 + 40 * c, 10, 30, 26]}
        for i in range(count)
        for c in range(len(classes))
    ]
    content = {
        "images": images,
        "annotations": [box | {"area": 780, "iscrowd": 0} for box in boxes] if split == "train" else [],
        "categories": [{"id": c + 1, "name": name} for c, name in enumerate(classes)],
    }
    if change:
        change(content)
    tiny.write_json(root / f"{split}.json", content)
    for i, image in enumerate(content["images"] if photos else []):
        tiny.write_photo(root / image["file_name"], WIDTH, HEIGHT, seed=i)
    return content


def run(main, *options):
    """What a stage printed, and its status."""
    out = io.StringIO()
    with redirect_stdout(out):
        status = main(["--competition", "case", *map(str, options)])
    return out.getvalue(), status


def report():
    return json.loads((runs_dir("case") / "data/report.json").read_text())


def corners(dataset):
    return dataset.annotations[["x1", "y1", "x2", "y2"]].to_numpy().tolist()


# Files and their lines


def voc(case, **keys):
    split = {"annotations": "Annotations", "photos": "JPEGImages"}
    return case(
        format="voc",
        train=split | {"image_sets": ["train.txt"]},
        test=split | {"image_sets": ["test.txt"]},
        classes=["leaf", "stem"],
        **keys,
    )


def write_voc(root, names, train, test, photos=False):
    """Xml files of a name -> the file name that they state; two boxes each."""
    boxes = [("leaf", [10, 10, 40, 36]), ("stem", [50, 10, 80, 36])]
    (root / "Annotations").mkdir(exist_ok=True)
    (root / "JPEGImages").mkdir(exist_ok=True)
    for stem, file_name in names.items():
        (root / f"Annotations/{stem}.xml").write_text(tiny.voc_xml(file_name, boxes, (WIDTH, HEIGHT)))
        if photos:
            tiny.write_photo(root / f"JPEGImages/{stem}.jpg", WIDTH, HEIGHT)
    (root / "train.txt").write_text(train, encoding="utf-8")
    (root / "test.txt").write_text(test, encoding="utf-8")


def test_image_sets_name_photos_with_spaces(case):
    root = voc(case)
    names = ["Compound Leaves 01", "Compound Leaves 02", "plain04", "plain05"]
    lists = "Compound Leaves 01\nplain04 -1\nplain05  1\n", "Compound Leaves 02\n"
    write_voc(root, {name: f"{name}.jpg" for name in names}, *lists)
    assert load().images["file_name"].tolist() == ["Compound Leaves 01.jpg", "plain04.jpg", "plain05.jpg"]
    assert np.bincount(load().annotations["label"]).tolist() == [3, 3]
    assert load("test").images["file_name"].tolist() == ["Compound Leaves 02.jpg"]


def test_an_image_set_that_names_photos_without_xml_is_refused_in_train(case):
    root = voc(case)
    write_voc(root, {"a": "a.jpg"}, "a\nb c\n", "a\n")
    with pytest.raises(PipelineError, match=r"1 of 2 images would be left out: 1 stems without .*: b c\. "):
        load()


def test_voc_names_without_a_suffix_get_that_of_the_photo(case):
    root = voc(case, submission={"image": "{stem}"})
    stems = ["2024.05.01_shot", "Blood_00", "2024.05.02_shot", "Blood_03"]
    write_voc(root, {stem: stem for stem in stems}, "\n".join(stems[:2]), "\n".join(stems[2:]))
    tiny.write_photo(root / "JPEGImages/Blood_00.png", WIDTH, HEIGHT)
    assert load().images["file_name"].tolist() == ["2024.05.01_shot.jpg", "Blood_00.png"]
    assert load().findings.kinds == {}
    test = load("test")
    assert test.images["file_name"].tolist() == ["2024.05.02_shot.jpg", "Blood_03.jpg"]
    assert image_keys(load_profile("case"), test.images) == ["2024.05.02_shot", "Blood_03"]


def test_a_test_set_of_voc_needs_no_xml(case):
    root = voc(case)
    write_voc(root, {"a": "a.jpg"}, "a\n", "b 1\n")
    tiny.write_photo(root / "JPEGImages/b 1.png", 40, 30)
    images = load("test").images
    assert images[["file_name", "width", "height"]].to_numpy().tolist() == [["b 1.png", 40, 30]]


def csv(case, train="image,x,y,w,h", box=("x", "y", "w", "h"), size=(WIDTH, HEIGHT), **columns):
    spec = {"image": "image", "file": "{image}.jpg", "size": list(size)}
    root = case(
        format="csv",
        train={"annotations": "train.csv", "columns": spec | {"box": list(box)} | columns},
        test={"annotations": "test.csv", "columns": spec},
        classes=["wheat"],
    )
    (root / "test.csv").write_text("image\ntest1\n")
    (root / "train.csv").write_text(train)
    return root


ROWS = "101,10,12,40,38\n102,20,12,40,38\n103,30,12,40,38\n104,5,12,40,38\n"


def test_a_comma_at_the_end_of_every_row_shifts_no_column(case):
    csv(case, "image,x,y,w,h\n" + ROWS.replace("\n", ",\n"))
    assert load().images["file_name"].tolist() == ["101.jpg", "102.jpg", "103.jpg", "104.jpg"]
    assert corners(load())[0] == [10, 12, 50, 50]
    assert len(load().annotations) == 4


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS + "105,10", "row 6 has 2 cells, the header 5; is the file cut off"),
        (ROWS + "105,10,1,1,1,1\n", "row 6 has 6 cells, the header 5"),
        (ROWS.replace("\n", ",7\n"), "row 2 has 6 cells, the header 5"),
        (ROWS + ",10,1,1,1\n", "row 6: no image"),
    ],
)
def test_a_csv_that_is_cut_or_shifted_is_refused(case, rows, message):
    csv(case, "image,x,y,w,h\n" + rows)
    with pytest.raises(PipelineError, match=r"train\.csv: " + message):
        load()


def test_rows_of_nothing_but_commas_are_left_out(case):
    csv(case, "image,x,y,w,h\n" + ROWS + ",,,,\n\n,,,,\n")
    assert load().images["file_name"].tolist() == ["101.jpg", "102.jpg", "103.jpg", "104.jpg"]


def test_names_that_pandas_takes_for_nothing_are_names(case):
    csv(case, "image,x,y,w,h\nNA,1,1,9,9\nnull,1,1,9,9\nNone,1,1,9,9\nnan,1,1,9,9\n")
    assert load().images["file_name"].tolist() == ["NA.jpg", "None.jpg", "nan.jpg", "null.jpg"]


@pytest.mark.parametrize("flags", [("1", "0"), ("1.0", "0.0"), ("True", "False"), (" true", "")])
def test_a_flag_is_read_however_it_is_spelled(case, flags):
    yes, no = flags
    csv(case, f"image,x,y,w,h,group\n1,1,1,9,9,{yes}\n1,20,1,9,9,{no}\n", crowd="group")
    assert load().annotations["iscrowd"].tolist() == [1, 0]


def test_what_is_no_flag_is_refused(case):
    csv(case, "image,x,y,w,h,group\n1,1,1,9,9,0\n1,20,1,9,9,often\n", crowd="group")
    with pytest.raises(PipelineError, match=r"train\.csv: row 3: group 'often', expected 1 or 0"):
        load()


@pytest.mark.parametrize("flag", [1, 1.0, True, "1", "true"])
def test_a_flag_of_coco_is_read_however_it_is_spelled(case, flag):
    coco(case(), change=lambda value: value["annotations"][0].update(iscrowd=flag))
    assert load().annotations["iscrowd"].tolist() == [1] + [0] * 7


def test_a_byte_order_mark_is_skipped(case, home):
    root = case()
    for split in ("train", "test"):
        coco(root, split=split)
        path = root / f"{split}.json"
        path.write_text(path.read_text(), encoding="utf-8-sig")
    assert len(load().annotations) == 8
    detection = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 26], "score": 0.9}
    (home / "r.json").write_text(json.dumps([detection]), encoding="utf-8-sig")
    run(convert.main, home / "r.json", home / "t.parquet", "--split", "test")
    assert read_predictions(home / "t.parquet").image_id.tolist() == [1]
    root = voc(case)
    write_voc(root, {name: f"{name}.jpg" for name in "ab"}, "\ufeffa\nb\n", "b\n")
    assert load().images["file_name"].tolist() == ["a.jpg", "b.jpg"]


# COCO as tools write it


@pytest.mark.parametrize("key", ["image_id", "category_id"])
@pytest.mark.parametrize("kind", [str, float])
def test_ids_of_another_type_are_the_same_ids(case, key, kind):
    coco(
        case(),
        change=lambda value: [item.update({key: kind(item[key])}) for item in value["annotations"]],
    )
    assert np.bincount(load().annotations["label"]).tolist() == [4, 4]
    assert [len(where) for where in load().findings.kinds.values()] == [8] * (kind is str)  # a note


def test_boxes_written_as_text_are_numbers(case):
    coco(
        case(),
        change=lambda value: [
            item.update(bbox=[str(v) for v in item["bbox"]]) for item in value["annotations"]
        ],
    )
    assert corners(load())[0] == [10, 10, 40, 36]


def test_folds_of_a_file_that_loses_its_boxes_are_not_written(case):
    coco(case(), change=lambda value: [item.update(image_id="x") for item in value["annotations"]])
    with pytest.raises(
        PipelineError,
        match=r"8 of 8 boxes would be left out: 8 boxes of image ids .* accept_losses: {boxes: 8,",
    ):
        run(folds.main, "--folds", 2)
    assert not folds_csv("case").exists()


def test_losses_that_the_profile_accepts_are_taken_and_no_more(case):
    def lose(value):
        for item in value["annotations"][:3]:
            item["image_id"] = "x"

    root = case()
    coco(root, change=lose)
    with pytest.raises(PipelineError, match="3 of 8 boxes would be left out"):
        load()
    case(accept_losses={"boxes": 3, "why": "the photos are lost"})
    assert len(load().annotations) == 5
    case(accept_losses={"boxes": 2, "why": "the photos are lost"})
    with pytest.raises(PipelineError, match="3 of 8 boxes would be left out"):
        load()


@pytest.mark.parametrize("form", ["missing", "empty"])
@pytest.mark.parametrize("outline", ["polygon", "two polygons", "counts", "compressed"])
def test_boxes_are_the_extent_of_their_outlines(case, form, outline):
    def outlined(value):
        for item in value["annotations"]:
            x, y, w, h = item.pop("bbox")
            mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
            mask[y : y + h, x : x + w] = 1
            if outline == "polygon":
                item["segmentation"] = [[x, y, x + w, y + 3, x + 5, y + h]]
            elif outline == "two polygons":
                item["segmentation"] = [
                    [x, y, x + 1, y, x, y + 1],
                    [x + w, y + h, x + 9, y + 9, x + 9, y + h],
                ]
            else:
                from pycocotools import mask as masks

                item["segmentation"] = masks.encode(mask) | {"size": [HEIGHT, WIDTH]}
                item["segmentation"]["counts"] = item["segmentation"]["counts"].decode()
            if outline == "counts":
                flat = mask.ravel(order="F")
                edges = np.flatnonzero(np.diff(flat)) + 1
                item["segmentation"]["counts"] = np.diff([0, *edges, flat.size]).tolist()
            if form == "empty":
                item["bbox"] = []

    coco(case(), change=outlined)
    assert corners(load()) == [[10, 10, 40, 36], [50, 10, 80, 36]] * 4
    assert [len(where) for where in load().findings.kinds.values()] == [8]


def test_a_voc_polygon_without_a_box_is_its_extent(case):
    root = voc(case)
    write_voc(root, {"a": "a.jpg"}, "a\n", "a\n")
    path = root / "Annotations/a.xml"
    box = "<bndbox><xmin>10</xmin><ymin>10</ymin><xmax>40</xmax><ymax>36</ymax></bndbox>"
    polygon = "<polygon><x1>10</x1><y1>12</y1><x2>40</x2><y2>10</y2><x3>11</x3><y3>36</y3></polygon>"
    path.write_text(path.read_text().replace(box, polygon))
    assert corners(load())[0] == [10, 10, 40, 36]


def test_corners_in_a_coco_bbox_are_noticed_and_can_be_stated(case):
    def as_corners(value):
        for item in value["annotations"]:
            x, y, w, h = item["bbox"]
            item["bbox"] = [x + 40, y + 40, x + 40 + w, y + 40 + h]  # inside the photo as corners only

    coco(case(), change=as_corners)
    message = "8 of 8 boxes reach outside .* as x y width height, and none does as x1 y1 x2 y2; .* xyxy: true"
    with pytest.raises(PipelineError, match=message):
        load()
    case(xyxy=True)
    assert corners(load())[0] == [50, 50, 80, 76]


def test_corners_in_a_csv_that_should_hold_sizes_and_the_other_way(case):
    rows = "".join(f"{i},{60 + i},{50 + i},{100 + i},{80 + i}\n" for i in range(8))
    csv(case, "image,x,y,w,h\n" + rows)
    with pytest.raises(PipelineError, match="8 of 8 boxes reach outside"):
        load()
    csv(case, "image,x,y,w,h\n" + rows, xyxy=True)
    assert corners(load())[0] == [60, 50, 100, 80]
    csv(case, "image,x,y,w,h\n" + "".join(f"{i},60,50,20,10\n" for i in range(8)), xyxy=True)
    with pytest.raises(PipelineError, match="8 of 8 boxes have corners out of order, and nearly all fit"):
        load()


def test_annotations_in_shares_of_the_photo_are_noticed_and_pixels_where_shares_are_stated(case):
    def as_shares(value):
        for item in value["annotations"]:
            item["bbox"] = [0.1, 0.1, 0.3, 0.3]

    coco(case(), change=as_shares)
    with pytest.raises(PipelineError, match="all 8 boxes lie inside one pixel, so they are shares"):
        load()
    csv(case, "image,x,y,w,h\n" + ROWS, normalized=True)
    with pytest.raises(
        PipelineError, match="nearly all of 4 boxes lie far outside their photo and fit it as pix"
    ):
        load()


def test_a_test_file_of_images_only_is_enough(case, home):
    root = case()
    coco(root)
    coco(root, 2, "test", change=lambda value: [value.pop(key) for key in ("categories", "annotations")])
    assert load("test").category_ids == (1, 2)
    (home / "s.csv").write_text("PredictionString,image_id\n1 0.9 10 10 40 36,im0.jpg\n,im1.jpg\n")
    run(convert.main, home / "s.csv", home / "t.parquet", "--split", "test")
    run(convert.main, home / "t.parquet", home / "r.json", "--split", "test")
    assert [item["category_id"] for item in json.loads((home / "r.json").read_text())] == [2]
    coco(root, change=lambda value: value.pop("categories"))
    with pytest.raises(PipelineError, match=r"train\.json: no list 'categories'"):
        load()


IDS = {
    "text": ["0001", "0002", "0003"],
    "large": [1700000000000, 1700000000001, 1700000000002],
    "mixed": [0, 1, 9000000000],
    "small": [3, 1, 2],
}


@pytest.mark.parametrize("kind", IDS)
def test_results_carry_the_image_ids_of_the_file(case, home, kind):
    """Files sort z, y, x: numbered by name, every id would be another photo's."""
    ids = IDS[kind]

    def renumber(value):
        for image, name in zip(value["images"], "zyx", strict=True):
            image["file_name"] = f"{name}.jpg"
        for item in value["annotations"]:
            item["image_id"] = ids[item["image_id"] - 1]
            item["bbox"][0] += 3 * ids.index(item["image_id"])
        for image in value["images"]:
            image["id"] = ids[image["id"] - 1]

    root = case(submission={"image": "{image_id}"})
    content = coco(root, 3, change=renumber)
    results = [
        {key: item[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
        for item in content["annotations"]
    ]
    tiny.write_json(home / "r.json", results)
    run(convert.main, home / "r.json", home / "t.parquet", "--split", "oof")
    table = read_predictions(home / "t.parquet")
    assert evaluate(table, load().annotations, ("cell", "bubble"))["map50"] == 1.0
    run(convert.main, home / "t.parquet", home / "back.json", "--split", "oof")
    written = json.loads((home / "back.json").read_text())
    assert sorted(map(str, written)) == sorted(
        map(str, [item | {"bbox": [*map(float, item["bbox"])]} for item in results])
    )
    with redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "train.json"))
        assert len(truth.loadRes(str(home / "back.json")).getAnnIds()) == 6
    run(convert.main, home / "t.parquet", home / "s.csv", "--split", "oof")
    rows = (home / "s.csv").read_text().splitlines()[1:]
    assert [row.rpartition(",")[2] for row in rows] == list(map(str, ids))
    (home / "folds.csv").write_text("image_id,fold\n" + "".join(f"{i},{k}\n" for k, i in enumerate(ids)))
    run(convert.main, home / "s.csv", home / "u.parquet", "--split", "oof", "--folds", home / "folds.csv")
    names = load().images.set_index("image_id")["file_name"]
    meta = read_predictions(home / "u.parquet").meta
    assert dict(zip(names[meta.image_ids], meta.folds.tolist(), strict=True)) == {
        "z.jpg": 0,
        "y.jpg": 1,
        "x.jpg": 2,
    }


# Photos


def test_a_photo_of_another_video_is_not_taken_for_a_missing_one(case, capsys):
    spec = {"image": "image", "file": "video_{video}/{frame}.jpg", "size": [WIDTH, HEIGHT]}
    root = case(
        format="csv",
        train={"annotations": "train.csv", "photos": "in", "columns": spec | {"box": ["box"]}},
        test={"annotations": "test.csv", "photos": "in", "columns": spec},
        classes=["starfish"],
    )
    frames = [(0, 17), (0, 18), (1, 17)]
    rows = "".join(
        f"{v}-{f},{v},{f},\"[{{'x': 9, 'y': 9, 'width': 30, 'height': 20}}]\"\n" for v, f in frames
    )
    (root / "train.csv").write_text("image,video,frame,box\n" + rows)
    (root / "test.csv").write_text("image,video,frame\n1-18,1,18\n")
    for seed, name in enumerate(["0/17", "1/17", "1/18"]):
        tiny.write_photo(root / f"in/video_{name}.jpg", WIDTH, HEIGHT, seed=seed)
    profile = load_profile("case")
    photos = photos_of(profile, "train", load().images)
    assert [photo.path.is_file() for photo in photos] == [True, False, True]
    assert run(check_data.main)[1] == 1
    missing = [row["where"] for row in report()["findings"] if row["what"] == "photos missing"]
    assert missing == [["video_0/18.jpg"]]


@pytest.mark.parametrize(
    ("files", "names", "expected"),
    [
        (["b.png"], ["a.jpg", "b.jpg"], [None, "b.png"]),
        (["b.PNG"], ["b.jpg"], ["b.PNG"]),
        (["b"], ["b.jpg"], ["b"]),
        (["b.jpg"], ["b"], ["b.jpg"]),
        (["b.png"], ["b.jpg", "b.png"], [None, "b.png"]),  # another image's own
        (["b.webp"], ["b.jpg", "b.png"], [None, None]),  # of which of the two?
        (["s/b.jpg"], ["b.jpg"], ["s/b.jpg"]),
        (["s/b.jpg", "t/b.jpg"], ["b.jpg"], [None]),
        (["s/b.jpg"], ["s/b.jpg", "b.jpg"], ["s/b.jpg", None]),
        (["s/t/b.png"], ["s/b.jpg"], ["s/t/b.png"]),
        (["st/b.png"], ["s/b.jpg"], [None]),
        (["s/b.jpg", "s/b.json"], ["s\\b.jpg"], ["s/b.jpg"]),
    ],
)
def test_what_stands_in_for_a_photo(case, files, names, expected):
    root = csv(case, "image\n" + "".join(f"{name}\n" for name in names), box=(), file="{image}")
    for name in files:
        tiny.write_photo(root / "photo.png", WIDTH, HEIGHT)
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / "photo.png").rename(root / name)
    images = load().images.sort_values("position")
    photos = photos_of(load_profile("case"), "train", images)
    found = [photo.path.relative_to(root).as_posix() if photo.path.exists() else None for photo in photos]
    assert found == expected


@pytest.mark.parametrize(("json_form", "disk_form"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_korean_names_in_the_other_unicode_form_are_found(case, json_form, disk_form):
    names = ["쓰레기_01.jpg", "컵 사진.jpg", "폴더/병.jpg", "plain.jpg"]
    root = case(classes=[unicodedata.normalize(disk_form, name) for name in ("컵", "병")])

    def rename(value):
        for image, name in zip(value["images"], names, strict=True):
            image["file_name"] = unicodedata.normalize(json_form, name)

    classes = [unicodedata.normalize(json_form, name) for name in ("컵", "병")]
    coco(root, classes=classes, change=rename)
    plain = {"file_name": "plain.jpg"}
    coco(root, 1, "test", classes, change=lambda value: value["images"][0].update(plain))
    for seed, name in enumerate(names):
        tiny.write_photo(root / unicodedata.normalize(disk_form, name), WIDTH, HEIGHT, seed=seed)
    assert run(check_data.main)[1] == 0
    assert not [row for row in report()["findings"] if row["what"] == "photos missing"]
    assert np.bincount(load().annotations["label"]).tolist() == [4, 4]


def test_an_image_set_in_the_other_unicode_form_finds_its_xml(case):
    root = voc(case)
    stem = unicodedata.normalize("NFD", "병 1")
    write_voc(root, {stem: f"{stem}.jpg", "a": "a.jpg"}, unicodedata.normalize("NFC", "병 1\na\n"), "a\n")
    assert len(load().images) == 2
    assert load().findings.kinds == {}


def test_names_with_the_slashes_of_windows(case):
    root = case(submission={"image": "{stem}"})
    for split in ("train", "test"):
        content = coco(root, 2, split)
        for image in content["images"]:
            tiny.write_photo(root / "images" / image["file_name"], WIDTH, HEIGHT)
            image["file_name"] = f"images\\{image['file_name']}"
        tiny.write_json(root / f"{split}.json", content)
    profile, test = load_profile("case"), load("test")
    assert image_keys(profile, test.images) == ["im0", "im1"]
    assert all(photo.path.is_file() for photo in photos_of(profile, "test", test.images))


@pytest.mark.parametrize("size", [{"width": 0, "height": 0}, {"width": ""}, None])
def test_a_test_image_without_a_size_stays_in_the_test_set(case, size):
    def change(value):
        for key in ("width", "height") if size is None else ():
            del value["images"][2][key]
        value["images"][2].update(size or {})

    root = case()
    coco(root)
    coco(root, split="test", change=change, photos=True)
    images = load("test").images
    assert images[["file_name", "width", "height"]].to_numpy().tolist()[2] == ["im2.jpg", WIDTH, HEIGHT]
    assert len(images) == 4
    (root / "im2.jpg").unlink()
    case(accept_losses={"images": 9, "why": "not of a test set"})
    with pytest.raises(
        PipelineError, match=r"test\.json: 1 of 4 images would be left out: 1 images without a"
    ):
        load("test")


def test_dicoms_of_other_machines(case):
    columns = {"image": "image", "file": "{image}.dicom", "sizes": "meta.csv"}
    box = {"box": ["x1", "y1", "x2", "y2"], "xyxy": True}
    root = case(
        format="csv",
        train={"annotations": "train.csv", "photos": "in", "columns": columns | box},
        test={"annotations": "test.csv", "photos": "in", "columns": columns},
        classes=["mass"],
    )
    names = ["plain", "no-preamble", "window-zero", "no-pixels"]
    (root / "train.csv").write_text(
        "image,x1,y1,x2,y2\n" + "".join(f"{name},20,10,40,30\n" for name in names)
    )
    (root / "test.csv").write_text("image\nplain\n")
    pixels = np.full((48, 64), 100, np.uint16)
    pixels[0, 0], pixels[10:30, 20:40] = 90, 900
    competitions.write_dicom(root / "in/plain.dicom", pixels)
    write_dicoms(root / "in", pixels)
    expected = load_photo(Photo(root / "in/plain.dicom", 64, 48))
    assert (expected[20, 30, 0], expected[40, 60, 0]) == (255, round(10 / 810 * 255))
    for name in names[1:3]:
        np.testing.assert_array_equal(load_photo(Photo(root / f"in/{name}.dicom", 64, 48)), expected)
    with pytest.raises(
        PipelineError, match=r"not a readable photo \(\d+ bytes, a DICOM file without pixels\)"
    ):
        load_photo(Photo(root / "in/no-pixels.dicom", 64, 48))
    assert run(check_data.main)[1] == 1
    bad = [row["where"] for row in report()["findings"] if row["stops_training"]]
    assert bad == [["no-pixels.dicom"]]


def write_dicoms(folder, pixels):
    """The photo plain.dicom as other machines write it."""
    import pydicom

    data = pydicom.dcmread(folder / "plain.dicom")
    data.WindowWidth, data.WindowCenter = "0", "0"
    data.save_as(folder / "window-zero.dicom")
    data = pydicom.dcmread(folder / "plain.dicom")
    del data.PixelData
    data.save_as(folder / "no-pixels.dicom")
    data = pydicom.dcmread(folder / "plain.dicom")
    bare = pydicom.Dataset(data)
    pydicom.dcmwrite(folder / "no-preamble.dicom", bare, implicit_vr=True, little_endian=True)


# Groups and times


def test_groups_that_pandas_takes_for_nothing_are_groups(case, home):
    coco(case(), 8)
    sites = ["NA"] * 4 + ["EU"] * 2 + ["None"] * 2
    rows = "".join(f"im{i}.jpg,{site}\n" for i, site in enumerate(sites))
    (home / "sites.csv").write_text("file_name,group\n" + rows)
    said, _ = run(folds.main, "--folds", 2, "--strategy", "groups", "--groups", f"csv:{home / 'sites.csv'}")
    assert "3 groups kept whole" in said
    table = pd.read_csv(folds_csv("case"))
    assert table["group"].tolist() == [1, 1, 1, 1, 5, 5, 7, 7]
    assert table.groupby("group")["fold"].nunique().max() == 1


def times(kind):
    """Nine photos in three bursts of three, 5 s apart, an hour between."""
    seconds = [1682935200 + 3600 * (i // 3) + 5 * (i % 3) for i in range(9)]
    return {
        "zero": [0] * 9,
        "export": ["2023-05-01 10:00:00"] * 9,
        "unix": seconds,
        "unix as text": list(map(str, seconds)),
        "exif": [pd.Timestamp(second, unit="s").strftime("%Y:%m:%d %H:%M:%S") for second in seconds],
    }[kind]


@pytest.mark.parametrize("kind", ["zero", "export", "unix", "unix as text", "exif"])
def test_capture_times_as_tools_write_them(case, kind):
    coco(
        case(),
        9,
        change=lambda value: [
            image.update(date_captured=time) for image, time in zip(value["images"], times(kind), strict=True)
        ],
    )
    said, _ = run(folds.main, "--folds", 3)
    assert ("bursts" in said) == (kind not in ("zero", "export"))
    if kind in ("zero", "export"):
        with pytest.raises(
            PipelineError, match="no image has a date_captured of its own, so bursts cannot be found"
        ):
            run(folds.main, "--folds", 3, "--strategy", "groups", "--overwrite")
        return
    said, _ = run(folds.main, "--folds", 3, "--strategy", "groups", "--overwrite")
    assert "0 of 6 photos" in said
    assert "3 groups kept whole" in said


def test_a_gif_opens(tmp_path):
    Image.new("RGB", (8, 8), "white").save(tmp_path / "a.gif")
    assert (load_photo(Photo(tmp_path / "a.gif", 8, 8)) == 255).all()


def deep(path, ground, thing):
    """A photo of 64 x 48 of rising grey levels from ground to ground + 400, and a bright thing in it."""
    levels = np.linspace(ground, ground + 400, 64 * 48).reshape(48, 64)
    levels[10:30, 20:40] = thing
    if path.suffix == ".tif" and thing < 2:
        Image.fromarray(levels.astype(np.float32)).save(path)
    elif "big" in path.name:
        Image.frombytes("I;16B", (64, 48), levels.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(levels.astype(np.uint16)).save(path)


@pytest.mark.parametrize("name", ["a.png", "big.tif", "b.tif"])
def test_photos_of_16_bits_keep_their_levels(tmp_path, name):
    path = tmp_path / name
    deep(path, 1000, 2500)
    pixels = load_photo(Photo(path, 64, 48))
    assert (pixels[10:30, 20:40] == 255).all()
    assert np.unique(pixels).size >= 50
    grey = np.delete(
        pixels[..., 0].ravel(), np.ravel_multi_index(np.ix_(range(10, 30), range(20, 40)), (48, 64))
    )
    assert (np.diff(grey.astype(int)) >= 0).all()  # the order of the levels
    findings = Findings("photos")
    assert check_photos([Photo(path, 64, 48)], findings) == {path}
    assert list(findings.kinds) == [
        "photos of more than 8 bits of grey, spread from darkest to brightest over 8 bits"
    ]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_photos_of_floats_keep_their_levels(tmp_path, odd):
    values = np.linspace(0.2, 0.9, 64 * 48, dtype=np.float32).reshape(48, 64)
    values[0, 0] = odd
    Image.fromarray(values).save(tmp_path / "a.tif")
    pixels = load_photo(Photo(tmp_path / "a.tif", 64, 48))
    assert np.unique(pixels).size == 256
    assert pixels[-1, -1, 0] == 255
    assert load_photo(Photo(tmp_path / "a.tif", 32, 24)).shape == (24, 32, 3)  # scaled


def test_a_photo_above_the_limit_of_pixels_says_so(case, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    root = case()
    large = {"width": 500, "height": 450}
    for split in ("train", "test"):
        coco(root, 2, split, change=lambda value: value["images"][0].update(large), photos=True)
    tiny.write_photo(root / "im0.jpg", 500, 450)
    with pytest.raises(
        PipelineError, match=r"has 225,000 pixels, the limit is 200,000; cut it into tiles or"
    ):
        load_photo(Photo(root / "im0.jpg", 500, 450))
    said, status = run(check_data.main)
    assert status == 1
    assert "has 225,000 pixels, the limit is 200,000; cut it into tiles or scale it" in said
    assert "unreadable" not in said


@pytest.mark.parametrize(
    ("name", "kind", "suffix"),
    [
        ("a.jfif", "JPEG", ".jpg"),
        ("a.jpe", "JPEG", ".jpg"),
        ("a", "JPEG", ".jpg"),
        ("a.JPG", "JPEG", ".jpg"),
        ("a", "PNG", ".png"),
        ("a.photo", "WEBP", ".webp"),
        ("a.gif", "GIF", ".png"),
        ("a.ppm", "PPM", ".png"),
    ],
)
def test_frameworks_get_a_suffix_that_they_take(tmp_path, name, kind, suffix):
    grey = np.arange(WIDTH * HEIGHT, dtype=np.uint32).reshape(HEIGHT, WIDTH).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / name, format=kind)
    photo = Photo(tmp_path / name, WIDTH, HEIGHT)
    repaired = check_photos([photo], Findings("photos"))
    assert staged_suffix(photo, repaired) == suffix
    target = tmp_path / f"out/7{suffix}"
    stage_photos([photo], [target], repaired)
    np.testing.assert_array_equal(np.asarray(Image.open(target).convert("RGB")), load_photo(photo))


def test_small_photos_are_named_before_a_training_begins(case):
    root = case()
    small = {"width": 8, "height": 40}
    for split in ("train", "test"):
        coco(root, 2, split, change=lambda value: value["images"][1].update(small), photos=True)
    tiny.write_photo(root / "im1.jpg", 8, 40)
    photos = photos_of(load_profile("case"), "test", load("test").images)
    with pytest.raises(
        PipelineError, match=r"YOLO takes no photo with a side under 10 pixels: im1\.jpg \(8 x 40\); "
    ):
        refuse_small(photos, 10, "YOLO")
    refuse_small(photos, 8, "YOLO")
    assert "ultralytics (YOLO) takes none of them" in run(check_data.main)[0]


# Crowds, shares, submissions, unlisted photos


def crowded(case, count=4):
    root = case()
    for split in ("train", "test"):
        coco(root, count, split, change=lambda value: [x.update(iscrowd=1) for x in value["annotations"]])
    return root


def test_boxes_that_are_all_crowds_are_nothing_to_learn_or_score(case, home):
    crowded(case)
    note = "8 of 8 boxes are crowds (iscrowd), which no training learns and no score counts"
    assert note in run(folds.main, "--k", 2)[0]
    printed, status = run(check_data.main)
    assert note in printed and "nothing wrong" not in printed and status == 1
    card = json.loads(folds_csv("case").with_suffix(".json").read_text())
    assert card["boxes"] == [0, 0]
    assert report()["classes"]["all"]["boxes"] == 0
    profile, train = load_profile("case"), load()
    split = read_split("case", train)
    with pytest.raises(
        PipelineError, match=r"its train part has no box but 4 crowds \(iscrowd\); nothing to lea"
    ):
        photo_set(profile, train, split, 0, held_out=False)
    detections = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 26], "score": 0.9}]
    tiny.write_json(home / "r.json", detections)
    run(convert.main, home / "r.json", home / "t.parquet", "--split", "oof")
    with pytest.raises(
        PipelineError, match=r"no true box on its 1 images but 2 crowds \(iscrowd\), which no sc"
    ):
        run(scores.main, home / "t.parquet")


def test_a_submission_in_shares_of_the_photo_is_noticed(case, home):
    root = case()
    for split in ("train", "test"):
        coco(root, 4, split)
    rows = "".join(f"0 0.9 0.1 0.1 0.4 0.4 1 0.8 0.5 0.5 0.9 0.9,im{i}.jpg\n" for i in range(4))
    (home / "s.csv").write_text("PredictionString,image_id\n" + rows)
    message = "all 8 boxes lie inside one pixel, so they are shares"
    checked = check_submission(home / "s.csv", load_profile("case"), load("test"))
    assert [fault.what[: len(message)] for fault in checked.errors] == [message]
    with pytest.raises(PipelineError, match=message):
        run(convert.main, home / "s.csv", home / "t.parquet", "--split", "test")
    results = [
        {"image_id": i + 1, "category_id": 1, "bbox": [0.1, 0.1, 0.5, 0.5], "score": 0.9} for i in range(4)
    ]
    tiny.write_json(home / "r.json", results)
    with pytest.raises(PipelineError, match="all 4 boxes lie inside one pixel"):
        run(convert.main, home / "r.json", home / "t.parquet", "--split", "test")
    (home / "s.csv").write_text("PredictionString,image_id\n" + rows.replace("0.4 0.4", "40 40"))
    checked = check_submission(home / "s.csv", load_profile("case"), load("test"))
    assert (checked.errors, checked.warnings) == ([], [])


def test_the_csv_of_another_team(case, home):
    root = case()
    for split in ("train", "test"):
        coco(root, 2, split)
    rows = ["0 0.9 10 10 40 36,im0.jpg", "1 1.0000001 10 10 40 36,im1.jpg"]
    (home / "s.csv").write_text("\n".join([",PredictionString,image_id", f"0,{rows[0]}", f"1,{rows[1]}", ""]))
    checked = check_submission(home / "s.csv", load_profile("case"), load("test"))
    assert [fault.what for fault in checked.errors] == [
        "header ,PredictionString,image_id, expected PredictionString,image_id: columns too many: one "
        "without a name (pandas' index; to_csv(..., index=False) leaves it out)"
    ]
    assert [fault.what for fault in checked.warnings] == ["scores up to 1e-06 above 1"]
    said, _ = run(convert.main, home / "s.csv", home / "t.parquet", "--split", "test")
    assert "a column without a name left out" in said
    assert read_predictions(home / "t.parquet").scores.tolist() == [np.float32(0.9), 1.0]
    (home / "s.csv").write_text("PredictionString,image_id\n" + rows[0].replace("0.9", "1.00001") + "\n")
    with pytest.raises(PipelineError, match="expected a score from 0 to 1"):
        run(convert.main, home / "s.csv", home / "t.parquet", "--split", "test")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_with_commas_quotes_and_korean_letters_come_back(case, home, form):
    names = ["a,b.jpg", 'say "cheese".jpg', "컵.jpg"]

    def rename(value):
        for image, name in zip(value["images"], names, strict=True):
            image["file_name"] = name

    root = case(submission={"image": "{file_name}", "sample": "sample.csv"})
    for split in ("train", "test"):
        coco(root, 3, split, change=rename)
    boxes = [{"image_id": i + 1, "category_id": 1, "bbox": [10, 10, 30, 26], "score": 0.9} for i in range(3)]
    tiny.write_json(home / "r.json", boxes)
    sample = pd.DataFrame(
        {"PredictionString": "", "image_id": [unicodedata.normalize(form, n) for n in names]}
    )
    sample.to_csv(root / "sample.csv", index=False)
    run(convert.main, home / "r.json", home / "t.parquet", "--split", "test")
    run(convert.main, home / "t.parquet", home / "s.csv", "--split", "test")
    profile, test = load_profile("case"), load("test")
    checked = check_submission(home / "s.csv", profile, test)
    assert (checked.errors, checked.warnings) == ([], [])
    assert pd.read_csv(home / "s.csv")["image_id"].tolist() == sample["image_id"].tolist()
    run(convert.main, home / "s.csv", home / "u.parquet", "--split", "test")
    before, after = (read_predictions(home / f"{name}.parquet") for name in "tu")
    assert after.image_id.tolist() == before.image_id.tolist() == [1, 2, 3]
    assert after.boxes_xyxy.tolist() == before.boxes_xyxy.tolist()
    run(folds.main, "--k", 3)
    assert read_split("case", load()).fold.tolist() == pd.read_csv(folds_csv("case"))["fold"].tolist()
    rows = [f'"{name}",x' for name in ("a,b.jpg", 'say ""cheese"".jpg')]
    (home / "groups.csv").write_text(
        "\n".join(["file_name,group", *rows, f"{unicodedata.normalize(form, '컵.jpg')},y"])
    )
    said, _ = run(folds.main, "--k", 2, "--groups", f"csv:{home / 'groups.csv'}", "--overwrite")
    assert "1 groups kept whole" in said


def test_photos_on_which_another_tool_found_nothing(case, home):
    root = case()
    coco(root, 6)
    coco(root, 1, "test")
    truth = load().annotations
    boxes = [
        {"image_id": i, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": 0.9}
        for _, i, label, x1, y1, x2, y2, _ in truth.itertuples(index=False)
        if i in (1, 2, 3)
    ]
    tiny.write_json(home / "r.json", boxes)
    run(convert.main, home / "r.json", home / "t.parquet", "--split", "oof")
    said, _ = run(scores.main, home / "t.parquet", "-o", home / "m.json")
    assert "note: t: 3 of 6 images are not in it and not scored" in said
    rows = "".join(f"im{i}.jpg,{int(i > 2)}\n" for i in range(6))
    (home / "folds.csv").write_text("file_name,fold\n" + rows)
    run(convert.main, home / "r.json", home / "u.parquet", "--split", "oof", "--folds", home / "folds.csv")
    said, _ = run(scores.main, home / "u.parquet", "-o", home / "m.json")
    assert "not scored" not in said
    score = json.loads((home / "m.json").read_text())["scores"]["u"]
    assert evaluate(read_predictions(home / "u.parquet"), truth, ("cell", "bubble"))["map50"] == 0.50495
    assert score["map50"] == pytest.approx(51 / 101)  # half of the truth, at 101 recall points
    # Of one fold of our own split, the photos of that fold count.
    text = "image_id,file_name,fold,group\n" + "".join(f"{i + 1},im{i}.jpg,{i % 2},{i}\n" for i in range(6))
    folds_csv("case").parent.mkdir(parents=True)
    folds_csv("case").write_text(text)
    tiny.write_json(home / "r.json", [box for box in boxes if box["image_id"] in (1, 3)])
    said, _ = run(convert.main, home / "r.json", home / "v.parquet", "--split", "oof", "--fold", 0)
    assert "the 1 other images of fold 0 of" in said
    assert read_predictions(home / "v.parquet").meta.image_ids.tolist() == [1, 3, 5]


# Names


@pytest.mark.parametrize(
    ("classes", "found"),
    [("[on, off, no]", "true"), ("[0, 1, 2]", "0"), ("[cat, no]", "false"), ("[1e3]", "")],
)
def test_words_that_yaml_reads_as_something_else(case, tmp_path, classes, found):
    path = tmp_path / "configs/competitions/case.yaml"
    case()
    text = path.read_text()
    path.write_text(re.sub(r"classes:\n- cell\n- bubble\n", f"classes: {classes}\n", text))
    if not found:  # YAML 1.1 reads it as a text
        assert load_profile("case").classes == ("1e3",)
        return
    with pytest.raises(PipelineError, match=f"expected a text, found {found}: on, off, .* only in quotes"):
        load_profile("case")


def test_a_profile_with_a_byte_order_mark(case, tmp_path):
    case()
    path = tmp_path / "configs/competitions/case.yaml"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert load_profile("case").classes == ("cell", "bubble")


def test_class_names_that_a_framework_replaces_come_back(case):
    """ultralytics knows n02119789 as kit_fox where the first name begins with n0."""
    pytest.importorskip("ultralytics")
    classes = ["n02119789", "n02100735"]
    root = case(classes=classes)
    for split in ("train", "test"):
        coco(root, 4, split, classes=classes, photos=True)
    run(folds.main, "--k", 2)
    options = ["--model", "yolov5n", "--set", "pretrained=false", "--fold", "0", "--epochs", "1"]
    size = ["--image-size", "64", "--batch", "4", "--device", "cpu"]
    run(train_stage.main, *options, *size)
    run(predict_stage.main, "--model", "yolov5n", "--fold", "0", "--split", "oof", "--device", "cpu")
    table = read_predictions(runs_dir("case") / "yolov5n/fold0/oof/identity.parquet")
    assert set(table.labels.tolist()) <= {0, 1}
