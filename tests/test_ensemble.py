"""An ensemble of hand-made tables: folds joined, test fused once more, the card, the submission."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
import yaml

from pipeline import ensemble, evaluate, submission, tune
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.data.split import read_split
from pipeline.ensembles import config
from pipeline.ensembles.fuse_tuned import fuse_tuned
from pipeline.ensembles.tables import ACROSS_FOLDS, Fusion, fuse_same_images
from pipeline.ensembles.tuned import read_tuned
from pipeline.errors import PipelineError
from pipeline.paths import ensemble_dir, file_digest, folds_csv, runs_dir, submission_csv
from pipeline.tuning import nested

FINAL = {"members": "all", "method": "wbf", "iou": 0.5}
MODELS = {"small": ("identity", "hflip"), "large": ("identity",)}


@pytest.fixture
def write_yaml(tmp_path, monkeypatch):
    """Write configs/ensembles/final.yaml into a folder of the test's own."""
    path = tmp_path / "configs" / "ensembles" / "final.yaml"
    path.parent.mkdir(parents=True)
    monkeypatch.setattr(config, "CONFIGS", path.parent.parent)

    def write(text=None, /, **changes):
        path.write_text(yaml.safe_dump(FINAL | changes) if text is None else text)

    write()
    return write


def run_of(model, fold):
    return runs_dir("recycle") / model / f"fold{fold}"


@pytest.fixture
def runs(recycle, write_yaml):
    """Two models over three folds, as training and prediction leave them."""
    train, test = (load_dataset(load_profile("recycle"), split) for split in ("train", "test"))
    tiny.write_folds(folds_csv("recycle"), train.images, 3)
    split = read_split("recycle", train)
    seed = 0
    for model, views in MODELS.items():
        for fold in range(3):
            tiny.write_card(Run("recycle", model, fold), folds_digest=split.digest)
            for view in views:
                for name, dataset in (("oof", train), ("test", test)):
                    seed += 1
                    images = train.images[split.fold == fold] if name == "oof" else test.images
                    rows = tiny.guesses(images, seed, 5) + tiny.found(dataset, images)
                    table = tiny.table(
                        dataset,
                        rows,
                        image_ids=images["image_id"],
                        fold=fold,
                        model=model,
                        view=view,
                        folds_digest=split.digest,
                        checkpoint_digest="?",
                    )
                    write_predictions(tiny.table_path(run_of(model, fold), name, view), table)
    return train, test


def make(*options):
    ensemble.main(["--ensemble", "final", *options])
    folder = ensemble_dir("recycle", "final")
    tables = [read_predictions(folder / f"{split}.parquet") for split in ("oof", "test")]
    return *tables, json.loads((folder / "card.json").read_text())


def tables_of(split, fold, models=MODELS):
    return [
        read_predictions(tiny.table_path(run_of(model, fold), split, view))
        for model in sorted(models)
        for view in models[model]
    ]


def rows_of(table):
    return np.column_stack([table.image_id, table.labels, table.scores, table.boxes_xyxy])


def test_oof_joins_the_folds_and_covers_the_train_set(runs):
    train, _ = runs
    oof, _, _ = make()
    split = read_split("recycle", train)
    assert oof.meta.image_ids.tolist() == list(range(12))
    assert oof.meta.folds.tolist() == split.fold.tolist()
    for fold in range(3):
        expected = fuse_same_images(tables_of("oof", fold), Fusion(iou=0.5))
        mine = np.isin(oof.image_id, np.flatnonzero(split.fold == fold))
        np.testing.assert_allclose(rows_of(oof)[mine], rows_of(expected), rtol=1e-6)


def test_test_fuses_within_folds_first_and_then_the_folds(runs):
    _, test_set = runs
    _, test, _ = make()
    assert test.meta.image_ids.tolist() == test_set.images["image_id"].tolist()
    per_fold = [fuse_same_images(tables_of("test", fold), Fusion(iou=0.5)) for fold in range(3)]
    expected = fuse_same_images(per_fold, ACROSS_FOLDS)
    np.testing.assert_allclose(rows_of(test), rows_of(expected), rtol=1e-6)


