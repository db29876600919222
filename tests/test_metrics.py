"""The metrics' kernels: values written out by hand, and independent implementations on any input."""

import math

import numpy as np
import pytest
import scoring_oracle
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scoring_scenes import boxes_of, scene, truth_of, unzip

from pipeline import convert
from pipeline.data.dataset import load_dataset
from pipeline.data.findings import Findings
from pipeline.data.metric import METRICS as OPTIONS
from pipeline.data.metric import parse_metric
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.scoring import evaluate
from pipeline.scoring.bootstrap import compare, draw, interval, resampled
from pipeline.scoring.matching import match
from pipeline.scoring.metrics import METRICS, score
from pipeline.scoring.ranking import average_precisions, rank
from pipeline.scoring.truth import group_truth

A, B = (0.0, 0.0, 40.0, 30.0), (44.0, 0.0, 60.0, 30.0)
FAR = (0.0, 40.0, 10.0, 50.0)
HALF = (0.0, 0.0, 20.0, 30.0)  # IoU 1/2 with A
SHORT = (0.0, 0.0, 24.0, 30.0)  # IoU 0.6 with A


def value(metric, found, truth):
    return score(boxes_of(found), truth_of(truth), parse_metric(metric)).value()


TWO = [[(0, A)], [(0, A)]]
MIXED = [[(0, 0.9, A), (0, 0.8, FAR)], [(0, 0.7, A)]]  # right, wrong, right


@pytest.mark.parametrize(
    ("metric", "found", "truth", "expected"),
    [
        # 101 recalls: precision 1 up to recall 1/2 (51 of them), then 2/3
        ("map50", MIXED, TWO, (51 * 1 + 50 * 2 / 3) / 101),
        ("map50", [[(0, 0.9, HALF)], [(0, 0.8, A)]], TWO, 1.0),  # an IoU of exactly 1/2 reaches it
        ("map50_95", [[(0, 0.9, SHORT)], [(0, 0.8, A)]], TWO, (3 * 1 + 7 * 51 / 101 / 2) / 10),
        # area: recall 0 to 1/2 at precision 1, 1/2 to 1 at 2/3
        ("voc_ap", MIXED, TWO, 0.5 * 1 + 0.5 * 2 / 3),
        ("voc_ap", [[(0, 0.9, HALF)], []], TWO, 0.5),
        ({"name": "voc_ap", "strict": True}, [[(0, 0.9, HALF)], []], TWO, 0.0),
        ("voc_ap", [[(0, 0.9, A), (0, 0.8, SHORT)]], [[(0, A), (0, SHORT)]], 1.0),
        ("voc_ap", [[(0, 0.9, A), (0, 0.8, A)]], [[(0, A), (0, SHORT)]], 0.5),  # doubled: false
        ("map50", [[(0, 0.9, A), (0, 0.8, A)]], [[(0, A), (0, SHORT)]], 1.0),  # takes the next best
        # image 0: 1 / (1 + 1 + 0) at all IoUs; image 1: 1 at all
        ("wheat", MIXED, TWO, (1 / 2 + 1) / 2),
        # IoU 0.6 holds at 0.5, 0.55 and 0.6 of six thresholds
        ("wheat", [[(0, 0.9, SHORT)], []], TWO, (3 / 6 + 0) / 2),
        ({"name": "wheat", "strict": True}, [[(0, 0.9, HALF)]], [[(0, A)]], 0.0),
        ("wheat", [[(0, 0.9, A)], [(0, 0.1, A)], []], [[(0, A)], [], []], (1 + 0) / 2),  # the last: no part
        # TP 2, FP 1, FN 0: 5*2 / (5*2 + 0 + 1); F1: 2*2 / (2*2 + 0 + 1)
        ("f2", MIXED, TWO, 10 / 11),
        ("f1", MIXED, TWO, 4 / 5),
        # IoU 0.6 holds at 0.3 ... 0.6, 7 of 11 thresholds: TP 1, FP 0, FN 1; else TP 0
        ("f2", [[(0, 0.9, SHORT)], []], TWO, 7 * (5 / (5 + 4)) / 11),
        ("f2", [[(1, 0.9, A)], [(0, 0.9, A)]], TWO, 5 / (5 + 4 + 1)),  # a wrong label is FP and FN
        ("f2", [[], []], TWO, 0.0),
        ("map50", [[], []], TWO, 0.0),
        ("wheat", [[], []], TWO, 0.0),
    ],
)
def test_values_by_hand(metric, found, truth, expected):
    assert value(metric, found, truth) == pytest.approx(expected, abs=1e-12)


