"""Golden values of every fuser, the formula written out, and the reference's corrected bugs."""

import math

import numpy as np
import pytest
from fusing import fuse_arrays

from pipeline.fusion import CONF_TYPES, FUSERS, fuse, pack

A = [10, 10, 110, 110]  # 100 x 100
B = [20, 10, 120, 110]  # IoU with A: 90 * 100 / (2 * 10000 - 9000) = 9 / 11
FAR = [500, 500, 600, 700]


def packed(boxes, scores, source, labels=None, n_sources=None, **options):
    """One image."""
    n = len(scores)
    labels = [0] * n if labels is None else labels
    sources = max(source) + 1 if n_sources is None else n_sources
    return pack(np.reshape(boxes, (n, 4)), scores, labels, source, [0, n], n_sources=sources, **options)


def test_two_sources_meet_in_the_weighted_mean():
    fused = fuse(packed([A, B], [0.9, 0.6], [0, 1]))
    x1 = (0.9 * 10 + 0.6 * 20) / (0.9 + 0.6)
    np.testing.assert_allclose(fused.boxes_xyxy, [[x1, 10, x1 + 100, 110]], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [(0.9 + 0.6) / 2], rtol=1e-6)


def test_weights_pull_the_box_and_the_score():
    fused = fuse(packed([A, B], [0.9, 0.6], [0, 1]), weights=[1, 3])
    x1 = (1 * 0.9 * 10 + 3 * 0.6 * 20) / (1 * 0.9 + 3 * 0.6)
    np.testing.assert_allclose(fused.boxes_xyxy[0, 0], x1, rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [(1 * 0.9 + 3 * 0.6) / (1 + 3)], rtol=1e-6)


# One cluster: source 0 (weight 2) with 0.8 and 0.3, source 1 (weight 1) with 0.6; source 2
# (weight 1) saw nothing. Weighted scores 1.6, 0.6, 0.6; their sum 2.8.
CLUSTER_SCORES = {
    "votes": (2 * 0.8 + 1 * 0.6) / (2 + 1 + 1),
    "avg": (2 * 0.8 + 2 * 0.3 + 1 * 0.6) / 3 * min(3, 3) / (2 + 1 + 1),
    "max": max(2 * 0.8, 2 * 0.3, 1 * 0.6) / 2,
    "box_and_model_avg": (2 * 0.8 + 2 * 0.3 + 1 * 0.6) / (2 + 2 + 1) * (2 + 1) / (2 + 1 + 1),
    "absent_model_aware_avg": (2 * 0.8 + 2 * 0.3 + 1 * 0.6) / (2 + 2 + 1 + 1),
}


@pytest.mark.parametrize("conf_type", CONF_TYPES)
def test_cluster_scores(conf_type):
    boxes = packed([A, A, A], [0.8, 0.3, 0.6], [0, 0, 1], n_sources=3)
    fused = fuse(boxes, weights=[2, 1, 1], conf_type=conf_type)
    np.testing.assert_allclose(fused.scores, [CLUSTER_SCORES[conf_type]], rtol=1e-6)


def test_duplicates_drag_the_averages_down_but_not_votes():
    """The field notes' example: two models agree at 0.9, each with four duplicates at 0.01."""
    boxes = packed([A] * 10, [0.9, 0.9] + [0.01] * 8, [0, 1] + [0, 1] * 4)
    scores = {name: fuse(boxes, conf_type=name).scores[0] for name in CONF_TYPES}
    dragged = (2 * 0.9 + 8 * 0.01) / 10
    np.testing.assert_allclose(scores["votes"], (0.9 + 0.9) / 2, rtol=1e-6)
    for name in ("avg", "box_and_model_avg", "absent_model_aware_avg"):
        np.testing.assert_allclose(scores[name], dragged, rtol=1e-6)
    np.testing.assert_allclose(scores["max"], 0.9, rtol=1e-6)


def test_a_box_joins_the_cluster_it_overlaps_most():
    left, right, between = [0, 0, 100, 100], [60, 0, 160, 100], [40, 0, 140, 100]
    # IoU of between with left 60/140, with right 80/120: it goes to the right one.
    fused = fuse(packed([left, right, between], [0.9, 0.8, 0.4], [0, 0, 1]), iou=0.4)
    x1 = (0.8 * 60 + 0.4 * 40) / (0.8 + 0.4)
    np.testing.assert_allclose(fused.boxes_xyxy[:, 0], [x1, 0], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [(0.8 + 0.4) / 2, 0.9 / 2], rtol=1e-6)


