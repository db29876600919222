"""Tuning: what may not see what, what is dropped, and that the ensemble is the same everywhere."""

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_scenes import boxes_of, scene, truth_of, unzip

from pipeline import tune as stage
from pipeline.data.dataset import load_dataset
from pipeline.data.metric import parse_metric
from pipeline.data.predictions import join_predictions, read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.ensembles.calibration import KINDS, LOWEST, fit_calibration
from pipeline.ensembles.fuse_tuned import fuse_tuned
from pipeline.ensembles.tables import Fusion
from pipeline.ensembles.tuned import TunedEnsemble, TunedMember, read_tuned, write_tuned
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv
from pipeline.scoring.cuts import CUTS
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import group_truth
from pipeline.tuning import candidates as grid
from pipeline.tuning import nested, parts, stacking
from pipeline.tuning.engine import Journal
from pipeline.tuning.members import make_members
from pipeline.tuning.run import TuneOptions, choose_parts, tune

N, FOLDS = 60, 5
plain_start = grid.start
SIZES = np.tile([float(tiny.WIDTH), float(tiny.HEIGHT)], (N, 1))


@pytest.fixture
def train(home):
    """Sixty images of `recycle`, in two of its classes."""
    tiny.write_coco(home / "data" / "recycle", n_train=N, photos=False)
    path = home / "data" / "recycle" / "train.json"
    tiny.edit_json(path, lambda value: [a.update(category_id=a["id"] % 2) for a in value["annotations"]])
    return load_dataset(load_profile("recycle"), "train")


def detections(train, seed, recall=0.8, noise=2, wrong=0.1):
    """Rows of a made-up detector: most truths a little off, some of another class, and noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for row in train.annotations.itertuples():
        if rng.random() < recall:
            box = np.array([row.x1, row.y1, row.x2, row.y2]) + rng.normal(0, 0.7, 4)
            label = 1 - row.label if rng.random() < wrong else row.label
            rows.append((row.image_id, label, rng.beta(5, 2), *box))
    for image in train.images["image_id"]:
        for _ in range(noise):
            x, y = rng.uniform(0, 30), rng.uniform(0, 16)
            label = rng.integers(2)
            box = (x, y, x + rng.uniform(6, 16), y + rng.uniform(6, 14))
            rows.append((image, label, rng.beta(2, 5), *box))
    return rows


def fold_tables(train, name, rows):
    """A member's out-of-fold tables, one a fold."""
    folds = train.images["image_id"].to_numpy() % FOLDS
    found = []
    for fold in range(FOLDS):
        ids = train.images["image_id"].to_numpy()[folds == fold]
        mine = [row for row in rows if row[0] in set(ids)]
        found.append(tiny.table(train, mine, image_ids=ids, fold=fold, model=name))
    return found


def made_up(train, *seeds, **options):
    return [t for seed in seeds for t in fold_tables(train, f"m{seed}", detections(train, seed, **options))]


def settings_of(**options):
    return TuneOptions(**{"seconds": 600.0, "trials": 40, "partitions": 2} | options)


def tuned_in(home, folder, tables, **options):
    report = tune(load_profile("recycle"), tables, home / folder, settings_of(**options))
    return report, read_predictions(home / folder / "oof.parquet")


def columns(table, keep):
    return [
        column[keep].tobytes() for column in (table.image_id, table.labels, table.scores, table.boxes_xyxy)
    ]


@pytest.mark.parametrize("sure", [-1.0, nested.SURE, 2.0], ids=["always rescored", "as it is", "never"])
def test_no_box_is_made_with_parameters_that_saw_its_images_truth(train, home, monkeypatch, sure):
    monkeypatch.setattr(nested, "SURE", sure)
    tables = made_up(train, 1, 2)
    before, boxes = tuned_in(home, "before", tables)
    assert before["nested"]["rescoring_chosen"] in ({-1.0: [FOLDS], 2.0: [0]}.get(sure, range(FOLDS + 1)))
    part = 3
    ids = {int(i) for i in train.images["image_id"] if i % FOLDS == part}

    def shuffle(value):
        rng = np.random.default_rng(0)
        for annotation in value["annotations"]:
            if annotation["image_id"] in ids:
                annotation["category_id"] = int(rng.integers(2))
                annotation["bbox"] = [*rng.integers(0, 15, 2).tolist(), 14, 12]

    tiny.edit_json(home / "data" / "recycle" / "train.json", shuffle)
    after, other = tuned_in(home, "after", tables)
    mine, its = (np.isin(t.image_id, list(ids)) for t in (boxes, other))
    assert columns(boxes, mine) == columns(other, its)
    assert mine.sum() > 10
    assert after["nested"]["value"] != before["nested"]["value"]


