"""Folds: every image in exactly one, the same for the same seed, and a card whose numbers add up."""

import json

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import folds
from pipeline.data.dataset import load_dataset
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, folds_csv
from pipeline.splits import STRATEGIES
from pipeline.splits.strategies import count_bins

box_counts = st.integers(4, 30).flatmap(lambda n: arrays(np.int64, (n, 3), elements=st.integers(0, 4)))


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=25)
@given(box_counts, st.integers(2, 4), st.integers(0, 3))
def test_every_strategy_puts_each_image_into_one_of_k_folds(name, counts, k, seed):
    fold = STRATEGIES[name](counts, k, seed)
    assert fold.shape == (len(counts),)
    assert set(fold.tolist()) == set(range(k))
    np.testing.assert_array_equal(STRATEGIES[name](counts, k, seed), fold)


def test_a_rare_class_is_spread_over_the_folds():
    counts = np.zeros((100, 2), np.int64)
    counts[:, 0] = 1 + np.arange(100) % 3
    counts[:10, 1] = 1  # ten images in a row
    fold = STRATEGIES["multilabel"](counts, 5, 0)
    assert np.bincount(fold[:10], minlength=5).tolist() == [10 // 5] * 5
    assert np.bincount(fold, minlength=5).tolist() == [100 // 5] * 5


def test_counts_become_columns_of_more_than_so_many():
    # Two classes; "none" and the terciles of the counts that are there: 1 and 4 of class 0.
    counts = np.array([[0, 0], [1, 0], [1, 0], [4, 0], [9, 2]])
    columns = count_bins(counts).T.tolist()
    assert columns[0] == [0, 1, 1, 1, 1]  # class 0 present
    assert [0, 0, 0, 1, 1] in columns  # more than one box of class 0
    assert [0, 0, 0, 0, 1] in columns  # class 1 present
    assert columns[-1] == [1, 0, 0, 0, 0]  # no box at all


def run(*options):
    folds.main([*map(str, options)])
    path = folds_csv("recycle")
    return pd.read_csv(path), json.loads(path.with_suffix(".json").read_text())


def test_the_fold_file_lists_every_image_once(recycle, home):
    table, _ = run("--folds", 3)
    assert list(table.columns) == ["image_id", "file_name", "fold", "group"]
    assert table["image_id"].tolist() == list(range(12))
    assert table["file_name"].tolist() == [f"train/{i:04d}.jpg" for i in range(12)]
    assert set(table["fold"]) == {0, 1, 2}
    assert sorted(p.name for p in folds_csv("recycle").parent.iterdir()) == [
        "folds.csv", "folds.json", "folds.png",
    ]  # fmt: skip


def test_the_same_seed_gives_the_same_file_whatever_the_order_of_the_annotations(recycle):
    run("--folds", 3, "--seed", 5)
    before = folds_csv("recycle").read_bytes()

    def shuffle(value):
        rng = np.random.default_rng(1)
        for key in ("images", "annotations", "categories"):
            rng.shuffle(value[key])

    tiny.edit_json(recycle / "train.json", shuffle)
    run("--folds", 3, "--seed", 5)
    assert folds_csv("recycle").read_bytes() == before
    other, _ = run("--folds", 3, "--seed", 6)
    assert folds_csv("recycle").read_bytes() != before
    assert set(other["fold"]) == {0, 1, 2}


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
    assert (card["seed"], card["strategy"], card["folds"]) == (2, "multilabel", 4)
    assert card["image_digest"] == train.digest
    assert card["digest"] == file_digest(folds_csv("recycle"))
    assert card["findings"]["kinds"] == {"boxes without area dropped (ids)": [1]}


@pytest.mark.parametrize("count", [13, 1, 0, -1])
def test_a_number_of_folds_that_cannot_be(recycle, home, count):
    with pytest.raises(PipelineError, match=f"{count} folds of 12 images: expected 2 to 12 folds"):
        run("--folds", count)
    assert not (home / "folds").exists()


def test_as_many_folds_as_images(recycle):
    table, _ = run("--folds", 12)
    assert sorted(table["fold"]) == list(range(12))


def test_no_annotations_at_all(recycle):
    tiny.edit_json(recycle / "train.json", lambda value: value.update(annotations=[]))
    _, card = run("--folds", 3)
    assert card["images"] == card["images_without_boxes"] == [4, 4, 4]
    assert card["boxes"] == [0, 0, 0]


def test_voc(bccd):
    folds.main(["--competition", "bccd", "--folds", "3"])
    assert sorted(pd.read_csv(folds_csv("bccd"))["image_id"]) == list(range(12))


def test_the_real_annotations(home, shared_data):
    _, card = run("--root", shared_data / "boostcamp_recycle")
    assert sum(card["images"]) == 4883
    assert max(card["images"]) - min(card["images"]) <= 2
    assert max(card["largest_deviation"].values()) < 0.35  # one team's split: 0.21 to 0.92
