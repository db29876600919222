"""COCO average precision against values written out by hand.

Precision is interpolated at the 101 recalls 0, 0.01, ..., 1: a class of two truths whose detections
are right, wrong, right has precision 1 at 51 of them (up to recall 1/2) and 2/3 at the other 50.
"""

import json

import numpy as np
import pandas as pd
import pytest
import tiny

from pipeline import convert, evaluate
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import join_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.paths import runs_dir
from pipeline.scoring import evaluate as score

CLASSES = ("a", "b", "c")


@pytest.fixture
def train(recycle):
    return load_dataset(load_profile("recycle"), "train")


def truth(*rows):
    """Annotations from (image_id, label, x1, y1, x2, y2), with a 1 at the end for a crowd."""
    columns = ["image_id", "label", "x1", "y1", "x2", "y2", "iscrowd"]
    return pd.DataFrame([(*row, 0)[:7] for row in rows], columns=columns)


BOX, FAR = (0, 0, 40, 30), (41, 20, 48, 32)
TWO = truth((0, 0, *BOX), (1, 0, *BOX))


@pytest.mark.parametrize(
    ("rows", "annotations", "expected"),
    [
        ([(0, 0, 0.9, *BOX), (0, 0, 0.8, *FAR), (1, 0, 0.7, *BOX)], TWO, (51 * 1 + 50 * 2 / 3) / 101),
        ([(0, 0, 0.9, *FAR), (0, 0, 0.8, *BOX), (1, 0, 0.7, *BOX)], TWO, 2 / 3),  # 0/1, 1/2, 2/3
        ([(0, 0, 0.9, *BOX)], TWO, 51 / 101),  # half of the truth is never found
        ([(0, 0, 0.9, *BOX), (0, 0, 0.8, *BOX), (1, 0, 0.7, *BOX)], TWO, (51 + 50 * 2 / 3) / 101),  # doubled
        ([(0, 0, 0.9, *BOX), (0, 0, 0.8, *FAR)], truth((0, 0, *BOX), (0, 0, *FAR, 1)), 1),  # a crowd
        ([(0, 1, 0.9, *BOX)], TWO, 0),  # another class
        ([], TWO, 0),
    ],
)
def test_average_precision_of_one_class(train, rows, annotations, expected):
    result = score(tiny.table(train, rows), annotations, CLASSES)
    assert result["map50"] == result["ap50"]["a"] == round(expected, 5)
    assert result["ap50"]["b"] is None  # no truth: not part of the mean
    assert (result["truths"], result["boxes"], result["images"]) == (
        2 if len(annotations) == 2 else 1,
        len(rows),
        12,
    )


@pytest.mark.parametrize(
    ("right", "iou", "thresholds"),
    [(40, 1, 10), (33, 33 / 40, 7), (24.8, 0.62, 3), (19, 19 / 40, 0)],
)
def test_map_over_thresholds_counts_those_that_the_overlap_reaches(train, right, iou, thresholds):
    assert sum(iou >= 0.5 + 0.05 * i for i in range(10)) == thresholds
    result = score(tiny.table(train, [(0, 0, 0.9, 0, 0, right, 30)]), truth((0, 0, *BOX)), CLASSES)
    assert result["map50_95"] == thresholds / 10
    assert result["map50"] == (thresholds > 0)


def test_the_mean_is_over_classes_with_truth(train):
    annotations = truth((0, 0, *BOX), (1, 2, *BOX), (2, 2, *BOX))
    rows = [(0, 0, 0.9, *BOX), (1, 2, 0.9, *BOX), (3, 1, 0.9, *BOX)]
    result = score(tiny.table(train, rows), annotations, CLASSES)
    assert result["ap50"] == {"a": 1.0, "b": None, "c": round(51 / 101, 5)}
    assert result["map50"] == pytest.approx((1 + 51 / 101) / 2, abs=1e-5)


def test_only_the_best_hundred_boxes_of_a_photo_and_class_count(train):
    wrong = [(0, 0, 0.9, *FAR)] * 100
    right = (0, 0, 0.1, *BOX)
    assert score(tiny.table(train, [*wrong[:99], right]), TWO[:1], CLASSES)["map50"] == 0.01  # 1 of 100
    assert score(tiny.table(train, [*wrong, right]), TWO[:1], CLASSES)["map50"] == 0


def test_perfect_predictions(train):
    rows = [
        (row.image_id, row.label, 0.5, row.x1, row.y1, row.x2, row.y2)
        for row in train.annotations.itertuples()
    ]
    result = score(tiny.table(train, rows), train.annotations, tiny.CLASSES)
    assert result["map50"] == result["map50_95"] == 1.0
    assert set(result["ap50"].values()) == {1.0}


def test_images_that_were_not_predicted_are_left_out(train):
    rows = [(0, 0, 0.9, *BOX)]
    result = score(tiny.table(train, rows, image_ids=[0, 5]), TWO, CLASSES)
    assert (result["map50"], result["images"], result["truths"]) == (1, 2, 1)
    # Predicted and empty is not the same as not predicted.
    assert score(tiny.table(train, rows, image_ids=[0, 1]), TWO, CLASSES)["map50"] == round(51 / 101, 5)


@pytest.mark.parametrize("annotations", [truth(), truth((0, 0, *BOX, 1))], ids=["none", "crowds"])
def test_nothing_to_score_against(train, annotations):
    with pytest.raises(PipelineError, match="no true box on its 12 images; nothing to score against"):
        score(tiny.table(train, [(0, 0, 0.9, *BOX)]), annotations, CLASSES)


# The stage


