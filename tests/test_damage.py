"""What people write, damaged: each file is read as its bytes say, or refused in one clear line."""

import json
from itertools import pairwise

import pytest
import tiny
from test_formats import boxes_of, coco, cvat, cvat_box, cvat_profile, profile_of, refused, write

from pipeline.data.dataset import load_dataset
from pipeline.data.exchange import read_coco_results
from pipeline.data.findings import Findings
from pipeline.data.formats.shapes import NO_NUMBERS, extent_of
from pipeline.data.models import merge_layers, read_layers, read_over_base
from pipeline.data.profile import Profile, read_classes
from pipeline.data.records import parse_yaml
from pipeline.data.specs import ColumnSpec, SplitSpec, SubmissionSpec
from pipeline.errors import PipelineError

# COCO json

JSON = {"annotations": "a.json"}
BOX = {"id": 70, "image_id": 0, "category_id": 1, "bbox": [10, 5, 20, 10], "iscrowd": 0}


def coco_profile(root, text):
    return profile_of(write(root, {"a.json": text}), "coco", JSON)


def with_box(**changes):
    """A COCO text of ten good boxes on one photo, of which one is changed."""
    good = [BOX | {"id": i, "bbox": [i, 0, 9, 9]} for i in range(9)]
    return coco([*good, BOX | changes])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"iscrowd": 0',
            '"iscrowd": 0, "image_id": 1',
            "not a whole json file .key 'image_id' is there twice",
        ),
        ('"a.jpg"', '"\\ud83d.jpg"', "not a whole json file .*surrogates"),
        ('"iscrowd": 0', f'"x": {"[" * 100_000}', "not a whole json file .*recursion"),
        ('"iscrowd": 0', '"iscrowd": [0]', "annotation 0: iscrowd .0., expected 0 or 1"),
        ('"width": 100', '"id": true, "width": 100', "not a whole json file .key 'id' is there twice"),
    ],
)
def test_coco_that_is_refused(tmp_path, old, new, message):
    text = with_box()
    assert old in text, text
    refused(coco_profile(tmp_path, text.replace(old, new, 1)), rf"a\.json: {message}")


@pytest.mark.parametrize("key", ["annotations", "categories"])
@pytest.mark.parametrize("value", [3, "x", {"id": 1}])
def test_lists_of_a_test_file_that_are_none(tmp_path, key, value):
    text = json.dumps(json.loads(with_box()) | {key: value})
    refused(coco_profile(tmp_path, text), "annotations and categories: expected lists", "test")


@pytest.mark.parametrize("identity", [True, None, [1], {}])
@pytest.mark.parametrize("key", ["images", "categories"])
def test_an_id_that_is_none_is_refused(tmp_path, key, identity):
    value = json.loads(with_box())
    value[key][0]["id"] = identity
    refused(coco_profile(tmp_path, json.dumps(value)), f"a.json: {key[:3]}.* 0: expected id")


@pytest.mark.parametrize(
    "box",
    [
        "1234",
        {"1": 0, "2": 0, "3": 0, "4": 0},
        [True, 0, 9, 9],
        ["٣", 0, 9, 9],
        ["1_0", 0, 9, 9],
        [10**400] * 4,
    ],
)
def test_what_is_no_box_is_left_out(tmp_path, box):
    train = load_dataset(coco_profile(tmp_path, with_box(bbox=box)), "train")
    assert train.findings.kinds == {NO_NUMBERS: [70]} and len(train.annotations) == 9


@pytest.mark.parametrize(
    "outline", [["1", "2", "3", "4"], "1234", {"1": 2}, [[1, 2, 3], [4]], [["a", 1]], [], 7]
)
def test_what_is_no_outline_has_no_extent(outline):
    assert extent_of(outline) is None and extent_of([[1, 2, 3, 4]]) == (1, 2, 3, 4)


def test_corners_that_no_number_holds_are_left_out(tmp_path):
    train = load_dataset(coco_profile(tmp_path, with_box(bbox=[1e308, 0, 1e308, 9])), "train")
    assert train.findings.count_lost("boxes") == 1 and len(train.annotations) == 9


def test_nan_where_nothing_needs_a_number(tmp_path):
    text = with_box(area=float("nan"), iscrowd=float("nan"))
    assert len(load_dataset(coco_profile(tmp_path, text), "train").annotations) == 10


