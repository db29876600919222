"""The prediction table: written and read back unchanged, and a reader that checks all of it."""

import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from pipeline import paths
from pipeline.data.predictions import (
    KEY,
    SCHEMA,
    Meta,
    check_belongs,
    join_predictions,
    make_predictions,
    read_predictions,
    write_predictions,
)
from pipeline.data.records import DIGEST
from pipeline.errors import PipelineError

# Ids with gaps, and photos of different sizes.
IMAGES = pd.DataFrame(
    {
        "image_id": [2, 5, 6, 9],
        "file_name": list("abcd"),
        "width": [40, 30, 40, 60],
        "height": [30, 40, 30, 60],
    }
).astype({"image_id": "int32"})
ROWS = [
    (9, 1, 0.5, 0, 0, 9, 9),
    (2, 0, 0.25, 1, 2, 3, 4),
    (2, 3, 0.75, 5, 5, 30, 20),
    (5, 1, 1.0, 0, 0, 30, 40),
]


def a_meta(**changes):
    ids = IMAGES["image_id"].to_numpy()
    meta = Meta("recycle", "oof", "0123456789abcdef", ids, np.array([0, 1, -1, 0], np.int32), "m", "hflip")
    return replace(meta, **changes)


def a_table(rows=ROWS, **changes):
    values = np.array(rows, np.float64).reshape(-1, 7)
    return make_predictions(*values[:, :3].T, values[:, 3:], a_meta(**changes), IMAGES)[0]


def columns(table):
    return [table.image_id, table.labels, table.scores, table.boxes_xyxy]


def assert_same(a, b):
    for left, right in zip(columns(a), columns(b), strict=True):
        np.testing.assert_array_equal(left, right)
        assert left.dtype == right.dtype


box = st.tuples(
    st.sampled_from([2, 5, 6, 9]),
    st.integers(0, 9),
    st.sampled_from([0, 0.1, 0.5, 0.5001, 1]),
    *[st.integers(0, 14)] * 2,
    *[st.integers(15, 30)] * 2,
)
boxes = st.lists(box, max_size=12)


@given(boxes, st.randoms())
def test_a_table_does_not_depend_on_the_order_of_its_boxes(rows, random):
    table = a_table(rows)
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert_same(a_table(shuffled), table)
    order = [(i, -s) for i, s in zip(table.image_id.tolist(), table.scores.tolist(), strict=True)]
    assert order == sorted(order)


@given(boxes)
def test_written_and_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    table = a_table(rows, made={"checkpoint_digest": "12", "seconds": 1.5})
    write_predictions(path, table)
    back = read_predictions(path)
    assert_same(back, table)
    assert back.source == path
    for name in ("competition", "split", "image_digest", "model", "view", "made"):
        assert getattr(back.meta, name) == getattr(table.meta, name)
    assert back.meta.image_ids.tolist() == [2, 5, 6, 9]
    assert back.meta.folds.tolist() == [0, 1, -1, 0]


def test_the_file_has_the_types_of_the_design(tmp_path):
    write_predictions(tmp_path / "t.parquet", a_table())
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert [(f.name, str(f.type)) for f in schema] == [
        ("image_id", "int32"),
        ("label", "int16"),
        ("score", "float"),
        ("x1", "float"),
        ("y1", "float"),
        ("x2", "float"),
        ("y2", "float"),
    ]
    assert json.loads(schema.metadata[KEY])["folds"] == [0, 1, None, 0]


def test_offsets_know_the_images_without_a_box():
    table = a_table()
    assert table.image_id.tolist() == [2, 2, 5, 9]
    assert table.offsets.tolist() == [0, 2, 3, 3, 4]  # image 6 was predicted and is empty