def folds_of(train, folder, views, seed=0):
    """Two trained folds of a model as the predict stage leaves them: even and odd images."""
    for fold in (0, 1):
        run = folder / f"fold{fold}"
        (run / "oof").mkdir(parents=True)
        (run / "card.json").write_text("{}")
        ids = train.images["image_id"][fold::2]
        for view in views:
            rows = tiny.guesses(train.images[fold::2], seed)
            table = tiny.table(train, rows, image_ids=ids, fold=fold, model="m", view=view)
            write_predictions(run / "oof" / f"{view}.parquet", table)
            seed += 1


def run(*arguments):
    evaluate.main([*map(str, arguments)])


def test_a_model_is_scored_for_each_view_and_their_fusion(train, capsys):
    folder = runs_dir("recycle") / "m"
    folds_of(train, folder, ["identity", "hflip"])
    run("--model", "m")
    saved = json.loads((folder / "metrics.json").read_text())
    assert list(saved["scores"]) == ["identity", "hflip", "fused"]
    assert all(entry["images"] == 12 for entry in saved["scores"].values())
    said = capsys.readouterr().out
    assert f"{saved['scores']['fused']['map50']:.4f}" in said
    assert "AP50 Paper pack" in said


def test_a_view_that_one_fold_lacks_is_left_out_and_said(train, capsys):
    folder = runs_dir("recycle") / "m"
    folds_of(train, folder, ["identity", "hflip"])
    (folder / "fold1" / "oof" / "hflip.parquet").unlink()
    run("--model", "m")
    assert list(json.loads((folder / "metrics.json").read_text())["scores"]) == ["identity"]
    assert "hflip left out: not predicted on oof by every trained fold" in capsys.readouterr().out


def test_folds_made_with_other_data_are_refused(train, recycle):
    folder = runs_dir("recycle") / "m"
    folds_of(train, folder, ["identity"])
    path = folder / "fold1" / "oof" / "identity.parquet"
    tiny.edit_json(recycle / "train.json", lambda value: value["images"].pop())
    tiny.edit_json(recycle / "train.json", lambda value: value.update(annotations=value["annotations"][:-3]))
    other = load_dataset(load_profile("recycle"), "train")
    write_predictions(path, tiny.table(other, tiny.guesses(other.images[1::2], 1), image_ids=[1, 3, 5, 7, 9]))
    with pytest.raises(PipelineError, match=r"fold1/oof/identity\.parquet: made for another image table"):
        run("--model", "m")


def test_files_are_scored_side_by_side(train, home):
    for name, label in (("right", 0), ("wrong", 9)):
        rows = [(0, (label + tiny.random_boxes(0, 10)[0][0]) % 10, 0.9, *BOX)]
        write_predictions(home / f"{name}.parquet", tiny.table(train, rows))
    run(home / "right.parquet", home / "wrong.parquet", "-o", home / "m.json")
    saved = json.loads((home / "m.json").read_text())
    assert list(saved["scores"]) == ["right", "wrong"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected prediction tables, or --model, or --ensemble, one of them"),
        (["a.parquet", "--model", "m"], "expected prediction tables, or --model, or --ensemble"),
        (["a.parquet"], r"a\.parquet: no such prediction table"),
        (["--model", "m"], r"no trained fold; make train COMP=recycle MODEL=m FOLD=0"),
        (["--ensemble", "final"], r"final/oof\.parquet: no such prediction table"),
        (["test.parquet"], "competition 'recycle': the test set's truth is not known here"),
        (
            ["oof.parquet", "--competition", "taco", "--root", "data/recycle"],
            "made for competition 'recycle'",
        ),
    ],
)
def test_mistakes(train, home, monkeypatch, arguments, message):
    monkeypatch.chdir(home)
    test = load_dataset(load_profile("recycle"), "test")
    write_predictions(home / "test.parquet", tiny.table(test, [(0, 0, 0.9, *BOX)]))
    write_predictions(home / "oof.parquet", tiny.table(train, [(0, 0, 0.9, *BOX)]))
    with pytest.raises(PipelineError, match=message):
        run(*arguments)
    assert not list(home.rglob("metrics*.json"))


def test_a_model_without_a_view_that_all_folds_share(train):
    folder = runs_dir("recycle") / "m"
    folds_of(train, folder, ["identity"])
    for path in folder.glob("fold0/oof/*"):
        path.unlink()
    with pytest.raises(
        PipelineError, match="m: no view that all trained folds predicted on oof; make predict"
    ):
        run("--model", "m")


def test_the_real_model_has_its_known_score(home, shared_data):
    """README of the data: bc5cv11_val977, 977 images, mAP50 0.469."""
    source = shared_data / "predictions" / "other_models" / "bc5cv11_val977.csv"
    root = ["--root", str(shared_data / "boostcamp_recycle")]
    convert.main([str(source), str(home / "t.parquet"), "--split", "oof", *root])
    run(home / "t.parquet", *root, "-o", home / "m.json")
    (result,) = json.loads((home / "m.json").read_text())["scores"].values()
    assert result["images"] == 977
    assert round(result["map50"], 3) == 0.469


def test_pooled_folds_are_scored_as_one_table(train):
    parts = [
        tiny.table(train, tiny.guesses(train.images[k::2], k), image_ids=np.arange(k, 12, 2)) for k in (0, 1)
    ]
    whole = tiny.table(train, tiny.guesses(train.images[::2], 0) + tiny.guesses(train.images[1::2], 1))
    pooled = score(join_predictions(parts), train.annotations, tiny.CLASSES)
    assert pooled == score(whole, train.annotations, tiny.CLASSES)
