"""`convert --to`: each writer's folder is read back to the same photos and boxes, by our own readers."""

import json
import shutil

import numpy as np
import pytest
import tiny
from PIL import Image

from pipeline import convert
from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.discover.choose import discover
from pipeline.data.formats.write import WRITERS
from pipeline.data.predictions import read_predictions, write_predictions
from pipeline.data.profile import complete_profile, load_profile
from pipeline.data.records import as_record
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv

GOOD = [(0, 5, 0.25, 1, 2, 30.126, 20), (0, 1, 0.9, 0.004, 0, 48, 32), (4, 7, 1 / 3, 5, 5, 5.04, 9)]


def run(*arguments):
    convert.main([str(argument) for argument in arguments])


def written(folder):
    """The folder's profile, as `make new` describes it."""
    values = discover(folder, "mine").values
    return complete_profile(as_record(values, type(load_profile("recycle")), "x", "y"), "mine", folder, "x")


def content_of(dataset, classes):
    """Sizes and boxes by the last part of a photo's name; corners to a thousandth of a pixel."""
    names = dict(zip(dataset.images["image_id"], dataset.images["file_name"], strict=True))
    stems = {image_id: name.split("/")[-1].rsplit(".", 1)[0] for image_id, name in names.items()}
    sizes = dataset.images[["image_id", "width", "height"]].itertuples(index=False, name=None)
    rows = [
        (stems[b.image_id], classes[b.label], *np.round([b.x1, b.y1, b.x2, b.y2], 2).tolist(), b.iscrowd)
        for b in dataset.annotations.itertuples()
    ]
    return sorted((stems[i], w, h) for i, w, h in sizes), sorted(rows)


@pytest.mark.parametrize("format", WRITERS)
@pytest.mark.parametrize("name", ["recycle", "bccd"])
def test_truth_is_read_back_to_the_same_photos_and_boxes(home, tmp_path, request, name, format):
    request.getfixturevalue(name)
    known = load_profile(name)
    run("truth", tmp_path / "out", "--to", format, "--competition", name, "--split", "oof")
    made = written(tmp_path / "out")
    assert made.format == format
    whole = made.__class__(**{**made.__dict__, "test": made.train})  # a lone train part holds out a share
    expected = content_of(load_dataset(known, "train"), known.classes)
    assert content_of(load_dataset(whole, "train"), whole.classes) == expected
    with pytest.raises(PipelineError, match="out is there already; choose another folder, or remove it"):
        run("truth", tmp_path / "out", "--to", format, "--competition", name, "--split", "oof")


@pytest.mark.parametrize("format", WRITERS)
def test_a_fold_is_written_in_two_parts_and_the_known_test_set_in_one(bccd, home, tmp_path, format):
    known = load_profile("bccd")
    train = load_dataset(known, "train")
    tiny.write_folds(folds_csv("bccd"), train.images, 3)
    keys = ("--to", format, "--competition", "bccd")
    run("truth", tmp_path / "out", *keys, "--split", "oof", "--fold", 1)
    made = written(tmp_path / "out")
    images, boxes = content_of(train, known.classes)
    parts = [
        content_of(part, made.classes) for part in (load_dataset(made, "train"), load_truth(made, "test"))
    ]
    assert (len(parts[0][0]), len(parts[1][0])) == (8, 4)
    assert sorted(parts[0][0] + parts[1][0]) == images
    assert sorted(parts[0][1] + parts[1][1]) == boxes
    run("truth", tmp_path / "test", *keys, "--split", "test")
    photos = [path for path in (tmp_path / "test").rglob("*.jpg") if path.is_symlink()]
    assert len(photos) == 5


@pytest.mark.parametrize("format", WRITERS)
def test_predictions_come_back_with_their_scores(recycle, home, tmp_path, format):
    test = load_dataset(load_profile("recycle"), "test")
    table = tiny.table(test, GOOD)
    write_predictions(tmp_path / "t.parquet", table)
    run(tmp_path / "t.parquet", tmp_path / "out", "--to", format, "--split", "test")
    source = tmp_path / "out" / ("test.json" if format == "coco" else "")
    run(source, tmp_path / "u.parquet", "--split", "test")
    back = read_predictions(tmp_path / "u.parquet")
    assert back.meta.image_ids.tolist() == table.meta.image_ids.tolist()
    assert (back.labels.tolist(), back.offsets.tolist()) == (table.labels.tolist(), table.offsets.tolist())
    np.testing.assert_allclose(back.boxes_xyxy, table.boxes_xyxy, atol=1e-3)
    np.testing.assert_allclose(back.scores, table.scores, atol=1e-6)


