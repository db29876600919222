"""Competition profiles: every mistake in a YAML file or in a folder is one line that names it."""

import datetime
from pathlib import Path

import competitions
import pytest
import tiny
import yaml

from pipeline import folds
from pipeline.data import profile as profiles
from pipeline.data.profile import load_profile, profile_names, require_root
from pipeline.errors import PipelineError

VALUES = {
    "title": "T",
    "format": "coco",
    "classes": ["a", "b"],
    "train": {"annotations": "train.json"},
    "test": {"annotations": "test.json"},
}


@pytest.fixture
def load(home, tmp_path, monkeypatch):
    """Load a profile `mine` of VALUES with some keys changed (None: left out)."""
    folder = tmp_path / "configs" / "competitions"
    folder.mkdir(parents=True)
    monkeypatch.setattr(profiles, "CONFIGS", tmp_path / "configs")

    def load(text=None, /, **changes):
        values = {k: v for k, v in (VALUES | changes).items() if v is not None}
        (folder / "mine.yaml").write_text(yaml.safe_dump(values) if text is None else text)
        return load_profile("mine")

    return load


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_of_the_project_loads(name, home):
    competitions.WRITERS[name](home / "data" / name)
    profile = load_profile(name)
    assert profile.name == name
    assert profile.root == home / "data" / name


def test_recycle_is_the_real_competition(home):
    profile = load_profile("recycle")
    assert profile.classes == tiny.CLASSES
    assert profile.submission.header == ("PredictionString", "image_id")


def test_unknown_competition_lists_the_known_ones(home):
    with pytest.raises(PipelineError, match="no competition 'wheet'; there are: bccd, demo, openimages, re"):
        load_profile("wheet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clases": ["a"]}, r"mine\.yaml: unknown key 'clases'; known: accept_losses, "),
        ({"train": {"annotation": "x"}}, "unknown key 'train.annotation'; known: annotations, "),
        ({"submission": {"heading": []}}, "unknown key 'submission.heading'; known: box, "),
        ({"train": {}}, "missing key 'train.annotations'"),
        ({"format": None}, "missing key 'format'"),
        ({"train": None}, "missing key 'train'"),
        ({"train": "train.json"}, 'train: expected a mapping, found "train.json"'),
        ({"classes": ["a", "a"]}, "'classes' must be a list of different names"),
        ({"classes": []}, "'classes' must be a list of different names"),
        ({"classes": "ab"}, 'classes: expected a list, found "ab"'),
        ({"classes": ["a", True]}, "classes.1: expected a text, found true"),
        ({"title": ["T"]}, "title: expected a text, found a list of 1"),
        ({"title": 2024}, "title: expected a text, found 2024"),
        ({"inclusive": 1}, "inclusive: expected true or false, found 1"),
        ({"inclusive": "yes"}, "inclusive: expected true or false, found"),
        ({"submission": {"ordered": "false"}}, 'submission.ordered: expected true or false, found "false"'),
        ({"root": 7}, "root: expected a text, found 7"),
        ({"name": "theirs"}, "name 'theirs': a profile has the name of its file"),
        ({"test": {"annotations": "a", "holdout": 1}}, "test.holdout: expected less than 1, found 1"),
        ({"where": datetime.date(2024, 1, 2)}, "2024-01-02 is a date: put it in quotes for a text"),
        ({"where": {1: "x"}}, "key 1: expected a text; put it in quotes"),
        ({"site": {"per_day": float("nan")}}, "nan is no number"),
        ({"metric": "map75"}, "metric 'map75' is not known; known: map50"),
        ({"metric": {"name": "f2", "beta": 2}}, "metric 'f2' has no option 'beta'; it has: ious, strict"),
        ({"metric": {"name": "map50", "iou": 0.5}}, "metric 'map50' has no option 'iou'; it has: none"),
        ({"metric": {"name": "voc_ap", "iou": 40}}, r"'voc_ap': iou 40: expected an IoU in \(0, 1\]"),
        ({"metric": {"name": "voc_ap", "strict": 1}}, "'voc_ap': strict 1: expected true or false"),
        ({"metric": {"name": "wheat", "ious": [0.5, 0.75]}}, "'wheat': ious .*: expected first, last and"),
        ({"metric": {"name": "wheat", "ious": [0.8, 0.5, 0.1]}}, "'wheat': ious .*: expected first, last"),
        ({"metric": {"name": "map75"}}, "metric 'map75' is not known; known: map50"),
        (
            {"site": {"api": "kagle", "competition": "x"}},
            "site.api: expected '' or 'kaggle', found",
        ),
        ({"site": {"api": "kaggle"}}, "site: api kaggle: expected competition: <its name>"),
        ({"labels": ["x"]}, "'labels' must be a list of different names, one a class"),
        ({"train": {"annotations": "a", "columns": {"image": "i"}}}, "missing key 'train.columns.file'"),
        (
            {"train": {"annotations": "a", "columns": {"image": "i", "file": "f", "size": ["1"]}}},
            'train.columns.size.0: expected a whole number, found "1"',
        ),
        ({"submission": {"header": ["image_id", "boxes"]}}, "lacks 'image_id' or 'PredictionString'"),
        (
            {"submission": {"header": "image_id,PredictionString"}},
            "header: expected a list, found",
        ),
        ({"test": {"annotations": "a", "image_sets": "test.txt"}}, "test.image_sets: expected a list, found"),
        ({"submission": {"box": "{label} {score} {why}"}}, "submission.box '{label} {score} {why}': exp"),
        ({"submission": {"box": "{label} {x1} {y1} {x2} {y2}"}}, "submission.box .*: expected {label}"),
        ({"submission": {"box": "{label} {score} {x1} {y1} {w} {h}"}}, "submission.box .*: expected {label}"),
        ({"submission": {"box": "{score} {x} {y} {w} {h}"}}, "submission.box .*: lacks {label}"),
        ({"submission": {"image": "{name}"}}, "submission.image '{name}': expected {file_name}, {stem}, {im"),
    ],
)
def test_a_mistake_in_a_profile_is_named(load, changes, message):
    with pytest.raises(PipelineError, match=message):
        load(**changes)