@pytest.mark.parametrize("method", FUSERS)
def test_the_threshold_itself_does_not_match(method):
    boxes = packed([[0, 0, 2, 1], [0, 0, 1, 1]], [0.9, 0.6], [0, 1])  # IoU 0.5 exactly
    assert len(fuse(boxes, method, iou=0.5).scores) == 2
    apart = 2 if method == "soft_nms" else 1
    assert len(fuse(boxes, method, iou=0.4999).scores) == apart


@pytest.mark.parametrize("method", FUSERS)
@pytest.mark.parametrize("skip", [0.01, 0.1, 0.3])  # float32 rounds one down and two up
def test_a_score_of_just_the_floor_stays(method, skip):
    """Except with soft-NMS, which keeps what is above it, as in the reference."""
    below = np.nextafter(np.float32(skip), np.float32(0))
    rows = ([A, FAR, B], [0.9, skip, below], [0, 1, 2], [0, 0, 0], [0, 3])
    kept = 1 if method == "soft_nms" else 2
    assert len(fuse(pack(*rows, n_sources=1), method, skip=skip).scores) == kept
    assert len(fuse_arrays(*rows, n_sources=1, method=method, skip=skip).scores) == kept


@pytest.mark.parametrize("method", FUSERS)
def test_labels_never_mix(method):
    fused = fuse(packed([A, A], [0.9, 0.8], [0, 1], labels=[3, 1]), method)
    assert fused.labels.tolist() == [3, 1]
    assert fused.labels.dtype == np.int16
    np.testing.assert_array_equal(fused.boxes_xyxy, [A, A])


def test_nms_keeps_the_best_as_it_is():
    fused = fuse(packed([B, A, FAR], [0.6, 0.9, 0.5], [0, 1, 1]), "nms")
    np.testing.assert_array_equal(fused.boxes_xyxy, [A, FAR])
    np.testing.assert_allclose(fused.scores, [0.9, 0.5], rtol=1e-6)


def test_nms_weights_scale_by_their_sum():
    scores = np.array([0.6, 0.9], np.float32)
    fused = fuse(packed([B, A], scores, [0, 1]), "nms", weights=[3, 1])
    np.testing.assert_array_equal(fused.boxes_xyxy, [B])
    np.testing.assert_allclose(fused.scores, [0.6 * 3 / 4], rtol=1e-6)
    assert scores.tolist() == np.array([0.6, 0.9], np.float32).tolist()  # the reference changes them


def test_soft_nms_returns_decayed_scores():
    """The reference returns them undecayed."""
    overlap = 9 / 11
    boxes = packed([A, B, FAR], [0.9, 0.6, 0.5], [0, 1, 1])
    linear = fuse(boxes, "soft_nms", soft="linear")
    np.testing.assert_allclose(linear.scores, [0.9, 0.5, 0.6 * (1 - overlap)], rtol=1e-6)
    np.testing.assert_array_equal(linear.boxes_xyxy, [A, FAR, B])
    gaussian = fuse(boxes, "soft_nms", soft="gaussian", sigma=0.4)
    decayed = 0.6 * math.exp(-(overlap**2) / 0.4)
    np.testing.assert_allclose(gaussian.scores, [0.9, 0.5, decayed], rtol=1e-6)


def test_soft_nms_decays_again_and_drops_below_skip():
    third = [15, 10, 115, 110]  # IoU with A and with B: 95 / 105
    boxes = packed([A, B, third], [0.9, 0.8, 0.7], [0, 1, 2])
    by_a, by_b = 9 / 11, 95 / 105
    fused = fuse(boxes, "soft_nms", skip=0.001)
    # After A: B 0.8 * 2/11 = 0.145, third 0.7 * 10/105 = 0.067. After B: third * 10/105.
    expected = [0.9, 0.8 * (1 - by_a), 0.7 * (1 - by_b) * (1 - by_b)]
    np.testing.assert_allclose(fused.scores, expected, rtol=1e-5)
    assert len(fuse(boxes, "soft_nms", skip=0.01).scores) == 2


def test_soft_nms_takes_the_first_of_equals():
    """After the first, the second's decayed score equals the third's: the second is taken."""
    boxes = [[0, 0, 2, 2], [0, 0, 2, 1], [0, 0, 1, 1]]  # neighbours have IoU 0.5, the ends 0.25
    fused = fuse(packed(boxes, [0.8, 0.6, 0.3], [0, 1, 2]), "soft_nms", iou=0.4)
    np.testing.assert_allclose(fused.scores, [0.8, 0.6 * 0.5, 0.3 * 0.5], rtol=1e-6)
    np.testing.assert_array_equal(fused.boxes_xyxy, boxes)