@pytest.mark.parametrize(
    ("metric", "kind", "sure"),
    [("wheat", "isotonic per class", 2.0), ("f2", "isotonic", -1.0)],
)
def test_nor_over_random_parts_with_cuts_and_maps_of_truth(train, home, monkeypatch, metric, kind, sure):
    monkeypatch.setattr(nested, "SURE", sure)
    monkeypatch.setattr(grid, "CALIBRATIONS", (kind,))
    monkeypatch.setattr(grid, "start", lambda n: replace(plain_start(n), calibrations=(kind,) * n))
    profile = replace(load_profile("recycle"), metric=parse_metric(metric))
    tables = [t for t in made_up(train, 1, 2, 3, noise=4) if t.meta.folds[0] < 2]
    members, _ = make_members(tables)
    one = choose_parts(train, members, settings_of())[0]
    ids = members[0].table.meta.image_ids[one.part == 2]

    def shuffle(value):
        for annotation in value["annotations"]:
            if annotation["image_id"] in set(ids.tolist()):
                annotation.update(category_id=1 - annotation["category_id"], bbox=[1, 1, 30, 20])

    def boxes(folder):
        tune(profile, tables, home / folder, settings_of(trials=10, partitions=1))
        table = read_predictions(home / folder / "oof.parquet")
        return columns(table, np.isin(table.image_id, ids))

    before = boxes("before")
    assert len(before[2]) > 0
    tiny.edit_json(home / "data" / "recycle" / "train.json", shuffle)
    assert boxes("after") == before


