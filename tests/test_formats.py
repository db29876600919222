"""Readers of the formats of annotation tools: a small folder each, with boxes worked out by hand.

Photos are 100 x 50 pixels, so that shares are read off at once; VOC, CSV and most of COCO are in
`test_readers.py` and `test_competitions.py`.
"""

import json
import re
import unicodedata

import pytest
import tiny

from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.formats.shapes import NO_NUMBERS, OUTLINED
from pipeline.data.formats.yolo import BAD_ROW
from pipeline.data.profile import Profile
from pipeline.data.specs import SplitSpec
from pipeline.errors import PipelineError

WIDTH, HEIGHT = 100, 50


def write(root, files):
    """Write texts by path, and a photo for each path without a text; returns root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            tiny.write_photo(path, WIDTH, HEIGHT)
        else:
            path.write_text(text, encoding="utf-8")
    return root


def profile_of(root, format, train, test=None, classes=("cat", "dog")):
    """A profile of a folder; train and test are the keys of their splits."""
    train_spec = SplitSpec(**train)
    test_spec = SplitSpec(**test) if test else train_spec
    return Profile("Case", format, train_spec, test_spec, name="case", root=root, classes=classes)


def boxes_of(dataset):
    """File name of each image -> its (label, x1, y1, x2, y2, iscrowd), sorted."""
    rows = dataset.annotations.merge(dataset.images[["image_id", "file_name"]], on="image_id")
    columns = ["label", "x1", "y1", "x2", "y2", "iscrowd"]
    found = {name: [] for name in dataset.images["file_name"]}
    for name, *box in rows[["file_name", *columns]].round(9).itertuples(index=False):
        found[name].append(tuple(box))
    return {name: sorted(boxes) for name, boxes in found.items()}


def refused(profile, message, split="train"):
    """The split is refused in one line that says this."""
    with pytest.raises(PipelineError, match=message) as caught:
        load_dataset(profile, split)
    assert str(caught.value).isprintable()


# YOLO

YOLO = {
    "data.yaml": "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: dog\n  1: cat\n",
    "images/train/a b.jpg": None,
    "images/train/한글.png": None,
    "images/train/v1/18.jpg": None,
    "images/train/v2/18.jpg": None,
    "images/train/none.jpg": None,
    "images/train/empty.jpg": None,
    # centre (50, 25), 20 x 20; the second row is a box as some tools write it
    "labels/train/a b.txt": "0 0.5 0.5 0.2 0.4\n1.0 .05 1e-1 0.1 0.2\n",
    "labels/train/한글.txt": "\ufeff1 0.1 0.1 0.3 0.1 0.3 0.5\n",  # an outline, after a byte order mark
    "labels/train/v1/18.txt": "1 0.5 0.5 1 1\r\n\r\n",
    "labels/train/v2/18.txt": "0 0.25 0.5 0.1 0.2",
    "labels/train/empty.txt": "\n",
    "labels/train/classes.txt": "dog\ncat\n",
    "images/val/a b.jpg": None,
    "labels/val/a b.txt": "1 0.5 0.5 0.5 0.5\n",
}
YOLO_BOXES = {
    "images/train/a b.jpg": [(0, 0, 0, 10, 10, 0), (1, 40, 15, 60, 35, 0)],
    "images/train/한글.png": [(0, 10, 5, 30, 25, 0)],
    "images/train/v1/18.jpg": [(0, 0, 0, 100, 50, 0)],
    "images/train/v2/18.jpg": [(1, 20, 20, 30, 30, 0)],
    "images/train/none.jpg": [],
    "images/train/empty.jpg": [],
}
VAL_BOXES = {"images/val/a b.jpg": [(0, 25, 12.5, 75, 37.5, 0)]}
TRAIN = {"annotations": "data.yaml", "image_sets": ("train",)}
VAL = {"annotations": "data.yaml", "image_sets": ("val",), "truth": "data.yaml"}


def test_yolo(tmp_path):
    profile = profile_of(write(tmp_path, YOLO), "yolo", TRAIN, VAL)
    train, test = load_dataset(profile, "train"), load_dataset(profile, "test")
    assert boxes_of(train) == YOLO_BOXES
    assert train.findings.kinds == {OUTLINED: ["labels/train/한글.txt:1"]}
    assert train.category_ids == (1, 0)  # the file's ids of cat and dog
    assert boxes_of(test) == {"images/val/a b.jpg": []}
    assert boxes_of(load_truth(profile, "test")) == VAL_BOXES


def test_yolo_splits_are_joined(tmp_path):
    both = {"annotations": "data.yaml", "image_sets": ("train", "val")}
    assert boxes_of(load_dataset(profile_of(write(tmp_path, YOLO), "yolo", both), "train")) == (
        YOLO_BOXES | VAL_BOXES
    )


def rooted(text):
    return YOLO | {"data.yaml": text + "names: [dog, cat]\n"}


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\n",
        "train: ../images/train\n",  # Roboflow's way
        "path: /content/data\ntrain: images/train\n",  # of another machine
        "path: images\ntrain: train\n",
        "train: images\\train\n",
        "train: [images/train/v1, images/train]\n",
        "train: train.txt\n",
        "train: list/train.txt\n",
        "nc: 2\ndownload: https://example.org\nroboflow: {project: x}\ntrain: images/train\n",
    ],
)
def test_yolo_roots_and_lists(tmp_path, text):
    names = list(YOLO_BOXES)
    lists = {"train.txt": "\n".join(names), "list/train.txt": "".join(f"./../{n}\r\n" for n in names)}
    profile = profile_of(write(tmp_path, rooted(text) | lists), "yolo", TRAIN)
    assert boxes_of(load_dataset(profile, "train")) == YOLO_BOXES


def test_roboflow_yolo(tmp_path):
    """data.yaml as exported, in the folder above train/ and valid/, with rows of boxes and of outlines."""
    files = {
        "data.yaml": "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\n"
        "names: ['cat', 'dog']\n\nroboflow:\n  workspace: w\n  version: 3\n",
        "README.roboflow.txt": "1 2 3 4 5 images",
        "train/images/a_jpg.rf.1b2c.jpg": None,
        "train/labels/a_jpg.rf.1b2c.txt": "1 0.5 0.5 0.2 0.4\n0 0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4 0.1 0.2\n",
        "valid/images/a_jpg.rf.1b2c.jpg": None,
        "valid/labels/a_jpg.rf.1b2c.txt": "0 0.5 0.5 1 1\n",
    }
    joined = {"annotations": "data.yaml", "image_sets": ("train", "val")}
    profile = profile_of(write(tmp_path, files), "yolo", joined)
    assert boxes_of(load_dataset(profile, "train")) == {
        "train/images/a_jpg.rf.1b2c.jpg": [(0, 10, 10, 30, 20, 0), (1, 40, 15, 60, 35, 0)],
        "valid/images/a_jpg.rf.1b2c.jpg": [(0, 0, 0, 100, 50, 0)],
    }


@pytest.mark.parametrize(("annotations", "photos"), [("labels", "images"), ("both", "both")])
def test_yolo_without_data_yaml(tmp_path, annotations, photos):
    """Folders of labels and photos with a list of classes (labelImg, Label Studio), or all in one folder."""
    files = {
        f"{annotations}/classes.txt": "dog\ncat\n",
        f"{photos}/x/a.jpg": None,
        f"{photos}/a.jpg": None,
        f"{annotations}/x/a.txt": "0 0.5 0.5 0.2 0.4",
    }
    keys = {"annotations": annotations, "photos": photos}
    profile = profile_of(write(tmp_path, files), "yolo", keys)
    assert boxes_of(load_dataset(profile, "train")) == {"a.jpg": [], "x/a.jpg": [(1, 40, 15, 60, 35, 0)]}
    (tmp_path / annotations / "classes.txt").unlink()  # now 0 is the profile's first class
    assert boxes_of(load_dataset(profile, "train"))["x/a.jpg"] == [(0, 40, 15, 60, 35, 0)]


def test_yolo_keypoints_are_not_corners(tmp_path):
    """Rows of pose: the box, then two points of x y visible; six numbers more are no outline."""
    files = {
        "data.yaml": "kpt_shape: [2, 3]\ntrain: images\nnames: [cat, dog]\n",
        "images/a.jpg": None,
        "labels/a.txt": "1 0.5 0.5 0.2 0.4 0.0 0.0 2 1.0 1.0 2\n",
    }
    profile = profile_of(write(tmp_path, files), "yolo", TRAIN)
    assert boxes_of(load_dataset(profile, "train")) == {"images/a.jpg": [(1, 40, 15, 60, 35, 0)]}


def test_yolo_names_in_another_unicode_form(tmp_path):
    files = {unicodedata.normalize("NFD", n) if n.startswith("images") else n: t for n, t in YOLO.items()}
    profile = profile_of(write(tmp_path, files), "yolo", TRAIN)
    train = load_dataset(profile, "train")
    assert len(train.annotations) == 5
    assert {unicodedata.normalize("NFC", n): b for n, b in boxes_of(train).items()} == YOLO_BOXES


GOOD_ROWS = "".join(f"0 0.5 0.5 0.{i} 0.4\n" for i in range(1, 10)) * 2  # nine boxes, each twice


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("0 0.5 0.5 0.2", BAD_ROW),
        ("0 0.5 0.5 0.2 0.4 0.9", BAD_ROW),  # a score of a prediction
        ("0 0.1 0.1 0.3 0.1 0.3 0.5 0.2", BAD_ROW),  # half a point
        ("cat 0.5 0.5 0.2 0.4", BAD_ROW),
        ("0.5 0.5 0.5 0.2 0.4", BAD_ROW),
        ("0 0.5 nan 0.2 0.4", BAD_ROW),
        ("0 0.5 0.5 inf 0.4", BAD_ROW),
        ("0 0_5 0.5 0.2 0.4", BAD_ROW),
        ("0 0.5 0.٣ 0.2 0.4", BAD_ROW),
        ("2 0.5 0.5 0.2 0.4", "boxes of class 2, which has no name, dropped (label files and rows)"),
        ("-1 0.5 0.5 0.2 0.4", "boxes of class -1, which has no name, dropped (label files and rows)"),
        ("0 0.5 0.5 0 0.4", "boxes without area dropped (ids)"),
        ("0 1.5 1.5 0.2 0.4", "boxes outside the photo dropped (ids)"),
    ],
)
def test_a_faulty_row_of_yolo(tmp_path, row, kind):
    """One of nineteen is dropped and listed by file and row; alone, the file is refused with it."""
    files = YOLO | {"labels/train/none.txt": GOOD_ROWS + row, "labels/train/v1/18.txt": ""}
    profile = profile_of(write(tmp_path, files), "yolo", TRAIN)
    train = load_dataset(profile, "train")
    assert len(boxes_of(train)["images/train/none.jpg"]) == 9
    assert train.findings.kinds[kind] == ["labels/train/none.txt:19"]
    write(tmp_path, {"labels/train/none.txt": "\n" + row})
    refused(profile, rf"1 of 5 boxes would be left out: 1 {re.escape(kind)}: labels/train/none\.txt:2")


def test_yolo_in_pixels_is_refused(tmp_path):
    files = YOLO | {name: "0 50 25 20 20\n" * 2 for name in YOLO if name.startswith("labels/train/")}
    files["labels/train/classes.txt"] = "dog\n"
    refused(profile_of(write(tmp_path, files), "yolo", TRAIN), "fit it as pixels; expected shares")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (rooted("val: images/val\n"), r"data\.yaml: no split 'train'"),
        (rooted("train: images/tain\n"), r"train: no images/tain below .*; expected a folder of photos"),
        (rooted("train: ../../elsewhere\n"), "lies outside of the photos' folder"),
        (rooted("train: [images/train, 3]\n"), "no split 'train'; expected a folder or a list"),
        (
            rooted("train: list.txt\n") | {"list.txt": "images/train/a b.jpg\n/x/y.jpg"},
            r"list\.txt: row 2: /x/y",
        ),
        (rooted("train: list.txt\n") | {"list.txt": "images/train/a.jpg\n"}, "none of 1 photos has a label"),
        (rooted("kpt_shape: [many]\ntrain: images/train\n"), "kpt_shape .*: expected two numbers"),
        (YOLO | {"data.yaml": "train: images/train\nnames: [yes, no]\n"}, "class 0 is True, expected a text"),
        (YOLO | {"data.yaml": "train: images/train\nnames: {a: cat}\n"}, "class id 'a', expected a number"),
        (YOLO | {"data.yaml": "train: images/train\nnames: 3\n"}, "names: expected the list of the classes"),
        (YOLO | {"data.yaml": "train: images/train\nnc: 2\n"}, "names: expected the list of the classes"),
        (
            YOLO | {"data.yaml": "train: images/train\nnames: [cat, cow]\n"},
            r"missing \['dog'\], unknown \['cow'\]",
        ),
        (YOLO | {"data.yaml": "- train"}, "data.yaml: expected a mapping"),
        (YOLO | {"images/train/a b.png": None}, r"a b\.jpg and images/train/a b\.png have one label file"),
        (
            YOLO | {"labels/train/x/lost.txt": "0 .5 .5 .1 .1"},
            r"1 of 7 images .* refused: labels/train/x/lost\.txt",
        ),
    ],
)
def test_yolo_that_is_refused(tmp_path, files, message):
    (tmp_path / "elsewhere").mkdir()
    refused(profile_of(write(tmp_path / "data", files), "yolo", TRAIN), message)


def test_yolo_that_is_not_there(tmp_path):
    refused(
        profile_of(tmp_path, "yolo", TRAIN), r"no annotation file .*data\.yaml: put the competition's data"
    )
    write(tmp_path, YOLO)
    refused(
        profile_of(tmp_path, "yolo", {"annotations": "data.yaml"}), "needs image_sets.* it has train, val"
    )
    gone = {"annotations": "labels", "photos": "photos"}
    files = {"labels/classes.txt": "cat\ndog"}
    refused(profile_of(write(tmp_path, files), "yolo", gone), "no folder or list of photos .*/photos")


# COCO, as Roboflow and tools for outlines write it

ROBOFLOW = [  # a category that groups the others comes first, without boxes
    {"id": 0, "name": "pets", "supercategory": "none"},
    {"id": 1, "name": "dog", "supercategory": "pets"},
    {"id": 2, "name": "cat", "supercategory": "pets"},
]


def coco(annotations, categories=ROBOFLOW, names=("a.jpg",)):
    images = [{"id": i, "file_name": n, "width": WIDTH, "height": HEIGHT} for i, n in enumerate(names)]
    annotations = [{"id": i, "image_id": 0, "category_id": 1} | a for i, a in enumerate(annotations)]
    return json.dumps({"images": images, "categories": categories, "annotations": annotations})


def test_roboflow_coco(tmp_path):
    """Both files count images and boxes from 0, and both name their photo a.jpg."""
    files = {
        "train/_annotations.coco.json": coco(
            [{"bbox": [40, 15, 20, 20]}, {"bbox": [0, 0, 5, 5], "iscrowd": 1}]
        ),
        "valid/_annotations.coco.json": coco(
            [{"bbox": [1, 2, 3, 4], "category_id": 2}], names=("a.jpg", "b.jpg")
        ),
    }
    profile = profile_of(
        write(tmp_path, files),
        "coco",
        {"annotations": ".", "image_sets": tuple(files)},
        {
            "annotations": "valid/_annotations.coco.json",
            "photos": "valid",
            "truth": "valid/_annotations.coco.json",
        },
    )
    train = load_dataset(profile, "train")
    assert boxes_of(train) == {
        "train/a.jpg": [(1, 0, 0, 5, 5, 1), (1, 40, 15, 60, 35, 0)],
        "valid/a.jpg": [(0, 1, 2, 4, 6, 0)],
        "valid/b.jpg": [],
    }
    assert train.annotations["annotation_id"].tolist() == [
        "train/_annotations.coco.json#0",
        "train/_annotations.coco.json#1",
        "valid/_annotations.coco.json#0",
    ]
    assert train.category_ids == (2, 1)
    assert "category 'pets' groups others and has no box: no class" in train.findings.notes
    assert boxes_of(load_truth(profile, "test")) == {"a.jpg": [(0, 1, 2, 4, 6, 0)], "b.jpg": []}


def test_a_group_of_categories_with_a_box_is_a_class(tmp_path):
    keys = {"annotations": "a.json"}
    files = {"a.json": coco([{"bbox": [1, 2, 3, 4], "category_id": 0}])}
    profile = profile_of(write(tmp_path, files), "coco", keys)
    refused(profile, r"missing none, unknown \['pets'\]")
    named = profile_of(tmp_path, "coco", keys, classes=("cat", "dog", "pets"))
    assert boxes_of(load_dataset(named, "train")) == {"a.jpg": [(2, 1, 2, 4, 6, 0)]}


def test_coco_of_outlines_only(tmp_path):
    """Polygons (two parts of one object are one box), a mask in runs, and no shape at all."""
    runs = {"size": [HEIGHT, WIDTH], "counts": [10 * HEIGHT + 4, 6, HEIGHT - 6, 6, 88 * HEIGHT - 10]}
    shapes = [
        {"segmentation": [[10, 5, 30, 5, 30, 25], [50, 40, 60, 40, 55, 45]]},
        {"segmentation": runs, "iscrowd": 1},  # columns 10 and 11, rows 4 to 9
        *[{"bbox": [i, 0, 5, 5]} for i in range(9)],
        {"segmentation": []},
    ]
    profile = profile_of(write(tmp_path, {"a.json": coco(shapes)}), "coco", {"annotations": "a.json"})
    train = load_dataset(profile, "train")
    plain = [(1, i, 0, i + 5, 5, 0) for i in range(9)]
    assert boxes_of(train)["a.jpg"] == sorted([(1, 10, 5, 60, 45, 0), (1, 10, 4, 12, 10, 1), *plain])
    assert train.findings.kinds == {OUTLINED: [0, 1], NO_NUMBERS: [11]}