def test_nmw_weighs_by_overlap_with_the_leader():
    iou = 9 / 11
    fused = fuse(packed([A, B], [0.9, 0.6], [0, 1]), "nmw", weights=[1, 2])
    # Weighted scores 0.9 / 2 and 0.6: B leads.
    pull = 0.9 / 2 * iou
    x1 = (0.6 * 20 + pull * 10) / (0.6 + pull)
    np.testing.assert_allclose(fused.boxes_xyxy, [[x1, 10, x1 + 100, 110]], rtol=1e-6)
    np.testing.assert_allclose(fused.scores, [0.6], rtol=1e-6)


def test_avg_never_goes_above_one():
    """Weights [2, 1], two boxes of one source at 0.9: the reference says 1.2 here."""
    boxes = packed([A, A], [0.9, 0.9], [0, 0], n_sources=2)
    assert (2 * 0.9 + 2 * 0.9) / 2 * min(2, 2) / (2 + 1) > 1
    fused = fuse(boxes, weights=[2, 1], conf_type="avg")
    assert fused.scores.tolist() == [1.0]
    assert fused.report.capped_scores == 1
    assert fused.report.lines() == ["fused boxes repaired, score above 1 set to 1: 1"]


def test_allows_overflow_counts_every_box_up_to_one():
    boxes = packed([A] * 3 + [FAR] * 3, [0.3, 0.2, 0.1, 0.9, 0.8, 0.7], [0] * 6)
    capped = fuse(boxes, conf_type="avg")
    np.testing.assert_allclose(capped.scores, [(0.9 + 0.8 + 0.7) / 3, 0.2], rtol=1e-6)
    overflow = fuse(boxes, conf_type="avg", allows_overflow=True)
    np.testing.assert_allclose(overflow.scores, [1.0, 0.3 + 0.2 + 0.1], rtol=1e-6)


@pytest.mark.parametrize("method", FUSERS)
def test_zero_weight_is_as_if_the_source_were_not_there(method):
    """The reference makes NaN boxes of overlapping boxes whose weighted scores are 0."""
    with_it = packed([A, B, A, FAR, B], [0.9, 0.8, 0.7, 0.6, 0.5], [0, 1, 2, 1, 2])
    without = packed([A, A, B], [0.9, 0.7, 0.5], [0, 1, 1])
    fused = fuse(with_it, method, weights=[2, 0, 1])
    expected = fuse(without, method, weights=[2, 1])
    np.testing.assert_array_equal(fused.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(fused.scores, expected.scores)
    assert fused.report.zero_weight_rows == 2


def test_absent_sources_do_not_count_in_the_total():
    """Image 0 was predicted by both sources, image 1 by the first only."""
    rows = ([A, A], [0.8, 0.8], [0, 0], [0, 0], [0, 1, 2])
    present = np.array([[True, True], [True, False]])
    fused = fuse(pack(*rows, n_sources=2, present=present), weights=[1, 3])
    np.testing.assert_allclose(fused.scores, [0.8 * 1 / (1 + 3), 0.8 * 1 / 1], rtol=1e-6)
    for conf_type, first in (("avg", 0.2), ("max", 0.8 / 3), ("absent_model_aware_avg", 0.2)):
        fused = fuse(pack(*rows, n_sources=2, present=present), weights=[1, 3], conf_type=conf_type)
        np.testing.assert_allclose(fused.scores, [first, 0.8], rtol=1e-6)
    nmw = fuse(pack(*rows, n_sources=2, present=present), "nmw", weights=[1, 3])
    np.testing.assert_allclose(nmw.scores, [0.8 / 3, 0.8], rtol=1e-6)


def test_iou_does_not_depend_on_the_unit():
    """Photos that are not square: normalised corners give other clusters than pixels in no case."""
    boxes = np.array([[0, 0, 1000, 10], [0, 0, 1000, 16], [0, 0, 640, 10]], float)
    for scale in (1, 0.001, 64):
        fused = fuse(packed(boxes * scale, [0.9, 0.8, 0.7], [0, 1, 2]), iou=0.63)
        # IoU of the second with the first 10/16 = 0.625: apart; of the third 0.64: together.
        assert len(fused.scores) == 2


def test_rows_below_the_floor_change_nothing():
    rows = ([A, B, FAR, A], [0.9, 0.6, 0.04, 0.5], [0, 0, 0, 1], [0, 1, 1, 0], [0, 3, 4])
    once = fuse(pack(*rows, n_sources=2, floor=0.05), skip=0.05, weights=[1, 2], iou=0.6)
    twice = fuse(pack(*rows, n_sources=2), skip=0.05, weights=[1, 2], iou=0.6)
    np.testing.assert_array_equal(once.boxes_xyxy, twice.boxes_xyxy)
    np.testing.assert_array_equal(once.scores, twice.scores)
    np.testing.assert_array_equal(once.offsets, twice.offsets)
    assert once.report.below_floor == 1