@pytest.mark.parametrize("size", [True, 0.5, [100], "1_00", "１００", float("inf"), 10**400])
def test_a_size_that_is_none_is_read_from_the_photo(tmp_path, size):
    value = json.loads(with_box())
    value["images"][0]["width"] = size
    tiny.write_photo(tmp_path / "a.jpg", 100, 50)
    train = load_dataset(coco_profile(tmp_path, json.dumps(value)), "train")
    assert train.images["width"].tolist() == [100]


@pytest.mark.parametrize(
    "mask",
    [
        {"counts": 5, "size": [9, 9]},
        {"counts": [1, "x"], "size": [9, 9]},
        {"counts": [1], "size": 9},
        {"counts": {}, "size": [9, 9]},
        {"size": [9, 9]},
    ],
)
def test_what_is_no_mask_has_no_extent(mask):
    assert extent_of(mask) is None


@pytest.mark.parametrize(
    "change",
    [
        {"score": True},
        {"score": [0.5]},
        {"bbox": "1234"},
        {"bbox": {"1": 1, "2": 2, "3": 3, "4": 4}},
        {"score": 10**400},
    ],
)
def test_a_result_that_is_no_detection_is_refused(tmp_path, change):
    test = load_dataset(coco_profile(tmp_path, with_box()), "test")
    write(tmp_path, {"r.json": json.dumps([BOX | {"score": 0.5} | change])})
    with pytest.raises(PipelineError, match=r"r\.json: detection 0: expected"):
        read_coco_results(tmp_path / "r.json", test, Findings("r.json"))


# CSV

COLUMNS = ColumnSpec("im", "{im}.jpg", box=("x1", "y1", "x2", "y2"), xyxy=True, size=(100, 50))


