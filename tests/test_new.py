"""`make new`: what it finds in a folder is what the profile that is there reads from it."""

import shutil
from dataclasses import replace

import competitions
import pytest
import tiny
from layouts import CLASSES, CONTENT, LAYOUTS
from PIL import Image
from tiny import HEIGHT, WIDTH

from pipeline import folds, new
from pipeline.data import profile as profiles
from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.photos import photos_of
from pipeline.data.profile import load_profile
from pipeline.data.text import photo_stem
from pipeline.errors import PipelineError

NO_ORDER = ("voc", "csv of", "labelme")  # formats whose classes have no ids
WRITTEN = "configs/competitions/mine.yaml"


@pytest.fixture
def make_new(home, tmp_path, monkeypatch):
    """Run the stage on a folder; returns the profile that it wrote (WRITTEN), as every stage reads it."""
    (tmp_path / WRITTEN).parent.mkdir(parents=True)

    def run(root, *options):
        with monkeypatch.context() as patch:
            patch.setattr(profiles, "CONFIGS", tmp_path / "configs")
            new.main(["--comp", "mine", "--root", str(root), *options])
            return load_profile("mine")

    return run


def write_photos(known, suffix):
    """The photos of a competition as grey images of the sizes that its profile states."""
    for split in ("train", "test"):
        for photo in photos_of(known, split, load_dataset(known, split).images):
            path = photo.path.with_suffix(suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (photo.width, photo.height)).save(path)


def content_of(profile, split, classes):
    """The images of a split by stem, with their sizes, and their boxes by class."""
    dataset = load_dataset(profile, split, strict=False)
    images = dataset.images.assign(stem=[photo_stem(name) for name in dataset.images["file_name"]])
    boxes = dataset.annotations.merge(images, on="image_id")
    names = [classes[label] for label in boxes["label"]]
    corners = [boxes[name].round(3) for name in ("x1", "y1", "x2", "y2", "iscrowd")]
    sizes = images[["stem", "width", "height"]].itertuples(index=False, name=None)
    return sorted(sizes), sorted(zip(boxes["stem"], names, *corners, strict=True))


def assert_same(made, known):
    """Both profiles read the same images and boxes; returns how many of train and test."""
    one = len(known.classes) == len(made.classes) == 1  # a single class has no name in a CSV
    counts = []
    for split in ("train", "test"):
        images, boxes = content_of(made, split, known.classes if one else made.classes)
        assert (images, boxes) == content_of(known, split, known.classes)
        counts += [len(images), len(boxes)]
    return counts


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("wheat", ".jpg"),
        ("rsna", ".png"),
        ("vinbigdata", None),
        ("siim", ".png"),
        ("reef", ".jpg"),
        ("openimages", None),
    ],
)
def test_the_published_csvs_are_read_as_the_profiles_read_them(make_new, home, name, suffix):
    root = home / "data" / name
    competitions.WRITERS[name](root)
    known = load_profile(name)
    if suffix:
        write_photos(known, suffix)
    made = make_new(root)
    assert_same(made, known)
    if known.submission.sample:
        changes = {"box": made.submission.box} if name == "openimages" else {}  # its sample shows no box
        changes |= {"others": "", "other_labels": ()}  # of siim's studies
        assert made.submission == replace(known.submission, **changes)


@pytest.mark.parametrize("name", ["recycle", "bccd"])
def test_coco_and_voc_are_read_as_the_profiles_read_them(make_new, request, name):
    root = request.getfixturevalue(name)
    assert assert_same(make_new(root), load_profile(name)) == [12, 24, 5, 0]


def test_a_train_file_alone_holds_out_a_share_for_testing(make_new, home):
    root = tiny.write_coco(home / "data" / "taco", n_train=40)
    (root / "test.json").unlink()
    shutil.rmtree(root / "test")
    assert assert_same(make_new(root), load_profile("taco")) == [33, 69, 7, 0]


