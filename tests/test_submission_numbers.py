"""The compiled writer and reader of submissions against Python's own numbers and a plain writer."""

import re
from dataclasses import replace

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.predictions import Meta, Predictions, make_predictions
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.scoring import evaluate
from pipeline.submissions import digits
from pipeline.submissions.layout import layout_of
from pipeline.submissions.reader import read_submission
from pipeline.submissions.scan import scan_submission
from pipeline.submissions.writer import submission_bytes, write_submission


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    return load_profile("recycle", tiny.write_coco(tmp_path_factory.mktemp("data"), n_test=7, photos=False))


def scan(path, profile, tokens):
    path.write_text("PredictionString,image_id\n" + " ".join(tokens) + ",test/0000.jpg\n")
    return scan_submission(path, profile)


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
def test_any_decimal_is_read_exact_to_float32(tmp_path_factory, profile, tokens):
    found = scan(tmp_path_factory.mktemp("s") / "s.csv", profile, tokens)
    expected = np.array([float(token) for token in tokens])
    with np.errstate(over="ignore"):
        assert found.values.astype(np.float32).tobytes() == (expected + 0.0).astype(np.float32).tobytes()
    np.testing.assert_allclose(found.values, expected, rtol=4e-15)
    exponents = [("e" in token.lower()) for token in tokens]
    assert ((found.flags & digits.EXPONENT) > 0).tolist() == exponents


def test_decimals_on_the_borders_of_float32(profile, tmp_path):
    """Decimals halfway between two float32, and one digit above and below: where rounding twice errs."""
    rng = np.random.default_rng(3)
    tokens = []
    for value in rng.uniform(0, 1024, 3000).astype(np.float32):
        half = (float(value) + float(np.nextafter(value, np.float32(2000)))) / 2
        text = f"{half:.40f}".rstrip("0")
        tokens += [text, text[:-1], text + "1", f"{half:.17g}", f"{half:.9f}"]
    found = scan(tmp_path / "s.csv", profile, tokens).values.astype(np.float32)
    assert np.array_equal(found, np.array([float(token) for token in tokens]).astype(np.float32))


@pytest.mark.parametrize(
    "token",
    [
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e999",
        "",
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
        "1,5",
        "½",
        "1.0f",
        "1d5",
        "5e-",
    ],
)
def test_what_is_no_finite_number(profile, tmp_path, token):
    found = scan(tmp_path / "s.csv", profile, ["1", f'"{token}"' if "," in token else token, "2"])
    if not token or "," in token:
        return  # no token; or a column too many, which the check's tests look at
    assert np.isnan(found.values[1]), found.values
    assert found.flags[1] & digits.UNREAD
    assert found.values[[0, 2]].tolist() == [1, 2]


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
    np.testing.assert_array_equal(scan(tmp_path / "s.csv", profile, [token]).values, [value])


# Writing


def plain_number(value, places):
    text = f"{np.round(np.float64(value), places):.{places}f}"
    return re.sub(r"\.?0*$", "", text) if "." in text else text


def plain_writer(table, images):
    """The format in a few lines of Python: what the kernel must equal to the byte."""
    lines = ["PredictionString,image_id"]
    for image_id, name in zip(images["image_id"], images["file_name"], strict=True):
        parts = []
        for row in np.flatnonzero(table.image_id == image_id):
            corners = [float(np.round(np.float64(v), 2)) for v in table.boxes_xyxy[row]]
            score = np.round(np.float64(table.score[row]), 6)
            if corners[2] > corners[0] and corners[3] > corners[1] and score > 0:
                parts += [
                    str(table.label[row]),
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
    ("seed", "count", "scale"), [(0, 0, 1024.0), (1, 7, 48.0), (2, 2000, 1024.0), (3, 500, 9e6)]
)
def test_the_kernel_writes_what_a_plain_writer_does(profile, tmp_path, seed, count, scale):
    test = load_dataset(profile, "test")
    table = random_table(test, seed, count, scale)
    written = write_submission(tmp_path / "s.csv", profile, table, test.images)
    text = (tmp_path / "s.csv").read_text()
    assert text == plain_writer(table, test.images)
    assert not re.search(
        r"[eE]|nan|inf|-|\.\d*0 |\. ", text.split("\n", 1)[1].replace("test/", "").replace(".jpg", "")
    )
    assert scan_submission(tmp_path / "s.csv", profile).values.size == 6 * written


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(profile, tmp_path, threads):
    test = load_dataset(profile, "test")
    table = random_table(test, 4, 3000)
    layout = layout_of(profile, test.images)
    parts, _ = submission_bytes(profile, table, layout, test.images, threads=threads)
    write_submission(tmp_path / "s.csv", profile, table, test.images)
    assert b"".join(parts) == (tmp_path / "s.csv").read_bytes()
    one, many = (scan_submission(tmp_path / "s.csv", profile, n) for n in (1, threads))
    assert one.values.tobytes() == many.values.tobytes()
    assert (one.keys, one.offsets.tolist()) == (many.keys, many.offsets.tolist())


def test_keys_that_need_quotes(profile, tmp_path):
    test = load_dataset(profile, "test")
    images = test.images.assign(file_name=['a "b".jpg', *test.images["file_name"][1:]])
    write_submission(tmp_path / "s.csv", profile, tiny.table(test, []), images)
    assert (tmp_path / "s.csv").read_text().splitlines()[1] == ',"a ""b"".jpg"'
    assert scan_submission(tmp_path / "s.csv", profile).keys[0] == 'a "b".jpg'


def test_a_label_that_the_competition_lacks_is_refused(profile, tmp_path):
    test = load_dataset(profile, "test")
    table = random_table(test, 5, 10)
    table = Predictions(table.image_id, table.label + np.int16(5), table.score, table.boxes_xyxy, table.meta)
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
        scan_submission(tmp_path / "s.csv", profile)


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
