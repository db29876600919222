"""Bad input: an error or a counted repair. Order, ties, sizes and masses of boxes."""

import resource
import time

import numpy as np
import pytest
from fusing import fuse_arrays
from fusion_oracle import random_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import PipelineError
from pipeline.fusion import CONF_TYPES, FUSERS, fuse, pack

A = [10.0, 10.0, 110.0, 110.0]
NAN, INF = float("nan"), float("inf")


def same(one, other):
    """Bit by bit."""
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.boxes_xyxy, other.boxes_xyxy)


REPAIRS = [  # (box, score, name of the count, kept box or None)
    (A, NAN, "non_finite_scores", None),
    (A, INF, "non_finite_scores", None),
    (A, -INF, "non_finite_scores", None),
    (A, 0.0, "zero_scores", None),
    (A, -0.0, "zero_scores", None),
    ([NAN, 10, 20, 20], 0.5, "non_finite_boxes", None),
    ([10, 10, 20, INF], 0.5, "non_finite_boxes", None),
    ([110, 10, 10, 110], 0.5, "inverted", A),
    ([110, 110, 10, 10], 0.5, "inverted", A),
    ([-512, 10, 110, 1536], 0.5, "outside", [0, 10, 110, 480]),
    ([10, 10, 10, 110], 0.5, "empty", None),
    ([700, 10, 900, 110], 0.5, "empty", None),
    ([-90, -20, -50, -10], 0.5, "empty", None),
]


@pytest.mark.parametrize(("box", "score", "name", "kept"), REPAIRS)
@pytest.mark.parametrize("method", FUSERS)
def test_repairs_are_counted_and_harm_no_other_box(method, box, score, name, kept):
    good = [300, 300, 400, 400]
    rows = ([box, good, box], [score, 0.9, score], [0, 0, 0], [0, 1, 0], [0, 2, 3])
    fused = fuse(pack(*rows, n_sources=2, sizes=[[640, 480]] * 2), method)
    assert getattr(fused.report, name) == 2
    assert fused.report.lines()
    assert fused.offsets.tolist() == ([0, 2, 3] if kept else [0, 1, 1])
    np.testing.assert_array_equal(fused.boxes_xyxy[0], good)
    for box in fused.boxes_xyxy[1:]:
        np.testing.assert_array_equal(box, kept)
    assert np.isfinite(fused.scores).all()


def test_a_clean_table_reports_nothing():
    rows = random_rows(3)
    report = pack(*rows.arrays(), n_sources=3, sizes=rows.sizes).report
    assert (report.below_floor, report.zero_weight_rows) == (0, 0)
    assert report.lines() == []


def test_without_sizes_nothing_is_clipped():
    fused = fuse(pack([[-5, -5, 5, 5]], [0.5], [0], [0], [0, 1], n_sources=1))
    np.testing.assert_array_equal(fused.boxes_xyxy, [[-5, -5, 5, 5]])