def test_the_card(runs, capsys):
    train, test_set = runs
    oof, test, card = make()
    assert (card["ensemble"], card["competition"]) == ("final", "recycle")
    assert (card["models"], card["folds"]) == (["large", "small"], [0, 1, 2])
    assert card["fusion"] == {"method": "wbf", "iou": 0.5, "skip": 0.001, "conf_type": "votes"}
    assert card["across_folds"]["method"] == "wbf"
    assert card["folds_digest"] == read_split("recycle", train).digest
    assert card["image_digests"] == {"train": train.digest, "test": test_set.digest}
    assert card["members"][0] == {"weight": 1.0, "model": "large", "fold": 0, "views": ["identity"]}
    assert card["members"][-1]["views"] == ["identity", "hflip"]
    assert len(card["tables"]) == 2 * 3 * 3  # splits, folds, a model's view and another's two
    digests = {entry["file"]: entry["digest"] for entry in card["tables"]}
    for name, digest in digests.items():
        assert file_digest(name) == digest
    assert "not measured" in card["note"]
    evaluate.main(["--ensemble", "final"])
    scores = json.loads((ensemble_dir("recycle", "final") / "metrics.json").read_text())["scores"]
    assert scores["final oof"]["map50"] == card["oof"]["map50"] > 0
    assert f"oof mAP50 {card['oof']['map50']:.4f}" in capsys.readouterr().out
    assert oof.meta.made["members"] == test.meta.made["members"] == card["tables"]


def test_chosen_members_and_weights(runs, write_yaml):
    write_yaml(members=[{"model": "small", "views": ["hflip"], "weight": 3}, {"model": "large"}])
    oof, _, card = make()
    assert card["models"] == ["small", "large"]
    parts = [
        read_predictions(tiny.table_path(run_of(m, 0), "oof", v))
        for m, v in (("small", "hflip"), ("large", "identity"))
    ]
    expected = fuse_same_images(parts, Fusion(iou=0.5), [3, 1])
    mine = np.isin(oof.image_id, parts[0].meta.image_ids)
    np.testing.assert_allclose(rows_of(oof)[mine], rows_of(expected), rtol=1e-6)


def test_the_same_command_again_gives_the_same_files(runs):
    make()
    folder = ensemble_dir("recycle", "final")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert len(before) == 3 + 3  # tables and card; each fold's test boxes
    make()
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_a_model_that_lacks_a_fold_is_said(runs, capsys):
    shutil.rmtree(run_of("large", 1))
    oof, _, card = make()
    assert "large is not trained on fold [1]; those folds are fused without it" in capsys.readouterr().out
    assert len(oof.meta.image_ids) == 12
    assert card["folds"] == [0, 1, 2]


def test_a_fold_without_any_model_is_said(runs, capsys):
    for model in MODELS:
        shutil.rmtree(run_of(model, 2))
    oof, test, _ = make()
    said = capsys.readouterr().out
    assert "no model is trained on fold [2]; their photos have no out-of-fold boxes" in said
    assert (len(oof.meta.image_ids), len(test.meta.image_ids)) == (8, 5)


@pytest.mark.parametrize("split", ["oof", "test"])
def test_a_missing_view_says_what_to_make(runs, write_yaml, split):
    write_yaml(members=[{"model": "small", "views": ["identity", "hflip"]}])
    tiny.table_path(run_of("small", 1), split, "hflip").unlink()
    message = (
        rf"small/fold1: view 'hflip' is not predicted on {split}; make predict COMP=recycle MODEL=small "
        rf"FOLD=1 SPLIT={split} VIEWS=hflip"
    )
    with pytest.raises(PipelineError, match=message):
        make()
    assert not ensemble_dir("recycle", "final").exists()


def rewritten(path, **changes):
    """Write a run's table again with changes to what it says of itself."""
    table = read_predictions(path)
    image_id = table.image_id
    for name, value in changes.items():
        setattr(table.meta, name, value)
    table.offsets = np.append(np.searchsorted(image_id, table.meta.image_ids), len(table))
    write_predictions(path, table)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"competition": "taco"},
            r"fold\d/oof/identity\.parquet: made for competition 'taco', expected 'recycle'",
        ),
        ({"image_digest": "feed"}, "made for another image table"),
        ({"made": {"folds_digest": "feed"}}, "made with another split than the fold file holds now"),
        # Boxes made elsewhere state no digest; the images of the fold tell.
        (
            {"made": {}, "image_ids": np.arange(12, dtype=np.int32), "folds": np.zeros(12, np.int32)},
            "made with another split than the fold file holds now",
        ),
        ({"split": "test"}, r"fold\d/oof/identity\.parquet: split 'test', expected 'oof'"),
    ],
)
@pytest.mark.parametrize("which", [("small", 0), ("large", 2)])
def test_a_table_that_does_not_belong_is_refused(runs, which, changes, message):
    rewritten(tiny.table_path(run_of(*which), "oof", "identity"), **changes)
    with pytest.raises(PipelineError, match=message):
        make()
    assert not ensemble_dir("recycle", "final").exists()