@pytest.mark.parametrize("sure", [-1.0, 2.0], ids=["rescored", "plain"])
def test_the_test_path_on_held_out_photos_gives_their_boxes_bit_for_bit(train, home, monkeypatch, sure):
    """A fold's members alone go through the ensemble as they did among all folds."""
    monkeypatch.setattr(nested, "SURE", sure)
    tables = made_up(train, 1, 2)
    tuned_in(home, "t", tables)
    ensemble, _ = read_tuned(home / "t")
    assert (ensemble.rescoring is None) == (sure > 1) == (ensemble.output is not None)
    joined = [join_predictions(tables[:FOLDS]), join_predictions(tables[FOLDS:])]
    whole = fuse_tuned(ensemble, joined, SIZES, 10)
    image = np.repeat(np.arange(N), np.diff(whole.offsets))
    for fold in range(FOLDS):
        mine = [tables[fold], tables[FOLDS + fold]]
        alone = fuse_tuned(ensemble, mine, SIZES[: N // FOLDS], 10)
        here = image % FOLDS == fold
        assert alone.scores.tobytes() == whole.scores[here].tobytes()
        assert alone.boxes_xyxy.tobytes() == whole.boxes_xyxy[here].tobytes()
        assert alone.labels.tobytes() == whole.labels[here].tobytes()


def test_features_are_made_again_where_memory_is_short(train, home, monkeypatch):
    monkeypatch.setattr(nested, "SURE", -1.0)
    tables = made_up(train, 1, 2, 3, recall=0.5)
    whole, boxes = tuned_in(home, "whole", tables)
    monkeypatch.setattr(stacking, "MAX_BYTES", 0)
    short, other = tuned_in(home, "short", tables)
    assert short["nested"] == whole["nested"]
    assert columns(boxes, slice(None)) == columns(other, slice(None))
    assert (home / "whole" / "rescoring.txt").read_bytes() == (home / "short" / "rescoring.txt").read_bytes()


def test_a_bad_member_is_dropped(train, home):
    good = made_up(train, 1, 2)
    rows = [(i, 1 - label, s, *box) for i, label, s, *box in detections(train, 3)]
    report, _ = tuned_in(home, "t", [*good, *fold_tables(train, "bad", rows)], trials=150)
    assert {m["member"] for m in report["recipe"]["members"]} == {"m1/identity", "m2/identity"}
    (bad,) = [row for row in report["left_out"] if row["member"] == "bad/identity"]
    assert not bad["kept"] and bad["gain"] < 0
    without, _ = tuned_in(home, "u", good, trials=150)
    plain = [one["nested"]["plain"]["value"] for one in (report, without)]
    assert plain[0] >= plain[1] - 0.03  # of 120 truths


def test_a_copy_is_called_one(train, home, capsys):
    rows = detections(train, 1)
    tables = [*fold_tables(train, "m1", rows), *fold_tables(train, "copy", rows)]
    for k, table in enumerate(tables):
        write_predictions(home / f"{k}.parquet", table)
    paths = [str(home / f"{k}.parquet") for k in range(len(tables))]
    stage.main([*paths, "-o", str(home / "t"), "--trials", "30"])
    assert "copy/identity is a copy of m1/identity" in capsys.readouterr().out
    report = json.loads((home / "t" / "report.json").read_text())
    assert report["at_rest"] and not report["stopped"]
    for row in (
        *report["members"],
        report["nested"],
        report["nested"]["plain"],
        report["nested"]["rescored"],
    ):
        assert row["low"] < row["value"] < row["high"]
    assert len(report["recipe"]["members"]) == 1
    assert report["shared_errors"][0][1] == 1


def test_a_stopped_search_goes_on_from_there(train, home):
    tables = made_up(train, 1, 2)
    whole, boxes = tuned_in(home, "whole", tables, trials=150)
    tuned_in(home, "stopped", tables, trials=20)
    journal = home / "stopped" / "search.jsonl"
    journal.write_text(journal.read_text()[:-30])  # the last line is cut off by a kill
    again, other = tuned_in(home, "stopped", tables, trials=150)
    assert 0 < again["resumed"] < again["candidates"]
    assert again["nested"] == whole["nested"]
    assert columns(boxes, slice(None)) == columns(other, slice(None))
    more = made_up(train, 1, 3)
    fresh, _ = tuned_in(home, "stopped", more, trials=20)
    assert fresh["resumed"] == 0


def test_a_damaged_journal_is_left_aside(home):
    """Its whole lines count; what a kill, a full disk or a power failure left of others does not."""
    header = {"truth": "a"}
    path = home / "search.jsonl"
    journal = Journal(path, header)
    assert journal.read(2) == {}
    journal.add("one", np.array([0.5, np.nan]))
    journal.close()
    path.write_bytes(path.read_bytes() + b'["cut", [0.1, 0.')
    again = Journal(path, header)
    assert [*again.read(2)] == ["one"]
    again.add("two", np.array([0.1, 0.2]))
    again.close()
    path.write_bytes(path.read_bytes() + b'\xff\x00\n7\n{"a": 1, "b": 2}\n["x", 3]\n["y", ["z", 1]]\n')
    with closing(Journal(path, header)) as last:
        found = last.read(2)
    assert [*found] == ["one", "two"]
    np.testing.assert_array_equal(found["one"], [0.5, np.nan])


def test_a_search_that_goes_on_elsewhere_does_not_write_into_another_ones_journal(home):
    path = home / "search.jsonl"
    first, second = Journal(path, {"truth": "a"}), Journal(path, {"truth": "b"})
    first.read(1)
    first.add("one", np.array([0.5]))
    second.read(1)
    first.add("two", np.array([0.6]))
    second.add("three", np.array([0.7]))
    with closing(first), closing(second), closing(Journal(path, {"truth": "b"})) as again:
        assert [*again.read(1)] == ["three"]


def test_ctrl_c_keeps_the_best_so_far(train, home):
    settings = settings_of()
    settings.budget.stop = True
    tune(load_profile("recycle"), made_up(train, 1, 2), home / "t", settings)
    ensemble, _ = read_tuned(home / "t")
    assert ensemble.rescoring is None and len(ensemble.members) == 2
    report = json.loads((home / "t" / "report.json").read_text())
    assert report["stopped"] and report["rescoring"]["note"] == "stopped before rescoring was trained"


def test_ctrl_c_does_not_replace_the_result_of_a_whole_run(train, home):
    tables = made_up(train, 1, 2)
    whole, _ = tuned_in(home, "t", tables, trials=10)
    before = {path.name: path.read_bytes() for path in (home / "t").glob("[!s]*")}
    settings = settings_of()
    settings.budget.stop = True
    assert not whole["kept"] and tune(load_profile("recycle"), tables, home / "t", settings)["kept"]
    assert before == {path.name: path.read_bytes() for path in (home / "t").glob("[!s]*")}
    assert not tune(load_profile("recycle"), made_up(train, 1, 3), home / "t", settings)["kept"]
    assert read_tuned(home / "t")[1].stopped


def test_few_photos_with_truth_and_one_member(train, home):
    """Resamples without a true box, which say nothing, are left out; and parts without one score 0."""

    def thin_out(value):
        value["annotations"] = [a for a in value["annotations"] if a["image_id"] % 20 == 7]

    tiny.edit_json(home / "data" / "recycle" / "train.json", thin_out)
    train = load_dataset(load_profile("recycle"), "train")
    tables = made_up(train, 1, recall=1, noise=0, wrong=0)
    report, _ = tuned_in(home, "t", [join_predictions(tables)], trials=10)
    (row,) = report["members"]
    assert row["value"] > 0.9 and row["low"] > 0.3
    assert report["gain"]["low"] <= 0 <= report["gain"]["high"]


def test_random_parts_of_images_keep_groups_whole():
    groups = np.repeat(np.arange(30), 3)
    first, second = parts.by_images(groups, 5, 2, seed=1)
    for one in (first, second):
        assert np.bincount(one.part).tolist() == [18] * 5
        assert all(len(set(one.part[groups == g])) == 1 for g in range(30))
    assert (first.part != second.part).any()
    with pytest.raises(PipelineError, match="4 images or groups of images; expected at least 5"):
        parts.by_images(np.arange(4), 5, 1, seed=0)


def test_images_of_a_few_folds_are_dealt_into_random_parts(train, home):
    tables = [t for t in made_up(train, 1, 2) if t.meta.folds[0] < 2]
    report, boxes = tuned_in(home, "t", tables)
    assert report["parts"] == "5 random parts of the images"
    assert len(report["nested"]["partitions"]) == 2
    assert len(boxes.meta.image_ids) == 2 * N // FOLDS


def test_groups_of_the_fold_file_stay_whole(train, capsys):
    tables = [t for t in made_up(train, 1) if t.meta.folds[0] < 2]
    members, _ = make_members(tables)
    ids = members[0].table.meta.image_ids
    path = tiny.write_folds(folds_csv("recycle"), train.images, FOLDS)
    table = pd.read_csv(path)
    table.assign(group="burst" + (table["image_id"] // 10).astype(str)).to_csv(path, index=False)
    for one in choose_parts(train, members, settings_of()):
        assert all(len(set(one.part[ids // 10 == g])) == 1 for g in range(6))
    table.iloc[1:].to_csv(path, index=False)
    assert len(choose_parts(train, members, settings_of())) == 2
    assert "its 59 images are not the 60 of the train set" in capsys.readouterr().out


@pytest.mark.parametrize("metric", ["f2", "wheat"])
def test_a_metric_that_counts_false_boxes_gets_a_cut(train, home, metric):
    profile = replace(load_profile("recycle"), metric=parse_metric(metric))
    tables = made_up(train, 1, 2, noise=6)
    report = tune(profile, tables, home / "t", settings_of())
    ensemble, _ = read_tuned(home / "t")
    assert ensemble.cut is not None and min(ensemble.cut) > 0.01
    truth = group_truth(train.annotations, train.images, train.images["image_id"].to_numpy(), 10)
    uncut = max(
        score(join_predictions(rows), truth, profile.metric).value() for rows in (tables[:5], tables[5:])
    )
    assert report["nested"]["value"] > uncut + 0.05


@settings(max_examples=100)
@given(scene, st.sampled_from(["wheat", "f2", "f1"]), st.integers(0, 99))
def test_the_metric_at_all_cuts_is_the_metric_of_the_boxes_above_each(scene, metric, seed):
    truth, found, _ = unzip(scene)
    if not any(truth):
        return
    grouped, spec = truth_of(truth), parse_metric(metric)
    weights = np.random.default_rng(seed).integers(0, 3, (2, len(truth)))
    scored = score(boxes_of(found), grouped, spec)
    at_cuts = scored.at_cuts(weights)
    for g, cut in enumerate(CUTS):
        kept = boxes_of([[row for row in image if np.float32(row[1]) >= cut] for image in found])
        expected = [score(kept, grouped, spec).value(row) for row in weights]
        np.testing.assert_allclose(at_cuts[:, g], expected, atol=1e-12)
        np.testing.assert_allclose(
            [scored.cut_at(np.full(3, cut)).value(row) for row in weights], expected, atol=1e-12
        )


SCORES = np.array([0.2, 0.3, 0.4, 0.6], np.float32)
LABELS = np.zeros(4, np.int16)


@pytest.mark.parametrize(
    ("kind", "right", "asked", "expected"),
    [
        ("minmax", [0, 0, 1, 1], [0.2, 0.6, 0.4], [LOWEST, 1, LOWEST + 0.5 * (1 - LOWEST)]),
        ("minmax", [0, 0, 1, 1], [0.0, 0.9], [LOWEST, 1]),  # outside of what was seen: the ends
        ("rank", [0, 0, 1, 1], [0.2, 0.6], [LOWEST, 1]),
        # a step from 0 to 1 between the scores, and a hundredth of the score's own slope
        ("isotonic", [0, 0, 1, 1], [0.2, 0.6], [0.002, 0.99 + 0.006]),
    ],
)
def test_calibration_by_hand(kind, right, asked, expected):
    maps = fit_calibration(kind, False, SCORES, LABELS, np.array(right, float), 1)
    found = maps.apply(np.array(asked, np.float32), np.zeros(len(asked), np.int16))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 2), st.booleans()), min_size=1, max_size=300),
    st.sampled_from(KINDS[1:]),
    st.booleans(),
)
def test_calibration_never_turns_an_order_round(rows, kind, per_class):
    scores = np.array([row[0] / 1000 for row in rows], np.float32)
    labels = np.array([row[1] for row in rows], np.int16)
    right = np.array([float(row[2]) for row in rows])
    found = fit_calibration(kind, per_class, scores, labels, right, 3).apply(scores, labels)
    assert found.min() >= np.float32(LOWEST) and found.max() <= 1
    for label in range(3):
        order = np.argsort(scores[labels == label], kind="stable")
        assert (np.diff(found[labels == label][order]) >= 0).all()


def test_a_tuned_ensemble_is_read_back_as_it_was(train, home, monkeypatch):
    monkeypatch.setattr(nested, "SURE", -1.0)
    tables = made_up(train, 1, 2)
    tuned_in(home, "t", tables)
    trees, made = read_tuned(home / "t")
    maps = fit_calibration("isotonic", True, SCORES, LABELS, np.ones(4), 2)
    members = (
        TunedMember("a", "hflip", 0.5, 0.01, 0.7, maps),
        replace(trees.members[0], calibration=None),
    )
    ensemble = TunedEnsemble(members, Fusion(iou=0.7), maps, trees.rescoring, (0.1,) * 10)
    write_tuned(home / "again", ensemble, made)
    assert read_tuned(home / "again") == (ensemble, made)
    text = home / "again" / "rescoring.txt"
    text.write_text(text.read_text().replace("tree", "shrub", 1))
    with pytest.raises(PipelineError, match=r"rescoring\.txt: not the trees that tuned\.json was saved with"):
        read_tuned(home / "again")
    (home / "again" / "tuned.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"tuned\.json: missing key .*; tune again"):
        read_tuned(home / "again")
    with pytest.raises(PipelineError, match="not tuned yet"):
        read_tuned(home / "nothing")


def test_tables_are_put_together_to_members(train):
    tables = made_up(train, 1, 2)
    members, notes = make_members(tables)
    assert [m.name for m in members] == ["m1/identity", "m2/identity"] and not notes
    assert all(len(m.table.meta.image_ids) == N for m in members)
    for k, table in enumerate(tables):
        table.meta.model = f"file{k}"  # as convert names them: after their files
    members, notes = make_members(tables)
    assert [m.name for m in members] == ["file0/identity", "file5/identity"]
    assert notes[0].startswith("the tables' models and views do not say which belong together; joined in")
    with pytest.raises(PipelineError, match=r"2 tables for the images of .*, 1 for those of"):
        make_members(tables[:-1])
    overlapping = tiny.table(train, detections(train, 9)[:5], image_ids=range(N - 1))
    with pytest.raises(PipelineError, match="share 12 images; expected the same images"):
        make_members([tables[0], overlapping])
    with pytest.raises(PipelineError, match="an empty member"):
        make_members([tiny.table(train, [])])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["a.parquet", "--ensemble", "e"],
            "expected out-of-fold prediction tables, or --ensemble, one of them",
        ),
        (["a.parquet"], "expected OUT=DIR .-o DIR."),
        (["a.parquet", "-o", "t"], r"a\.parquet: no such prediction table"),
        (["test.parquet", "-o", "t"], r"test\.parquet: split 'test'; tuning takes out-of-fold boxes"),
        (["oof.parquet", "-o", "t", "--budget", "0"], "--budget 0.0: expected seconds above 0"),
        (["--ensemble", "nothing"], "no ensemble 'nothing'"),
    ],
)
def test_mistakes(train, home, monkeypatch, arguments, message):
    monkeypatch.chdir(home)
    test = load_dataset(load_profile("recycle"), "test")
    write_predictions(home / "test.parquet", tiny.table(test, [(0, 0, 0.9, 1, 1, 9, 9)]))
    write_predictions(home / "oof.parquet", tiny.table(train, detections(train, 1)))
    with pytest.raises(PipelineError, match=message):
        stage.main(arguments)
    assert not (home / "t").exists()
