"""COCO average precision against values written out by hand.

Precision is interpolated at the 101 recalls 0, 0.01, ..., 1: a class of two truths whose detections
are right, wrong, right has precision 1 at 51 of them (up to recall 1/2) and 2/3 at the other 50.
"""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny

from pipeline import convert, evaluate
from pipeline.data.dataset import load_dataset
from pipeline.data.metric import parse_metric
from pipeline.data.predictions import join_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv, runs_dir
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
    with pytest.raises(PipelineError, match=r"no true box on its 12 images.*; nothing to score"):
        score(tiny.table(train, [(0, 0, 0.9, *BOX)]), annotations, CLASSES)


# The stage


def folds_of(train, folder, views, seed=0):
    """Two trained folds of a model as the predict stage leaves them: even and odd images."""
    for fold in (0, 1):
        run = tiny.write_card(Run("recycle", folder.name, fold))
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
    assert "hflip left out: not predicted on oof by every fold" in capsys.readouterr().out


def test_some_folds_and_several_models_have_a_file_of_their_own(train):
    for seed, model in enumerate(("m", "n")):
        folds_of(train, runs_dir("recycle") / model, ["identity"], seed)
    tiny.write_folds(folds_csv("recycle"), train.images, 3)
    run("--model", "m", "--fold", "1")
    saved = json.loads((runs_dir("recycle") / "m" / "metrics-fold1.json").read_text())
    assert saved["scores"]["identity"]["images"] == 6
    run("--models", "m,n")
    saved = json.loads((runs_dir("recycle") / "metrics" / "metrics-m-n.json").read_text())
    assert list(saved["scores"]) == ["m identity", "n identity"]
    assert len(saved["comparisons"]) == 1
    with pytest.raises(PipelineError, match=r"m: fold 2 is not trained; make train .* MODEL=m FOLD=2"):
        run("--model", "m", "--fold", "folds")
    with pytest.raises(PipelineError, match="fold '3': expected 0 to 2"):
        run("--model", "m", "--fold", "3")


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
        ([], r"final/oof\.parquet: no such prediction table"),
        (["--model", "m", "--ensemble", "e"], "expected prediction tables, or --model, or --ensemble"),
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
    with pytest.raises(PipelineError, match="m: no view that all its folds predicted on oof; make predict"):
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


def metrics_of(train, home, first, second):
    for name, rows in (("first", first), ("second", second)):
        write_predictions(home / f"{name}.parquet", tiny.table(train, rows))
    run(home / "first.parquet", home / "second.parquet", "-o", home / "out" / "m.json")
    return json.loads((home / "out" / "m.json").read_text())


def found_truths(train, share=1.0):
    """The truths of the first images as boxes; the other images have none."""
    images = set(train.images["image_id"][: round(share * len(train.images))])
    return [
        (row.image_id, row.label, 0.5, row.x1, row.y1, row.x2, row.y2)
        for row in train.annotations.itertuples()
        if row.image_id in images
    ]


def test_two_tables_are_compared_and_noise_is_called_noise(train, home, capsys):
    saved = metrics_of(train, home, found_truths(train), found_truths(train))
    (same,) = saved["comparisons"]
    assert (same["difference"], same["low"], same["high"], same["wins"]) == (0, 0, 0, 0)
    assert same["noise"]
    assert "first against second: +0.0000 [+0.0000, +0.0000], ahead in 0.0% of 1000 resamples: noise" in (
        capsys.readouterr().out
    )
    saved = metrics_of(train, home, found_truths(train), found_truths(train, 0.25))
    (better,) = saved["comparisons"]
    assert better["low"] > 0 and better["wins"] == 1 and not better["noise"]
    assert better["a"] == "first"
    assert "more than noise" in capsys.readouterr().out


def test_tables_of_other_images_are_not_compared(train, home, capsys):
    write_predictions(home / "a.parquet", tiny.table(train, found_truths(train)))
    few = tiny.table(train, [(0, 0, 0.9, *BOX)], image_ids=[0, 1])
    write_predictions(home / "b.parquet", few)
    run(home / "a.parquet", home / "b.parquet")
    assert "the two tables have different images: nothing to compare" in capsys.readouterr().out
    assert json.loads((home / "metrics.json").read_text())["comparisons"] == []


def test_the_competitions_metric_is_what_the_profile_says(train, home, monkeypatch, capsys):
    """F2 counts a false box of any score, AP does not mind one below all right ones."""
    profile = replace(load_profile("recycle"), metric=parse_metric({"name": "f2", "ious": [0.5, 0.5, 0.1]}))
    monkeypatch.setattr(evaluate, "load_profile", lambda *_: profile)
    rows = found_truths(train)
    truths = len(rows)
    wrong = [(row.image_id, 0, 0.01, 0, 0, 3, 3) for row in train.images.itertuples()]
    saved = metrics_of(train, home, rows, [*rows, *wrong])
    own = {name: one["competition"] for name, one in saved["scores"].items()}
    assert own["first"]["value"] == 1
    expected = 5 * truths / (5 * truths + len(wrong))
    assert own["second"]["value"] == pytest.approx(expected, abs=1e-5)
    assert own["second"]["lost_by_export"]["floor 0.05"] == pytest.approx(expected - 1, abs=1e-5)
    assert own["second"]["metric"] in capsys.readouterr().out


def test_analysis_and_pictures_are_saved(train, home, capsys):
    saved = metrics_of(train, home, found_truths(train), found_truths(train, 0.5))
    said = capsys.readouterr().out
    assert "second at IoU 0.5" in said and "mAP lost by kind of error" in said
    assert saved["scores"]["first"]["analysis"]["all"]["at_best"]["f1"] == 1
    for name in ("first", "second"):
        folder = home / "out" / "m" / name
        assert {path.name for path in folder.iterdir()} == {
            "confusion_matrix.png",
            "curves.json",
            "errors.png",
            "iou.png",
            "pr_curves.png",
            "score_curves.png",
        }