def test_a_metric_and_its_options(load):
    assert str(load().metric) == "map50"
    strict = load(metric={"name": "voc_ap", "strict": True}).metric
    assert strict.options == {"iou": 0.5, "strict": True}
    assert str(load(metric={"name": "wheat", "ious": [0.4, 0.75, 0.05]}).metric) == (
        "wheat (ious 0.4 to 0.75 by 0.05)"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [a", "not YAML: while parsing"),
        ("- a\n- b\n", "expected a mapping of keys to values, found a list of 2"),
        ("", "missing key .title"),
        ("title: a\ntitle: b\n", "not YAML: key 'title' is there twice in .*, line 1"),
        ("[" * 5000, "not YAML: nested too deep"),
        ("title: !!python/object:os.system x", "not YAML: could not determine a constructor"),
        ("title: &t [*t]", "not YAML: aliases"),
    ],
)
def test_a_file_that_is_no_mapping(load, text, message):
    with pytest.raises(PipelineError, match=rf"mine\.yaml: ({message})") as error:
        load(text)
    assert len(str(error.value)) <= 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            None,
            r"no class file .*/data/mine/names\.csv: put the competition's data there, or say where",
        ),
        ("/m/1,Rose\n/m/2\n", r"names\.csv: row 2: 1 columns, expected label,name"),
        ("/m/1,Rose\n/m/2,Rose\n", "'classes' must be a list of different names"),
        ("/m/1,Rose\n/m/1,Flag\n", "'labels' must be a list of different names, one a class"),
    ],
)
def test_a_class_file_that_does_not_fit(load, home, text, message):
    if text is not None:
        competitions.write(home / "data/mine/names.csv", text.strip())
    with pytest.raises(PipelineError, match=message):
        load(classes=None, classes_file="names.csv")


def test_classes_and_labels_come_from_the_class_file(load, home):
    competitions.write(home / "data/mine/names.csv", "/m/1,Rose", '/m/2,"Bed, infant"')
    profile = load(classes=None, classes_file="names.csv")
    assert (profile.classes, profile.labels) == (("Rose", "Bed, infant"), ("/m/1", "/m/2"))


def test_root_of_the_profile_is_below_home(load, home):
    assert load().root == home / "data" / "mine"
    assert load(root="photos").root == home / "photos"
    assert load(root="/photos").root == Path("/photos")


def test_root_of_the_user_wins_and_is_where_he_stands(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROOT", "theirs")  # is read by make alone
    assert load_profile("recycle").root == home / "data" / "recycle"
    assert load_profile("recycle", "mine").root == tmp_path / "mine"


def test_no_data_folder_says_where_to_put_it(home):
    with pytest.raises(PipelineError) as error:
        require_root(load_profile("recycle"))
    assert str(error.value).startswith(f"no data folder {home}/data/recycle: put the competition's files")
    assert "ROOT=<folder>" in str(error.value)


def test_a_stage_writes_nothing_without_data(home):
    with pytest.raises(PipelineError, match="no data folder"):
        folds.main([])
    assert list(home.iterdir()) == []


def test_a_train_share_serves_as_test_set_only_where_there_is_none(home, tmp_path):
    profile = load_profile("taco", tmp_path)
    assert profile.holds_out
    (tmp_path / "test.json").touch()
    assert not profile.holds_out