@pytest.mark.parametrize(
    ("name", "folder", "counts"),
    [
        ("bccd", "bccd", [292, 3941, 72, 0]),
        ("taco", "taco_recycle10", [221, 603, 56, 0]),
        ("recycle", "boostcamp_recycle", [4883, 23143, 4871, 0]),
    ],
)
def test_real_data_are_read_as_the_profiles_read_them(make_new, shared_data, name, folder, counts):
    root = shared_data / folder
    assert assert_same(make_new(root), load_profile(name, root)) == counts


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read_to_the_same_photos_and_boxes(make_new, home, name):
    write, train_parts, test_parts = LAYOUTS[name]
    root = home / "data" / "mine"
    write(root)
    made = make_new(root)
    known = {
        parts: (
            sorted((photo_stem(stem), WIDTH, HEIGHT) for part in parts for stem, _ in CONTENT[part]),
            sorted(
                (photo_stem(stem), CLASSES[label], x, y, x + w, y + h, 0)
                for part in parts
                for stem, boxes in CONTENT[part]
                for label, (x, y, w, h) in boxes
            ),
        )
        for parts in (train_parts, test_parts)
    }
    images, boxes = known[train_parts]
    if name == "open images":  # has no row for a photo without a box
        images = sorted({(stem, WIDTH, HEIGHT) for stem, *_ in boxes})
    if test_parts:
        assert content_of(made, "train", made.classes) == (images, boxes)
        assert content_of(made, "test", made.classes)[0] == known[test_parts][0]
    else:  # a share of train serves as the test set
        whole = replace(made, test=replace(made.test, holdout=0.0))
        assert content_of(whole, "train", made.classes) == (images, boxes)
        assert made.test.holdout == 0.2
    if made.test.truth:
        truth = load_truth(made, "test")
        assert len(truth.annotations) == len(known[test_parts][1])
    assert (made.classes == CLASSES) or any(word in name for word in NO_ORDER)  # in the order of the ids


def test_of_several_formats_the_one_with_a_test_part_wins_and_the_others_are_named(
    make_new, bccd, tmp_path, capsys
):
    tiny.write_json(bccd / "all.json", tiny.coco("all", 30, tiny.CELLS))
    made = make_new(bccd)
    assert made.format == "voc"
    line = "ot taken: COCO json all.json: 60 boxes, no test part"
    assert line in capsys.readouterr().out
    assert f"# N{line}" in (tmp_path / WRITTEN).read_text()


def test_missing_photos_are_a_warning_and_the_profile_serves_for_folds(
    make_new, home, tmp_path, monkeypatch, capsys
):
    make_new(tiny.write_coco(home / "x", photos=False))
    text = (tmp_path / WRITTEN).read_text()
    assert "# WARNING: 12 of 12 train photos are not there\n" in text
    assert "\nroot: x\n" in text
    monkeypatch.setattr(profiles, "CONFIGS", tmp_path / "configs")
    folds.main(["--comp", "mine", "--k", "3"])
    assert (home / "folds/mine/folds.csv").is_file()
    capsys.readouterr()
    with pytest.raises(
        PipelineError, match=r"mine\.yaml is there already and is not overwritten; choose ano"
    ):
        new.main(["--comp", "mine"])
    assert (tmp_path / WRITTEN).read_text() == text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no annotations found .it has 0 photos and 0 other files.; expected COCO json"),
        ({"notes.txt": "x", "a.jpg": ""}, "no annotations found .it has 1 photos and 1 other files"),
        ({"train.json": '{"images": ['}, r"no annotations found .*train\.json: not a whole json file"),
    ],
)
def test_a_folder_without_annotations_is_an_error_and_nothing_is_written(make_new, tmp_path, files, message):
    root = tmp_path / "data"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    with pytest.raises(PipelineError, match=message):
        make_new(root)
    assert not (tmp_path / WRITTEN).exists()


def test_ids_and_lists_of_any_kind_are_one_line(make_new, tmp_path):
    root = tiny.write_coco(tmp_path / "data", n_train=3)
    ids = [None, "a", 1.5, [1], {}, True, 2, 3, 4, 5]

    def change(value):
        for category, identity in zip(value["categories"], ids, strict=True):
            category["id"] = identity

    tiny.edit_json(root / "train.json", change)
    with pytest.raises(PipelineError, match=r"train\.json: category 0: expected id and name"):
        make_new(root)
    tiny.edit_json(root / "train.json", lambda value: value.update(annotations=5, categories="x"))
    with pytest.raises(PipelineError, match="no annotations found"):
        make_new(tmp_path / "data")


def test_a_csv_without_sizes_and_photos_is_described_with_a_warning(make_new, tmp_path):
    competitions.rsna(tmp_path / "data")
    made = make_new(tmp_path / "data")
    assert made.train.columns.box == ("x", "y", "width", "height")
    text = (tmp_path / WRITTEN).read_text()
    assert "# WARNING: " in text
    assert "images without a size" in text


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a b", "한국"])
def test_a_name_is_a_name_and_no_path(home, name):
    with pytest.raises(PipelineError, match=r"COMP=.*expected a name of letters and digits, as mycomp"):
        new.main([f"--comp={name}"])


def test_the_folder_must_be_there(make_new, tmp_path):
    with pytest.raises(PipelineError, match=r"no folder .*nowhere: put the data there, or say"):
        make_new(tmp_path / "nowhere")
