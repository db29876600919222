"""Weighted boxes fusion of one group (Solovyev, Wang, Gabruseva 2019, arXiv 1910.13302).

Every box joins the cluster whose fused box it overlaps most, if that IoU is above the threshold,
else it starts a cluster. A cluster's box is the mean of its boxes, weighted by their weighted
scores; it is kept as running sums, so a box costs the same however large its cluster is.
"""

import numpy as np

from pipeline.fusion.overlap import best_match, move, put
from pipeline.kernels.jit import inlined

CONF_TYPES = ("votes", "avg", "max", "box_and_model_avg", "absent_model_aware_avg")
_VOTES, _AVG, _MAX, _BOX_AND_MODEL, _ABSENT_AWARE = range(5)

# Columns of a cluster's sums: of weighted scores, of the corners times these, of the boxes'
# weights, of its sources' weights, of its sources' best weighted scores; boxes; best score.
_CONF, _SUMS, _WEIGHTS, _MODELS, _BESTS, _COUNT, _TOP = 0, 1, 5, 6, 7, 8, 9
N_SUMS = 10


@inlined
def wbf_group(rows, lo, hi, image, parameters, scratch, out):
    """Fuse the rows lo..hi-1, best weighted score first; return the number of boxes written."""
    blocks, sums, seen = scratch.blocks, scratch.sums, scratch.seen
    n = 0
    for row in range(lo, hi):
        x1 = rows.boxes_xyxy[row, 0]
        y1 = rows.boxes_xyxy[row, 1]
        x2 = rows.boxes_xyxy[row, 2]
        y2 = rows.boxes_xyxy[row, 3]
        source = np.int64(rows.source[row])
        weight = image.weights[source]
        score = weight * rows.scores[row]
        at, _ = best_match(blocks, n, x1, y1, x2, y2, parameters.iou, parameters.part)
        word = source >> 6
        bit = np.uint64(1) << np.uint64(source & 63)
        if at < 0:
            put(blocks, n, x1, y1, x2, y2)
            for k in range(seen.shape[1]):
                seen[n, k] = bit if k == word else np.uint64(0)
            sums[n, _CONF] = score
            sums[n, _SUMS] = score * x1
            sums[n, _SUMS + 1] = score * y1
            sums[n, _SUMS + 2] = score * x2
            sums[n, _SUMS + 3] = score * y2
            sums[n, _WEIGHTS] = weight
            sums[n, _MODELS] = weight
            sums[n, _BESTS] = score
            sums[n, _COUNT] = 1.0
            sums[n, _TOP] = score
            n += 1
            continue
        conf = sums[at, _CONF] + score
        sum_x1 = sums[at, _SUMS] + score * x1
        sum_y1 = sums[at, _SUMS + 1] + score * y1
        sum_x2 = sums[at, _SUMS + 2] + score * x2
        sum_y2 = sums[at, _SUMS + 3] + score * y2
        share = 1.0 / conf
        move(
            blocks,
            at,
            np.float32(sum_x1 * share),
            np.float32(sum_y1 * share),
            np.float32(sum_x2 * share),
            np.float32(sum_y2 * share),
        )
        sums[at, _CONF] = conf
        sums[at, _SUMS] = sum_x1
        sums[at, _SUMS + 1] = sum_y1
        sums[at, _SUMS + 2] = sum_x2
        sums[at, _SUMS + 3] = sum_y2
        sums[at, _WEIGHTS] += weight
        sums[at, _COUNT] += 1.0
        if seen[at, word] & bit == 0:  # rows come best first: this is the source's best box here
            seen[at, word] |= bit
            sums[at, _MODELS] += weight
            sums[at, _BESTS] += score
    for at in range(n):
        for c in range(4):
            out.boxes_xyxy[out.n[0] + at, c] = blocks[at >> 4, c, at & 15]
        out.scores[out.n[0] + at] = _score(sums, at, image, parameters)
    return n


@inlined
def _score(sums, at, image, parameters):
    """The score of a cluster; `ensemble-boxes` has all of them but `votes`.

    votes: each source's best weighted score in the cluster, summed, by the total weight.
    avg: mean weighted score x min(sources, boxes) / total weight; `allows_overflow` x boxes.
    max: best weighted score / highest weight. box_and_model_avg: weighted mean x weight of the
    cluster's sources / total weight. absent_model_aware_avg: sum of weighted scores by the boxes'
    weights and those of the sources that are not in the cluster.
    """
    conf_type = parameters.conf_type
    if conf_type == _VOTES:
        return sums[at, _BESTS] / image.total
    if conf_type == _AVG:
        count = sums[at, _COUNT]
        times = count if parameters.allows_overflow else min(count, image.n_sources)
        return sums[at, _CONF] / count * times / image.total
    if conf_type == _MAX:
        return sums[at, _TOP] / image.highest
    if conf_type == _BOX_AND_MODEL:
        return sums[at, _CONF] / sums[at, _WEIGHTS] * sums[at, _MODELS] / image.total
    return sums[at, _CONF] / (sums[at, _WEIGHTS] + image.total - sums[at, _MODELS])
