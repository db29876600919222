"""The writer and reader of submissions against Python's own numbers, csv module and a plain writer."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.predictions import Meta, make_predictions
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.scoring import evaluate
from pipeline.submissions.check import check_submission
from pipeline.submissions.reader import read_submission
from pipeline.submissions.rows import read_csv, read_rows
from pipeline.submissions.writer import write_submission


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return load_profile("recycle", tiny.write_coco(tmp_path_factory.mktemp("data"), n_test=7, photos=False))


def read_values(path, profile, texts):
    """The numbers of a file whose one box string has these texts."""
    path.write_text("PredictionString,image_id\n" + " ".join(texts) + ",test/0000.jpg\n")
    return read_rows(path, profile).numbers


# What tools write: fixed decimals, repr, numpy, C's %g and %e, and what is near a float32's border.
decimals = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda v: str(np.float32(v))),
    st.floats(-1e5, 1e5).map(lambda v: f"{v:.2f}"),
    st.floats(0, 1).map(lambda v: f"{v:.25f}"),
    st.floats(-1e30, 1e30).map(lambda v: f"{v:g}"),
    st.floats(-1e5, 1e5).map(lambda v: f"{v:.18e}"),
    st.integers(-(10**25), 10**25).map(str),
    st.tuples(st.integers(0, 2**24), st.integers(-6, 6), st.integers(15, 40)).map(
        lambda t: f"{(t[0] + 0.5) * 2.0**-14 + t[1] * 2.0**-60:.{t[2]}f}"
    ),
    st.tuples(st.integers(0, 10**19), st.integers(-30, 30)).map(lambda t: f"{t[0]}E{t[1]:+03d}"),
)


@settings(max_examples=150)
@given(st.lists(decimals, min_size=1, max_size=40))
def test_any_decimal_is_read_as_python_reads_it(tmp_path_factory, profile, texts):
    values = read_values(tmp_path_factory.mktemp("s") / "s.csv", profile, texts)
    assert values.tobytes() == np.array([float(text) for text in texts]).tobytes()


@pytest.mark.parametrize(
    "token",
    [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e999",
        ".",
        "-",
        "+",
        "e5",
        "1e",
        "1e+",
        "1.2.3",
        "1-2",
        "0x10",
        "1_0",
        "--1",
        "½",
        "1.0f",
        "1d5",
        "5e-",
    ],
)
def test_what_is_no_finite_number(profile, tmp_path, token):
    values = read_values(tmp_path / "s.csv", profile, ["1", token, "2"])
    np.testing.assert_array_equal(values, [1, np.nan, 2])


@pytest.mark.parametrize(
    ("token", "value"),
    [
        ("1.", 1),
        (".5", 0.5),
        ("+3", 3),
        ("-.25", -0.25),
        ("007", 7),
        ("1e5", 1e5),
        ("-0", 0),
        ("0e0", 0),
        ("1" + "0" * 30, 1e30),
        ("0." + "0" * 30 + "1", 1e-31),
        ("4.9e-324", 4.9e-324),
        ("infinity", np.nan),
    ],
)
def test_odd_but_finite(profile, tmp_path, token, value):
    np.testing.assert_array_equal(read_values(tmp_path / "s.csv", profile, [token]), [value])


# Writing


def plain_number(value, places):
    text = f"{np.round(np.float64(value), places):.{places}f}"
    return re.sub(r"\.?0*$", "", text) if "." in text else text


def plain_writer(table, images):
    """The format in a few lines of Python: what ours must equal to the byte."""
    lines = ["PredictionString,image_id"]
    for image_id, name in zip(images["image_id"], images["file_name"], strict=True):
        parts = []
        for row in np.flatnonzero(table.image_id == image_id):
            corners = [float(np.round(np.float64(v), 2)) for v in table.boxes_xyxy[row]]
            score = np.round(np.float64(table.scores[row]), 6)
            if corners[2] > corners[0] and corners[3] > corners[1] and score > 0:
                parts += [
                    str(table.labels[row]),
                    plain_number(score, 6),
                    *(plain_number(v, 2) for v in corners),
                ]
        lines.append(" ".join(parts) + "," + name)
    return "\n".join(lines) + "\n"


def random_table(test, seed, count, scale=1024.0):
    """Boxes of all sizes, of which some vanish by rounding; scores down to 1e-8."""
    rng = np.random.default_rng(seed)
    images = test.images.assign(width=int(scale), height=int(scale))
    corners = np.sort(rng.uniform(0, scale, (count, 2, 2)), axis=1).reshape(count, 4)
    near = rng.random(count) < 0.2
    corners[near, 2:] = corners[near, :2] + rng.uniform(0, 0.02, (near.sum(), 2))
    whole = rng.random(count) < 0.1
    corners[whole] = np.round(corners[whole])
    ids = rng.choice(test.images["image_id"].to_numpy()[:-1], count)
    meta = Meta(
        "recycle",
        "test",
        test.digest,
        test.images["image_id"].to_numpy(np.int32),
        np.full(len(images), -1, np.int32),
    )
    score = 10 ** rng.uniform(-8, 0, count)
    return make_predictions(ids, rng.integers(0, 10, count), score, corners, meta, images)[0]


@pytest.mark.parametrize(
    ("seed", "count", "scale"),
    [(0, 0, 1024.0), (1, 7, 48.0), (2, 2000, 1024.0), (3, 500, 9e6), (4, 3000, 16.0)],
)
def test_the_file_is_what_a_plain_writer_writes(profile, tmp_path, seed, count, scale):
    test = load_dataset(profile, "test")
    table = random_table(test, seed, count, scale)
    written = write_submission(tmp_path / "s.csv", profile, table, test.images)
    text = (tmp_path / "s.csv").read_text()
    assert text == plain_writer(table, test.images)
    assert not re.search(
        r"[eE]|nan|inf|-|\.\d*0 |\. ", text.split("\n", 1)[1].replace("test/", "").replace(".jpg", "")
    )
    assert read_rows(tmp_path / "s.csv", profile).numbers.size == 6 * written


@pytest.mark.parametrize("name", ['a "b".jpg', "a, b.jpg", "a\nb.jpg"])
def test_a_name_that_needs_quotes_there_and_back(profile, tmp_path, name):
    test = load_dataset(profile, "test")
    images = test.images.assign(file_name=[name, *test.images["file_name"][1:]])
    test = replace(test, images=images)
    write_submission(tmp_path / "s.csv", profile, tiny.table(test, [(0, 1, 0.5, 1, 2, 3, 4)]), images)
    with open(tmp_path / "s.csv", newline="") as file:
        assert list(csv.reader(file))[1] == ["1 0.5 1 2 3 4", name]
    assert check_submission(tmp_path / "s.csv", profile, test).errors == []
    boxes = read_submission(tmp_path / "s.csv", profile, test, Findings("s.csv"))
    assert boxes.boxes_xyxy.tolist() == [[1, 2, 3, 4]]


@settings(max_examples=300)
@given(st.text(alphabet='ab,"\n\r \t\u2028\u0085\x0b\x0c', max_size=12))
def test_rows_are_those_of_the_csv_module(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("s") / "s.csv"
    path.write_bytes(text.encode())
    try:
        expected = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error:
        with pytest.raises(PipelineError, match=r"s\.csv: not a CSV file"):
            read_csv(path)
        return
    rows, complete = read_csv(path)
    assert [row for row in rows if row] == [row for row in expected if row]
    assert [number for number, row in enumerate(rows) if row] == [
        number for number, row in enumerate(expected) if row
    ]
    assert complete == text.endswith(("\n", "\r"))


def test_a_label_that_the_competition_lacks_is_refused(profile, tmp_path):
    test = load_dataset(profile, "test")
    table = random_table(test, 5, 10)
    table = replace(table, labels=table.labels + np.int16(5))
    few = replace(profile, classes=profile.classes[:6])
    with pytest.raises(PipelineError, match=r"label \d+, expected 0..5"):
        write_submission(tmp_path / "s.csv", few, table, test.images)
    assert not (tmp_path / "s.csv").exists()


@pytest.mark.parametrize(
    "data", [b"PredictionString,image_id\n\xff\xfe", b"PredictionString,image_id\nab\0c,d\n"]
)
def test_a_file_that_is_no_text(profile, tmp_path, data):
    (tmp_path / "s.csv").write_bytes(data)
    with pytest.raises(PipelineError, match=r"s\.csv: not a CSV file"):
        read_rows(tmp_path / "s.csv", profile)


def test_rounding_costs_no_map(shared_data, tmp_path):
    """Real out-of-fold boxes, written and read back: the same mAP50 in all digits that are reported."""
    profile = load_profile("recycle", shared_data / "boostcamp_recycle")
    train = load_dataset(profile, "train")
    source = shared_data / "predictions/oof_deta/deta-swin-large_0_img_size_720_identity.csv"

    def table(path):
        boxes = read_submission(path, profile, train, Findings(path.name))
        ids = np.unique(boxes.named_ids).astype(np.int32)
        meta = Meta("recycle", "oof", train.digest, ids, np.zeros(len(ids), np.int32))
        columns = (boxes.image_id, boxes.label, boxes.score, boxes.boxes_xyxy)
        return make_predictions(*columns, meta, train.images)[0]

    before = table(source)
    images = train.images[train.images["image_id"].isin(before.meta.image_ids)]
    write_submission(tmp_path / "s.csv", profile, before, images)
    scores = [evaluate(t, train.annotations, profile.classes) for t in (before, table(tmp_path / "s.csv"))]
    assert scores[0]["map50"] == scores[1]["map50"]
    assert scores[0]["ap50"] == scores[1]["ap50"]
    assert scores[0]["map50_95"] == pytest.approx(scores[1]["map50_95"], abs=1.1e-5)
