"""Readers of the formats of annotation tools: a small folder each, with boxes worked out by hand.

Photos are 100 x 50 pixels, so that shares are read off at once; VOC, CSV and most of COCO are in
`test_readers.py` and `test_competitions.py`.
"""

import json
import re
import unicodedata
from dataclasses import replace

import pytest
import tiny

from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.formats.labelme import OTHER_PHOTO
from pipeline.data.formats.shapes import GROUPED, NO_NUMBERS, OUTLINED
from pipeline.data.formats.yolo import BAD_ROW
from pipeline.data.profile import Profile, load_profile
from pipeline.data.specs import ColumnSpec, SplitSpec
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
    assert train.findings.notes == ["1 of 6 photos have no label file, so no object"]
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
        (rooted("train: list.txt\n") | {"list.txt": "a" * 300}, "none of 1 photos has a label"),
        (rooted("train: list.txt\n") | {"list.txt": "a" * 300 + "/a.jpg"}, "none of 1 photos has a label"),
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


@pytest.mark.parametrize("name", ["../b.jpg", "x/../../b.jpg", "/etc/b.jpg", "C:\\b.jpg", "..\\b.jpg"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    """In every format whose files name photos; LabelMe's photos are looked for by the last part."""
    write(
        tmp_path,
        {"a.json": coco([], names=(name,)), "t/b.json": coco([], names=(name,)), "t.csv": f"file\n{name}\n"},
    )
    several = {"annotations": ".", "image_sets": ("t/b.json",)}
    columns = ColumnSpec(image="file", file="{file}", size=(WIDTH, HEIGHT))
    profiles = [
        profile_of(tmp_path, "coco", {"annotations": "a.json"}),
        profile_of(tmp_path, "coco", several),
        cvat_profile(tmp_path, cvat((f'name="{name}"', ""))),
        profile_of(tmp_path, "csv", {"annotations": "t.csv", "columns": columns}),
    ]
    for profile in profiles:
        refused(profile, "leads out of the photos' folder; correct it, or say outside: true in the profile")
    meant = replace(profiles[0], outside=True)
    assert list(boxes_of(load_dataset(meant, "train"))) == [name.replace("\\", "/")]


def test_a_group_of_categories_with_a_box_is_a_class(tmp_path):
    keys = {"annotations": "a.json"}
    files = {"a.json": coco([{"bbox": [1, 2, 3, 4], "category_id": 0}])}
    profile = profile_of(write(tmp_path, files), "coco", keys)
    refused(profile, r"missing none, unknown \['pets'\]")
    named = profile_of(tmp_path, "coco", keys, classes=("cat", "dog", "pets"))
    assert boxes_of(load_dataset(named, "train")) == {"a.jpg": [(2, 1, 2, 4, 6, 0)]}


def test_coco_of_outlines_only(tmp_path):
    """Polygons (two parts of one object are one box), a mask in runs, and a point that is none."""
    runs = {"size": [HEIGHT, WIDTH], "counts": [10 * HEIGHT + 4, 6, HEIGHT - 6, 6, 88 * HEIGHT - 10]}
    shapes = [
        {"segmentation": [[10, 5, 30, 5, 30, 25], [50, 40, 60, 40, 55, 45]]},
        {"segmentation": runs, "iscrowd": 1},  # columns 10 and 11, rows 4 to 9
        *[{"bbox": [i, 0, 5, 5]} for i in range(9)],
        {"segmentation": [[1, 2, 9, float("nan"), 3, 4]]},
    ]
    profile = profile_of(write(tmp_path, {"a.json": coco(shapes)}), "coco", {"annotations": "a.json"})
    train = load_dataset(profile, "train")
    plain = [(1, i, 0, i + 5, 5, 0) for i in range(9)]
    assert boxes_of(train)["a.jpg"] == sorted([(1, 10, 5, 60, 45, 0), (1, 10, 4, 12, 10, 1), *plain])
    assert train.findings.kinds == {OUTLINED: [0, 1], NO_NUMBERS: [11]}


# LabelMe


def shape(kind, points, label="dog", **more):
    return {"label": label, "shape_type": kind, "points": points, **more}


def labelme(image_path, *shapes, size=(WIDTH, HEIGHT)):
    sizes = {"imageWidth": size[0], "imageHeight": size[1]}
    return json.dumps(
        {"version": "5.5.0", "imagePath": image_path, "imageData": None, "shapes": shapes, **sizes}
    )


def test_labelme(tmp_path):
    files = {
        "a b.jpg": None,
        "a b.json": labelme(
            "a b.jpg",
            shape("rectangle", [[60, 40], [10, 5]], " cat "),
            shape("rectangle", [[10, 40], [60, 5]]),
            shape("polygon", [[1, 2], [3, 8], [9, 4]]),
            shape("circle", [[50, 25], [56, 33]]),  # radius 10
            shape("mask", [[2, 3], [5, 4]], mask="..."),  # the first and the last pixel
        ),
        "sub/a b.jpg": None,
        "sub/a b.json": labelme("a b.jpg"),
    }
    profile = profile_of(write(tmp_path, files), "labelme", {"annotations": "."})
    train = load_dataset(profile, "train")
    assert boxes_of(train) == {
        "a b.jpg": [
            (0, 10, 5, 60, 40, 0),
            (1, 1, 2, 9, 8, 0),
            (1, 2, 3, 6, 5, 0),
            (1, 10, 5, 60, 40, 0),
            (1, 40, 15, 60, 35, 0),
        ],
        "sub/a b.jpg": [],
    }
    assert train.findings.kinds == {OUTLINED: ["a b.json#2", "a b.json#3", "a b.json#4"]}
    assert boxes_of(load_dataset(profile, "test")) == {"a b.jpg": [], "sub/a b.jpg": []}


def test_labelme_shapes_of_a_group_are_one_object(tmp_path):
    """As LabelMe's own converter to COCO joins them: of one class and one group."""
    shapes = [
        shape("polygon", [[10, 5], [20, 5], [20, 9]], group_id=1),
        shape("polygon", [[30, 15], [40, 5], [40, 29]], group_id=1),
        shape("rectangle", [[70, 1], [80, 2]], "cat", group_id=1),
        shape("rectangle", [[71, 1], [80, 2]], group_id=None),
    ]
    files = {"a.jpg": None, "a.json": labelme("a.jpg", *shapes)}
    train = load_dataset(profile_of(write(tmp_path, files), "labelme", {"annotations": "."}), "train")
    assert boxes_of(train) == {"a.jpg": [(0, 70, 1, 80, 2, 0), (1, 10, 5, 40, 29, 0), (1, 71, 1, 80, 2, 0)]}
    assert train.findings.kinds[GROUPED] == ["a.json#1"]


@pytest.mark.parametrize(
    "image_path",
    [
        "../photos/v1/18.jpg",
        "..\\..\\photos\\v1\\18.jpg",
        "18.jpg",
        "C:\\Users\\kim\\18.jpg",
        "/home/kim/18.jpg",
    ],
)
@pytest.mark.parametrize("size", [(WIDTH, HEIGHT), (None, None)])
def test_labelme_photos_elsewhere(tmp_path, image_path, size):
    """Apart from the photos, as they stand and moved from another machine; two frames are called 18."""
    box = shape("rectangle", [[0, 0], [5, 5]])
    files = {
        "photos/v1/18.jpg": None,
        "photos/v2/18.jpg": None,
        "labels/v1/18.json": labelme(image_path, box, size=size),
        "labels/v2/18.json": labelme("18.jpg", size=size),
    }
    profile = profile_of(write(tmp_path, files), "labelme", {"annotations": "labels", "photos": "photos"})
    assert boxes_of(load_dataset(profile, "train")) == {"v1/18.jpg": [(1, 0, 0, 5, 5, 0)], "v2/18.jpg": []}


def test_labelme_renamed_with_its_photo(tmp_path):
    files = {f"{name}.jpg": None for name in "123"}
    files |= {"1.json": labelme("IMG_7.jpg"), "2.json": labelme("2.jpg")}
    profile = profile_of(write(tmp_path, files), "labelme", {"annotations": "."})
    train = load_dataset(profile, "train")
    assert list(boxes_of(train)) == ["1.jpg", "2.jpg"]
    assert train.findings.kinds == {OTHER_PHOTO: ["1.json"]}
    left_out = "1 photos without a json file are not annotated and left out, the first is 3.jpg"
    assert train.findings.notes == [left_out]
    write(tmp_path, {"1.json": labelme("2.jpg")})  # a copy of the other's
    refused(profile, "file name '2.jpg' is there twice")


def test_labelme_folders_as_image_sets(tmp_path):
    files = {
        f"{part}/a.{end}": text for part in "xyz" for end, text in (("jpg", None), ("json", labelme("a.jpg")))
    }
    keys = {"annotations": ".", "image_sets": ("x", "y")}
    profile = profile_of(write(tmp_path, files), "labelme", keys)
    assert list(boxes_of(load_dataset(profile, "train"))) == ["x/a.jpg", "y/a.jpg"]


GOOD_SHAPES = [shape("rectangle", [[i, 0], [i + 5, 5]]) for i in range(9)]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (shape("line", [[1, 2], [9, 8]]), "shapes of type 'line', which have no box, dropped (ids)"),
        (shape("point", [[1, 2]]), "shapes of type 'point', which have no box, dropped (ids)"),
        (
            shape("rectangle", [[1, 2], [9, 8]], "cow"),
            "boxes of class 'cow', which the profile lacks, dropped (ids)",
        ),
        (shape("rectangle", [[1, 2], [9, "x"]]), NO_NUMBERS),
        (shape("rectangle", [[1, 2], [9]]), NO_NUMBERS),
        (shape("rectangle", ["12", "98"]), NO_NUMBERS),
        (shape("rectangle", None), NO_NUMBERS),
        (shape("rectangle", [[1, 2], [10**400, 8]]), NO_NUMBERS),
        (shape("circle", [[9, 9]]), NO_NUMBERS),
        (shape("rectangle", [[1, 2]]), "boxes without area dropped (ids)"),
        (shape("rectangle", [[1, 2], [9, float("nan")]]), NO_NUMBERS),
        ("rectangle", NO_NUMBERS),
    ],
)
def test_a_faulty_shape_of_labelme(tmp_path, fault, kind):
    files = {"a.jpg": None, "a.json": labelme("a.jpg", *GOOD_SHAPES, fault)}
    profile = profile_of(write(tmp_path, files), "labelme", {"annotations": "."})
    train = load_dataset(profile, "train")
    assert len(train.annotations) == 9
    assert train.findings.kinds[kind] == ["a.json#9"]
    write(tmp_path, {"a.json": labelme("a.jpg", fault)})
    refused(profile, rf"1 of 1 boxes would be left out: 1 {re.escape(kind)}: a\.json#0")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.json": '{"shapes": ['}, r"a\.json: not a whole json file"),
        ({"a.json": "1" * 5000}, r"a\.json: not a whole json file"),
        ({"a.json": "[]"}, "no shapes and imagePath; expected a LabelMe annotation"),
        ({"a.json": '{"shapes": []}'}, "no shapes and imagePath"),
        ({"a.json": '{"shapes": {}, "imagePath": "a.jpg"}'}, "no shapes and imagePath"),
        ({"a.json": labelme("a.jpg", size=(0, None))}, "1 of 1 images would be left out: .* a.jpg"),
        ({"a.jpg": None}, "no json file of LabelMe below .*: put the competition's data into"),
    ],
)
def test_labelme_that_is_refused(tmp_path, files, message):
    refused(profile_of(write(tmp_path, files), "labelme", {"annotations": "."}), message)


