"""IoU of the true boxes with their truth."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.scoring.matching import TRUE, Matches

BIN = 0.025
CLOSE = (0.75, 0.9)  # the share of boxes with at least these IoUs is given


@dataclass(frozen=True, eq=False)
class Overlaps:
    """IoU of each true box with the truth it took, and the IoU from which on boxes match."""

    ious: NDArray[np.float64]
    least: float

    def histogram(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(b+1,) edges, multiples of BIN up to 1, and (b,) boxes between them."""
        edges = np.arange(int(self.least / BIN + 1e-9), round(1 / BIN) + 1).astype(np.float64) * BIN
        counts, _ = np.histogram(np.clip(self.ious, edges[0], 1), edges)
        return edges, counts.astype(np.int64)

    def as_json(self) -> dict[str, Any]:
        """Boxes, mean, median, the shares at CLOSE and above, and the histogram."""
        edges, counts = self.histogram()
        some = len(self.ious) > 0
        return {
            "boxes": len(self.ious),
            "mean": round(float(self.ious.mean()), 5) if some else None,
            "median": round(float(np.median(self.ious)), 5) if some else None,
            **{
                f"share_from_{least:g}": round(float((self.ious >= least).mean()), 5) if some else None
                for least in CLOSE
            },
            "histogram": {"edges": edges.round(5).tolist(), "boxes": counts.tolist()},
        }


def overlaps(matches: Matches, iou: float, score: float = 0.0) -> Overlaps:
    """IoU of the true boxes with a score of at least `score`; matches made with `owners` at one IoU."""
    rows = np.flatnonzero((matches.state[0] == TRUE) & (matches.boxes.scores >= np.float32(score)))
    boxes = matches.boxes.boxes_xyxy[rows].astype(np.float64)
    truth_xywh = matches.truth.rows.boxes_xywh[matches.owner[0, rows]]
    low = np.maximum(boxes[:, :2], truth_xywh[:, :2])
    high = np.minimum(boxes[:, 2:], truth_xywh[:, :2] + truth_xywh[:, 2:])
    inner = (high - low).clip(0).prod(axis=1)
    either = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + truth_xywh[:, 2:].prod(axis=1) - inner
    return Overlaps(inner / either, iou)
