"""What is said about a prediction table: values written out by hand, and independent implementations."""

import json
import math
import warnings

import analysis_oracle
import numpy as np
import pytest
import scoring_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scoring_scenes import boxes_of, scene, truth_of, unzip

from pipeline import convert
from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.paths import write_json
from pipeline.scoring.analysis import analyse
from pipeline.scoring.confusion import confusion
from pipeline.scoring.crowding import crowding_table
from pipeline.scoring.curves import class_curves, measure, pooled_curve, pr_curve
from pipeline.scoring.error_kinds import KINDS, error_costs, error_kinds
from pipeline.scoring.localisation import overlaps
from pipeline.scoring.matching import match
from pipeline.scoring.pictures import PICTURES, draw_pictures
from pipeline.scoring.ranking import average_precisions, rank
from pipeline.scoring.sizes import ap_by_size
from pipeline.scoring.truth import group_truth

CLASSES = ("a", "b", "c")
A, B = (0.0, 0.0, 40.0, 30.0), (44.0, 0.0, 60.0, 30.0)
FAR = (0.0, 40.0, 10.0, 50.0)
HALF = (0.0, 0.0, 20.0, 30.0)  # IoU 1/2 with A
SHORT = (0.0, 0.0, 24.0, 30.0)  # IoU 0.6 with A
THIRD = (20.0, 0.0, 60.0, 30.0)  # IoU 1/3 with A
DOWN = (0.0, 20.0, 10.0, 50.0)  # IoU 1/14 with A
thresholds = st.sampled_from([0.4, 0.5, 0.75])


def matched(found, truth, crowd=None, iou=0.5, **options):
    grouped = truth_of(truth, crowd)
    return match(boxes_of(found), grouped, np.array([iou]), owners=True, **options)


def of_scene(scene, with_crowds=False):
    truth, found, crowd = unzip(scene)
    return truth, found, crowd if with_crowds else [[False] * len(image) for image in truth]


# Measures over the score, and precision over recall

MIXED = [[(0, 0.9, A), (0, 0.7, FAR), (1, 0.4, A)], [(0, 0.7, A)], []]
THREE = [[(0, A), (1, B)], [(0, A)], [(0, A)]]


@pytest.mark.parametrize(
    ("score", "true", "false", "precision", "recall", "f1"),
    [
        (0.95, 0, 0, math.nan, 0, 0),
        (0.9, 1, 0, 1, 1 / 3, 2 * 1 / (1 + 0 + 3)),
        (0.7, 2, 1, 2 / 3, 2 / 3, 2 * 2 / (2 + 1 + 3)),  # both boxes of score 0.7, or none
        (0.5, 2, 1, 2 / 3, 2 / 3, 2 * 2 / (2 + 1 + 3)),
        (0.0, 2, 1, 2 / 3, 2 / 3, 2 * 2 / (2 + 1 + 3)),
    ],
)
def test_measures_of_a_class_at_a_score(score, true, false, precision, recall, f1):
    curve = class_curves(rank(matched(MIXED, THREE)))[0]
    assert curve.at(score) == pytest.approx(
        (score, true, false, 3 - true, precision, recall, f1), nan_ok=True
    )


def test_the_best_score_of_a_class_and_of_all():
    ranked = rank(matched(MIXED, THREE))
    assert class_curves(ranked)[0].best().score == pytest.approx(0.7)
    pooled = pooled_curve(ranked)
    assert pooled.best() == pytest.approx((np.float32(0.7), 2, 1, 2, 2 / 3, 2 / 4, 4 / 7))
    assert pooled.at(0) == pytest.approx((0, 2, 2, 2, 2 / 4, 2 / 4, 4 / 8))
    missed, absent = class_curves(ranked)[1:]
    assert missed.best() == pytest.approx((np.float32(0.4), 0, 1, 1, 0, 0, 0))
    assert absent.best() is None
    assert absent.at(0.5).as_json() == {
        "score": 0.5,
        "true": 0,
        "false": 0,
        "missed": 0,
        "precision": None,
        "recall": None,
        "f1": None,
    }


