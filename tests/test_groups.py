"""Groups: which images belong together, by time, by looks, by a column, by a list of the user's."""

import numpy as np
import pandas as pd
import pytest
import tiny
from PIL import Image, ImageEnhance

from pipeline import cli, folds
from pipeline.data.dataset import load_dataset
from pipeline.data.duplicates import hash_image, near_pairs
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv
from pipeline.splits.groups import Links, find_links, join


def groups_of(wanted, change=lambda value: None, root=None):
    """Group of each image of the tiny competition, by `find_links` and `join`."""
    profile = load_profile("recycle")
    tiny.edit_json(profile.root / "train.json", change)
    train = load_dataset(profile, "train")
    return join(
        train.images["image_id"].to_numpy(), find_links(profile, train, cli.split_list(wanted))
    ).tolist()


def dated(*times):
    def change(value):
        for image, time in zip(value["images"], times, strict=False):
            image["date_captured"] = time

    return change


def test_bursts_join_what_follows_within_the_time(recycle):
    times = dated(
        "2021-01-01 10:00:00",
        "2021-01-01 10:00:25",
        "2021-01-01 10:00:10",
        None,
        "no time",
        "2021-01-01 10:00:36",
        "2021-01-02 10:00:00",
    )
    alone = list(range(7, 12))
    assert groups_of("bursts:10", times) == [0, 1, 0, 3, 4, 5, 6, *alone]
    assert groups_of("bursts", times) == groups_of("bursts:10", times)
    assert groups_of("bursts:11", times) == [0, 1, 0, 3, 4, 1, 6, *alone]
    assert groups_of("bursts:15", times) == [0, 0, 0, 3, 4, 0, 6, *alone]


def test_bursts_are_chains(recycle):
    times = dated(*(f"2021-01-01 10:00:{8 * i:02d}" for i in range(5)))
    assert groups_of("bursts:10", times) == [0] * 5 + list(range(5, 12))
    assert groups_of("bursts:7", times) == list(range(12))


def test_bursts_without_any_time(recycle, home):
    with pytest.raises(PipelineError, match=r"train\.json: no image has a date_captured.*GROUPS=near"):
        folds.main(["--strategy", "groups", "--folds", "3"])
    assert not (home / "folds").exists()


def test_a_column_of_the_annotations(recycle):
    def change(value):
        for image in value["images"]:
            image["scene"] = None if image["id"] > 8 else f"room {image['id'] % 2}"
            image["label"] = image["x1"] = "a name that tables use too"

    assert groups_of("column:scene", change) == [0, 1] * 4 + [0, 9, 10, 11]
    with pytest.raises(
        PipelineError, match=r"column:room: train\.json has no such column .*there are: .*scene"
    ):
        groups_of("column:room")


def write_csv(path, text):
    path.write_text(text)
    return path


def test_a_list_of_the_users(recycle, tmp_path):
    path = write_csv(
        tmp_path / "mine.csv", "file_name,group\ntrain/0004.jpg,7\ntrain/0002.jpg,7\ntrain/0009.jpg,8\n"
    )
    assert groups_of(f"csv:{path}") == [0, 1, 2, 3, 2, *range(5, 12)]
    path.write_text("image_id,group,more\n11,x,1\n0,x,2\n")
    assert groups_of(f"csv:{path}") == [*range(11), 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"csv:.*mine\.csv: no such file"),
        ("", r"mine\.csv: not a CSV"),
        ("image_id,part\n1,a\n", r"mine\.csv: header \['image_id', 'part'\], expected group and image_id or"),
        ("image_id,group\n1,a\n99,a\n", r"mine\.csv: row 3: image_id '99' is not in the train set"),
        ("image_id,group\n1,a\n1,b\n", r"mine\.csv: row 3: image_id '1' is there twice"),
    ],
)
def test_a_list_that_does_not_fit(recycle, tmp_path, text, message):
    if text is not None:
        write_csv(tmp_path / "mine.csv", text)
    with pytest.raises(PipelineError, match=message):
        groups_of(f"csv:{tmp_path / 'mine.csv'}")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("scenes", r"groups 'scenes': expected bursts\[:SECONDS\], near\[:BITS\], column:NAME or csv:FILE"),
        ("bursts:soon", "groups bursts:soon: expected a number from 0"),
        ("near:-1", "groups near:-1: expected a number from 0"),
    ],
)
def test_groups_that_cannot_be(recycle, wanted, message):
    with pytest.raises(PipelineError, match=message):
        groups_of(wanted)


def test_several_groupings_join_through_each_other(recycle, tmp_path):
    path = write_csv(tmp_path / "mine.csv", "image_id,group\n1,a\n8,a\n")
    times = dated("2021-01-01 10:00:00", "2021-01-01 10:00:05")
    assert groups_of(f"bursts:10, csv:{path}", times) == [0, 0, *range(2, 8), 0, 9, 10, 11]


def test_links_make_groups_named_by_their_smallest_id():
    links = [Links(np.array([[4, 1], [1, 3]]), ""), Links(np.empty((0, 2), np.int64), "")]
    assert join(np.array([10, 20, 30, 40, 50]), links).tolist() == [10, 20, 30, 20, 20]


def photo(seed, size=(160, 120)):
    colours = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def test_the_hash_knows_a_photo_again_and_tells_others_apart():
    original = photo(1)
    again = [
        original.resize((80, 60)),
        ImageEnhance.Brightness(original).enhance(0.8),
        original.crop((2, 1, 160, 120)),
        original.rotate(0.5),
    ]
    hashes = np.stack([hash_image(image) for image in [original, *again, *map(photo, range(2, 8))]])
    pairs = near_pairs(hashes, 56)
    assert {tuple(pair) for pair in pairs[:, :2].tolist()} == {
        (i, j) for i in range(5) for j in range(i + 1, 5)
    }
    assert (np.diff(pairs[:, 2]) >= 0).all()


def test_pairs_are_those_that_differ_in_so_many_bits():
    hashes = np.zeros((3, 4), np.uint64)
    hashes[1, 0], hashes[2, 3] = 0b111, 0b1
    assert near_pairs(hashes, 3).tolist() == [[0, 2, 1], [0, 1, 3]]
    assert near_pairs(hashes, 4).tolist() == [[0, 2, 1], [0, 1, 3], [1, 2, 4]]
    assert near_pairs(hashes, 0).tolist() == []
    assert near_pairs(hashes[:1], 1, hashes[1:]).tolist() == [[0, 1, 1]]
    assert near_pairs(hashes[:0], 9).shape == (0, 3)


def test_near_duplicates_stay_together_and_are_shown(recycle):
    for i, name in enumerate(sorted((recycle / "train").iterdir())):
        photo(i // 2, (48, 32)).save(name, quality=95 - 20 * (i % 2))
    folds.main(["--folds", "3", "--groups", "near"])
    table = pd.read_csv(folds_csv("recycle"))
    assert table["group"].tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10]
    assert not table[["group", "fold"]].drop_duplicates()["group"].duplicated().any()
    sheet = Image.open(folds_csv("recycle").with_name("pairs.png"))
    assert len(sheet.convert("RGB").resize((60, 40)).getcolors(9999)) > 20


def test_a_photo_that_cannot_be_compared(recycle, home):
    (recycle / "train" / "0003.jpg").unlink()
    with pytest.raises(PipelineError, match=r"0003\.jpg: no such photo; restore it"):
        folds.main(["--folds", "3", "--groups", "near"])
    assert not (home / "folds").exists()
