"""Annotation readers: what they refuse or repair is counted and listed by id, never silent."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
from tiny import HEIGHT, WIDTH

from pipeline import folds
from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.profile import load_profile
from pipeline.data.specs import ColumnSpec, SplitSpec
from pipeline.errors import PipelineError


def load(name="recycle", split="train", strict=True):
    return load_dataset(load_profile(name), split, strict)


def edited(root, change, name="train.json", strict=True):
    tiny.edit_json(root / name, change)
    return load(strict=strict)


def corners(dataset, annotation_id):
    rows = dataset.annotations
    return rows.loc[rows["annotation_id"] == annotation_id, ["x1", "y1", "x2", "y2"]].to_numpy().tolist()


def test_coco_gives_two_tables(recycle):
    content = json.loads((recycle / "train.json").read_text())
    train = load()
    assert train.images["image_id"].tolist() == list(range(12))
    assert train.images["file_name"].tolist() == [image["file_name"] for image in content["images"]]
    assert (train.images[["width", "height"]] == [WIDTH, HEIGHT]).all(axis=None)
    assert len(train.annotations) == len(content["annotations"])
    x, y, w, h = content["annotations"][0]["bbox"]
    assert corners(train, 1) == [[x, y, x + w, y + h]]
    assert train.findings.kinds == {}


def test_the_test_split_has_no_boxes_and_no_known_truth(recycle):
    assert len(load(split="test").images) == 5
    assert load(split="test").annotations.empty
    assert load_truth(load_profile("recycle"), "test") is None


def test_the_order_of_images_and_boxes_in_the_file_is_irrelevant(recycle):
    def reverse(value):
        value["images"].reverse()
        value["annotations"].reverse()

    before, after = load(), edited(recycle, reverse)
    assert before.digest == after.digest
    assert before.images.drop(columns="position").equals(after.images.drop(columns="position"))
    assert after.images["position"].tolist() == list(range(12))[::-1]
    keys = ["annotation_id"]
    assert (
        before.annotations.sort_values(keys).to_numpy() == after.annotations.sort_values(keys).to_numpy()
    ).all()


def test_a_folder_of_photos_or_a_list_in_a_csv_is_a_test_set_beside_coco_boxes(recycle):
    tiny.edit_json(recycle / "train.json", lambda v: [c.update(id=c["id"] + 1) for c in v["categories"]])
    tiny.edit_json(
        recycle / "train.json",
        lambda v: [a.update(category_id=a["category_id"] + 1) for a in v["annotations"]],
    )
    names = [f"test/{i:04d}.jpg" for i in range(5)]
    (recycle / "sample.csv").write_text(
        "image_id,PredictionString\n" + "".join(f"{n},\n" for n in names[::-1])
    )
    columns = ColumnSpec("image_id", "{image_id}")
    for spec in (
        SplitSpec("test", format="photos"),
        SplitSpec("sample.csv", format="csv", columns=columns),
    ):
        test = load_dataset(replace(load_profile("recycle"), test=spec), "test")
        assert test.images["file_name"].tolist() == names
        assert (test.images[["width", "height"]] == [WIDTH, HEIGHT]).all(axis=None)
        assert test.category_ids == tuple(range(1, 11))  # as in train.json
    shutil.rmtree(recycle / "test")
    with pytest.raises(PipelineError, match=r"no photo below .*test: put the competition's files .* into"):
        load_dataset(replace(load_profile("recycle"), test=SplitSpec("test", format="photos")), "test")
    with pytest.raises(PipelineError, match="no reader for format 'tfrecord'; known: coco"):
        load_dataset(replace(load_profile("recycle"), test=SplitSpec("test", format="tfrecord")), "test")


NO_CATEGORY = "boxes of category ids that are not in 'categories' dropped (ids)"
NO_IMAGE = "boxes of image ids that are not in 'images' dropped (ids)"
NO_NUMBERS = "boxes that are not four finite numbers dropped (ids)"
NO_AREA = "boxes without area dropped (ids)"
OUTSIDE = "boxes outside the photo dropped (ids)"
# What is wrong with annotation 5 -> how it is listed.
BOX_FAULTS = {
    "outside": ({"bbox": [WIDTH + 1, 0, 5, 5]}, OUTSIDE),
    "left of it": ({"bbox": [-9, 0, 9, 5]}, OUTSIDE),
    "no width": ({"bbox": [3, 3, 0, 5]}, NO_AREA),
    "negative": ({"bbox": [9, 9, -3, 5]}, NO_AREA),
    "image": ({"image_id": 99}, NO_IMAGE),
    "list as image": ({"image_id": [1]}, NO_IMAGE),
    "category": ({"category_id": 10}, NO_CATEGORY),
    "no category": ({"category_id": None}, NO_CATEGORY),
    "three numbers": ({"bbox": [1, 2, 3]}, NO_NUMBERS),
    "no box": ({"bbox": None}, NO_NUMBERS),
    "NaN": ({"bbox": [1, 2, float("nan"), 3]}, NO_NUMBERS),
    "text": ({"bbox": [1, 2, "wide", 3]}, NO_NUMBERS),
}


@pytest.mark.parametrize("fault", BOX_FAULTS)
def test_a_faulty_box_is_dropped_and_listed(recycle, fault):
    change, kind = BOX_FAULTS[fault]
    before = set(load().annotations["annotation_id"])
    train = edited(recycle, lambda value: value["annotations"][4].update(change))
    assert train.findings.kinds == {kind: [5]}
    assert before - set(train.annotations["annotation_id"]) == {5}


def test_a_box_that_reaches_outside_is_clipped_and_listed(recycle):
    train = edited(recycle, lambda value: value["annotations"][4].update(bbox=[-2, -3, WIDTH + 9, 10]))
    assert train.findings.kinds == {"boxes that reach outside clipped (ids)": [5]}
    assert corners(train, 5) == [[0, 0, WIDTH, 10 - 3]]


def test_rounding_at_the_edge_is_no_finding(recycle):
    train = edited(recycle, lambda value: value["annotations"][4].update(bbox=[-0.005, 0, 9, 9]))
    assert train.findings.kinds == {}
    assert corners(train, 5)[0][0] == 0


def test_a_doubled_box_is_dropped_but_not_one_of_another_class(recycle):
    def double(value):
        first = value["annotations"][0]
        value["annotations"] += [first | {"id": 1001}, first | {"id": 1002, "category_id": 9}]

    train = edited(recycle, double)
    assert train.findings.kinds == {"doubled boxes dropped (ids)": [1001]}
    assert {1, 1002} <= set(train.annotations["annotation_id"])


@pytest.mark.parametrize(
    "size",
    [{"width": 0}, {"height": None}, {"width": "wide"}, {"width": float("inf")}, {"width": 10**400}],
)
def test_a_size_that_is_not_stated_is_read_from_the_photo(recycle, size):
    before = load()
    train = edited(recycle, lambda value: value["images"][2].update(size))
    assert train.findings.kinds == {
        "images without a size, read from the photo (file names)": ["train/0002.jpg"]
    }
    assert train.digest == before.digest
    assert train.annotations.equals(before.annotations)


def test_an_image_without_a_size_and_a_photo_is_an_error(recycle):
    (recycle / "train/0002.jpg").unlink()
    with pytest.raises(PipelineError, match=r"1 of 12 images would be left out: 1 images .* train/0002\.jpg"):
        edited(recycle, lambda value: value["images"][2].update(width=0))
    train = load(strict=False)
    assert train.findings.kinds == {
        "images without a size and without a photo that has one refused (file names)": ["train/0002.jpg"],
        "boxes of refused images dropped (ids)": [4, 5, 6],
    }
    assert 2 not in set(train.images["image_id"])
    assert 2 not in set(train.annotations["image_id"])


def test_no_image_left(recycle):
    shutil.rmtree(recycle / "train")
    with pytest.raises(PipelineError, match=r"train\.json: no images in split 'train'"):
        edited(recycle, lambda value: [image.update(width=0) for image in value["images"]], strict=False)


@pytest.mark.parametrize("annotations", [[], None])
def test_no_annotations_at_all(recycle, annotations):
    train = edited(recycle, lambda value: value.update(annotations=annotations))
    assert len(train.images) == 12
    assert train.annotations.empty
    assert train.annotations.dtypes["label"] == np.int16


def test_classes_are_matched_by_name_whatever_the_order_and_the_ids(recycle):
    before = load()

    def renumber(value):
        for category in value["categories"]:
            category["id"] = 100 - category["id"]
        for item in value["annotations"]:
            item["category_id"] = 100 - item["category_id"]
        value["categories"].reverse()

    after = edited(recycle, renumber)
    assert after.annotations.equals(before.annotations)
    assert after.category_ids == tuple(range(100, 90, -1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[1].update(name="Papier"), r"missing \['Paper'\], unknown \['Papier'\], doubled none"),
        (lambda c: c.pop(8), r"missing \['Battery'\], unknown none, doubled none"),
        (lambda c: c.append({"id": 10, "name": "Wood"}), r"missing none, unknown \['Wood'\], doubled none"),
        (lambda c: c.append({"id": 10, "name": "Paper"}), r"missing none, unknown none, doubled \['Paper'\]"),
        (lambda c: c[1].update(id=2), "category id 2 is there twice"),
        (lambda c: c[1].pop("id"), "category 1: expected id and name"),
        (lambda c: c[1].update(id=[2], supercategory=[1]), "category 1: expected id and name"),
        (lambda c: c.insert(0, "Paper"), "category 0: expected id and name"),
    ],
)
def test_classes_that_differ_are_refused(recycle, change, message):
    with pytest.raises(PipelineError, match=message):
        edited(recycle, lambda value: change(value["categories"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("images"), "no list 'images'; expected a COCO annotation file"),
        (lambda v: v.pop("categories"), "no list 'categories'"),
        (lambda v: v["images"].clear(), "no images in split 'train'"),
        (lambda v: v["images"][3].pop("file_name"), "image 3: expected id, file_name"),
        (lambda v: v["images"].append(7), "image 12: expected id, file_name"),
        (lambda v: v["images"][3].update(id=2), "image id 2 is there twice"),
        (lambda v: v["images"][3].update(id=[2]), "image 3: expected id, file_name"),
        (lambda v: v["images"][3].update(file_name="train/0000.jpg"), "'train/0000.jpg' is there twice"),
        (lambda v: v["images"][3].update(file_name=3), "image 3: expected id, file_name"),
        (lambda v: v["annotations"].insert(1, [1, 2]), "annotation 1: expected a mapping"),
        (lambda v: v.update(annotations={"1": 2}), "annotations and categories: expected lists"),
    ],
)
def test_a_damaged_coco_file_is_refused(recycle, change, message):
    with pytest.raises(PipelineError, match=message):
        edited(recycle, change)


def test_string_ids_become_positions_by_sorted_name(recycle):
    def rename(value):
        for image in value["images"]:
            image["id"] = f"photo-{11 - image['id']}"
        for item in value["annotations"]:
            item["image_id"] = f"photo-{11 - item['image_id']}"
        value["images"].reverse()

    before, after = load(), edited(recycle, rename)
    assert after.images["image_id"].tolist() == list(range(12))
    assert after.images["file_name"].tolist() == before.images["file_name"].tolist()
    keys = ["annotation_id", "image_id", "label"]
    assert after.annotations[keys].equals(before.annotations[keys])


def test_a_file_cut_in_half(recycle, home):
    tiny.cut_in_half(recycle / "train.json")
    with pytest.raises(PipelineError, match=r"train\.json: not a whole json file .*; copy or download it"):
        folds.main([])
    assert not (home / "folds").exists()


def test_no_annotation_file(recycle):
    (recycle / "train.json").unlink()
    with pytest.raises(PipelineError, match=r"no annotation file .*train\.json: put the competition's files"):
        load()
    (recycle / "train.json").mkdir()
    with pytest.raises(PipelineError, match=r"train\.json: a folder; expected a file"):
        load()


def test_truth_that_is_kept_apart_is_read_with_its_findings(home):
    root = home / "data" / "demo"
    classes = load_profile("demo").classes
    tiny.write_coco(root, n_test=9, classes=classes, photos=False)
    truth = tiny.coco("test", 9, classes)
    truth["annotations"][0]["bbox"] = [0, 0, 0, 0]
    tiny.write_json(root / "hidden" / "test_truth.json", truth)
    known = load_truth(load_profile("demo"), "test")
    assert known.digest == load("demo", "test").digest
    assert len(known.annotations) == len(truth["annotations"]) - 1
    assert known.findings.kinds == {NO_AREA: [1]}
    tiny.write_json(root / "hidden" / "test_truth.json", tiny.coco("test", 4, classes))
    with pytest.raises(PipelineError, match="its images are not those of the test set"):
        load_truth(load_profile("demo"), "test")


def test_a_share_of_train_is_held_back_where_there_is_no_test_set(home):
    root = tiny.write_coco(home / "data" / "taco", n_train=60, photos=False)
    (root / "test.json").unlink()
    train, test = load("taco"), load("taco", "test")
    together = sorted([*train.images["image_id"], *test.images["image_id"]])
    assert together == list(range(60))
    assert 3 <= len(test.images) <= 25  # 0.2 * 60 = 12, by a hash of the names
    assert test.annotations.empty
    assert set(train.annotations["image_id"]) <= set(train.images["image_id"])
    assert set(load_truth(load_profile("taco"), "test").annotations["image_id"]) == set(
        test.images["image_id"]
    )
    assert "20% of these photos serve as one" in train.findings.notes[0]


# Pascal VOC


def rewrite(root, stem, file_name=None, boxes=(("RBC", [1, 2, 9, 9]),), **size):
    path = root / "BCCD/Annotations" / f"{stem}.xml"
    path.write_text(tiny.voc_xml(file_name or f"{stem}.jpg", list(boxes), **size))


def test_voc_gives_two_tables(bccd):
    train = load("bccd")
    assert train.images["file_name"].tolist() == [f"cell_{i:03d}.jpg" for i in range(12)]
    assert train.images["image_id"].tolist() == list(range(12))
    label, (x, y, w, h) = tiny.random_boxes(0, 3)[0]
    first = train.annotations.iloc[0]
    assert (first["annotation_id"], first["label"]) == ("cell_000#0", label)
    assert first[["x1", "y1", "x2", "y2"]].tolist() == [x, y, x + w, y + h]
    assert train.findings.kinds == {}


def test_voc_truth_of_the_test_set(bccd):
    truth = load_truth(load_profile("bccd"), "test")
    assert len(truth.images) == 5
    assert set(truth.annotations["image_id"]) == set(range(5))


def test_inclusive_corners_name_the_last_pixel(bccd):
    profile = load_profile("bccd")
    rewrite(bccd, "cell_000", boxes=[("RBC", [1, 2, 9, 8])])
    object.__setattr__(profile, "inclusive", True)
    row = load_dataset(profile, "train").annotations.iloc[0]
    assert row[["x1", "y1", "x2", "y2"]].tolist() == [1 - 1, 2 - 1, 9, 8]


VOC_FAULTS = {
    "class": (("Yeast", [1, 2, 9, 9]), "boxes of class 'Yeast', which the profile lacks, dropped (ids)"),
    "text": (("RBC", [1, 2, "x", 9]), NO_NUMBERS),
    "missing": (("RBC", [1, 2, "", 9]), NO_NUMBERS),
    "NaN": (("RBC", [1, 2, "nan", 9]), NO_NUMBERS),
    "inf": (("RBC", [1, 2, "inf", 9]), NO_NUMBERS),
    "no area": (("RBC", [5, 5, 5, 9]), NO_AREA),
    "outside": (("RBC", [WIDTH, 5, WIDTH + 9, 9]), OUTSIDE),
}


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_a_faulty_voc_box_is_dropped_and_listed(bccd, fault):
    box, kind = VOC_FAULTS[fault]
    rewrite(bccd, "cell_003", boxes=[("WBC", [1, 2, 9, 9]), box])
    train = load("bccd")
    assert train.findings.kinds == {kind: ["cell_003#1"]}
    of_it = train.annotations[train.annotations["image_id"] == 3]
    assert of_it["annotation_id"].tolist() == ["cell_003#0"]


def test_a_missing_xml_is_listed(bccd):
    (bccd / "BCCD/Annotations/cell_004.xml").unlink()
    with pytest.raises(PipelineError, match="1 of 12 images would be left out: 1 stems without an xml file"):
        load("bccd")
    train = load("bccd", strict=False)
    assert train.findings.kinds == {"stems without an xml file refused": ["cell_004"]}
    assert len(train.images) == 11


def test_a_stem_named_twice_is_taken_once(bccd):
    with open(bccd / "BCCD/ImageSets/Main/trainval.txt", "a") as file:
        file.write("cell_002\n\n")
    train = load("bccd")
    assert train.findings.kinds == {"stems named more than once in the image sets, taken once": ["cell_002"]}
    assert len(train.images) == 12


def test_an_xml_that_names_another_photo(bccd):
    rewrite(bccd, "cell_001", "other.png")
    train = load("bccd")
    assert list(train.findings.kinds.values()) == [["cell_001"]]
    assert train.images["file_name"][1] == "cell_001.png"


@pytest.mark.parametrize("damage", ["cut", "encoding"])
def test_a_damaged_xml_is_refused(bccd, damage):
    path = bccd / "BCCD/Annotations/cell_004.xml"
    if damage == "cut":
        tiny.cut_in_half(path)
    else:
        path.write_text('<?xml version="1.0" encoding="klingon"?>' + path.read_text())
    with pytest.raises(PipelineError, match=r"cell_004\.xml: not a whole xml file"):
        load("bccd")


@pytest.mark.parametrize("size", ["no size", "size of words", "size of 0"])
def test_a_voc_size_that_is_not_stated_is_read_from_the_photo(bccd, size):
    before = load("bccd")
    path = bccd / "BCCD/Annotations/cell_004.xml"
    old, new = {"no size": ("size>", "wide>"), "size of words": ("48", "wide"), "size of 0": ("48", "0")}[
        size
    ]
    path.write_text(path.read_text().replace(old, new))
    assert load("bccd").digest == before.digest


def test_without_image_sets_every_xml_is_read(bccd):
    profile = load_profile("bccd")
    every = load_dataset(replace(profile, train=replace(profile.train, image_sets=())), "train")
    assert every.images["file_name"].tolist() == [f"cell_{i:03d}.jpg" for i in range(17)]
    assert len(every.annotations) == sum(1 + i % 3 for i in range(17))


def test_no_image_set(bccd):
    (bccd / "BCCD/ImageSets/Main/trainval.txt").unlink()
    with pytest.raises(PipelineError, match=r"no image set .*trainval\.txt: put the folder BCCD"):
        load("bccd")


# Real annotations


def test_the_real_recycle_annotations(shared_data):
    train = load_dataset(load_profile("recycle", shared_data / "boostcamp_recycle"), "train")
    assert train.findings.kinds == {"doubled boxes dropped (ids)": [19106]}
    assert (len(train.images), len(train.annotations)) == (4883, 23144 - 1)
    counts = [3966, 6352 - 1, 897, 936, 982, 2943, 1263, 5178, 159, 468]
    assert np.bincount(train.annotations["label"]).tolist() == counts


def test_the_real_blood_cells(shared_data):
    train = load_dataset(load_profile("bccd", shared_data / "bccd"), "train")
    test = load_truth(load_profile("bccd", shared_data / "bccd"), "test")
    assert (len(train.images), len(test.images)) == (292, 72)
    assert train.findings.kinds == {NO_AREA: ["BloodImage_00338#12", "BloodImage_00343#3"]}
    assert test.findings.kinds == {}
    assert len(train.annotations) + len(test.annotations) == 4886