def test_boxes_of_equal_score_are_kept_or_left_together():
    """F1 2/3 at 0.9 and 4/7 at 0.5, where the best order within the tie would make it 1."""
    found = [[(0, 0.9, A), (0, 0.5, B), (0, 0.5, FAR), (0, 0.5, FAR), (0, 0.5, FAR)]]
    curve = class_curves(rank(matched(found, [[(0, A), (0, B)]])))[0]
    assert curve.best() == pytest.approx((np.float32(0.9), 1, 0, 1, 1, 1 / 2, 2 / 3))
    assert curve.at(0.5).f1 == pytest.approx(4 / 7)


def test_boxes_in_a_crowd_do_not_count():
    ranked = rank(matched([[(0, 0.9, B), (0, 0.8, A)]], [[(0, A), (0, B)]], [[False, True]]))
    assert tuple(pooled_curve(ranked).at(0)) == tuple(class_curves(ranked)[0].at(0)) == (0, 1, 0, 0, 1, 1, 1)
    assert pr_curve(ranked, 0).precision.tolist() == [1]
    row = crowding_table(ranked, 0)["1"]
    assert (row["truths"], row["true"], row["false"]) == (1, 1, 0)


def test_precision_over_recall_raw_and_as_average_precision_reads_it():
    found = [[(0, 0.9, FAR), (0, 0.8, A)], [(0, 0.7, A)], [], []]  # precision 0/1, 1/2, 2/3
    curve = pr_curve(rank(matched(found, [[(0, A)]] * 4)), 0)
    assert curve.recall.tolist() == [1 / 4, 2 / 4]
    assert curve.precision.tolist() == [1 / 2, 2 / 3]
    assert curve.envelope.tolist() == [2 / 3, 2 / 3]
    raw, envelope = curve.at(np.array([0, 0.25, 0.26, 0.5, 0.51]))
    assert raw.tolist() == [1 / 2, 1 / 2, 2 / 3, 2 / 3, 0]
    assert envelope.tolist() == [2 / 3, 2 / 3, 2 / 3, 2 / 3, 0]


@settings(max_examples=100)
@given(scene, thresholds, st.booleans(), st.integers(0, 9))
def test_counts_and_curves_agree_with_their_definitions(scene, iou, with_crowds, tenths):
    truth, found, crowd = of_scene(scene, with_crowds)
    ranked = rank(matched(found, truth, crowd, iou))
    ap = average_precisions(ranked)[0]
    for label, curve in enumerate(class_curves(ranked)):
        raised = pr_curve(ranked, label)
        assert (raised is None) == np.isnan(ap[label])
        if raised:
            assert raised.at()[1].mean() == pytest.approx(ap[label], abs=1e-9)
        if best := curve.best():
            assert best.f1 == max(curve.at(float(score)).f1 for score in curve.scores)
    if with_crowds:
        return
    score = tenths / 10
    kept = [[row for row in image if row[1] >= score] for image in found]
    counts = [scoring_oracle.count_image(*pair, iou) for pair in zip(kept, truth, strict=True)]
    assert tuple(pooled_curve(ranked).at(score))[1:4] == tuple(map(sum, zip(*counts, strict=True)))


# Confusion matrix


def test_confusions_by_hand():
    truth = [[(0, A), (1, B)], [(2, A)], []]
    found = [[(1, 0.9, A), (0, 0.8, SHORT), (1, 0.7, B), (2, 0.1, B)], [], [(2, 0.6, FAR)]]
    result = confusion(boxes_of(found), truth_of(truth), iou=0.5, score=0.5)
    assert result.counts.tolist() == [
        [0, 1, 0, 0],  # a taken for b, by the better score
        [0, 1, 0, 0],
        [0, 0, 0, 1],  # not found
        [1, 0, 1, 0],  # the second box on A, and one of nothing; that of score 0.1 is not there
    ]
    assert result.shares()[3].tolist() == [1 / 2, 0, 1 / 2, 0]
    assert confusion(boxes_of([[], [], []]), truth_of(truth), iou=0.5, score=0).shares().tolist() == [
        [0, 0, 0, 1]
    ] * 3 + [[0] * 4]