def test_a_run_that_was_trained_on_another_split_is_refused(runs):
    """Also where its tables do not say so."""
    for path in run_of("small", 1).rglob("*.parquet"):
        rewritten(path, made={})
    make()
    shutil.rmtree(ensemble_dir("recycle", "final"))
    tiny.write_card(Run("recycle", "small", 1), folds_digest="feed")
    with pytest.raises(
        PipelineError, match=r"small/fold1/oof/.*: made with another split than the fold file"
    ):
        make()
    assert not ensemble_dir("recycle", "final").exists()


def test_an_empty_member_is_refused(runs):
    path = tiny.table_path(run_of("small", 0), "oof", "hflip")
    meta = read_predictions(path).meta
    train, _ = runs
    write_predictions(
        path, tiny.table(train, [], image_ids=meta.image_ids, folds_digest=meta.made["folds_digest"])
    )
    with pytest.raises(
        PipelineError, match=r"small/fold0/oof/hflip\.parquet: an empty member, not one box on 4"
    ):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"membres": "all"},
            r"final\.yaml: unknown key 'membres'; known: allows_overflow, conf_type, iou",
        ),
        ({7: 1}, r"final\.yaml: key 7: expected a text; put it in quotes"),
        ({"iou": 2}, r"final\.yaml: iou 2.0: expected a number from 0 to 1"),
        ({"method": "mean"}, r"final\.yaml: method 'mean': expected one of wbf"),
        ({"members": None}, r"final\.yaml: members: expected all, or a list of models, found null"),
        ({"members": []}, r"final\.yaml: members: expected all, or a list of models"),
        ({"members": "small"}, r"final\.yaml: members: expected all, or a list of models, found \"small\""),
        ({"members": ["small"]}, r'final\.yaml: members\.0: expected a mapping, found "small"'),
        (
            {"members": [{"model": "small", "wieght": 2}]},
            "unknown key 'members.0.wieght'; known: model, v",
        ),
        (
            {"members": [{"model": "small", "weight": "x"}]},
            'members.0.weight: expected a number, found "x"',
        ),
        (
            {"members": [{"model": "small", "weight": 0}]},
            "members.0.weight: expected greater than 0",
        ),
        ({"members": [{"model": "small", "views": "hflip"}]}, "members.0.views: expected a list"),
        ({"members": [{"views": ["hflip"]}]}, "missing key 'members.0.model'"),
        ({"allows_overflow": "false"}, 'allows_overflow: expected true or false, found "false"'),
        ({"members": [{"model": "small"}, {"model": "small"}]}, "member small: a view is named twice"),
        (
            {"members": [{"model": "small", "views": ["hflip", "hflip"]}]},
            "member small: a view is named twice",
        ),
        (
            {"members": [{"model": "huge"}]},
            "huge: no trained fold; make train COMP=recycle MODEL=huge FOLD=0",
        ),
    ],
)
def test_a_mistake_in_the_ensembles_file(runs, write_yaml, changes, message):
    write_yaml(yaml.safe_dump({**FINAL, **changes}))
    with pytest.raises(PipelineError, match=message):
        make()
    assert not ensemble_dir("recycle", "final").exists()


@pytest.mark.parametrize("text", ["members: [a", "- all", "all"])
def test_a_file_that_is_no_mapping(runs, write_yaml, text):
    write_yaml(text)
    with pytest.raises(PipelineError, match=r"final\.yaml: (not YAML|expected a mapping)"):
        make()


def test_no_such_ensemble_lists_those_that_there_are(recycle, write_yaml):
    with pytest.raises(PipelineError, match="no ensemble 'best'; there are: final"):
        ensemble.main(["--ensemble", "best"])


def test_no_trained_model(recycle, write_yaml):
    with pytest.raises(PipelineError, match="no trained model of 'recycle'; make train COMP=recycle MODEL="):
        make()


# The submission