def csv_profile(root, text, **columns):
    keys = vars(COLUMNS) | columns
    keys.pop("__pydantic_initialised__", None)
    return profile_of(
        write(root, {"a.csv": text}),
        "csv",
        {"annotations": "a.csv", "columns": ColumnSpec(**keys)},
        classes=("cat",),
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("row", ['"a,1,1,9,9', '"a"b,1,1,9,9', 'a,1,1,9,"9\n'])
def test_a_quote_that_is_not_closed_is_refused(tmp_path, end, row):
    text = end.join(["im,x1,y1,x2,y2", '"b, ""c""",1,1,9,9', row, "c,1,1,9,9", ""])
    refused(csv_profile(tmp_path, text), r'a\.csv: not a CSV file \(line 3: a quote \("\) that is not closed')


def test_a_file_that_is_cut_in_a_letter_is_refused(tmp_path, capfd):
    (tmp_path / "a.csv").write_bytes("im,x1,y1,x2,y2\na,1,1,9,9\n가".encode()[:-1])
    spec = {"annotations": "a.csv", "columns": COLUMNS}
    refused(profile_of(tmp_path, "csv", spec, classes=("cat",)), r"a\.csv: not a CSV file \('utf-8' codec")
    assert capfd.readouterr().err == ""


def test_quotes_that_are_closed(tmp_path):
    text = '\ufeff"im","x1",y1,x2,y2\n"b, ""c""\n",1,1,9,"9"\n5" d,1,1,9,9\n"",1,1,9,9'
    refused(csv_profile(tmp_path, text), "row 4: no im")
    train = load_dataset(csv_profile(tmp_path, text.replace('\n"",', "\ne,")), "train")
    assert sorted(train.images["file_name"]) == ['5" d.jpg', 'b, "c"\n.jpg', "e.jpg"]


@pytest.mark.parametrize("text", ['a,"cat\nb,dog\n', 'a,"cat"s\n'])
def test_a_quote_in_a_class_file_that_is_not_closed_is_refused(tmp_path, text):
    with pytest.raises(PipelineError, match=r"c\.csv: not a CSV file"):
        read_classes(write(tmp_path, {"c.csv": text}) / "c.csv", "it")


def test_a_flag_that_is_none_is_refused(tmp_path):
    for flag in ("48", "a\0b"):
        text = f"im,x1,y1,x2,y2,g\na,1,1,9,9,0\nb,,,,,{flag}\n"
        refused(csv_profile(tmp_path, text, crowd="g"), r"row 3: g '.*', expected 1 or 0")


def test_columns_of_any_name(tmp_path):
    """Also `row`, which the reader had a column of its own for, and what str.format would look into."""
    text = "im,row,y.1,x2,y2,a[0]\na,1,2,9,10,b\n"
    profile = csv_profile(tmp_path, text, box=("row", "y.1", "x2", "y2"), file="{im}/{a[0]}/{row}.jpg")
    assert boxes_of(load_dataset(profile, "train")) == {"a/b/1.jpg": [(0, 1, 2, 9, 10, 0)]}


@pytest.mark.parametrize("file", ["{im.__class__}", "{im!r}", "{im:>99999999}", "{0}", "{im[0]}"])
def test_a_file_name_of_columns_that_are_not_there(tmp_path, file):
    refused(csv_profile(tmp_path, "im,x1,y1,x2,y2\na,1,2,9,10\n", file=file), "no column '.*'; it has im, x1")


@pytest.mark.parametrize(
    "cell", ["[" * 100_000, "[true, 0, 9, 9]", '["1_0", 0, 9, 9]', f"[1{'0' * 400}, 0, 9, 9]"]
)
def test_a_cell_that_is_no_box_is_left_out(tmp_path, cell):
    rows = [f'a,"[{i}, 0, 9, 9]"' for i in range(10)]
    text = "\n".join(["im,b", *rows, f'''a,"{cell.replace('"', '""')}"'''])
    train = load_dataset(csv_profile(tmp_path, text, box=("b",), xyxy=False), "train")
    assert len(train.annotations) == 10 and train.findings.count_lost("boxes") == 1


# VOC

XML = tiny.voc_xml("a.jpg", [("개", [10, 5, 30, 15])], (100, 50))
VOC = {"annotations": "xml", "photos": "photos", "image_sets": ("set.txt",)}


def voc_profile(root, xml, lines="a\n"):
    (root / "xml").mkdir(exist_ok=True)
    (root / "xml/a.xml").write_bytes(xml)
    return profile_of(write(root, {"set.txt": lines}), "voc", VOC, classes=("개", "cat"))


@pytest.mark.parametrize("name", ["utf-8", "utf-16", "euc-kr", "cp949", "utf-8-sig"])
def test_xml_in_a_declared_encoding(tmp_path, name):
    text = f'<?xml version="1.0" encoding="{name.removesuffix("-sig")}"?>\n{XML}'
    train = load_dataset(voc_profile(tmp_path, text.encode(name)), "train")
    assert boxes_of(train) == {"a.jpg": [(0, 10, 5, 30, 15, 0)]}


@pytest.mark.parametrize(
    ("declared", "name"),
    [("utf-16", "utf-8"), ("cp949", "utf-8"), ("utf-8", "cp949"), ("x", "utf-8"), ("hex", "utf-8")],
)
def test_xml_in_another_encoding_than_it_says_is_refused(tmp_path, declared, name):
    text = f'<?xml version="1.0" encoding="{declared}"?>\n{XML}'
    refused(voc_profile(tmp_path, text.encode(name)), r"a\.xml: not a whole xml file")


def test_entities_of_xml(tmp_path):
    """Those of the file stand for their text; nothing is read from elsewhere, or unpacked without end."""
    bomb = "".join(f'<!ENTITY b{i} "{f"&b{i - 1};" * 10}">' for i in range(1, 9))
    for entity, use, message in (
        ('<!ENTITY x "개">', "&x;", None),
        ('<!ENTITY x SYSTEM "/etc/passwd">', "&x;", "undefined entity &x;"),
        (f'<!ENTITY b0 "ha">{bomb}', "&b8;", "amplification"),
    ):
        text = f"<!DOCTYPE annotation [{entity}]>{XML.replace('개', use)}"
        profile = voc_profile(tmp_path, text.encode())
        if message:
            refused(profile, rf"a\.xml: not a whole xml file .*{message}")
        else:
            assert boxes_of(load_dataset(profile, "train")) == {"a.jpg": [(0, 10, 5, 30, 15, 0)]}


@pytest.mark.parametrize("line", ["a 3", "a b", "a 1.0", "a\x0bb", "a nan"])
def test_a_line_of_an_image_set_that_is_no_stem(tmp_path, line):
    refused(
        voc_profile(tmp_path, XML.encode(), f"{line}\n"), "1 of 1 images would be left out: 1 stems without"
    )


@pytest.mark.parametrize("line", ["a", "a 1", "a\t-1", "a  0", "a.jpg"])
def test_a_line_of_an_image_set(tmp_path, line):
    assert len(load_dataset(voc_profile(tmp_path, XML.encode(), f"{line}\n"), "train").images) == 1


# CVAT xml


def test_a_turned_box_with_corners_out_of_order_has_no_area(tmp_path):
    """As one that is not turned."""
    shapes = cvat_box() * 20 + cvat_box("24 8 23 19", more='rotation="30.0"') + cvat_box("24 8 23 19")
    train = load_dataset(cvat_profile(tmp_path, cvat(('name="a.jpg"', shapes))), "train")
    assert boxes_of(train) == {"a.jpg": [(1, 10, 10, 30, 20, 0)]} and train.findings.count_lost("boxes") == 2


# YAML

BOMB = "a: &a [x, x]\n" + "".join(
    f"{c}: &{c} [*{p}, *{p}, *{p}, *{p}, *{p}]\n" for p, c in pairwise("abcdefghijklmno")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "repeat too much: write it out"),
        ("a: &a [*a]", "repeat too much: write it out"),
        ("a: 1\na: 2", "key 'a' is there twice"),
        ("x: {1: a, 0x1: b}", "key '1' is there twice"),
        ("x: {yes: a, true: b}", "key 'True' is there twice"),
        ('a: "\\ud83d\\ude00"', "is no text in Unicode"),
        ("? [1]\n: 2", "unhashable"),
        ("a: " + "[" * 5_000, "nested too deep"),
    ],
)
def test_yaml_that_is_refused(text, message):
    with pytest.raises(PipelineError, match=rf"x\.yaml: not YAML: .*{message}") as caught:
        parse_yaml(text.encode(), "x.yaml", "correct it")
    assert str(caught.value).isprintable()