def test_of_two_labels_on_one_object_a_box_takes_its_own():
    both = truth_of([[(0, A), (1, A), (2, A)]])
    found = boxes_of([[(1, 0.9, A), (2, 0.8, A), (0, 0.7, A)]])
    assert confusion(found, both, iou=0.5, score=0).counts[:3, :3].tolist() == np.eye(3).tolist()
    other = truth_of([[(1, A), (2, A)]])  # none its own: the first
    counts = confusion(boxes_of([[(0, 0.9, A)]]), other, iou=0.5, score=0).counts
    assert counts[:, 0].tolist() == [0, 1, 0, 0]


def test_a_box_in_a_crowd_of_its_class_is_no_confusion():
    truth = truth_of([[(0, A), (1, B)]], [[True, False]])
    found = boxes_of([[(0, 0.9, HALF), (0, 0.8, HALF), (2, 0.7, HALF), (0, 0.6, B)]])
    counts = confusion(found, truth, iou=0.5, score=0).counts
    assert counts.tolist() == [[0] * 4, [1, 0, 0, 0], [0] * 4, [0, 0, 1, 0]]


@settings(max_examples=100)
@given(scene, thresholds, st.integers(0, 9))
def test_confusions_are_those_of_the_definition(scene, iou, tenths):
    truth, found, _ = of_scene(scene)
    grouped = truth_of(truth)
    real = [sorted(image, key=lambda row: row[0]) for image in truth]  # the order of grouped truth
    for threads in (1, 3):
        ours = confusion(boxes_of(found), grouped, iou=iou, score=tenths / 10, threads=threads)
        assert ours.counts.tolist() == analysis_oracle.confusion(found, real, 3, iou, tenths / 10)


def test_confusions_are_those_of_ultralytics():
    metrics = pytest.importorskip("ultralytics.utils.metrics")
    import torch

    rng = np.random.default_rng(3)
    theirs = metrics.ConfusionMatrix(names=dict(enumerate(CLASSES)))
    found, truth = [], []
    for _ in range(40):
        real = [(int(rng.integers(3)), _random_box(rng)) for _ in range(rng.integers(0, 6))]
        mine = [
            (int(rng.integers(3)), float(rng.random()), _random_box(rng)) for _ in range(rng.integers(0, 4))
        ]
        mine += [
            (int(rng.integers(3)), float(rng.random()), tuple(np.add(box, rng.uniform(0, 4, 4))))
            for _, box in real
            for _ in range(2)
        ]
        found.append(sorted(mine, key=lambda row: -row[1]))
        truth.append(real)
        columns = boxes_of([mine])
        theirs.process_batch(
            {
                "cls": torch.tensor(columns.labels),
                "conf": torch.tensor(columns.scores),
                "bboxes": torch.tensor(columns.boxes_xyxy),
            },
            {
                "cls": torch.tensor([label for label, _ in real]),
                "bboxes": torch.tensor([box for _, box in real]).reshape(-1, 4),
            },
            conf=0.25,
            iou_thres=0.45,
        )
    grouped = truth_of(truth)
    ours = confusion(boxes_of(found), grouped, iou=0.45, score=0.25)
    assert ours.counts.tolist() == theirs.matrix.T.tolist()
    assert np.trace(ours.counts) > 20


def _random_box(rng):
    x, y = rng.uniform(0, 30, 2)
    return (x, y, x + rng.uniform(6, 28), y + rng.uniform(6, 28))


# IoU of what was found


def test_overlaps_by_hand():
    found = [[(0, 0.9, SHORT), (0, 0.8, A)], [(0, 0.7, A)], [(0, 0.2, HALF), (0, 0.1, FAR)]]
    matches = matched(found, [[(0, A)], [(0, A)], [(0, A)]])
    assert overlaps(matches, 0.5).ious == pytest.approx([0.6, 1, 0.5])  # the second is a duplicate
    said = overlaps(matches, 0.5, 0.7).as_json()
    assert said["boxes"] == 2
    assert said["mean"] == said["median"] == pytest.approx((0.6 + 1) / 2)
    assert said["share_from_0.75"] == said["share_from_0.9"] == 1 / 2
    assert said["histogram"]["edges"][0] == 0.5
    assert len(said["histogram"]["boxes"]) == 20
    assert said["histogram"]["boxes"][-1] == 1
    assert sum(said["histogram"]["boxes"]) == 2
    none = overlaps(matches, 0.5, 1.0).as_json()
    assert (none["boxes"], none["mean"], none["share_from_0.75"]) == (0, None, None)