TWO = {
    "boxes_xyxy": [A, A],
    "scores": [0.9, 0.8],
    "labels": [0, 1],
    "source": [0, 1],
    "offsets": [0, 1, 2],
    "n_sources": 2,
}
ERRORS = [
    ({"scores": [0.9]}, "scores: expected one value per box"),
    ({"labels": [0, 1, 2]}, "labels: expected one value per box"),
    ({"source": [[0, 1]]}, "source: expected one value per box"),
    ({"boxes_xyxy": [[1, 2, 3], [1, 2, 3]]}, "boxes_xyxy: expected numbers of shape"),
    ({"boxes_xyxy": [["a"] * 4] * 2}, "boxes_xyxy: expected numbers of shape"),
    ({"scores": [0.9, 1.5]}, "scores, row 1: 1.5, expected 0 to 1"),
    ({"scores": [-0.1, NAN]}, "scores, row 0: -0.1, expected 0 to 1"),
    ({"labels": [0.0, 1.0]}, "labels: expected integers"),
    ({"labels": [0, -1]}, "labels, row 1: -1"),
    ({"labels": [0, 70000]}, "labels, row 1: 70000"),
    ({"n_labels": 1}, "labels, row 1: 1, expected 0 to 0"),
    ({"n_labels": 0}, "n_labels=0"),
    ({"source": [0, 2]}, "source, row 1: 2, expected 0 to 1"),
    ({"n_sources": 0}, "n_sources=0"),
    ({"offsets": [0, 2, 1]}, "offsets: expected rising"),
    ({"offsets": [0, 1, 3]}, "offsets: run from 0 to 3"),
    ({"offsets": [1, 1, 2]}, "offsets: run from 1 to 2"),
    ({"offsets": [[0, 1], [0, 1]]}, "offsets: expected rising"),
    ({"offsets": [[0, 1, 2], [2, 2]]}, "offsets: expected rows of equal length"),
    ({"offsets": [0.0, 1.0, 2.0]}, "offsets: expected integers"),
    ({"sizes": [[10, 10]]}, "sizes: expected width and height"),
    ({"sizes": [[10, 10], [0, 10]]}, "sizes, image 1"),
    ({"present": [[1, 1], [1, 1]]}, "present: expected bool"),
    ({"present": [[True, True], [True, False]]}, "present: 1 rows belong"),
    ({"floor": -0.1}, "floor=-0.1"),
    ({"floor": NAN}, "floor=nan"),
    ({"threads": 0}, "threads=0"),
]


@pytest.mark.parametrize(("change", "message"), ERRORS)
def test_errors_of_packing(change, message):
    pack(**TWO)
    with pytest.raises(PipelineError, match="^" + message.replace("[", r"\[")):
        pack(**TWO | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "wfb"}, "method='wfb': expected one of wbf, nms"),
        ({"conf_type": "mean"}, "conf_type='mean': expected one of votes"),
        ({"soft": "hard"}, "soft='hard'"),
        ({"iou": 1.5}, "iou=1.5"),
        ({"iou": NAN}, "iou=nan"),
        ({"skip": -1}, "skip=-1"),
        ({"skip": "low"}, "skip=low"),
        ({"skip": 0.05}, "skip=0.05: the boxes were packed with a floor of 0.1"),
        ({"sigma": 0}, "sigma=0"),
        ({"weights": [1]}, "weights: expected one number for each of 2"),
        ({"weights": [1, 1, 1]}, "weights: expected one number for each of 2"),
        ({"weights": [1, -1]}, "weights, source 1: -1.0"),
        ({"weights": [1, NAN]}, "weights, source 1: nan"),
        ({"weights": [0, 0]}, "weights: all are 0"),
        ({"weights": [1, 1e-12]}, "weights, source 1: 1e-12 of the highest"),
        ({"threads": -1}, "threads=-1"),
    ],
)
def test_errors_of_fusing(change, message):
    packed = pack(**TWO, floor=0.1)
    fuse(packed, skip=0.1)
    with pytest.raises(PipelineError, match="^" + message):
        fuse(packed, **{"skip": 0.1} | change)


@pytest.mark.parametrize("method", FUSERS)
def test_nothing_in_nothing_out(method):
    none = np.zeros((0, 4)), [], [], []
    for offsets in ([0], [0, 0], [0, 0, 0]):
        fused = fuse_arrays(*none, offsets, n_sources=3, method=method)
        assert fused.offsets.tolist() == offsets
        assert fused.boxes_xyxy.shape == (0, 4)
        assert fused.scores.dtype == np.float32


@pytest.mark.parametrize("method", FUSERS)
def test_images_without_boxes_stay_in_place(method):
    fused = fuse_arrays([A, A], [0.9, 0.8], [0, 0], [1, 1], [0, 0, 1, 1, 2, 2], n_sources=3, method=method)
    assert fused.offsets.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_source_without_boxes_keeps_its_weight():
    """The reference resets all weights to 1 when such a source is left out of the lists."""
    fused = fuse_arrays([A], [0.8], [0], [1], [0, 1], n_sources=3, weights=[5, 1, 2])
    np.testing.assert_allclose(fused.scores, [1 * 0.8 / (5 + 1 + 2)], rtol=1e-6)