def test_every_metric_has_its_function():
    assert METRICS.keys() == OPTIONS.keys()
    for measure in METRICS.values():
        assert measure.__doc__


@settings(max_examples=300, deadline=None)
@given(scene, st.booleans(), st.sampled_from([1, 2, 100]))
def test_ap_is_that_of_pycocotools(scene, with_crowds, limit):
    truth, found, crowd = unzip(scene)
    if not with_crowds:
        crowd = [[False] * len(image) for image in truth]
    expected = scoring_oracle.coco(found, truth, crowd, 3, limit)
    grouped = truth_of(truth, crowd)
    matches = match(boxes_of(found), grouped, np.linspace(0.5, 0.95, 10), limit=limit)
    ours = average_precisions(rank(matches))
    np.testing.assert_allclose(np.where(np.isnan(ours), -1, ours), expected, atol=1e-9)


@settings(max_examples=300, deadline=None)
@given(scene, st.sampled_from([0.4, 0.5, 0.75]), st.booleans())
def test_voc_ap_is_that_of_its_definition(scene, threshold, strict):
    truth, found, _ = unzip(scene)
    if not any(truth):
        return
    expected = [scoring_oracle.voc_ap(found, truth, threshold, strict, label) for label in range(3)]
    metric = parse_metric({"name": "voc_ap", "iou": threshold, "strict": strict})
    ours = score(boxes_of(found), truth_of(truth), metric)
    known = [ap for ap in expected if ap is not None]
    assert ours.value() == pytest.approx(sum(known) / len(known), abs=1e-9)
    np.testing.assert_allclose(
        ours.per_class(), [math.nan if ap is None else ap for ap in expected], atol=1e-9
    )


@settings(max_examples=300, deadline=None)
@given(scene)
def test_counting_metrics_are_those_of_their_definitions(scene):
    truth, found, _ = unzip(scene)
    if not any(truth):
        return
    wheat = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75]
    reef = [n / 100 for n in range(30, 81, 5)]
    assert value("wheat", found, truth) == pytest.approx(scoring_oracle.wheat(found, truth, wheat), abs=1e-9)
    assert value("f2", found, truth) == pytest.approx(scoring_oracle.f_beta(found, truth, reef, 2), abs=1e-9)
    assert value("f1", found, truth) == pytest.approx(scoring_oracle.f_beta(found, truth, [0.5], 1), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(scene, st.sampled_from(list(METRICS)), st.integers(0, 99))
def test_a_weight_is_a_copy_of_the_image(scene, metric, seed):
    """Equal scores on several images are the one thing that copies may put in another order."""
    truth, found, _ = unzip(scene)
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(1 + np.arange(sum(map(len, found)))) / 1000)
    found = [[(label, next(scores), b) for label, _, b in image] for image in found]
    weights = draw(len(truth), seed, 0)
    copies = [i for i, n in enumerate(weights) for _ in range(n)]
    if not any(truth[i] for i in copies):
        return
    spec = parse_metric(metric)
    weighted = score(boxes_of(found), truth_of(truth), spec).value(weights)
    copied = value(metric, [found[i] for i in copies], [truth[i] for i in copies])
    assert weighted == pytest.approx(copied, abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(scene)
def test_threads_change_nothing(scene):
    truth, found, _ = unzip(scene)
    if not any(truth):
        return
    for name in METRICS:
        one, four = (
            score(boxes_of(found), truth_of(truth), parse_metric(name), threads=n).value() for n in (1, 4)
        )
        assert one == four


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((0, math.nan, A), r"row 0 \(image 1, 64 x 64\): expected a score in \[0, 1\]; score nan"),
        ((0, 1.5, A), r"expected a score in \[0, 1\]; score 1.5"),
        ((0, 0.5, (math.nan, 0.0, 8.0, 8.0)), "expected finite corners"),
        ((0, 0.5, (8.0, 0.0, 8.0, 8.0)), "expected x2 > x1 and y2 > y1"),
        ((0, 0.5, (0.0, 0.0, 66.0, 8.0)), "expected corners inside the image"),
        ((0, 0.5, (-1.0, 0.0, 8.0, 8.0)), "expected corners inside the image"),
        ((3, 0.5, A), r"expected a label of the competition; .* label 3 of 0..2"),
        ((-1, 0.5, A), "expected a label of the competition"),
    ],
)
def test_a_box_that_cannot_be_scored_is_an_error(row, message):
    with pytest.raises(PipelineError, match=message):
        value("map50", [[], [row]], TWO)


