"""Average precision by the number of true boxes in an image."""

from typing import Any

import numpy as np

from pipeline.scoring.curves import measure
from pipeline.scoring.matching import IGNORED, TRUE
from pipeline.scoring.ranking import Ranked, average_precisions

FIRST_OF_BIN = (0, 1, 2, 4, 8)  # true boxes per image


def crowding_table(ranked: Ranked, score: float) -> dict[str, Any]:
    """mAP and the measures at a score, for the images with no true box, with one, with two or three ...

    ranked: at one IoU. A bin is scored on its images alone; mAP is the mean over the classes that have
    truth there.
    """
    truths = np.bincount(ranked.truth_images, minlength=ranked.n_images)
    bin_of = np.searchsorted(FIRST_OF_BIN, truths, side="right") - 1
    rows = ranked.rows
    kept = (rows.scores >= np.float32(score)) & (rows.state[0] != IGNORED)
    true = np.bincount(bin_of[rows.image[kept & (rows.state[0] == TRUE)]], minlength=len(FIRST_OF_BIN))
    boxes = np.bincount(bin_of[rows.image[kept]], minlength=len(FIRST_OF_BIN))
    table = {}
    for k, first in enumerate(FIRST_OF_BIN):
        in_bin = bin_of == k
        n_truths = int(truths[in_bin].sum())
        ap = average_precisions(ranked, weights=in_bin.astype(np.int64))[0]
        table[_name(first, *FIRST_OF_BIN[k + 1 : k + 2])] = {
            "images": int(in_bin.sum()),
            "truths": n_truths,
            "map": round(float(np.nanmean(ap)), 5) if n_truths else None,
            **measure(score, int(true[k]), int(boxes[k] - true[k]), n_truths).as_json(),
        }
    return table


def _name(first: int, after: int | None = None) -> str:
    """ "1", "2-3", "8+": a bin from `first` to what comes before `after`."""
    if after is None:
        return f"{first}+"
    return str(first) if after == first + 1 else f"{first}-{after - 1}"
