"""What people write, damaged: each file is read as its bytes say, or refused in one clear line."""

from itertools import pairwise

import pytest
from test_formats import write

from pipeline.data.models import read_yaml_config
from pipeline.data.records import parse_yaml
from pipeline.data.specs import SubmissionSpec
from pipeline.errors import PipelineError

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
        ("_base_: m.yaml", "_base_ 'm.yaml': expected the path of another config"),
        ("_base_: ../x/n.yaml", "expected the path of another config"),
        ("_base_: none.yaml", r"none\.yaml: not readable"),
        ("_base_: .", "not readable"),
    ],
)
def test_a_model_config_that_is_refused(tmp_path, text, message):
    root = write(tmp_path / "x", {"m.yaml": text, "n.yaml": "_base_: ./m.yaml"})
    with pytest.raises(PipelineError, match=message):
        read_yaml_config(root / "m.yaml", ("model", "train"))


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