def test_aliases_that_repeat_little():
    text = "a: &a {x: 1, y: 2}\nb: [*a, *a]\nc: {<<: *a, x: 3}"
    expected = {"a": {"x": 1, "y": 2}, "b": [{"x": 1, "y": 2}] * 2, "c": {"x": 3, "y": 2}}
    assert parse_yaml(text, "x.yaml", "correct it") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: a\nz: c", "unknown key '1'; known: _base_, model, train"),
        ("train: null", "train: expected a mapping"),
        ("train: [1]", "train: expected a mapping"),
        ("_base_: 7", "_base_ 7: expected the path of another config"),
        ("_base_: m.yaml", "of which it is a base itself"),
        ("_base_: ../x/n.yaml", "of which it is a base itself"),
        ("_base_: none.yaml", r"none\.yaml: not readable"),
        ("_base_: .", "a folder; expected a file"),
    ],
)
def test_a_model_config_that_is_refused(tmp_path, text, message):
    root = write(tmp_path / "x", {"m.yaml": text, "n.yaml": "_base_: ./m.yaml"})
    with pytest.raises(PipelineError, match=message):
        merge_layers(read_layers(root / "m.yaml"), ("model", "train"))
    if "_base_" in text:
        with pytest.raises(PipelineError, match=message):
            read_over_base(root / "m.yaml")


# Profiles


@pytest.mark.parametrize(
    "image",
    ["{stem.__class__}", "{stem[0]}", "{image_id!r}", "{position:999999999}", "{0}", "{", "{stem:5d}"],
)
def test_a_key_of_submissions_that_is_refused(image):
    with pytest.raises(
        PipelineError, match=r"submission.image .*: expected {file_name}, {stem}, {image_id} or"
    ):
        SubmissionSpec(image=image)


@pytest.mark.parametrize("image", ["{file_name}", "{stem}_x", "{image_id:06d}", "{position}-{stem}"])
def test_a_key_of_submissions(image):
    assert SubmissionSpec(image=image).image == image


# Links


def test_links_of_the_data_are_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path / "home"))
    write(tmp_path / "disk", {"case/train.json": with_box()})
    write(tmp_path / "elsewhere", {"a.jpg": None})
    (tmp_path / "home/data").mkdir(parents=True)
    (tmp_path / "home/data/case").symlink_to(tmp_path / "disk/case")
    (tmp_path / "disk/case/photos").symlink_to(tmp_path / "elsewhere")
    spec = SplitSpec("train.json", photos="photos")
    profile = Profile("Case", "coco", spec, spec, "case", tmp_path / "disk/case", classes=("cat", "dog"))
    for _ in range(2):
        load_dataset(profile, "train")
    lines = [line for line in capsys.readouterr().out.splitlines() if "is a link" in line]
    assert [line.split(" is a link to ")[1] for line in lines] == [
        str(tmp_path / "disk/case"),
        str(tmp_path / "elsewhere"),
    ]