def test_boxes_out_of_order_and_of_other_images_are_errors():
    boxes = boxes_of([[(0, 0.5, A), (0, 0.4, A)]])
    boxes.scores = boxes.scores[::-1].copy()
    with pytest.raises(PipelineError, match=r"row 1 .*: expected scores falling within an image"):
        score(boxes, truth_of(TWO[:1]), parse_metric("map50"))
    with pytest.raises(PipelineError, match="boxes of 1 images, expected the truth's 2"):
        score(boxes_of([[]]), truth_of(TWO), parse_metric("map50"))
    with pytest.raises(PipelineError, match="no true box on its 1 images; nothing to score"):
        value("f2", [[(0, 0.5, A)]], [[]])


def test_images_that_the_truth_lacks(recycle):
    train = load_dataset(load_profile("recycle"), "train")
    ids = np.append(train.images["image_id"].to_numpy(np.int32), np.int32(999))
    with pytest.raises(PipelineError, match="image 999: predicted, but not in the truth's image table"):
        group_truth(train.annotations, train.images, ids, 10)
    table = tiny.table(train, [])
    few = group_truth(train.annotations, train.images, table.meta.image_ids[:-1], 10)
    with pytest.raises(PipelineError, match="predicted 12 images, the truth is grouped for 11 others"):
        score(table, few, parse_metric("map50"))


def test_a_bootstrap_holds_the_binomial_spread_of_a_made_up_case():
    """n images, one truth each, each found with certainty or not at all: AP is nearly the share."""
    n = 400
    hit = np.random.default_rng(1).random(n) < 0.7
    truth = truth_of([[(0, A)]] * n)
    boxes = boxes_of([[(0, 0.9, A)] if h else [] for h in hit])
    scored = score(boxes, truth, parse_metric("f1"))
    values = resampled(scored, n, 500, seed=3)
    share = hit.mean()
    # F1 = 2p / (1 + p) for recall p and precision 1: its slope is 2 / (1 + p)^2
    expected = 2 / (1 + share) ** 2 * math.sqrt(share * (1 - share) / n)
    assert values.std() == pytest.approx(expected, rel=0.15)
    assert (values == resampled(scored, n, 500, seed=3, threads=1)).all()
    found = interval(scored.value(), values)
    assert found.low < 2 * share / (1 + share) < found.high
    worse = boxes_of([[(0, 0.9, A)] if h and i % 10 else [] for i, h in enumerate(hit)])
    other = score(worse, truth, parse_metric("f1"))
    result = compare(scored.value(), values, other.value(), resampled(other, n, 500, seed=3))
    assert result.wins == 1.0
    assert not result.is_noise
    itself = compare(scored.value(), values, scored.value(), values)
    assert itself.is_noise
    assert itself.wins == 0.0


REAL = {"bc2cv15_det2_train": 0.524, "bc2cv15_final14_train": 0.894, "bc5cv11_val977": 0.469}


@pytest.mark.parametrize("name", REAL)
def test_real_predictions_score_alike_in_the_kernel_and_in_the_report(shared_data, name):
    profile = load_profile("recycle", shared_data / "boostcamp_recycle")
    train = load_dataset(profile, "train")
    path = shared_data / "predictions" / "other_models" / f"{name}.csv"
    table = convert.read_any(path, profile, train, "oof", "m", "identity", None, Findings(name))
    truth = group_truth(train.annotations, train.images, table.meta.image_ids, len(profile.classes))
    scored = score(table, truth, profile.metric)
    reported = evaluate(table, train.annotations, profile.classes)
    assert round(scored.value(), 3) == round(reported["map50"], 3) == REAL[name]
    assert scored.value() == pytest.approx(reported["map50"], abs=1e-5)  # it is rounded to five digits
    per_class = dict(zip(profile.classes, scored.per_class().round(5).tolist(), strict=True))
    assert per_class == pytest.approx(reported["ap50"], abs=1e-5)  # every class has truth here
    all_ious = score(table, truth, parse_metric("map50_95")).value()
    assert all_ious == pytest.approx(reported["map50_95"], abs=1e-5)
