"""The folds stage: the fold file, its card and its picture, and what it refuses."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny

from pipeline import folds
from pipeline.data.dataset import load_dataset
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, folds_csv
from pipeline.splits import STRATEGIES


def run(*options, name="folds"):
    folds.main([*map(str, options)])
    path = folds_csv("recycle").with_name(f"{name}.csv")
    return pd.read_csv(path), json.loads(path.with_suffix(".json").read_text())


def test_the_fold_file_lists_every_image_once(recycle, home):
    table, _ = run("--folds", 3)
    assert list(table.columns) == ["image_id", "file_name", "fold", "group"]
    assert table["image_id"].tolist() == table["group"].tolist() == list(range(12))
    assert table["file_name"].tolist() == [f"train/{i:04d}.jpg" for i in range(12)]
    assert np.bincount(table["fold"]).tolist() == [4, 4, 4]
    assert sorted(p.name for p in folds_csv("recycle").parent.iterdir()) == [
        "folds.csv",
        "folds.json",
        "folds.png",
    ]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_seed_gives_the_same_file_whatever_the_order_of_the_annotations(recycle, strategy):
    def shuffle(value):
        rng = np.random.default_rng(1)
        for key in ("images", "annotations", "categories"):
            rng.shuffle(value[key])

    options = ["--folds", 3, "--strategy", strategy, "--groups", "csv:groups.csv"]
    pd.DataFrame({"image_id": [0, 7, 3], "group": "a"}).to_csv("groups.csv", index=False)
    run(*options, "--seed", 5)
    before = folds_csv("recycle").read_bytes()
    tiny.edit_json(recycle / "train.json", shuffle)
    run(*options, "--seed", 5)
    assert folds_csv("recycle").read_bytes() == before
    other, _ = run(*options, "--seed", 6)
    assert folds_csv("recycle").read_bytes() != before
    assert set(other["fold"]) == {0, 1, 2}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_numbers_of_the_card_add_up(recycle):
    tiny.edit_json(recycle / "train.json", lambda value: value["annotations"][0].update(bbox=[1, 1, 0, 0]))
    table, card = run("--folds", 4, "--seed", 2)
    train = load_dataset(load_profile("recycle"), "train")
    boxes = train.annotations.merge(table, on="image_id")
    assert card["images"] == [int((table["fold"] == k).sum()) for k in range(4)]
    assert card["boxes"] == [int((boxes["fold"] == k).sum()) for k in range(4)]
    assert sum(card["images_without_boxes"]) == 12 - train.annotations["image_id"].nunique() == 1
    for label, name in enumerate(tiny.CLASSES):
        mine = boxes[boxes["label"] == label]
        per_fold = [int((mine["fold"] == k).sum()) for k in range(4)]
        assert card["boxes_per_class"][name] == per_fold
        mean = sum(per_fold) / 4
        assert card["largest_deviation"][name] == round(max(abs(n - mean) for n in per_fold) / mean, 4)
        assert card["integer_floor"][name] <= card["largest_deviation"][name]
    area = (boxes["x2"] - boxes["x1"]) * (boxes["y2"] - boxes["y1"])
    for k in range(4):
        assert card["boxes_per_size"]["small"][k] == int(((boxes["fold"] == k) & (area < 32**2)).sum())
    held = boxes.groupby("image_id").size().reindex(range(12), fill_value=0)
    for name, low, high in (("0", 0, 0), ("1", 1, 1), ("2-3", 2, 3), ("4-7", 4, 7)):
        mine = table["fold"][held.between(low, high).to_numpy()]
        assert card["images_by_boxes"][name] == np.bincount(mine, minlength=4).tolist()
    assert (card["seed"], card["strategy"], card["folds"]) == (2, "boxes", 4)
    assert card["groups"]["groups"] == 12 and card["groups"]["of_several_images"] == 0
    assert card["image_digest"] == train.digest
    assert card["digest"] == file_digest(folds_csv("recycle"))
    assert card["findings"]["kinds"] == {"boxes without area dropped (ids)": [1]}


@pytest.mark.parametrize("count", [13, 1, 0])
def test_a_number_of_folds_that_cannot_be(recycle, home, count):
    with pytest.raises(PipelineError, match=f"{count} folds of 12 images: expected 2 to 12 folds"):
        run("--folds", count)
    assert not (home / "folds").exists()


@pytest.mark.parametrize("strategy", ["boxes", "kfold"])
def test_as_many_folds_as_images(recycle, strategy):
    table, _ = run("--folds", 12, "--strategy", strategy)
    assert sorted(table["fold"]) == list(range(12))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_annotations_at_all(recycle, strategy):
    tiny.edit_json(recycle / "train.json", lambda value: value.update(annotations=[]))
    tiny.edit_json(
        recycle / "train.json",
        lambda value: [i.update(date_captured="2021-01-0" + str(i["id"] % 9 + 1)) for i in value["images"]],
    )
    _, card = run("--folds", 3, "--strategy", strategy)
    assert card["boxes"] == [0, 0, 0]
    assert card["images"] == card["images_without_boxes"] == [4, 4, 4]
    assert "Battery: no box in the train set" in card["not_met"]


def test_classes_that_cannot_be_in_every_fold_are_named(recycle, capsys):
    def change(value):
        for box in value["annotations"]:
            box["category_id"] = 1
        value["annotations"][0]["category_id"] = value["annotations"][5]["category_id"] = 8

    tiny.edit_json(recycle / "train.json", change)
    table, card = run("--folds", 3)
    with_batteries = table["fold"][[0, 2]].tolist()  # the images of these two boxes
    assert len(set(with_batteries)) == 2
    lacking = ({0, 1, 2} - set(with_batteries)).pop()
    line = f"Battery: only 2 photos hold it; none in fold {lacking}"
    assert line in card["not_met"] and line in capsys.readouterr().out


def test_a_group_with_half_of_the_images(recycle, capsys):
    pd.DataFrame({"image_id": range(6), "group": "kitchen"}).to_csv("mine.csv", index=False)
    table, card = run("--folds", 3, "--groups", "csv:mine.csv")
    assert len(set(table["fold"][:6])) == 1
    assert sorted(card["images"]) == [3, 3, 6]
    assert table["group"].tolist() == [0] * 6 + list(range(6, 12))
    line = (
        "the largest group holds 6 of 12 images, more than an even fold; its fold is larger than the others"
    )
    assert line in card["not_met"] and line in capsys.readouterr().out
    assert card["groups"]["by"] == ["groups of mine.csv"]


def test_fewer_groups_than_folds(recycle, home):
    pd.DataFrame({"image_id": range(12), "group": ["a", "b"] * 6}).to_csv("mine.csv", index=False)
    expected = "3 folds of 12 images in 2 groups that must not be split: take fewer folds, or narrower groups"
    with pytest.raises(PipelineError, match=expected):
        run("--folds", 3, "--groups", "csv:mine.csv")
    assert not (home / "folds").exists()


def with_times(recycle):
    """Images 2i and 2i + 1 are taken three seconds apart, the pairs a day."""

    def change(value):
        for image in value["images"]:
            image["date_captured"] = f"2021-01-{1 + image['id'] // 2:02d} 10:00:{3 * (image['id'] % 2):02d}"

    tiny.edit_json(recycle / "train.json", change)


def test_random_and_grouped_side_by_side(recycle, capsys):
    with_times(recycle)
    table, card = run("--folds", 3, "--strategy", "boxes", "groups")
    grouped, grouped_card = run("--folds", 3, "--strategy", "boxes", "groups", name="groups")
    assert card["groups"]["by"] == [] and card["bursts"]["neighbours"] == 6
    fold = table["fold"].to_numpy()
    assert card["bursts"]["in_different_folds"] == int((fold[::2] != fold[1::2]).sum()) > 0
    assert grouped["fold"][::2].tolist() == grouped["fold"][1::2].tolist()
    assert grouped_card["bursts"]["in_different_folds"] == 0
    assert grouped_card["groups"] == {
        "groups": 6,
        "of_several_images": 6,
        "largest": 2,
        "joined_pairs": [6],
        "by": ["photos taken within 10 s of each other"],
    }
    alone, _ = run("--folds", 3, "--strategy", "groups")
    assert alone["fold"].tolist() == grouped["fold"].tolist()


def trained(fold, digest, name="card.json"):
    run = Run("recycle", "small", fold)
    if name == "card.json":
        tiny.write_card(run, folds_digest=digest)
    else:
        run.write_job(tiny.job_description(run, folds_digest=digest))


@pytest.mark.parametrize("stated", ["card.json", "job.json"])
def test_a_split_that_runs_were_trained_on_is_kept(recycle, stated):
    run("--folds", 3)
    path = folds_csv("recycle")
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    trained(0, file_digest(path), stated)
    trained(1, "of another split", stated)
    with pytest.raises(
        PipelineError, match=r"folds\.csv: .*small/fold0 trained on this split, .* OVERWRITE=1"
    ):
        run("--folds", 4)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before
    run("--folds", 3)  # the same split again
    assert path.read_bytes() == before["folds.csv"]
    _, card = run("--folds", 4, "--overwrite")
    assert card["folds"] == 4


def test_a_split_that_nobody_uses_is_replaced(recycle):
    run("--folds", 3)
    trained(0, "of another split")
    _, card = run("--folds", 4)
    assert card["folds"] == 4


def test_voc(bccd):
    folds.main(["--competition", "bccd", "--folds", "3"])
    assert sorted(pd.read_csv(folds_csv("bccd"))["image_id"]) == list(range(12))


@pytest.mark.parametrize("strategy", ["boxes", "groups"])
def test_the_real_annotations_reach_the_integer_floor(home, shared_data, strategy):
    table, card = run("--root", shared_data / "boostcamp_recycle", "--strategy", strategy)
    assert sorted(card["images"]) == [976, 976, 977, 977, 977]
    # Battery: 159 boxes over 5 folds, 159 mod 5 = 4, max(4, 5 - 4) / 159; all other classes are below.
    assert card["worst"] == {"class": "Battery", "deviation": 0.025157, "integer_floor": 0.025157}
    assert card["largest_deviation"] == card["integer_floor"]
    assert min(card["boxes_per_class"]["Battery"]) == 31
    assert card["bursts"]["neighbours"] == 614
    assert card["not_met"] == []
    if strategy == "groups":
        assert card["bursts"]["in_different_folds"] == 0
        assert not table[["group", "fold"]].drop_duplicates()["group"].duplicated().any()


def test_what_other_strategies_do_to_the_real_annotations(home, shared_data):
    _, card = run("--root", shared_data / "boostcamp_recycle", "--strategy", "multilabel")
    assert max(card["images"]) - min(card["images"]) <= 2
    assert 0.03 < max(card["largest_deviation"].values()) < 0.35  # one team's split: 0.21 to 0.92
