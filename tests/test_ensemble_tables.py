"""Tables with the same images are fused, with disjoint images joined, anything between is refused."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from pipeline import ensemble
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.records import as_record
from pipeline.ensembles.tables import Fusion, describe, fuse_and_join, fuse_same_images
from pipeline.errors import PipelineError
from pipeline.fusion import FUSERS

BOX, SHIFTED = (0, 0, 40, 30), (4, 0, 40, 30)  # IoU 36 / 40


@pytest.fixture
def train(recycle):
    return load_dataset(load_profile("recycle"), "train")


def rows_of(table):
    return np.column_stack([table.image_id, table.labels, table.scores, table.boxes_xyxy])


def test_two_models_that_agree_and_one_that_is_alone(train):
    a = tiny.table(train, [(0, 1, 0.8, *BOX), (3, 2, 0.6, *BOX)])
    b = tiny.table(train, [(0, 1, 0.4, *SHIFTED)])
    fused = fuse_same_images([a, b], Fusion(method="wbf", conf_type="votes", iou=0.55))
    # votes: the sources' scores by their number; corners: the mean weighted by scores.
    expected = [
        [0, 1, (0.8 + 0.4) / 2, (0.8 * 0 + 0.4 * 4) / (0.8 + 0.4), 0, 40, 30],
        [3, 2, 0.6 / 2, *BOX],
    ]
    np.testing.assert_allclose(rows_of(fused), expected, rtol=1e-6)


def test_weights(train):
    tables = [tiny.table(train, [(0, 1, 0.8, *BOX)]), tiny.table(train, [(0, 1, 0.4, *SHIFTED)])]
    fused = fuse_same_images(tables, Fusion(), [3, 1])
    expected = [0, 1, (3 * 0.8 + 0.4) / (3 + 1), 4 * 0.4 / (3 * 0.8 + 0.4), 0, 40, 30]
    np.testing.assert_allclose(rows_of(fused), [expected], rtol=1e-6)
    with pytest.raises(PipelineError, match="weights: expected one number for each of 2 sources"):
        fuse_same_images(tables, Fusion(), [1])


def random_tables(train, count=3, **options):
    return [tiny.table(train, tiny.guesses(train.images, seed, 6, 3), **options) for seed in range(count)]


@pytest.mark.parametrize("method", FUSERS)
def test_the_order_of_members_is_irrelevant(train, method):
    tables, fusion = random_tables(train), Fusion(method=method, iou=0.3)
    one = fuse_and_join(tables, fusion, [1, 2, 3])
    other = fuse_and_join(tables[::-1], fusion, [3, 2, 1])
    assert 0 < len(one) <= sum(map(len, tables))
    np.testing.assert_allclose(rows_of(one), rows_of(other), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", FUSERS)
def test_the_result_is_a_table_that_can_be_written_and_read(train, tmp_path, method):
    tables = random_tables(train, fold=1)
    write_predictions(tmp_path / "a.parquet", tables[0])
    tables[0] = read_predictions(tmp_path / "a.parquet")
    fused = fuse_same_images(tables, Fusion(method=method), name="mine")
    write_predictions(tmp_path / "f.parquet", fused)
    meta = read_predictions(tmp_path / "f.parquet").meta
    assert (meta.model, meta.view, meta.competition, meta.split) == ("mine", "fused", "recycle", "oof")
    assert meta.image_ids.tolist() == list(range(12))
    assert set(meta.folds.tolist()) == {1}
    assert meta.made["fusion"]["method"] == method
    assert len(meta.made["members"]) == 3
    assert set(meta.made["members"][0]) == {"model", "view", "file", "digest"}


def test_folds_that_differ_are_forgotten(train):
    tables = [*random_tables(train, 1, fold=0), *random_tables(train, 1, fold=1)]
    assert set(fuse_same_images(tables, Fusion()).meta.folds.tolist()) == {-1}


def halves(train, view="identity"):
    return [
        tiny.table(train, tiny.guesses(train.images[k::2], k), image_ids=range(k, 12, 2), fold=k, view=view)
        for k in (0, 1)
    ]


def test_disjoint_images_are_joined(train):
    even, odd = halves(train)
    joined = fuse_and_join([even, odd], Fusion(), name="mine")
    alone = np.concatenate([rows_of(fuse_same_images([part], Fusion())) for part in (even, odd)])
    np.testing.assert_array_equal(np.sort(rows_of(joined), axis=0), np.sort(alone, axis=0))
    assert joined.meta.folds.tolist() == [0, 1] * 6
    assert len(joined.meta.made["members"]) == 2


def test_the_same_images_are_fused_before_the_others_are_joined(train):
    tables = [*halves(train), *halves(train, "hflip")]
    together = fuse_and_join(tables, Fusion(), [1, 1, 2, 2])
    even = fuse_same_images(tables[::2], Fusion(), [1, 2])
    np.testing.assert_array_equal(rows_of(together)[together.image_id % 2 == 0], rows_of(even))
    assert together.meta.view == "fused"


def test_anything_between_is_refused(train):
    one = tiny.table(train, [(0, 1, 0.5, *BOX)], image_ids=[0, 1, 2])
    two = tiny.table(train, [(2, 1, 0.5, *BOX)], image_ids=[2, 3])
    with pytest.raises(PipelineError, match="share 1 images of 3 and 2; expected the same images"):
        fuse_and_join([one, two], Fusion())
    with pytest.raises(PipelineError, match="other images than"):
        fuse_same_images([one, two], Fusion())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"competition": "taco"}, "made for competition 'taco', expected 'recycle'"),
        ({"image_digest": "feed"}, "made for another image table"),
        ({"split": "test"}, "split 'test', but m/identity has 'oof'; combine out-of-fold with out-of-fold"),
    ],
)
@pytest.mark.parametrize("combine", [fuse_same_images, fuse_and_join])
def test_tables_that_do_not_belong_together(train, combine, changes, message):
    one, two = random_tables(train, 2)
    with pytest.raises(PipelineError, match=message):
        combine([one, replace(two, meta=replace(two.meta, **changes))], Fusion())


@pytest.mark.parametrize("combine", [fuse_same_images, fuse_and_join])
def test_an_empty_member_is_refused(train, combine):
    with pytest.raises(PipelineError, match="an empty member, not one box on 12 images; leave it out"):
        combine([*random_tables(train, 1), tiny.table(train, [], model="empty")], Fusion())


def test_what_was_repaired_is_kept_when_tables_are_joined(train):
    even, odd = halves(train)
    zero = tiny.table(train, [(0, 1, 0.5, *BOX), (0, 1, 0, *BOX)], image_ids=np.arange(0, 12, 2))
    for tables in ([zero], [zero, odd]):
        (line,) = fuse_and_join(tables, Fusion(skip=0)).meta.made["repairs"]
        assert "score 0" in line
    assert fuse_and_join([even, odd], Fusion()).meta.made["repairs"] == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "mean"}, "method 'mean': expected one of wbf, nms, soft_nms, nmw"),
        ({"conf_type": "sum"}, "conf_type 'sum': expected one of votes, avg"),
        ({"soft": "hard"}, "soft 'hard': expected one of linear, gaussian"),
        ({"iou": 1.5}, "iou 1.5: expected a number from 0 to 1"),
        ({"skip": "0.1"}, "skip: expected a number, found"),
        ({"sigma": 11}, "sigma 11.0: expected a number from 0 to 10"),
        ({"iou": float("nan")}, "nan is no number"),
        ({"allows_overflow": "yes"}, "allows_overflow: expected true or false"),
    ],
)
def test_parameters_out_of_range(values, message):
    with pytest.raises(PipelineError, match=message):
        as_record(values, Fusion, "options", "correct it")


@pytest.mark.parametrize(
    ("method", "keys"),
    [("wbf", {"conf_type"}), ("nms", set()), ("soft_nms", {"soft", "sigma"}), ("nmw", set())],
)
def test_a_card_names_only_what_the_method_uses(method, keys):
    assert set(describe(Fusion(method=method))) == {"method", "iou", "skip"} | keys


def test_the_stage_fuses_any_tables(train, tmp_path, capsys):
    paths = [tmp_path / f"{i}.parquet" for i in range(3)]
    for path, table in zip(paths, random_tables(train), strict=True):
        write_predictions(path, table)
    options = ["--method", "nms", "--iou", "0.4", "--skip", "0.1", "--weights", "1", "1", "2"]
    ensemble.main([*map(str, paths), *options, "-o", str(tmp_path / "out.parquet")])
    result = read_predictions(tmp_path / "out.parquet")
    expected = fuse_and_join(random_tables(train), Fusion("nms", 0.4, 0.1), [1, 1, 2])
    np.testing.assert_array_equal(rows_of(result), rows_of(expected))
    assert f"wrote {tmp_path}/out.parquet: {len(result)} boxes on 12 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no trained model of .recycle."),
        (["a.parquet", "--ensemble", "final"], "expected prediction tables, or --ensemble, one of them"),
        (["a.parquet"], "expected -o OUT.parquet, where the fused table goes"),
        (
            ["a.parquet", "-o", "o.parquet", "--weights", "1", "2"],
            "2 weights for 1 tables; expected one each",
        ),
        (["a.parquet", "-o", "o.parquet", "--weights", "-1"], "weights, source 0: -1.0, expected 0 or more"),
        (["a.parquet", "-o", "o.parquet", "--method", "mean"], "method 'mean': expected one of wbf, nms"),
        (["b.parquet", "-o", "o.parquet"], r"b\.parquet: no such prediction table"),
        (["a.parquet", "a.parquet", "-o", "o.parquet"], r"a\.parquet: is there twice"),
        (["a.parquet", "-o", "o.csv"], r"o\.csv: expected a name that ends in \.parquet"),
    ],
)
def test_mistakes_of_the_stage(train, home, monkeypatch, arguments, message):
    monkeypatch.chdir(home)
    write_predictions(home / "a.parquet", tiny.table(train, [(0, 1, 0.5, *BOX)]))
    with pytest.raises(PipelineError, match=message):
        ensemble.main(arguments)
    assert not list(home.glob("o.*"))


@pytest.mark.parametrize(("overflow", "factor"), [(False, min(2, 3) / 2), (True, 3 / 2)])
def test_overflow_counts_every_box_of_a_cluster(train, overflow, factor):
    """avg: the mean score times boxes by sources; without overflow at most one box a source counts."""
    a = tiny.table(train, [(0, 1, 0.6, *BOX), (0, 1, 0.4, *SHIFTED)])
    b = tiny.table(train, [(0, 1, 0.2, *BOX)])
    fusion = Fusion(conf_type="avg", allows_overflow=overflow)
    fused = fuse_same_images([a, b], fusion)
    np.testing.assert_allclose(fused.scores, [(0.6 + 0.4 + 0.2) / 3 * factor], rtol=1e-6)
