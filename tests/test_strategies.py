"""Strategies: each image in one fold, groups whole, even sizes, and balance down to the integer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.errors import PipelineError
from pipeline.splits import STRATEGIES, Content, content_of, split_images
from pipeline.splits.balance import balance, fair_share
from pipeline.splits.balance_card import deviation, integer_floor, not_met, per_fold
from pipeline.splits.content import units_of
from pipeline.splits.strategies import count_bins, multilabel

EVEN = [name for name in STRATEGIES if name != "multilabel"]  # which promise even numbers of images


def content(boxes, group=None, image_id=None):
    boxes = np.asarray(boxes, np.int64)
    ids = np.arange(len(boxes)) if image_id is None else image_id
    sizes = np.stack([boxes.sum(axis=1) // 2, (boxes.sum(axis=1) + 1) // 2, 0 * ids], axis=1)
    return Content(ids, boxes, sizes, ids if group is None else np.asarray(group))


@st.composite
def contents(draw):
    """4 to 30 images with ids in some order, some of them in groups."""
    n = draw(st.integers(4, 30))
    boxes = draw(arrays(np.int64, (n, 3), elements=st.integers(0, 4)))
    ids = np.array(draw(st.permutations(range(0, 3 * n, 3))))
    group = draw(arrays(np.int64, n, elements=st.integers(0, draw(st.sampled_from([1, n // 2, 1000])))))
    return content(boxes, group, ids)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=40)
@given(contents(), st.integers(2, 4), st.integers(0, 3), st.randoms(use_true_random=False))
def test_every_strategy(name, images, k, seed, random):
    """Images in one of K folds, none empty; groups whole; sizes even; the order of the rows is irrelevant."""
    _, sizes = np.unique(images.group, return_counts=True)
    if len(sizes) < k:
        with pytest.raises(PipelineError, match="that must not be split: take fewer folds"):
            split_images(images, name, k, seed)
        return
    refuses = pytest.raises(PipelineError, match="multilabel leaves fold")
    if name == "multilabel" and not set(range(k)) <= set(multilabel(units_of(images)[0], k, seed).tolist()):
        with refuses:
            split_images(images, name, k, seed)
        return
    fold = split_images(images, name, k, seed)
    assert fold.shape == images.image_id.shape
    assert set(fold.tolist()) == set(range(k))
    for group in np.unique(images.group):
        assert len(set(fold[images.group == group].tolist())) == 1
    if name in EVEN:
        held = np.bincount(fold, minlength=k)
        assert held.max() - held.min() <= sizes.max()
    order = np.array(random.sample(range(len(fold)), len(fold)))
    shuffled = Content(
        images.image_id[order], images.boxes[order], images.sizes[order], images.group[order] + 7
    )
    np.testing.assert_array_equal(split_images(shuffled, name, k, seed), fold[order])


def test_seeds_differ():
    images = content(np.random.default_rng(0).integers(0, 3, (60, 4)))
    for name in STRATEGIES:
        splits = {tuple(split_images(images, name, 3, seed).tolist()) for seed in range(5)}
        assert len(splits) == 5, name


@settings(max_examples=60)
@given(st.integers(2, 7), st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_single_boxes_always_reach_the_integer_floor(k, totals):
    """Where every image holds one box, floor and ceil of each class can be had, with even images."""
    boxes = np.repeat(np.eye(len(totals), dtype=np.int64), totals, axis=0)
    if len(boxes) < k:
        return
    fold = split_images(content(boxes), "boxes", k, 0)
    held = per_fold(boxes, fold, k)
    totals = np.array(totals)
    assert (held >= totals // k).all() and (held <= -(-totals // k)).all()
    np.testing.assert_allclose(deviation(held), integer_floor(totals, k))


@pytest.mark.parametrize("seed", range(3))
def test_crowded_photos_reach_the_integer_floor(seed):
    """The largest deviation is the least possible; no class is more than a box from its own floor."""
    rng = np.random.default_rng(seed)
    boxes = rng.poisson(rng.gamma(1, 1, (600, 12)) * np.linspace(0.05, 1.5, 12))
    fold = split_images(content(boxes), "boxes", 5, seed)
    held, totals = per_fold(boxes, fold, 5), boxes.sum(axis=0)
    assert deviation(held).max() == pytest.approx(integer_floor(totals, 5).max())
    assert (held >= totals // 5 - 1).all() and (held <= -(-totals // 5) + 1).all()


def test_groups_reach_it_too():
    rng = np.random.default_rng(0)
    boxes = rng.poisson(rng.gamma(1, 1, (600, 8)) * np.linspace(0.1, 1.5, 8))
    group = rng.integers(0, 250, 600)
    fold = split_images(content(boxes, group), "groups", 5, 0)
    assert deviation(per_fold(boxes, fold, 5)).max() <= 1.2 * integer_floor(boxes.sum(axis=0), 5).max()
    assert np.ptp(np.bincount(fold)) <= 1


@pytest.mark.parametrize("name", EVEN)
def test_groups_of_different_sizes_fill_even_folds(name):
    """Ten groups of three and ten of two in five folds of ten."""
    group = np.concatenate([np.repeat(np.arange(10), 3), np.repeat(np.arange(10, 20), 2)])
    images = content(np.random.default_rng(0).integers(0, 3, (50, 2)), group)
    assert np.bincount(split_images(images, name, 5, 0)).tolist() == [10] * 5


@pytest.mark.parametrize(
    ("total", "k", "expected"),
    [
        (159, 5, 4 / 159),  # 31 or 32 of 31.8: off by 0.8 or 0.2 of them
        (160, 5, 0),
        (161, 5, 4 / 161),  # 32 or 33 of 32.2
        (3, 5, 3 / 3),  # 0 or 1 of 0.6: one may be off by 0.6 at least
        (1, 2, 1),
        (0, 5, 0),
    ],
)
def test_the_integer_floor(total, k, expected):
    assert integer_floor(np.array([total]), k)[0] == pytest.approx(expected)
    even = np.array([[total // k + (i < total % k)] for i in range(k)])
    assert deviation(even)[0] == pytest.approx(expected)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=5))
def test_no_split_is_below_the_integer_floor(held):
    held = np.array(held)[:, None]
    assert deviation(held)[0] >= integer_floor(held.sum(axis=0), len(held))[0] - 1e-12


@pytest.mark.parametrize("name", ["boxes", "multilabel"])
def test_a_rare_class_is_in_every_fold_that_can_hold_it(name):
    counts = np.zeros((100, 2), np.int64)
    counts[:, 0] = 1 + np.arange(100) % 3
    counts[:10, 1] = 1  # ten images in a row
    fold = split_images(content(counts), name, 5, 0)
    assert np.bincount(fold[:10], minlength=5).tolist() == [10 // 5] * 5
    assert np.bincount(fold, minlength=5).tolist() == [100 // 5] * 5


def test_a_photo_with_most_of_a_class_leaves_the_others_to_the_other_folds():
    counts = np.ones((50, 2), np.int64)
    counts[:, 1] = 0
    counts[7, 1], counts[[3, 11, 30, 41], 1] = 20, 1
    fold = split_images(content(counts), "boxes", 5, 0)
    assert sorted(per_fold(counts, fold, 5)[:, 1].tolist()) == [1, 1, 1, 1, 20]
    said = not_met(content(counts), fold, 5, ("Paper", "Battery"))
    assert said == [
        "Battery: one photo holds 20 of 24 boxes, an even share is 5; the integer floor is out of reach"
    ]


@pytest.mark.parametrize(
    ("total", "parts", "largest", "expected"),
    [
        (12, 5, [1] * 5, (2, 3)),
        (12, 3, [6, 1, 1], (3, 3)),
        (20, 4, [9, 8, 1], (1, 2)),
        (10, 2, [9, 1], (1, 1)),
    ],
)
def test_a_fair_share_beside_large_groups(total, parts, largest, expected):
    assert fair_share(total, parts, np.array(largest)) == expected


def test_counts_become_columns_of_more_than_so_many():
    # Two classes; "none" and the terciles of the counts that are there: 1 and 4 of class 0.
    counts = np.array([[0, 0], [1, 0], [1, 0], [4, 0], [9, 2]])
    columns = count_bins(counts).T.tolist()
    assert columns[0] == [0, 1, 1, 1, 1]  # class 0 present
    assert [0, 0, 0, 1, 1] in columns  # more than one box of class 0
    assert [0, 0, 0, 0, 1] in columns  # class 1 present
    assert columns[-1] == [1, 0, 0, 0, 0]  # no box at all


def test_boxes_are_counted_by_class_and_size():
    corners = np.array([[0, 0, 31, 32], [0, 0, 32, 32], [5, 5, 100, 101], [0, 0, 96, 96]], float)
    made = content_of(np.array([2, 5, 9]), np.array([2, 2, 9, 9]), np.array([1, 1, 0, 1]), corners, 2)
    assert made.boxes.tolist() == [[0, 2], [0, 0], [1, 1]]
    assert made.sizes.tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]  # 992 | 1024 || 9120 | 9216 px
    assert made.kinds()[:, :3].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert made.group.tolist() == [2, 5, 9]


def test_weights_decide_where_columns_compete():
    """Two columns that cannot both be even: the heavier one is."""
    counts = np.array([[2, 0], [1, 1], [1, 0], [0, 1]])
    for weight, even in (([1.0, 1e-3], 0), ([1e-3, 1.0], 1)):
        fold = balance(counts, np.ones(4, np.int64), np.array(weight), np.array([False, False]), 2, 0)
        assert np.ptp(per_fold(counts, fold, 2)[:, even]) == 0