def test_the_submission_has_every_test_image_once_in_the_files_order(runs, recycle):
    make()
    submission.main([])
    path = submission_csv("recycle", "final")
    rows = path.read_text().splitlines()
    assert rows[0] == "PredictionString,image_id"
    images = json.loads((recycle / "test.json").read_text())["images"]
    assert [row.rsplit(",", 1)[1] for row in rows[1:]] == [image["file_name"] for image in images]
    assert all(len(row.rsplit(",", 1)[0].split()) % 6 == 0 for row in rows[1:])
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["file_digest"] == file_digest(path)
    assert card["images"] == 5
    assert card["boxes"] == sum(len(row.split()) // 6 for row in rows[1:])
    assert card["oof"]["map50"] == make()[2]["oof"]["map50"]
    assert {"git_revision", "members", "fusion", "version", "made_at", "test_table_digest"} <= set(card)


def test_the_order_of_the_test_file_is_kept(recycle, runs):
    """The image table is sorted by id; the rows of the CSV are as the test file has them."""
    tiny.edit_json(recycle / "test.json", lambda value: value["images"].reverse())
    make()
    submission.main([])
    rows = submission_csv("recycle", "final").read_text().splitlines()[1:]
    assert [row.rsplit(",", 1)[1] for row in rows] == [f"test/{i:04d}.jpg" for i in (4, 3, 2, 1, 0)]


def test_no_ensemble_yet(recycle):
    with pytest.raises(
        PipelineError, match="final: no ensemble yet; make ensemble COMP=recycle ENSEMBLE=final"
    ):
        submission.main([])


def test_a_test_table_that_lacks_images_is_refused(runs, home):
    make()
    path = ensemble_dir("recycle", "final") / "test.parquet"
    _, test_set = runs
    write_predictions(path, tiny.table(test_set, [(0, 0, 0.5, 0, 0, 9, 9)], image_ids=[0, 1, 3]))
    with pytest.raises(PipelineError, match="predicted 3 of 5 test images; the first missing id is 2"):
        submission.main([])
    assert not (home / "submissions").exists()


def test_a_table_that_is_not_the_one_of_the_card_is_refused(runs, home):
    make()
    path = ensemble_dir("recycle", "final") / "test.parquet"
    _, test_set = runs
    write_predictions(path, tiny.table(test_set, [(0, 0, 0.5, 0, 0, 9, 9)]))
    with pytest.raises(
        PipelineError, match=r"test\.parquet: is not the one that .*card\.json describes; make ens"
    ):
        submission.main([])
    assert not (home / "submissions").exists()


# Tuned


def tuned(capsys, *options):
    tune.main(["--ensemble", "final", "--trials", "25", *options])
    capsys.readouterr()
    return ensemble_dir("recycle", "final") / "tuned"


def test_a_tuned_ensemble_is_used_and_its_nested_score_is_the_one_told(runs, capsys, monkeypatch):
    monkeypatch.setattr(nested, "SURE", -1.0)
    folder = tuned(capsys)
    ensemble, record = read_tuned(folder)
    assert ensemble.rescoring is not None
    oof, test, card = make()
    assert "tuned: by" in capsys.readouterr().out
    assert card["tuned"] == file_digest(folder / "tuned.json")
    assert card["oof"]["competition"]["value"] == record.nested.value == card["nested"]["value"]
    np.testing.assert_array_equal(rows_of(oof), rows_of(read_predictions(folder / "oof.parquet")))
    sizes = np.tile([float(tiny.WIDTH), float(tiny.HEIGHT)], (5, 1))
    parts = []
    for fold in range(3):
        sources = [
            read_predictions(tiny.table_path(run_of(m.model, fold), "test", m.view)) for m in ensemble.members
        ]
        boxes = fuse_tuned(ensemble, sources, sizes, 10)
        saved = read_predictions(ensemble_dir("recycle", "final") / "test_folds" / f"fold{fold}.parquet")
        np.testing.assert_array_equal(saved.scores, boxes.scores)
        parts.append(saved)
    np.testing.assert_array_equal(rows_of(test), rows_of(fuse_same_images(parts, ACROSS_FOLDS)))


def test_an_ensemble_tuned_on_other_boxes_or_another_split_is_not_used(runs, capsys):
    folder = tuned(capsys)
    path = tiny.table_path(run_of("small", 1), "oof", "hflip")
    before = path.read_bytes()
    table = read_predictions(path)
    table.meta.made["seconds"] = 1.0
    write_predictions(path, table)
    _, _, card = make()
    said = capsys.readouterr().out
    assert "tuned.json was tuned on other members or boxes; make tune again to use it" in said
    assert (
        "not tuned: fused by wbf iou 0.5 skip 0.001 conf_type votes of configs/ensembles/final.yaml" in said
    )
    assert card["tuned"] is None
    path.write_bytes(before)
    tiny.edit_json(folder / "tuned.json", lambda value: value["made"].update(folds_digests=["other"]))
    make()
    assert "tuned.json was tuned on another split" in capsys.readouterr().out


def test_nested_boxes_of_another_tuning_are_refused(runs, capsys):
    """As a kill between writing oof.parquet and tuned.json leaves them."""
    path = tuned(capsys) / "oof.parquet"
    table = read_predictions(path)
    table.meta.made["seed"] = 1
    write_predictions(path, table)
    with pytest.raises(PipelineError, match=r"oof\.parquet: not the boxes that tuned\.json was saved with"):
        make()
    path.unlink()
    with pytest.raises(PipelineError, match=r"oof\.parquet: not the boxes that tuned\.json was saved with"):
        make()


def test_a_member_is_known_by_its_run_whatever_its_table_says(runs, capsys):
    """Boxes made elsewhere, or a run's folder copied, put into runs/<competition>/<name>/fold<k>/."""
    for fold in range(3):
        shutil.copytree(run_of("small", fold), run_of("theirs", fold))
    folder = tuned(capsys)
    assert {m.model for m in read_tuned(folder)[0].members} <= {"small", "large", "theirs"}
    report = json.loads((folder / "report.json").read_text())
    assert ["small/identity", "theirs/identity"] in report["copies"]
    make()
    assert "tuned: by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"made": {"checkpoint_digest": "12ab"}},
            r"made by checkpoint 12ab, but card\.json of its run says \?",
        ),
        ({"model": "large"}, "made by model large, but card.json of its run says small"),
        ({"folds": np.full(4, 2, np.int32)}, "made by fold 2, but card.json of its run says 1"),
    ],
)
def test_a_table_that_the_runs_card_does_not_describe_is_refused(runs, tmp_path, changes, message):
    path = Run("recycle", "small", 1).table_path("oof", "identity")
    table = read_predictions(path)
    for key, value in changes.items():
        setattr(table.meta, key, value)
    write_predictions(path, table)
    message += "; make predict COMP=recycle MODEL=small FOLD=1 SPLIT=oof VIEWS=identity$"
    other = Run("recycle", "large", 1).table_path("oof", "identity")
    fused = tmp_path / "fused.parquet"
    for stage, options in (
        (ensemble, ["--ensemble", "final"]),
        (ensemble, [str(path), str(other), "-o", str(fused)]),
        (evaluate, ["--model", "small"]),
        (evaluate, [str(path)]),
    ):
        with pytest.raises(PipelineError, match="small/fold1/oof/identity.parquet: " + message):
            stage.main(options)
    assert not fused.exists()
    mine = shutil.copy(path, tmp_path / "mine.parquet")  # without a run it is a table like any other
    ensemble.main([str(mine), str(other), "-o", str(fused)])
    assert fused.exists()


def test_members_of_an_ensemble_need_the_same_folds(runs):
    """Two folds of two members each, but not of the same two: they must not be joined to one."""
    shutil.copytree(run_of("large", 0), run_of("other", 0))
    shutil.rmtree(run_of("large", 0))
    with pytest.raises(PipelineError, match=r"large/identity: no out-of-fold boxes of fold 0; tuning needs"):
        tune.main(["--ensemble", "final"])


def test_the_cut_is_applied_when_the_submission_is_written(runs, capsys):
    folder = tuned(capsys)
    tiny.edit_json(folder / "tuned.json", lambda value: value.update(cut=[0.0012] * 5 + [2.0] * 5))
    _, test, card = make()
    submission.main(["--ensemble", "final"])
    assert card["cut"] == [0.0012] * 5 + [2.0] * 5
    assert (test.scores < 0.0012).any()  # the table itself keeps all
    strings = pd.read_csv(submission_csv("recycle", "final"), keep_default_na=False)["PredictionString"]
    boxes = [row for text in strings for row in np.array(text.split(), float).reshape(-1, 6)]
    assert len(boxes) == ((test.scores >= np.float32(0.0012)) & (test.labels < 5)).sum() > 0
    assert min(score for _, score, *_ in boxes) >= 0.0012