# CVAT


def cvat(*images):
    rows = "".join(
        f'<image id="{i}" width="{WIDTH}" height="{HEIGHT}" {attributes}>{shapes}</image>'
        for i, (attributes, shapes) in enumerate(images)
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>{rows}</annotations>'


def cvat_box(corners="10 10 30 20", label="dog", more=""):
    xtl, ytl, xbr, ybr = corners.split()
    return f'<box label="{label}" xtl="{xtl}" ytl="{ytl}" xbr="{xbr}" ybr="{ybr}" occluded="1" {more}></box>'


def cvat_profile(root, xml, **keys):
    return profile_of(
        write(root, {"annotations.xml": xml}), "cvat", {"annotations": "annotations.xml"} | keys
    )


def test_cvat(tmp_path):
    ellipse = '<ellipse label="cat" cx="50" cy="25" rx="10" ry="5" {}/>'
    first = (
        cvat_box()
        + cvat_box(more='rotation="90.0"')  # around (20, 15)
        + cvat_box("10 10 30 20", "cat", 'rotation="30"')
        + '<polygon label="dog" points="1.5,2;3,8;9,4"/>'
        + ellipse.format("")
        + ellipse.format('rotation="90"')
        + '<mask label="dog" rle="1, 2, 5" left="2" top="3" width="4" height="2"/>'
        + '<tag label="dog"/>'
    )
    xml = cvat(('name="v1/18 한.jpg"', first), ('name="v2\\18 한.jpg"', ""))
    train = load_dataset(cvat_profile(tmp_path, xml), "train")
    half_x, half_y = 10 * 3**0.5 / 2 + 2.5, 5 + 5 * 3**0.5 / 2  # 20 x 10 turned by 30 degrees
    turned = [round(value, 9) for value in (20 - half_x, 15 - half_y, 20 + half_x, 15 + half_y)]
    assert boxes_of(train) == {
        "v1/18 한.jpg": [
            (0, *turned, 0),
            (0, 40, 20, 60, 30, 0),
            (0, 45, 15, 55, 35, 0),
            (1, 1.5, 2, 9, 8, 0),
            (1, 2, 3, 6, 5, 0),
            (1, 10, 10, 30, 20, 0),
            (1, 15, 5, 25, 25, 0),
        ],
        "v2/18 한.jpg": [],
    }
    assert train.findings.kinds == {OUTLINED: [f"v1/18 한.jpg#{i}" for i in range(1, 7)]}


def test_cvat_subsets_and_groups(tmp_path):
    """A project: a photo of one name in two subsets, in a folder each; grouped polygons are one object."""
    part = '<polygon label="dog" points="{}" group_id="{}"/>'
    shapes = part.format("1,1;5,1;5,5", 2) + part.format("11,1;15,1;15,9", 2) + part.format("1,1;6,1;6,5", 0)
    names = ['name="a.jpg" subset="Train"', 'name="a.jpg" subset="Validation"', 'name="b.jpg" subset="Test"']
    write(tmp_path, {"images/Train/a.jpg": None, "images/Validation/a.jpg": None, "images/Test/b.jpg": None})
    xml = cvat((names[0], shapes), (names[1], ""), (names[2], cvat_box()))
    both = cvat_profile(tmp_path, xml, photos="images", image_sets=("Train", "Validation"))
    train = load_dataset(both, "train")
    assert boxes_of(train) == {
        "Train/a.jpg": [(1, 1, 1, 6, 5, 0), (1, 1, 1, 15, 9, 0)],
        "Validation/a.jpg": [],
    }
    assert train.findings.kinds[GROUPED] == ["Train/a.jpg#1"]
    refused(
        cvat_profile(tmp_path, xml, image_sets=("val",)),
        "no image of subset 'val'; it has Test, Train, Validation",
    )


NINE = "".join(cvat_box(f"{i} 0 {i + 5} 5") for i in range(9))
NO_BOX = "shapes of type '{}', which have no box, dropped (ids)"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ('<polyline label="dog" points="1,2;3,8"/>', NO_BOX.format("polyline")),
        ('<points label="dog" points="1,2;3,8"/>', NO_BOX.format("points")),
        ('<skeleton label="dog"><points label="1" points="1,2"/></skeleton>', NO_BOX.format("skeleton")),
        ('<cuboid label="dog" xtl1="3"/>', NO_BOX.format("cuboid")),
        (cvat_box("1 2 nan 5"), NO_NUMBERS),
        (cvat_box("1 2 3_0 5"), NO_NUMBERS),
        (cvat_box(more='rotation="x"'), NO_NUMBERS),
        ('<polygon label="dog" points="1,2;3;8,9,4"/>', NO_NUMBERS),
        ('<polygon label="dog"/>', NO_NUMBERS),
        ('<mask label="dog" left="1"/>', NO_NUMBERS),
        (cvat_box(label="cow"), "boxes of class 'cow', which the profile lacks, dropped (ids)"),
        (cvat_box("30 10 10 20"), "boxes without area dropped (ids)"),
    ],
)
def test_a_faulty_shape_of_cvat(tmp_path, fault, kind):
    train = load_dataset(cvat_profile(tmp_path, cvat(('name="a.jpg"', NINE + fault))), "train")
    assert len(train.annotations) == 9
    assert train.findings.kinds[kind] == ["a.jpg#9"]
    alone = cvat_profile(tmp_path, cvat(('name="a.jpg"', fault)))
    refused(alone, rf"1 of 1 boxes would be left out: 1 {re.escape(kind)}: a\.jpg#0")


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotations><image", "not a whole xml file"),
        ("<annotation/>", "<annotation>: expected <annotations> of 'CVAT for images 1.1'"),
        ("<annotations><track id='0' label='dog'/></annotations>", "holds tracks .* export the task as"),
        (cvat(("", "")), "image 0: no name"),
        (cvat(('name="a.jpg"', ""), ('name="a.jpg"', "")), "file name 'a.jpg' is there twice"),
        (cvat(), "no images in split 'train'"),
    ],
)
def test_cvat_that_is_refused(tmp_path, xml, message):
    refused(cvat_profile(tmp_path, xml), message)


