"""Competition profiles: every mistake in a YAML file or in a folder is one line that names it."""

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
        ({"clases": ["a"]}, r"mine\.yaml: unknown key 'clases' in 'profile'; known: classes, "),
        ({"train": {"annotation": "x"}}, "unknown key 'annotation' in 'train'; known: annotations, "),
        ({"submission": {"heading": []}}, "unknown key 'heading' in 'submission'"),
        ({"train": {}}, "'train': missing key 'annotations'"),
        ({"format": None}, "'profile': missing key 'format'"),
        ({"train": None}, "'profile': missing key 'train'"),
        ({"train": "train.json"}, "'train' must be a mapping"),
        ({"classes": ["a", "a"]}, "'classes' must be a list of different names"),
        ({"classes": []}, "'classes' must be a list of different names"),
        ({"classes": "ab"}, "'profile': 'classes' must be a list of names"),
        ({"classes": ["a", True]}, "'profile': 'classes' must be a list of names"),
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
            "'site': expected api: kaggle and competition: <its",
        ),
        ({"site": {"api": "kaggle"}}, "'site': expected api: kaggle and competition: <its name>, or no api"),
        ({"labels": ["x"]}, "'labels' must be a list of different names, one a class"),
        ({"train": {"annotations": "a", "columns": {"image": "i"}}}, "'train.columns': missing key 'file'"),
        (
            {"train": {"annotations": "a", "columns": {"image": "i", "file": "f", "size": ["1"]}}},
            "'train.columns': 'size' must be a list of whole numbers",
        ),
        ({"submission": {"header": ["image_id", "boxes"]}}, "lacks 'image_id' or 'PredictionString'"),
        ({"submission": {"header": "image_id,PredictionString"}}, "'submission': 'header' must be a list"),
        ({"test": {"annotations": "a", "image_sets": "test.txt"}}, "'test': 'image_sets' must be a list"),
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


@pytest.mark.parametrize("text", ["classes: [a", "- a\n- b\n", ""])
def test_a_file_that_is_no_mapping(load, text):
    with pytest.raises(PipelineError, match=r"mine\.yaml: (not YAML|expected a mapping)"):
        load(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"no class file .*/data/mine/names\.csv: put the data there, or say where it lies with ROOT="),
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
    monkeypatch.setenv("ROOT", "theirs")
    assert load_profile("recycle").root == tmp_path / "theirs"
    assert load_profile("recycle", "mine").root == tmp_path / "mine"
    monkeypatch.setenv("ROOT", "")
    assert load_profile("recycle").root == home / "data" / "recycle"


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
