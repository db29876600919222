"""Box arithmetic: corners are edges, so widths are differences."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.boxes import area, clip, iou, xywh_to_xyxy, xyxy_to_xywh

quarters = st.integers(-400, 400).map(lambda n: n / 4)  # exact in floats, so sums are too
some_boxes = st.integers(0, 5).flatmap(lambda n: arrays(np.float64, (n, 4), elements=quarters))


def test_sides_are_differences_of_corners():
    np.testing.assert_array_equal(xyxy_to_xywh(np.array([[1.0, 2, 4, 8]])), [[1, 2, 4 - 1, 8 - 2]])
    np.testing.assert_array_equal(xywh_to_xyxy(np.array([[1.0, 2, 3, 6]])), [[1, 2, 1 + 3, 2 + 6]])


@given(some_boxes)
def test_corners_to_sides_and_back(boxes):
    before = boxes.copy()
    np.testing.assert_array_equal(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes)
    np.testing.assert_array_equal(boxes, before)  # the caller's array is left alone


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