def test_cvat_that_is_not_there(tmp_path):
    refused(profile_of(tmp_path, "cvat", {"annotations": "a.xml"}), r"no annotation file .*a\.xml: put")


def test_a_name_too_long_for_a_file_is_that_of_a_missing_photo(tmp_path):
    name = "a" * 300
    xml = cvat((f'name="{name}" subset="x"', ""))
    assert list(boxes_of(load_dataset(cvat_profile(tmp_path, xml), "train"))) == [name]
    unsized = coco([], names=(name,)).replace(f'"width": {WIDTH}', '"width": 0')
    profile = profile_of(write(tmp_path, {"a.json": unsized}), "coco", {"annotations": "a.json"})
    refused(profile, "1 of 1 images would be left out")


# Open Images: format csv


def test_open_images_v7(tmp_path):
    """Shares of the photo by column name, groups as crowds (-1: not known), sizes from photos in folders."""
    files = {
        "challenge-2019-classes-description-500.csv": "LabelName,DisplayName\n/m/0bt9lr,Dog\n"
        '/m/01yrx,"Cat, tame"\n',
        "challenge-2019-train-detection-bbox.csv": "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
        "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside,XClick1X\n"
        "1a,xclick,/m/01yrx,1,0.1,0.5,0.2,0.6,0,0,1,0,0,0.2\n"
        "1a,activemil,/m/0bt9lr,1,0,1,0.02,0.98,-1,-1,-1,-1,-1,\n"
        "2b,xclick,/m/0bt9lr,1,0.25,0.75,0.5,1,0,1,0,0,0,0.3\n",
        "train/train_0/1a.jpg": None,
        "train/train_1/2b.jpg": None,
    }
    profile = load_profile("openimages", write(tmp_path, files))
    assert profile.classes == ("Dog", "Cat, tame")
    assert boxes_of(load_dataset(profile, "train")) == {
        "1a.jpg": [(0, 0, 1, 100, 49, 0), (1, 10, 10, 50, 30, 1)],
        "2b.jpg": [(0, 25, 25, 75, 50, 0)],
    }