# Kinds of errors


def kinds_of(found, truth, crowd=None):
    errors = error_kinds(matched(found, truth, crowd), 0.5)
    return [KINDS[kind] if kind >= 0 else None for kind in errors.kind], errors


@pytest.mark.parametrize(
    ("rows", "truth", "expected", "missed"),
    [
        ([(0, 0.9, A)], [(0, A)], [None], 0),
        ([(1, 0.9, A)], [(0, A)], ["classification"], 0),  # so that A is not missed
        ([(0, 0.9, THIRD)], [(0, A)], ["localisation"], 0),
        ([(0, 0.9, A), (0, 0.8, THIRD)], [(0, A)], [None, "localisation"], 0),
        ([(1, 0.9, THIRD)], [(0, A)], ["both"], 1),
        ([(0, 0.9, A), (0, 0.8, A)], [(0, A)], [None, "duplicate"], 0),
        ([(0, 0.9, A), (0, 0.8, HALF)], [(0, A)], [None, "localisation"], 0),  # IoU exactly 1/2
        ([(0, 0.9, A), (0, 0.8, A)], [(0, A), (1, A)], [None, "classification"], 0),  # asked for first
        ([(0, 0.9, FAR)], [(0, A)], ["background"], 1),
        ([(0, 0.9, DOWN), (1, 0.8, DOWN)], [(0, A)], ["background"] * 2, 1),  # IoU 1/14
        ([(0, 0.9, A)], [], ["background"], 0),
        ([], [(0, A)], [], 1),
    ],
)
def test_kinds_by_hand(rows, truth, expected, missed):
    kinds, errors = kinds_of([rows], [truth])
    assert kinds == expected
    assert errors.missed.sum() == errors.counts()["missed"] == missed


def test_crowds_are_no_errors():
    kinds, errors = kinds_of([[(0, 0.9, HALF), (1, 0.8, HALF)]], [[(0, A)]], [[True]])
    assert kinds == [None, "background"]
    assert not errors.missed.any()


def test_costs_by_hand():
    """Four truths: one found, one placed badly twice, one of a wrong class, one missed.

    Rank: true, localisation, localisation, then FAR; of class b: the box of the wrong class.
    """
    truth = [[(0, A)], [(0, A)], [(0, A)], [(0, A), (1, B)]]
    found = [
        [(0, 0.9, A)],
        [(0, 0.8, THIRD), (0, 0.7, (10.0, 0.0, 64.0, 30.0))],  # 30 of 64: IoU 0.47
        [(1, 0.6, A)],
        [(0, 0.5, FAR), (1, 0.4, B)],
    ]
    costs = error_costs(error_kinds(matched(found, truth), 0.5))
    a = 26 / 101  # recall 0 to 1/4 at precision 1
    b = 1 / 2  # the wrong class goes before
    assert costs["map"] == pytest.approx((a + b) / 2, abs=1e-5)
    counts = {kind: costs["kinds"][kind]["count"] for kind in KINDS}
    assert counts == {
        "classification": 1,
        "localisation": 2,
        "both": 0,
        "duplicate": 0,
        "background": 1,
        "missed": 1,
    }
    expected = {
        "localisation": (51 / 101 - a) / 2,  # the better one is right, the other gone: true, true, FAR
        "classification": ((26 + 25 * 2 / 4) / 101 - a + 1 - b) / 2,  # true, two false, true; b is alone
        "both": 0,
        "duplicate": 0,
        "background": 0,
        "missed": (34 / 101 - a) / 2,  # one of three found
    }
    lost = {kind: costs["kinds"][kind]["map_lost"] for kind in KINDS}
    assert lost == pytest.approx(expected, abs=1e-5)
    assert costs["false_boxes"] == {"count": 4, "map_lost": pytest.approx((1 - b) / 2, abs=1e-5)}
    assert costs["unfound_truths"] == {"count": 3, "map_lost": pytest.approx((1 - a) / 2, abs=1e-5)}