def test_yolo_is_as_ultralytics_writes_it(recycle, home, tmp_path):
    test = load_dataset(load_profile("recycle"), "test")
    write_predictions(tmp_path / "t.parquet", tiny.table(test, [(0, 5, 0.25, 12, 8, 36, 24)]))
    run(tmp_path / "t.parquet", tmp_path / "out", "--to", "yolo", "--split", "test")
    # class, centre, width and height as shares of 48 x 32, score
    line = "5 0.500000000 0.500000000 0.500000000 0.500000000 0.250000\n"
    assert (tmp_path / "out/labels/test/test/0000.txt").read_text() == line
    assert (tmp_path / "out/labels/test/test/0001.txt").read_text() == ""
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(tiny.CLASSES))
    assert (tmp_path / "out/data.yaml").read_text() == f"test: images/test\nnames:\n{names}"
    # Without a data.yaml, as a run of ultralytics leaves them, the numbers are the profile's classes.
    shutil.copytree(tmp_path / "out/labels/test/test", tmp_path / "labels")
    (tmp_path / "labels/0003.txt").unlink()
    run(tmp_path / "labels", tmp_path / "u.parquet", "--split", "test")
    back = read_predictions(tmp_path / "u.parquet")
    assert (back.labels.tolist(), back.boxes_xyxy.tolist()) == ([5], [[12, 8, 36, 24]])
    assert back.meta.image_ids.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "0000.txt",
            "5 0.5 0.5 0.5 0.5",
            r"0000\.txt: row 1: '5 0.5 0.5 0.5 0.5'; expected class, x, y, width",
        ),
        (
            "0000.txt",
            "5 0.5 0.5 0.5 nan 0.1",
            r"0000\.txt: row 1: .*; expected class, x, y, width, height and s",
        ),
        ("0000.txt", "12 0.5 0.5 0.5 0.5 0.1", r"0000\.txt: row 1: class 12; expected one of \[0, 1"),
        ("0000.txt", "1 0.5 0.5 0.5 0.5 7", r"0000\.txt: row 1: box .*: expected a score from 0 to 1"),
        ("9999.txt", "", r"9999\.txt: names no photo of the test set"),
        ("notes.md", "", "no text and no xml file below it; expected one per photo"),
        (
            "0000.xml",
            "<annotation><object><name>cat</name></object></annotation>",
            r"0000\.xml: object 0: class 'cat'; expected one of General trash",
        ),
        (
            "0000.xml",
            tiny.voc_xml("0000.jpg", [("Paper", [1, 2, 3, 4])]),
            r"0000\.xml: object 0: ' 1 2 3 4'; expected score and bndbox",
        ),
    ],
)
def test_a_folder_of_predictions_that_is_none(recycle, home, tmp_path, name, text, message):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / name).write_text(text)
    with pytest.raises(PipelineError, match=message):
        run(tmp_path / "labels", tmp_path / "u.parquet", "--split", "test")
    assert not (tmp_path / "u.parquet").exists()


@pytest.mark.parametrize("format", WRITERS)
def test_crowds_turned_photos_missing_ones_and_equal_names(home, tmp_path, format, capsys):
    root = tiny.write_coco(home / "data" / "recycle")
    content = json.loads((root / "train.json").read_text())
    content["annotations"][0]["iscrowd"] = 1
    for image, name in zip(content["images"], ("a/1.jpg", "b/1.jpg", "b/1.PNG"), strict=False):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.move(root / image["file_name"], root / name)
        image["file_name"] = name
    tiny.write_json(root / "train.json", content)
    Image.new("CMYK", (tiny.WIDTH, tiny.HEIGHT)).save(root / "a/1.jpg")
    (root / "train/0005.jpg").unlink()
    run("truth", tmp_path / "out", "--to", format, "--split", "oof")
    notes = capsys.readouterr().out
    assert ("1 crowds left out" in notes) == (format != "coco")
    assert "1 of 12 photos are not there: no link was made" in notes
    there = [path for path in (tmp_path / "out").rglob("*") if path.suffix.lower() in (".jpg", ".png")]
    assert sum(path.is_symlink() for path in there) == 10
    (copy,) = [path for path in there if not path.is_symlink()]
    with Image.open(copy) as image:
        assert image.mode == "RGB"


def test_truth_that_is_not_known_and_options_that_say_nothing(recycle, home, tmp_path):
    for options, message in (
        (("--to", "yolo", "--split", "test"), "the boxes of its test set are not known"),
        (("--split", "oof"), "truth: expected the format, --to"),
        (("--to", "yolo", "--split", "oof", "--model", "m"), "truth has no --model"),
        (("--to", "yolo", "--split", "oof", "--fold", "0"), "no split yet; make folds COMP=recycle"),
    ):
        with pytest.raises(PipelineError, match=message):
            run("truth", tmp_path / "out", *options)
    assert list(tmp_path.glob("*out*")) == []