def test_boxes_are_clipped_to_their_own_photo_and_counted():
    rows = [
        (2, 0, 0.5, -4, -4, 90, 90),
        (5, 0, 0.5, 31, 0, 90, 9),
        (9, 0, 0.5, 8, 8, 8, 20),
        (9, 0, 0.5, 1, 1, 2, 2),
    ]
    values = np.array(rows, np.float64)
    table, counts = make_predictions(*values[:, :3].T, values[:, 3:], a_meta(), IMAGES)
    assert counts == {"clipped": 1, "without area": 2}
    assert table.boxes_xyxy.tolist() == [[0, 0, 40, 30], [1, 1, 2, 2]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((3, 0, 0.5, 0, 0, 1, 1), r"box 1 \(image 3\): expected an image id of the image table"),
        ((2, 0, 0.5, 0, np.nan, 1, 1), r"box 1 \(image 2\): expected finite corners"),
        ((2, 0, np.nan, 0, 0, 1, 1), r"expected a score in \[0, 1\]; score nan"),
        ((2, 0, 1.5, 0, 0, 1, 1), r"expected a score in \[0, 1\]; score 1.5"),
        ((2, -1, 0.5, 0, 0, 1, 1), "expected a label from 0 to 32767; .*label -1"),
        ((2, 40000, 0.5, 0, 0, 1, 1), "expected a label from 0 to 32767"),
    ],
)
def test_raw_boxes_that_no_table_may_hold(row, message):
    with pytest.raises(PipelineError, match=message):
        a_table([ROWS[0], row])


# Each entry breaks one promise of a table of ROWS, whose rows lie sorted as images 2, 2, 5, 9.
BROKEN = {
    "score above 1": ("score", 1, 1.5, r"row 1 \(image 2\): expected score in \[0, 1\]; score 1.5"),
    "negative score": ("score", 3, -0.5, r"row 3 \(image 9\): expected score in \[0, 1\]"),
    "score NaN": ("score", 0, np.nan, r"row 0 \(image 2\): expected score in \[0, 1\]; score nan"),
    "corner NaN": ("x1", 2, np.nan, r"row 2 \(image 5\): expected finite corners"),
    "corner infinite": ("y2", 2, np.inf, r"row 2 \(image 5\): expected finite corners"),
    "no width": ("x2", 0, 5.0, r"row 0 \(image 2\): expected x2 > x1 and y2 > y1"),
    "upside down": ("y2", 3, -1.0, r"row 3 \(image 9\): expected x2 > x1 and y2 > y1"),
    "outside": ("x1", 1, -1.0, r"row 1 \(image 2\): expected corners that are not negative"),
    "negative label": ("label", 2, -1, r"row 2 \(image 5\): expected label >= 0"),
    "image not predicted": ("image_id", 3, 10, r"row 3 \(image 10\): expected an image id among those"),
    "not sorted": ("image_id", 0, 9, r"row 1 \(image 2\): expected rows sorted by image"),
    "scores rise": ("score", 0, 0.125, r"row 1 \(image 2\): expected scores falling within an image"),
}


def write_raw(path, meta=None, schema=SCHEMA, **changes):
    """Write a table's file past all checks, with columns or metadata changed, as earlier versions did."""
    write_predictions(path, a_table())
    arrow = pq.read_table(path)
    values = {name: arrow[name].to_pylist() for name in SCHEMA.names} | changes
    text = json.loads(arrow.schema.metadata[KEY]) | {DIGEST: "left out"} | (meta or {})
    text = {k: v for k, v in text.items() if v != "left out"}
    pq.write_table(pa.table(values, schema=schema).replace_schema_metadata({KEY: json.dumps(text)}), path)


