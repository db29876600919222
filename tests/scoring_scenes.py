"""Made-up boxes and truth for the tests of scoring, written by hand or drawn by hypothesis."""

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from pipeline.boxes import Boxes
from pipeline.scoring.truth import group_truth

SIDE = 64


def boxes_of(found):
    """A list per image of (label, score, box) as a fused result: within an image by score."""
    rows = [row for image in found for row in sorted(image, key=lambda r: -r[1])]
    counts = [len(image) for image in found]
    return Boxes(
        boxes_xyxy=np.array([row[2] for row in rows], np.float32).reshape(-1, 4),
        scores=np.array([row[1] for row in rows], np.float32),
        labels=np.array([row[0] for row in rows], np.int16),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


def truth_of(truth, crowd=None, n_classes=3):
    """A list per image of (label, box) as grouped truth."""
    flags = crowd or [[False] * len(image) for image in truth]
    rows = [
        (i, label, *box, int(flag))
        for i, (image, mine) in enumerate(zip(truth, flags, strict=True))
        for (label, box), flag in zip(image, mine, strict=True)
    ]
    annotations = pd.DataFrame(rows, columns=["image_id", "label", "x1", "y1", "x2", "y2", "iscrowd"])
    images = pd.DataFrame({"image_id": range(len(truth)), "width": SIDE, "height": SIDE})
    return group_truth(annotations, images, np.arange(len(truth), dtype=np.int32), n_classes)


# Few corners, sides and scores make matches, ties, equal IoUs and IoUs at a threshold common.
corner = st.sampled_from([0.0, 8.0, 16.0, 40.0])
side = st.sampled_from([4.0, 8.0, 16.0, 24.0, 32.0])
box = st.builds(lambda x, y, w, h: (x, y, min(x + w, 64.0), min(y + h, 64.0)), corner, corner, side, side)
true_image = st.lists(st.tuples(st.integers(0, 2), box), max_size=6)
found_image = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 8).map(lambda n: n / 8), box), max_size=8)
scene = st.lists(
    st.tuples(true_image, found_image, st.lists(st.booleans(), min_size=6, max_size=6)),
    min_size=1,
    max_size=5,
)


def unzip(scene):
    truth, found, flags = zip(*scene, strict=True)
    # pycocotools and the kernel see boxes of an image by score; equal scores in the order given
    found = [sorted(image, key=lambda r: -r[1]) for image in found]
    return list(truth), found, [mine[: len(image)] for image, mine in zip(truth, flags, strict=True)]
