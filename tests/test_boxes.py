"""Box arithmetic: corners are edges, so widths are differences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.boxes import Boxes, area, clip, iou, xyxy_to_xywh

quarters = st.integers(-400, 400).map(lambda n: n / 4)  # exact in floats, so sums are too
some_boxes = st.integers(0, 5).flatmap(lambda n: arrays(np.float64, (n, 4), elements=quarters))


def test_sides_are_differences_of_corners():
    boxes = np.array([[1.0, 2, 4, 8]])
    np.testing.assert_array_equal(xyxy_to_xywh(boxes), [[1, 2, 4 - 1, 8 - 2]])
    assert boxes.tolist() == [[1, 2, 4, 8]]  # the caller's array is left alone


def test_clip_with_a_size_for_each_box():
    boxes = np.array([[-5.0, -5, 50, 50], [10, 10, 20, 20], [60, 60, 70, 70]])
    clipped = clip(boxes, np.array([30.0, 30, 40]), np.array([20.0, 15, 40]))
    np.testing.assert_array_equal(clipped, [[0, 0, 30, 20], [10, 10, 20, 15], [40, 40, 40, 40]])
    assert boxes[0, 0] == -5


@given(some_boxes)
def test_clipped_boxes_are_inside_and_stay_there(boxes):
    once = clip(boxes, 60.0, 40.0)
    assert (once >= 0).all()
    assert (once <= [60, 40, 60, 40]).all()
    np.testing.assert_array_equal(clip(once, 60.0, 40.0), once)


def test_area():
    boxes = np.array([[0.0, 0, 4, 3], [2, 2, 2, 9], [5, 5, 3, 3]])
    np.testing.assert_array_equal(area(boxes), [4 * 3, 0, 0])  # corners out of order: no area


def test_iou():
    a = np.array([[0.0, 0, 4, 4], [1, 1, 1, 1]])
    b = np.array([[0.0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4], [1, 1, 1, 1]])
    shared, union = 2 * 2, 4 * 4 + 4 * 4 - 2 * 2
    np.testing.assert_allclose(iou(a, b), [[1, shared / union, 0, 0], [0, 0, 0, 0]])
    assert iou(a[:0], b).shape == (0, 4)


@given(some_boxes, some_boxes)
def test_iou_is_symmetric_and_a_share(a, b):
    overlap = iou(a, b)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    np.testing.assert_array_equal(overlap, iou(b, a).T)


def five_boxes():
    """Boxes of four images: two, none, three and none."""
    corners = np.arange(20, dtype=np.float32).reshape(5, 4)
    scores = np.array([0.9, 0.2, 0.8, 0.5, 0.1], np.float32)
    return Boxes(corners, scores, np.array([0, 1, 1, 0, 2], np.int16), np.array([0, 2, 2, 5, 5]))


def test_boxes_know_their_images():
    boxes = five_boxes()
    assert (len(boxes), boxes.n_images) == (5, 4)
    assert boxes.image_index().tolist() == [0, 0, 2, 2, 2]


def test_selected_boxes_stay_with_their_images():
    chosen = five_boxes().select(np.array([False, True, True, False, True]))
    assert chosen.scores.tolist() == np.array([0.2, 0.8, 0.1], np.float32).tolist()
    assert (chosen.labels.tolist(), chosen.offsets.tolist()) == ([1, 1, 2], [0, 1, 1, 3, 3])
    best = five_boxes().best_per_image(2)
    assert (best.boxes_xyxy[:, 0].tolist(), best.offsets.tolist()) == ([0, 4, 8, 12], [0, 2, 2, 4, 4])


def test_boxes_with_other_scores_are_sorted_by_them():
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.7], np.float32)
    boxes = five_boxes().with_scores(scores)
    assert boxes.boxes_xyxy[:, 0].tolist() == [4, 0, 12, 16, 8]  # equal scores: the lower x1 first
    assert boxes.labels.tolist() == [1, 0, 0, 2, 1]
    assert boxes.offsets.tolist() == [0, 2, 2, 5, 5]
