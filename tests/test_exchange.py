"""Submission CSVs and COCO results json, to the byte out and with every fault named in."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import convert
from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.predictions import read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.specs import SubmissionSpec
from pipeline.errors import PipelineError
from pipeline.submissions.reader import read_submission
from pipeline.submissions.writer import write_submission

# Of the test split; image 1 has no box.
ROWS = [
    (0, 5, 0.25, 1, 2, 30.126, 20),
    (0, 1, 0.9, 0.004, 0, 48, 32),
    (2, 0, 1.0, 10.5, 11.25, 12.75, 13),
    (3, 9, 0.0000004, 1, 1, 9, 9),
    (4, 7, 1 / 3, 5, 5, 5.004, 9),
    (4, 7, 1e-5, 5, 5, 9, 9),
]


@pytest.fixture
def test_set(recycle):
    return load_dataset(load_profile("recycle"), "test")


# A submission format -> what it gives for ROWS: best boxes first, two decimals of a pixel, six of a
# score, no exponents; the score 4e-7 and the box of width 0.004 vanish.
FORMATS = {
    "recycle": (
        SubmissionSpec(),
        "PredictionString,image_id\n"
        "1 0.9 0 0 48 32 5 0.25 1 2 30.13 20,test/0000.jpg\n"
        ",test/0001.jpg\n"
        "0 1 10.5 11.25 12.75 13,test/0002.jpg\n"
        ",test/0003.jpg\n"
        "7 0.00001 5 5 9 9,test/0004.jpg\n",
    ),
    "wheat": (
        SubmissionSpec(("image_id", "PredictionString"), image="{stem}", box="{score} {x} {y} {w} {h}"),
        "image_id,PredictionString\n"
        "0000,0.9 0 0 48 32 0.25 1 2 29.13 18\n"
        "0001,\n"
        "0002,1 10.5 11.25 2.25 1.75\n"
        "0003,\n"
        "0004,0.00001 5 5 4 4\n",
    ),
    "vinbig": (
        SubmissionSpec(("image_id", "PredictionString"), image="{image_id}", empty="14 1 0 0 1 1"),
        "image_id,PredictionString\n"
        "0,1 0.9 0 0 48 32 5 0.25 1 2 30.13 20\n"
        "1,14 1 0 0 1 1\n"
        "2,0 1 10.5 11.25 12.75 13\n"
        "3,14 1 0 0 1 1\n"
        "4,7 0.00001 5 5 9 9\n",
    ),
    "other columns": (
        SubmissionSpec(("Id", "Boxes"), "Id", "Boxes", box="{x1} {y1} {x2} {y2} {label} {score}"),
        "Id,Boxes\n"
        "test/0000.jpg,0 0 48 32 1 0.9 1 2 30.13 20 5 0.25\n"
        "test/0001.jpg,\n"
        "test/0002.jpg,10.5 11.25 12.75 13 0 1\n"
        "test/0003.jpg,\n"
        "test/0004.jpg,5 5 9 9 7 0.00001\n",
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_golden_csv_and_back(test_set, tmp_path, name):
    spec, expected = FORMATS[name]
    profile = replace(load_profile("recycle"), submission=spec)
    path = tmp_path / "s.csv"
    assert write_submission(path, profile, tiny.table(test_set, ROWS), test_set.images) == 4
    assert path.read_bytes().decode() == expected
    findings = Findings("s.csv")
    boxes = read_submission(path, profile, test_set, findings)
    assert boxes.image_id.tolist() == [0, 0, 2, 4]
    assert boxes.label.tolist() == ([1, 5, 0, 7] if "label" in spec.box else [0] * 4)
    assert boxes.score.tolist() == [0.9, 0.25, 1, 0.00001]
    np.testing.assert_allclose(boxes.boxes_xyxy[1], [1, 2, 30.13, 20], rtol=1e-12)
    assert boxes.named_ids.tolist() == [0, 1, 2, 3, 4]
    assert (findings.kinds, findings.notes) == ({}, [])


def test_the_rows_follow_the_order_of_the_annotation_file(recycle, tmp_path):
    tiny.edit_json(recycle / "test.json", lambda value: value["images"].reverse())
    test = load_dataset(load_profile("recycle"), "test")
    write_submission(tmp_path / "s.csv", load_profile("recycle"), tiny.table(test, ROWS), test.images)
    rows = (tmp_path / "s.csv").read_text().splitlines()[1:]
    assert rows == FORMATS["recycle"][1].splitlines()[:0:-1]


def run(source, target, *options, split="test"):
    convert.main([str(source), str(target), "--split", split, *map(str, options)])


def write_csv(path, *rows, header="PredictionString,image_id"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


box = st.tuples(
    st.integers(0, 4),
    st.integers(0, 9),
    st.integers(1, 10**6).map(lambda n: n / 10**6),
    *[st.integers(0, 1400).map(lambda n: n / 100)] * 2,
    *[st.integers(1500, 3200).map(lambda n: n / 100)] * 2,
)


@settings(max_examples=20)
@given(st.lists(box, max_size=8))
@pytest.mark.parametrize(("suffix", "pixel"), [(".csv", 0.005), (".json", 0.0005)])
def test_there_and_back(tmp_path_factory, suffix, pixel, rows):
    folder = tmp_path_factory.mktemp("x")
    root = tiny.write_coco(folder / "data", photos=False)
    before = tiny.table(load_dataset(load_profile("recycle", root), "test"), rows)
    write_predictions(folder / "a.parquet", before)
    run(folder / "a.parquet", folder / f"b{suffix}", "--root", root)
    run(folder / f"b{suffix}", folder / "c.parquet", "--root", root, "--model", "m", "--view", "identity")
    after = read_predictions(folder / "c.parquet")
    assert after.image_id.tolist() == before.image_id.tolist()
    assert after.labels.tolist() == before.labels.tolist()
    np.testing.assert_allclose(after.scores, before.scores, atol=0.6e-6)
    np.testing.assert_allclose(after.boxes_xyxy, before.boxes_xyxy, atol=1.1 * pixel)
    assert after.meta.image_ids.tolist() == [0, 1, 2, 3, 4]
    assert (after.meta.split, after.meta.model, after.meta.image_digest) == (
        "test",
        "m",
        before.meta.image_digest,
    )


def test_json_has_the_category_ids_of_the_annotations(recycle, home):
    def renumber(value):
        for category in value["categories"]:
            category["id"] = 10 * category["id"] + 1

    tiny.edit_json(recycle / "test.json", renumber)
    test = load_dataset(load_profile("recycle"), "test")
    write_predictions(home / "a.parquet", tiny.table(test, ROWS[:3]))
    run(home / "a.parquet", home / "b.json")
    assert (home / "b.json").read_text() == (
        '[{"image_id": 0, "category_id": 11, "bbox": [0.004, 0.0, 47.996, 32.0], "score": 0.9}, '
        '{"image_id": 0, "category_id": 51, "bbox": [1.0, 2.0, 29.126, 18.0], "score": 0.25}, '
        '{"image_id": 2, "category_id": 1, "bbox": [10.5, 11.25, 2.25, 1.75], "score": 1.0}]\n'
    )
    run(home / "b.json", home / "c.parquet")
    assert read_predictions(home / "c.parquet").labels.tolist() == [1, 5, 0]


# Rows of a CSV after its header -> the message, with the row's number in the file.
GOOD = "1 0.9 0 0 9 9,test/0000.jpg"
BROKEN = {
    "a value is missing": (
        [GOOD, "1 0.9 0 0 9,test/0001.jpg"],
        r"row 3 \(test/0001.jpg\): broken box string: 5 values, expected a multiple of 6",
    ),
    "text": (
        [GOOD, "1 high 0 0 9 9,test/0001.jpg"],
        r"row 3 \(test/0001.jpg\): broken box string: 'high' is not a finite number",
    ),
    "NaN": (["1 nan 0 0 9 9,test/0001.jpg"], r"row 2 \(test/0001.jpg\): broken .* 'nan' is not a finite"),
    "infinite": (["1 0.5 0 0 inf 9,test/0001.jpg"], "row 2 .* 'inf' is not a finite number"),
    "two columns too many": (["1 0.5 0 0 9 9,test/0001.jpg,7,8"], "row 2: 4 columns, expected 2"),
    "cut off": ([GOOD, "1 0.5"], "row 3: 1 columns, expected 2; is the file cut off"),
    "doubled row": ([GOOD, "", GOOD], "row 4: image 'test/0000.jpg' is also in row 2"),
    "unknown image": (
        [GOOD, ",test/9999.jpg"],
        "row 3: image 'test/9999.jpg' is not in the test set of 'recycle'; expected one like ",
    ),
    "image of train": ([",train/0000.jpg"], "row 2: image 'train/0000.jpg' is not in the test set"),
    "label too high": (
        [GOOD, "1 0.5 0 0 9 9 10 0.5 0 0 9 9,test/0001.jpg"],
        r"row 3 \(test/0001.jpg\): box \[10.0, .*\]: expected a label from 0 to 9",
    ),
    "negative label": (["-1 0.5 0 0 9 9,test/0001.jpg"], "row 2 .*: expected a label from 0 to 9"),
    "huge label": (["1e300 0.5 0 0 9 9,test/0001.jpg"], "row 2 .*: expected a label from 0 to 9"),
    "half a label": (["1.5 0.5 0 0 9 9,test/0001.jpg"], "row 2 .*: expected a label that is a whole number"),
    "score": (["1 50 0 0 9 9,test/0001.jpg"], r"row 2 \(test/0001.jpg\): .* expected a score from 0 to 1"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_csv_is_named_with_its_row_and_nothing_is_written(recycle, home, fault):
    rows, message = BROKEN[fault]
    write_csv(home / "s.csv", *rows)
    with pytest.raises(PipelineError, match=r"s\.csv: " + message) as error:
        run(home / "s.csv", home / "out.parquet")
    assert "\n" not in str(error.value)
    assert not (home / "out.parquet").exists()


@pytest.mark.parametrize("header", ["image_id", "PredictionString,image_id,extra", "a,b", ""])
def test_a_wrong_header(recycle, home, header):
    write_csv(home / "s.csv", GOOD, header=header)
    with pytest.raises(PipelineError, match=r"header \[.*\], expected \['PredictionString', 'image_id'\]"):
        run(home / "s.csv", home / "out.parquet")


def test_oddities_of_real_csvs_are_read(recycle, home, capsys):
    """Another order of columns, a byte order mark, \\r\\n, a trailing space, blank lines, quotes."""
    text = '\ufeffimage_id,PredictionString\r\ntest/0003.jpg,"1 5e-1 0 0 9 9 "\r\n\r\ntest/0000.jpg, \r\n'
    (home / "s.csv").write_bytes(text.encode())
    run(home / "s.csv", home / "out.parquet")
    table = read_predictions(home / "out.parquet")
    assert (table.image_id.tolist(), table.scores.tolist()) == ([3], [0.5])
    assert table.meta.image_ids.tolist() == [0, 3]
    said = capsys.readouterr().out
    assert "columns in another order than PredictionString,image_id; read by name" in said
    assert "3 of 5 images are not in it: not predicted" in said


def test_what_is_dropped_or_clipped_is_counted(recycle, home, capsys):
    row = "1 0.5 -3 0 9 9 1 0.5 60 0 70 9 1 0.5 9 9 3 3 1 0.5 1 1 2 2,test/0002.jpg"
    with pytest.raises(PipelineError, match="2 of 4 boxes would be left out: 1 boxes without area"):
        run(write_csv(home / "s.csv", row), home / "out.parquet")
    capsys.readouterr()
    run(home / "s.csv", home / "out.parquet", "--allow-losses")
    assert len(read_predictions(home / "out.parquet")) == 2
    said = capsys.readouterr().out
    assert "1 boxes that reach outside their photo clipped" in said
    assert "1 boxes wholly outside their photo dropped (image ids): 2" in said
    assert "1 boxes without area or with corners out of order dropped (image ids): 2" in said


def test_a_csv_of_sizes_is_recognised_and_read_with_its_box_string(recycle, home, capsys):
    boxes = " ".join(f"1 0.{i} {20 + i} 20 9 8" for i in range(1, 7))
    write_csv(home / "s.csv", f"1 0.9 30 20 9 8 {boxes},test/0002.jpg")
    with pytest.raises(PipelineError, match="7 of 7 boxes have corners out of order, and nearly all fit"):
        run(home / "s.csv", home / "out.parquet")
    run(home / "s.csv", home / "out.parquet", "--allow-losses")
    assert "WARNING: 7 of 7 boxes have corners out of order" in capsys.readouterr().out
    run(home / "s.csv", home / "out.parquet", "--box", "{label} {score} {x} {y} {w} {h}")
    assert read_predictions(home / "out.parquet").boxes_xyxy[0].tolist() == [30, 20, 39, 28]
    with pytest.raises(PipelineError, match=r"submission\.box '{x}': expected"):
        run(home / "s.csv", home / "out.parquet", "--box", "{x}")


# COCO results json

DETECTION = {"image_id": 1, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([DETECTION, DETECTION | {"image_id": 99}], "detection 1: expected image_id of the test set as 0, "),
        ([DETECTION | {"image_id": "one"}], "detection 0: expected image_id of the test set as 0"),
        (
            [DETECTION | {"category_id": 77}],
            "detection 0: .*category_id of .*; got {'image_id': 1, 'category_id': 77",
        ),
        ([DETECTION | {"bbox": [1, 2, 3]}], "detection 0: .*bbox of 4 numbers and score; got"),
        ([DETECTION | {"bbox": [1, 2, 3, None]}], "detection 0: .*bbox of 4 numbers and score; got"),
        ([DETECTION | {"bbox": [1, 2, 3, float("nan")]}], "detection 0: .*bbox of 4 numbers and score; got"),
        ([{"image_id": 1}], "detection 0: .*; got {'image_id': 1}"),
        ([3], "detection 0: expected image_id"),
        ([DETECTION, DETECTION | {"score": 1.5}], "detection 1: .*expected a score from 0 to 1"),
        ({"images": []}, "expected a list of detections"),
    ],
)
def test_a_broken_json_names_the_detection(recycle, home, value, message):
    tiny.write_json(home / "r.json", value)
    with pytest.raises(PipelineError, match=r"r\.json: " + message):
        run(home / "r.json", home / "out.parquet")
    assert not (home / "out.parquet").exists()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
@pytest.mark.parametrize("damage", ["missing", "folder", "bytes", "cut"])
def test_a_file_that_cannot_be_read(recycle, home, test_set, suffix, damage):
    path = home / f"a{suffix}"
    if damage == "folder":
        path.mkdir()
    elif damage == "bytes":
        path.write_bytes(b"\xff\xfe\x00\x81")
    elif damage == "cut":
        write_predictions(home / "t.parquet", tiny.table(test_set, ROWS[:3]))
        run(home / "t.parquet", path)
        path.write_bytes(path.read_bytes()[:-18])
    with pytest.raises(PipelineError, match=rf"a\{suffix}: "):
        run(path, home / "out.parquet")
    assert not (home / "out.parquet").exists()


# Which images count as predicted, and of which fold


def test_oof_boxes_keep_their_own_split(recycle, home):
    write_csv(home / "s.csv", "1 0.5 0 0 9 9,train/0007.jpg", ",train/0002.jpg")
    run(home / "s.csv", home / "out.parquet", "--fold", 3, split="oof")
    meta = read_predictions(home / "out.parquet").meta
    assert (meta.image_ids.tolist(), meta.folds.tolist(), meta.model) == ([2, 7], [3, 3], "s")
    (home / "folds.csv").write_text("file_name,fold\ntrain/0007.jpg,1\ntrain/0002.jpg,0\ntrain/0005.jpg,1\n")
    run(home / "s.csv", home / "out.parquet", "--folds", home / "folds.csv", split="oof")
    meta = read_predictions(home / "out.parquet").meta
    assert (meta.image_ids.tolist(), meta.folds.tolist()) == ([2, 5, 7], [0, 1, 1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image_id,fold\n7,0\n", "1 of its images have no fold in --folds, the first is image id 2"),
        ("image_id,fold\n7,0\n2,x\n", "row 3: expected a fold that is a whole number from 0 to 11; 2,x"),
        ("image_id,fold\n7,0\n2,0.5\n", "row 3: expected a fold that is a whole number from 0 to 11; 2,0.5"),
        ("image_id,fold\n7,0\n2,1e400\n", "row 3: expected a fold that is a whole number from 0"),
        ("image_id,fold\n7,0\n2,inf\n", "row 3: expected a fold that is a whole number from 0"),
        ("image_id,fold\n7,0\n2,2147483647\n", "row 3: expected a fold that is a whole number from 0"),
        ("image_id,fold\n7,0\n2,-1\n", "row 3: expected a fold that is a whole number from 0"),
        ("image_id,fold\n7,0\n2,\n", "row 3: expected a fold that is a whole number from 0"),
        ("image_id,fold\n7,0\n99,1\n", "row 3: image_id '99' is not in the train set"),
        ("image_id,fold\n7,0\n7,1\n2,1\n", "row 3: image_id '7' is there twice"),
        ("file_name,fold\ntrain/7.jpg,0\n", "row 2: file_name 'train/7.jpg' is not in the train set"),
        ("id,fold\n7,0\n", r"header \['id', 'fold'\], expected file_name or image_id"),
        ("image_id\n7\n", r"expected columns image_id \(or file_name\) and fold"),
        ("", "not a CSV file with a header: it is empty"),
    ],
)
def test_a_broken_fold_list(recycle, home, text, message):
    write_csv(home / "s.csv", "1 0.5 0 0 9 9,train/0007.jpg", ",train/0002.jpg")
    (home / "folds.csv").write_text(text)
    with pytest.raises(PipelineError, match=message):
        run(home / "s.csv", home / "out.parquet", "--folds", home / "folds.csv", split="oof")


def test_a_table_cut_to_some_images_becomes_a_csv_of_those(recycle, home, capsys):
    train = load_dataset(load_profile("recycle"), "train")
    write_predictions(home / "a.parquet", tiny.table(train, [(3, 1, 0.5, 0, 0, 9, 9)], image_ids=[3, 4]))
    run(home / "a.parquet", home / "b.csv", split="oof")
    expected = "PredictionString,image_id\n1 0.5 0 0 9 9,train/0003.jpg\n,train/0004.jpg\n"
    assert (home / "b.csv").read_text() == expected
    assert "10 of 12 images are not in it: not predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s.csv", "out.txt"], r"out\.txt: suffix '\.txt', expected \.parquet, \.json, \.csv"),
        (["a.parquet", "out.csv", "--model", "m"], "a prediction table says itself what it is; leave out"),
        (["a.parquet", "out.csv", "--fold", "0"], "a prediction table says itself what it is; leave out"),
        (["oof.parquet", "out.csv"], "made for another image table"),
        (
            ["a.parquet", "out.csv", "--competition", "taco", "--root", "data/recycle"],
            "made for competition 're",
        ),
    ],
)
def test_options_that_do_not_fit(recycle, home, test_set, monkeypatch, arguments, message):
    monkeypatch.chdir(home)
    write_csv(home / "s.csv", GOOD)
    write_predictions(home / "a.parquet", tiny.table(test_set, ROWS[:3]))
    train = load_dataset(load_profile("recycle"), "train")
    write_predictions(home / "oof.parquet", tiny.table(train, ROWS[:3]))
    with pytest.raises(PipelineError, match=message):
        run(*arguments)
    assert not list(home.glob("out.*"))


# Real predictions: images named, boxes in the file, boxes read with the profile's box string.
REAL = {
    "oof_deta/deta-swin-large_0_img_size_720_hflip": (940, 27928, 27928),
    "oof_deta/deta-swin-large_0_img_size_720_identity": (940, 27912, 27912),
    "oof_deta/deta-swin-large_1_img_size_720_hflip": (990, 33762, 33762),
    "oof_deta/deta-swin-large_1_img_size_720_identity": (990, 33721, 33721),
    "other_models/bc2cv15_det2_train": (4883, 28586, 28586),
    "other_models/bc2cv15_final14_train": (4883, 49501, 49501),
    "other_models/bc5cv11_val977": (977, 55376, 55376 - 12),
    "test_submissions/bc2cv02_yolov5": (4871, 31076, 31076 - 25938),
    "test_submissions/bc2cv06_swin": (4871, 60223, 60223),
    "test_submissions/bc3cv15_swinL": (4871, 63937, 63937),
    "test_submissions/bc3cv18_yolov5x6_base": (4871, 25066, 25066),
    "test_submissions/bc5cv11_cascade_ep19": (4871, 50618, 50618),
    "test_submissions/bc7cv18_yolov11": (4871, 18299, 18299),
}


@pytest.fixture(scope="module")
def real(shared_data):
    profile = load_profile("recycle", shared_data / "boostcamp_recycle")
    return profile, {split: load_dataset(profile, split) for split in ("train", "test")}


@pytest.mark.parametrize("name", REAL)
def test_real_csvs_are_read_without_loss_but_what_is_said(shared_data, real, name):
    profile, sets = real
    path = shared_data / "predictions" / f"{name}.csv"
    split = "test" if name.startswith("test") else "oof"
    images, in_file, kept = REAL[name]
    strings = pd.read_csv(path)["PredictionString"].fillna("")
    assert strings.str.split().str.len().sum() == 6 * in_file
    findings = Findings(path.name)
    dataset = sets["test" if split == "test" else "train"]
    table = convert.read_any(path, profile, dataset, split, "m", "identity", None, findings)
    assert (len(table.meta.image_ids), len(table)) == (images, kept)
    said = "\n".join(findings.lines())
    assert ("dropped" in said) == (kept < in_file)
    assert ("WARNING" in said) == (name == "test_submissions/bc2cv02_yolov5")
