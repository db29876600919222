"""Every method and conf type against ensemble-boxes 1.0.9, and against a plain rewrite.

FUSION_PARITY_IMAGES=1000 compares that many real images a data set instead of the quick 12.
"""

import os

import numpy as np
import pytest
from fusion_oracle import NEAR, assert_same, ensemble_boxes, image_of, plain, random_rows
from fusion_predictions import stacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.fusion import CONF_TYPES, FUSERS, fuse, pack

CASES = [
    *[("wbf", {"conf_type": conf_type}) for conf_type in CONF_TYPES],
    ("wbf", {"conf_type": "avg", "allows_overflow": True}),
    ("nms", {}),
    ("soft_nms", {"soft": "linear"}),
    ("soft_nms", {"soft": "gaussian"}),
    ("nmw", {}),
]
IDS = [f"{method}-{'-'.join(map(str, options.values()))}" for method, options in CASES]
IMAGES = int(os.environ.get("FUSION_PARITY_IMAGES", "12"))


def oracle_options(iou, skip, weights, options):
    return {
        "iou": iou,
        "skip": skip,
        "weights": weights,
        "conf_type": options.get("conf_type", "avg"),
        "overflow": options.get("allows_overflow", False),
        "sigma": options.get("sigma", 0.5),
        "soft": options.get("soft", "linear"),
    }


def compare(rows, method, options, iou, skip, weights, threads=1):
    """Compare all images; return how many were far enough from the threshold to count."""
    packed = pack(*rows.arrays(), n_sources=rows.n_sources, sizes=rows.sizes, threads=threads)
    fused = fuse(packed, method, iou=iou, skip=skip, weights=weights, threads=threads, **options)
    asked = oracle_options(iou, skip, weights, options)
    compared = 0
    for i in range(len(rows.sizes)):
        expected, margin = plain(rows, i, method, **asked)
        if margin <= NEAR:
            continue
        compared += 1
        assert_same(image_of(fused, i), expected, rows.sizes[i])
        if options.get("conf_type") != "votes":
            theirs = ensemble_boxes(rows, i, method, **asked)
            assert_same(image_of(fused, i), theirs, rows.sizes[i])
    return compared


def test_every_fuser_has_cases():
    assert {method for method, _ in CASES} == set(FUSERS)
    assert {o["conf_type"] for _, o in CASES if "conf_type" in o} == set(CONF_TYPES)


@pytest.mark.parametrize(("method", "options"), CASES, ids=IDS)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_sources=st.integers(1, 5),
    n_objects=st.integers(0, 6),
    n_labels=st.integers(1, 4),
    noise=st.integers(0, 6),
    copies=st.integers(1, 3),
    iou=st.floats(0.05, 0.95),
    skip=st.sampled_from([0.0, 0.001, 0.05, 0.3]),
    weighted=st.booleans(),
    data=st.data(),
)
def test_equals_ensemble_boxes(
    method, options, seed, n_sources, n_objects, n_labels, noise, copies, iou, skip, weighted, data
):
    rows = random_rows(
        seed,
        n_sources=n_sources,
        n_objects=n_objects,
        n_labels=n_labels,
        noise=noise,
        copies=copies,
    )
    weights = None
    if weighted:
        weight = st.floats(0.1, 4.0)
        weights = data.draw(st.lists(weight, min_size=n_sources, max_size=n_sources))
    if options.get("soft") == "gaussian":
        options = options | {"sigma": data.draw(st.floats(0.1, 2.0))}
    compare(rows, method, options, iou, skip, weights)


@pytest.mark.parametrize(("method", "options"), CASES, ids=IDS)
def test_crowded_images(method, options):
    """Groups of hundreds of boxes: several blocks, long clusters, radix sort."""
    rows = random_rows(5, n_images=8, n_sources=5, n_objects=22, n_labels=1, noise=15, sizes=[(640, 480)] * 8)
    assert np.diff(rows.offsets).min() > 100
    compared = 0
    for iou in (0.3, 0.55, 0.7):
        compared += compare(rows, method, options, iou, 0.001, None)
        compared += compare(rows, method, options, iou, 0.001, [1, 2, 0.5, 1, 3])
    assert compared >= 6


REAL = {
    "deta-two-views": [
        "oof_deta/deta-swin-large_0_img_size_720_identity.csv",
        "oof_deta/deta-swin-large_0_img_size_720_hflip.csv",
    ],
    "three-teams": [
        "other_models/bc2cv15_det2_train.csv",
        "other_models/bc2cv15_final14_train.csv",
        "other_models/bc5cv11_val977.csv",
    ],
    "submissions": [
        "test_submissions/bc2cv06_swin.csv",
        "test_submissions/bc3cv15_swinL.csv",
        "test_submissions/bc3cv18_yolov5x6_base.csv",
        "test_submissions/bc5cv11_cascade_ep19.csv",
        "test_submissions/bc7cv18_yolov11.csv",
    ],
}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(("method", "options"), CASES, ids=IDS)
def test_real_predictions(name, method, options):
    rows = stacked(REAL[name], limit=IMAGES)
    weights = [1.0, 0.7, 1.6, 0.9, 1.2][: rows.n_sources]
    compared = compare(rows, method, options, 0.55, 0.01, None)
    compared += compare(rows, method, options, 0.5, 0.05, weights)
    assert compared >= IMAGES  # half of them: the rest has an IoU that rounding could decide