@pytest.mark.parametrize("method", FUSERS)
def test_one_pixel_and_one_box(method):
    boxes = [[3, 4, 4, 5], [3, 4, 4, 5], [1022, 1023, 1023, 1024], [0, 0, 1024, 1024]]
    fused = fuse_arrays(
        boxes, [0.9, 0.8, 0.7, 0.6], [0] * 4, [0, 1, 0, 1], [0, 4], n_sources=2, method=method
    )
    # Linear soft-NMS lowers the exact duplicate to 0, so it goes like with the others.
    np.testing.assert_array_equal(fused.boxes_xyxy[np.argsort(fused.boxes_xyxy[:, 2])][0], boxes[0])
    assert len(fused.scores) == 3


@pytest.mark.parametrize("method", FUSERS)
def test_images_of_different_sizes_do_not_touch(method):
    """Fused alone and fused together: the same."""
    rows = random_rows(11, n_images=5, sizes=[(40, 1500), (1, 1), (1024, 1024), (4000, 30), (640, 480)])
    together = fuse_arrays(*rows.arrays(), n_sources=3, sizes=rows.sizes, method=method)
    for i in range(5):
        boxes, scores, labels, source = rows.image(i)
        alone = fuse_arrays(
            boxes,
            scores,
            labels,
            source,
            [0, len(boxes)],
            n_sources=3,
            sizes=rows.sizes[[i]],
            method=method,
        )
        span = slice(together.offsets[i], together.offsets[i + 1])
        np.testing.assert_array_equal(alone.boxes_xyxy, together.boxes_xyxy[span])
        np.testing.assert_array_equal(alone.scores, together.scores[span])


METHODS = [
    *[("wbf", {"conf_type": conf_type}) for conf_type in CONF_TYPES],
    *[(method, {}) for method in FUSERS if method != "wbf"],
    ("soft_nms", {"soft": "gaussian"}),
]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.sampled_from([2, 5, 30, 10**6]),
    grid=st.sampled_from([0, 8, 64]),
    method=st.sampled_from(METHODS),
    iou=st.floats(0.05, 0.9),
    weights=st.sampled_from([None, [1, 1, 1, 1], [1, 2, 2, 4], [0.5, 0, 1, 1], [0.1, 0.7, 0.3, 0.9]]),
)
def test_order_of_rows_and_sources_does_not_matter(seed, steps, grid, method, iou, weights):
    """With ties in scores, corners and both, and with whole sources submitted twice."""
    rng = np.random.default_rng(seed)
    rows = random_rows(seed, n_sources=4, n_objects=6, n_labels=2, copies=2, sizes=[(200, 100)] * 3)
    rows.scores = (np.ceil(rows.scores * steps) / steps).astype(np.float32)
    if grid:
        rows.boxes = np.round(rows.boxes / 200 * grid) / grid * 200
        rows.boxes[:, 2:] = np.maximum(rows.boxes[:, 2:], rows.boxes[:, :2] + 200 / grid)
    if rng.random() < 0.5:
        rows.source[rows.source == 3] = 2
        rows = doubled(rows)
    sources = rng.permutation(4)
    other = rows.shuffled(rng, sources)
    moved = None
    if weights is not None:
        moved = np.empty(4)
        moved[sources] = weights
    name, options = method
    one = fuse_arrays(*rows.arrays(), n_sources=4, method=name, iou=iou, weights=weights, **options)
    two = fuse_arrays(*other.arrays(), n_sources=4, method=name, iou=iou, weights=moved, **options)
    same(one, two)


def doubled(rows):
    """Source 3 becomes a copy of source 2."""
    parts = []
    for i in range(len(rows.sizes)):
        columns = rows.image(i)
        twin = columns[3] == 2
        copies = [c[twin] for c in columns[:3]] + [np.full(twin.sum(), 3, np.int16)]
        parts.append([np.concatenate([c, k]) for c, k in zip(columns, copies, strict=True)])
    rows.boxes, rows.scores, rows.labels, rows.source = (np.concatenate(c) for c in zip(*parts, strict=True))
    rows.offsets = np.concatenate([[0], np.cumsum([len(p[1]) for p in parts])])
    return rows


