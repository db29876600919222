"""Views: what an action does to pixels it does to boxes, and undoing it gives both back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.views import ACTIONS, parse_view, parse_views

names = st.lists(st.sampled_from((*ACTIONS, "scale1.25")), min_size=1, max_size=4).map("+".join)


@st.composite
def marked_photos(draw):
    """A dark photo, not always square, with one block of bright pixels and the block's box."""
    width, height = draw(st.integers(2, 30)), draw(st.integers(2, 30))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x2, y2 = draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    return image, np.array([[x1, y1, x2, y2]], np.float32)


def box_of_the_bright(image):
    rows, columns = np.nonzero(image[..., 0])
    return np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], np.float32)


@given(names, marked_photos())
def test_boxes_around_viewed_pixels_come_back(name, photo):
    image, boxes = photo
    height, width = image.shape[:2]
    view = parse_view(name)
    shown = view.apply(image)
    np.testing.assert_array_equal(view.undo_boxes(box_of_the_bright(shown), width, height), boxes)


@pytest.mark.parametrize(
    ("name", "undone_by"),
    [("hflip", "hflip"), ("vflip", "vflip"), ("rot90", "rot270"), ("rot180", "rot180"), ("rot270", "rot90")],
)
def test_an_action_and_its_opposite_give_the_photo_back(name, undone_by):
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 3), np.uint8)
    assert not np.array_equal(parse_view(name).apply(image), image)
    np.testing.assert_array_equal(parse_view(f"{name}+{undone_by}").apply(image), image)


def test_actions_are_applied_from_left_to_right():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    expected = np.rot90(image[:, ::-1])  # first the flip, then the counter-clockwise turn
    np.testing.assert_array_equal(parse_view("hflip+rot90").apply(image), expected)


def test_undoing_keeps_boxes_that_reach_outside():
    box = np.array([[-1, 2, 33, 20]], np.float32)
    assert parse_view("hflip").undo_boxes(box, 31, 17).tolist() == [[-2, 2, 32, 20]]


def test_no_boxes():
    none = np.empty((0, 4), np.float32)
    assert parse_view("rot90+hflip").undo_boxes(none, 30, 20).shape == (0, 4)


@given(names)
def test_the_viewed_photo_is_contiguous(name):
    assert parse_view(name).apply(np.zeros((4, 6, 3), np.uint8)).flags["C_CONTIGUOUS"]


@pytest.mark.parametrize(
    ("name", "scale"),
    [("identity", 1), ("scale1.25", 1.25), ("scale2", 2), ("hflip+scale0.5", 0.5), ("scale2+scale1.5", 3)],
)
def test_scale(name, scale):
    view = parse_view(name)
    assert view.scale == scale
    assert view.apply(np.zeros((4, 6, 3), np.uint8)).shape == (4, 6, 3)  # resizing is the network's job


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("flip", "flip"),
        ("hflip+rot45", "rot45"),
        ("", ""),
        ("hflip+", ""),
        ("scale", "scale"),
        ("scale0", "scale0"),
        ("scale11", "scale11"),
        ("scale-1", "scale-1"),
        ("scale1e1", "scale1e1"),
        ("HFLIP", "HFLIP"),
    ],
)
def test_an_unknown_action_lists_the_known_ones(name, part):
    with pytest.raises(PipelineError) as error:
        parse_view(name)
    assert str(error.value) == (
        f"view '{name}': '{part}' is not an action; expected {', '.join(ACTIONS)} or scale<0.1..10>, "
        "joined by '+'"
    )


def test_a_list_keeps_its_order_and_takes_each_view_once():
    assert [view.name for view in parse_views(["hflip", "identity", "hflip", "scale2"])] == [
        "hflip",
        "identity",
        "scale2",
    ]
    assert parse_views([]) == []