@pytest.mark.parametrize("case", BROKEN)
def test_the_reader_names_file_and_row(tmp_path, case):
    column, row, value, message = BROKEN[case]
    write_raw(tmp_path / "t.parquet")
    values = pq.read_table(tmp_path / "t.parquet")[column].to_pylist()
    values[row] = value
    write_raw(tmp_path / "t.parquet", **{column: values})
    with pytest.raises(PipelineError, match=r"t\.parquet: " + message):
        read_predictions(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"split": "train"}, "metadata: split: expected 'oof' or 'test', found \"train\"; predict again"),
        ({"format": 2}, "metadata: format: expected 1, found 2; predict again"),
        ({"format": "left out"}, "metadata: missing key 'format'; predict again"),
        ({"image_digest": "left out"}, "metadata: missing key 'image_digest'"),
        ({"image_ids": [2, 9, 5, 6]}, "ids of predicted images must be sorted, each once"),
        ({"image_ids": [2, 2, 5, 9]}, "ids of predicted images must be sorted, each once"),
        ({"folds": [0]}, "ids of predicted images must be sorted, each once"),
        ({"image_ids": 3}, "metadata: image_ids: expected a list, found 3"),
        ({"image_ids": [2, 5, 6, 2**40]}, "metadata: image_ids.3: expected less than"),
        ({"folds": ["a", "b", "c", "d"]}, "metadata: folds.0: expected a whole number, found"),
    ],
)
def test_broken_metadata(tmp_path, meta, message):
    write_raw(tmp_path / "t.parquet", meta)
    with pytest.raises(PipelineError, match=r"t\.parquet: " + message):
        read_predictions(tmp_path / "t.parquet")


def test_other_number_types_are_read_when_nothing_is_lost(tmp_path):
    wide = pa.schema([(f.name, pa.float64() if f.type == pa.float32() else pa.int64()) for f in SCHEMA])
    write_raw(tmp_path / "t.parquet", schema=wide)
    assert_same(read_predictions(tmp_path / "t.parquet"), a_table())


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("label", "Paper", "column types"), ("label", 0.5, "column types"), ("score", None, "empty cells")],
)
def test_columns_of_another_type(tmp_path, column, value, message):
    values = [value] * len(ROWS)
    fields = [pa.field(column, pa.array(values).type) if f.name == column else f for f in SCHEMA]
    write_raw(tmp_path / "t.parquet", schema=pa.schema(fields), **{column: values})
    with pytest.raises(PipelineError, match=r"t\.parquet: " + message):
        read_predictions(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut", "not a whole Parquet file .*; predict again"),
        ("empty", "not a whole Parquet file"),
        ("other", "not a prediction table .no column image_id.; bring boxes made elsewhere in with"),
        ("bare", "not a prediction table .no metadata of the pipeline.; bring boxes"),
        ("missing", "no such prediction table"),
        ("folder", "a folder; expected a file"),
    ],
)
def test_a_file_that_is_no_table(tmp_path, damage, message):
    path = tmp_path / "t.parquet"
    write_predictions(path, a_table())
    if damage == "cut":
        tiny.cut_in_half(path)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        pq.write_table(pa.table({"a": [1]}), path)
    elif damage == "bare":
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    else:
        path.unlink()
        if damage == "folder":
            path.mkdir()
    with pytest.raises(PipelineError, match=r"t\.parquet: " + message) as error:
        read_predictions(path)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def whole_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "t.parquet"
    write_predictions(path, a_table(made={"members": [{"model": "a", "digest": "0123456789abcdef"}]}))
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["flipped", "cut off", "longer", "other"])
def test_any_changed_byte_is_an_error(tmp_path, whole_file, kind):
    path, rng, size = tmp_path / "t.parquet", random.Random(0), len(whole_file)
    places = rng.sample(range(size), 400)
    place = whole_file.index(DIGEST.encode())
    places += range(place - 9, place + 40)  # the digest and its name
    for k in places:
        if kind == "flipped":
            middle, rest = bytes([whole_file[k] ^ 1 << rng.randrange(8)]), k + 1
        elif kind == "other":
            middle, rest = bytes([(whole_file[k] + rng.randrange(1, 256)) % 256]), k + 1
        else:
            middle, rest = (b"", size) if kind == "cut off" else (rng.choice((b" ", b"\0", b"0")), k)
        path.write_bytes(whole_file[:k] + middle + whole_file[rest:])
        with pytest.raises(PipelineError, match=r"^\S*t\.parquet: [ -~]*; predict again$") as error:
            read_predictions(path)
        assert len(str(error.value)) <= 300