def test_the_declared_order_of_the_result():
    """Score, then x1, y1, x2, y2, then label."""
    boxes = [[50, 0, 60, 10], [20, 30, 40, 50], [20, 0, 30, 10], [20, 0, 29, 10], [20, 0, 29, 10]]
    fused = fuse_arrays(boxes, [0.5] * 5, [0, 0, 0, 4, 2], [0] * 5, [0, 5], n_sources=1, iou=0.9)
    np.testing.assert_array_equal(fused.boxes_xyxy, [boxes[k] for k in (4, 3, 2, 1, 0)])
    assert fused.labels.tolist() == [2, 4, 0, 0, 0]


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_threads_and_parts_do_not_matter(method, options):
    rows = random_rows(2, n_images=40, n_sources=3)
    one = fuse_arrays(*rows.arrays(), n_sources=3, method=method, threads=1, **options)
    three = fuse_arrays(*rows.arrays(), n_sources=3, method=method, threads=3, **options)
    same(one, three)
    by_source = np.argsort(rows.source, kind="stable")
    image = np.repeat(np.arange(40), np.diff(rows.offsets))[by_source]
    offsets = np.stack(
        [
            np.flatnonzero(rows.source[by_source] == s)[0]
            + np.searchsorted(image[rows.source[by_source] == s], np.arange(41))
            for s in range(3)
        ]
    )
    columns = [c[by_source] for c in rows.arrays()[:4]]
    parts = fuse_arrays(*columns, offsets, n_sources=3, method=method, **options)
    same(one, parts)


@pytest.mark.parametrize(("method", "options"), METHODS)
def test_packing_once_serves_every_skip(method, options):
    rows = random_rows(4, n_images=4, noise=10)
    packed = pack(*rows.arrays(), n_sources=3)
    for skip in (0.001, 0.2, 0.7):
        single = fuse_arrays(*rows.arrays(), n_sources=3, method=method, skip=skip, **options)
        same(fuse(packed, method, skip=skip, **options), single)


@pytest.mark.parametrize("read_only", [True, False])
def test_input_is_left_as_it_is(read_only):
    rows = random_rows(9)
    before = [column.copy() for column in rows.arrays()]
    if read_only:
        for column in rows.arrays():
            column.flags.writeable = False
    fuse_arrays(*rows.arrays(), n_sources=3, sizes=rows.sizes, weights=[1, 2, 3])
    for column, copy in zip(rows.arrays(), before, strict=True):
        np.testing.assert_array_equal(column, copy)


def test_more_sources_than_bits_in_a_word():
    """130 sources agree on a box: each has its vote, and a second box of one of them has none."""
    n = 130
    scores = np.linspace(0.2, 0.9, n).astype(np.float32)
    fused = fuse_arrays(
        [A] * (n + 1), [*scores, 0.1], [0] * (n + 1), [*range(n), 129], [0, n + 1], n_sources=n
    )
    np.testing.assert_allclose(fused.scores, [scores.astype(float).mean()], rtol=1e-6)


@pytest.mark.parametrize(("method", "equal"), [("wbf", True), *[(method, False) for method in FUSERS]])
def test_a_hundred_thousand_boxes_in_one_image(method, equal):
    """All of one label, scores different or equal. One bit a pair would be 1.2 GB."""
    rng = np.random.default_rng(0)
    n = 100_000
    corner = rng.uniform(0, 4000, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(4, 40, (n, 2))], 1).astype(np.float32)
    scores = np.full(n, 0.5) if equal else rng.uniform(0.01, 1, n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    fused = fuse_arrays(boxes, scores, np.zeros(n, int), np.arange(n) % 5, [0, n], n_sources=5, method=method)
    assert time.process_time() - start < 20
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 200
    assert 10_000 < len(fused.scores) <= n
    assert (np.diff(fused.scores) <= 0).all()