@settings(max_examples=200)
@given(scene)
def test_costs_are_those_of_the_definition(scene):
    truth, found, _ = of_scene(scene)
    if not any(truth):
        return
    costs = error_costs(error_kinds(matched(found, truth), 0.5))
    real = [sorted(image, key=lambda row: row[0]) for image in truth]
    ours = costs["kinds"] | {kind: costs[kind] for kind in ("false_boxes", "unfound_truths")}
    for kind, (count, cost) in analysis_oracle.tide(found, real).items():
        assert ours[kind]["count"] == count, kind
        assert ours[kind]["map_lost"] == pytest.approx(cost, abs=1.1e-5), kind


# Sizes and crowding


# Sides about the bounds of 32 and 96 pixels, at few places: boxes of two sizes that match each other.
length = st.sampled_from([28.0, 32.0, 36.0, 92.0, 96.0, 100.0])
place = st.sampled_from([0.0, 2.0])
near = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), place, place, length, length)
true_near = st.lists(st.tuples(st.integers(0, 1), near), max_size=6)
found_near = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 8).map(lambda n: n / 8), near), max_size=8)
flags = st.lists(st.booleans(), min_size=6, max_size=6)


near_scene = st.lists(st.tuples(true_near, found_near, flags), min_size=1, max_size=4)


@settings(max_examples=200)
@given(st.one_of(scene, near_scene), st.booleans(), st.sampled_from([1, 2, 100]))
def test_ap_by_size_is_that_of_pycocotools(scene, with_crowds, limit):
    truth, found, crowd = of_scene(scene, with_crowds)
    grouped = truth_of(truth, crowd)
    ours = ap_by_size(boxes_of(found), grouped, 0.5, limit, threads=2)
    ap = np.array([of_size.ap for of_size in ours.values()])
    expected = scoring_oracle.coco_sizes(found, truth, crowd, 3, limit)
    np.testing.assert_allclose(np.where(np.isnan(ap), -1, ap), expected, atol=1e-9)


def test_a_box_takes_the_last_of_equally_good_truths_of_a_size():
    """As in pycocotools; so nothing is left for the second box. 32 x 32 pixels are small and medium."""
    squares = [(x, 0.0, x + 32, 32.0) for x in (0.0, 8.0)]
    grouped = truth_of([[(0, box) for box in squares]])
    found = boxes_of([[(0, 0.9, (4.0, 0.0, 36.0, 32.0)), (0, 0.8, (16.0, 0.0, 48.0, 32.0))]])
    sizes = ap_by_size(found, grouped, 0.5, 100)
    assert {name: size.as_json(CLASSES)["map"] for name, size in sizes.items()} == {
        "small": round(51 / 101, 5),
        "medium": round(51 / 101, 5),
        "large": None,
    }


def test_images_by_how_many_true_boxes_they_hold():
    truth = [[], [(0, A)], [(0, A), (1, B)], [(0, A), (1, B), (1, FAR)], [(0, A)] * 9]
    found = [[(0, 0.9, A)], [(0, 0.8, A)], [(1, 0.7, B)], [(0, 0.3, A), (1, 0.2, FAR)], []]
    table = crowding_table(rank(matched(found, truth)), 0.5)
    assert {name: (row["images"], row["truths"], row["map"]) for name, row in table.items()} == {
        "0": (1, 0, None),
        "1": (1, 1, 1.0),
        # of a 1 of 2 truths (51 recalls), of b 2 of 3 (67)
        "2-3": (2, 5, pytest.approx((51 + 67) / 2 / 101, abs=1e-5)),
        "4-7": (0, 0, None),
        "8+": (1, 9, 0.0),
    }
    assert {key: table["0"][key] for key in ("true", "false", "missed")} == {
        "true": 0,
        "false": 1,
        "missed": 0,
    }
    assert table["2-3"]["recall"] == 1 / 5  # what is kept at 0.5
    assert measure(0.5, 1, 0, 5).as_json().items() <= table["2-3"].items()


# All of it


