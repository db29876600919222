"""Non-maximum weighted fusion of one group (Zhou et al. 2017, "CAD", ICCV workshops).

Every box joins the leader (the best box of a cluster, which does not move) that it overlaps most,
if that IoU is above the threshold, else it leads a cluster of its own. The fused box is the mean,
weighted by weighted score times IoU with the leader; the score is the leader's.
"""

import numpy as np

from pipeline.fusion.overlap import best_match, put
from pipeline.kernels.jit import inlined


@inlined
def nmw_group(rows, lo, hi, image, parameters, scratch, out):
    """Fuse the rows lo..hi-1, best first; return the number of boxes written."""
    sums = scratch.sums  # columns: weight, then the four corners times weight
    n = 0
    start = out.n[0]
    for row in range(lo, hi):
        x1 = rows.boxes_xyxy[row, 0]
        y1 = rows.boxes_xyxy[row, 1]
        x2 = rows.boxes_xyxy[row, 2]
        y2 = rows.boxes_xyxy[row, 3]
        score = image.weights[rows.source[row]] * rows.scores[row]
        at, iou = best_match(scratch.blocks, n, x1, y1, x2, y2, parameters.iou, parameters.part)
        if at < 0:
            at = n
            n += 1
            iou = 1.0
            put(scratch.blocks, at, x1, y1, x2, y2)
            for c in range(5):
                sums[at, c] = 0.0
            out.scores[start + at] = score
        weight = score * iou
        sums[at, 0] += weight
        sums[at, 1] += weight * x1
        sums[at, 2] += weight * y1
        sums[at, 3] += weight * x2
        sums[at, 4] += weight * y2
    for at in range(n):
        for c in range(4):
            out.boxes_xyxy[start + at, c] = np.float32(sums[at, 1 + c] / sums[at, 0])
    return n