def test_a_table_of_an_earlier_version_is_read_with_a_note(tmp_path, capsys):
    path = tmp_path / "t.parquet"
    write_predictions(path, a_table())
    assert read_predictions(path).is_checked and capsys.readouterr().out == ""
    write_raw(path)
    for table in (read_predictions(path), read_predictions(path)):
        assert_same(table, a_table())
        assert not table.is_checked
    assert capsys.readouterr().out.count("t.parquet: has no digest (earlier versions wrote none)") == 1


def test_predict_writes_a_table_of_an_earlier_version_anew(tmp_path):
    from pipeline.inference.fold import up_to_date  # needs torch

    path, image_digest = tmp_path / "t.parquet", a_table().meta.image_digest
    write_predictions(path, a_table())
    assert up_to_date(path, {}, image_digest)
    write_raw(path)
    assert not up_to_date(path, {}, image_digest)


def test_other_tools_can_check_the_pages(tmp_path, whole_file):
    path = tmp_path / "t.parquet"
    path.write_bytes(whole_file)
    assert pq.ParquetFile(path, page_checksum_verification=True).read().num_rows == len(ROWS)
    damaged = bytearray(whole_file)
    damaged[pq.read_metadata(path).row_group(0).column(3).dictionary_page_offset - 1] ^= 1  # of the scores
    path.write_bytes(damaged)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_the_digest_of_a_tables_file_is_known_once_it_is_read(tmp_path):
    path = tmp_path / "t.parquet"
    write_predictions(path, a_table())
    assert read_predictions(path).digest == paths.file_digest(path)


def test_a_table_of_another_competition_data_or_class_list():
    table = a_table()
    check_belongs(table, "recycle", "0123456789abcdef", 4)
    with pytest.raises(PipelineError, match="made for competition 'recycle', expected 'taco'"):
        check_belongs(table, "taco")
    with pytest.raises(PipelineError, match=r"another image table \(digest 0123456789abcdef, the data n"):
        check_belongs(table, "recycle", "fedcba9876543210")
    with pytest.raises(PipelineError, match=r"row 0: label 3, expected 0\.\.2"):
        check_belongs(table, "recycle", n_classes=3)


def part(ids, **changes):
    rows = [row for row in ROWS if row[0] in ids]
    own = {"image_ids": np.array(ids, np.int32), "folds": np.zeros(len(ids), np.int32)}
    return a_table(rows, **(own | changes))


def test_joining_pools_disjoint_images_whatever_the_order():
    one, two = part([2, 6]), part([5, 9], folds=np.ones(2, np.int32))
    for tables in ([one, two], [two, one]):
        joined = join_predictions(tables)
        assert_same(joined, a_table())
        assert joined.meta.image_ids.tolist() == [2, 5, 6, 9]
        assert joined.meta.folds.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_ids": np.array([2, 5], np.int32)}, "tables to be joined share images"),
        ({"competition": "taco"}, "made for competition 'taco', expected 'recycle'"),
        ({"image_digest": "feed"}, "made for another image table"),
        ({"split": "test"}, "split 'test', but .* has 'oof'"),
    ],
)
def test_joining_refuses_tables_that_do_not_belong_together(changes, message):
    with pytest.raises(PipelineError, match=message):
        join_predictions([part([2, 6]), replace(part([5, 9]), meta=replace(part([5, 9]).meta, **changes))])


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    write_predictions(path, a_table())
    before = path.read_bytes()

    def broken(writer, arrow):
        writer.where.write_bytes(b"half of")
        raise OSError("disk full")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", broken)
    with pytest.raises(OSError, match="disk full"):
        write_predictions(path, a_table([]))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        paths.write_json(tmp_path / "new" / "a.json", {"score": float("nan")})
    with pytest.raises(FileNotFoundError), paths.atomic(tmp_path / "b.csv") as temporary:
        (temporary.parent / "missing").rename(temporary)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