def test_the_parts_of_an_analysis_agree(tmp_path):
    truth, boxes = truth_of(THREE), boxes_of(MIXED)
    analysis = analyse(boxes, truth, CLASSES, score=0.8)
    write_json(tmp_path / "analysis.json", analysis)
    assert json.loads((tmp_path / "analysis.json").read_text()) == analysis
    assert (analysis["images"], analysis["truths"], analysis["boxes"]) == (3, 4, 4)
    ap = {name: entry["ap"] for name, entry in analysis["classes"].items()}
    assert ap["b"] == 0
    assert ap["c"] is None
    assert analysis["all"]["map"] == analysis["errors"]["map"] == pytest.approx(ap["a"] / 2, abs=1e-5)
    assert analysis["all"]["at_score"]["true"] == 1
    assert analysis["classes"]["c"]["at_best"] is None
    best = analysis["all"]["at_best"]
    counts = np.array(analysis["confusion"]["counts"])
    assert analysis["best_score"] == best["score"]
    assert (np.trace(counts), counts[:, :3].sum(), counts[:3].sum()) == (2, best["true"] + best["false"], 4)
    assert analysis["matched_iou"]["boxes"] == best["true"]
    assert list(analysis["curves"]["over_recall"]) == ["a", "b"]  # those with truth


def test_what_cannot_be_analysed():
    with pytest.raises(PipelineError, match="boxes: no true box on its 1 images but 1 crowds"):
        analyse(boxes_of([[(0, 0.5, A)]]), truth_of([[(0, A)]], [[True]]), CLASSES)
    with pytest.raises(PipelineError, match=r"iou=0.1: expected an IoU above 0.1, at most 1"):
        analyse(boxes_of(MIXED), truth_of(THREE), CLASSES, iou=0.1)
    with pytest.raises(PipelineError, match="expected a score"):
        analyse(boxes_of([[(0, 2.0, A)]]), truth_of([[(0, A)]]), CLASSES)


@pytest.mark.parametrize(("n", "found"), [(1, "some"), (3, "none"), (10, "some"), (62, "some")])
def test_pictures_are_drawn_of_any_analysis(tmp_path, n, found):
    """Warnings (a layout that does not fit, a glyph that is missing) are errors here."""
    rows = [[(i, A)] for i in range(n)]
    boxes = boxes_of([[(i, (i + 1) / (n + 1), SHORT)] if found == "some" else [] for i in range(n)])
    names = tuple(f"_class {i} of $ and a name that is much too long {i}" for i in range(n))
    analysis = analyse(boxes, truth_of(rows, n_classes=n), names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = draw_pictures(tmp_path, analysis, "some $ title_of")
    assert [path.name for path in paths] == [f"{name}.png" for name in PICTURES]
    assert sorted(paths) == sorted(tmp_path.iterdir())
    for path in paths:
        with Image.open(path) as picture:
            assert 600 < picture.width < 4000
            assert np.asarray(picture.convert("L")).std() > 5  # something is drawn


def test_real_predictions_are_analysed(shared_data):
    """README of the data: bc5cv11_val977, 977 images, mAP50 0.469."""
    profile = load_profile("recycle", shared_data / "boostcamp_recycle")
    train = load_dataset(profile, "train")
    path = shared_data / "predictions" / "other_models" / "bc5cv11_val977.csv"
    table = convert.read_any(path, profile, train, "oof", "m", "identity", None, Findings("t"))
    truth = group_truth(train.annotations, train.images, table.meta.image_ids, len(profile.classes))
    analysis = analyse(table, truth, profile.classes)
    assert round(analysis["all"]["map"], 3) == 0.469
    counts = np.array(analysis["confusion"]["counts"])
    assert (
        counts[:-1].sum()
        == analysis["truths"]
        == sum(c["truths"] for c in analysis["by_truths_in_image"].values())
    )
    kinds = analysis["errors"]["kinds"]
    best = analysis["all"]["at_best"]
    assert best["f1"] >= analysis["all"]["at_score"]["f1"]
    false = sum(kinds[kind]["count"] for kind in KINDS if kind != "missed")
    assert false == analysis["errors"]["false_boxes"]["count"]
