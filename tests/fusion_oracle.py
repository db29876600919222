"""What the fusion tests compare with: ensemble-boxes, and a plain float64 rewrite of the rules.

The rewrite follows the formulas step by step with Python lists. It also says how near any IoU that
mattered came to the threshold, so that parity is asked only where rounding cannot decide.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from ensemble_boxes import ensemble_boxes_nms, nms, non_maximum_weighted, weighted_boxes_fusion

from pipeline.fusion import Fused

BOX_TOLERANCE = 1e-6  # of the image's side
SCORE_TOLERANCE = 1e-6
NEAR = 1e-5


@dataclass
class Rows:
    """Boxes of `n_sources` sources over images of `sizes`; what `pack` takes."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    source: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray
    n_sources: int

    def arrays(self):
        """Positional arguments of `pack`."""
        return self.boxes, self.scores, self.labels, self.source, self.offsets

    def image(self, i):
        """Rows of one image."""
        span = slice(self.offsets[i], self.offsets[i + 1])
        return self.boxes[span], self.scores[span], self.labels[span], self.source[span]

    def shuffled(self, rng, sources=None):
        """The same boxes, rows of each image in another order, sources renumbered."""
        order = np.concatenate(
            [a + rng.permutation(b - a) for a, b in pairwise(self.offsets)] or [np.zeros(0, int)]
        ).astype(int)
        source = self.source[order]
        if sources is not None:
            source = np.asarray(sources)[source]
        return Rows(
            self.boxes[order],
            self.scores[order],
            self.labels[order],
            source,
            self.offsets,
            self.sizes,
            self.n_sources,
        )


def random_rows(seed, n_images=2, n_sources=3, n_objects=4, n_labels=3, sizes=None, noise=4, copies=1):
    """Sources that see the same objects a little differently, with all scores different."""
    rng = np.random.default_rng(seed)
    sizes = np.asarray(sizes if sizes is not None else rng.integers(40, 1500, (n_images, 2)), np.float32)
    boxes, labels, source, counts = [], [], [], []
    for width, height in sizes:
        side = np.array([width, height])
        objects = _objects(rng, n_objects, side)
        kinds = rng.integers(0, n_labels, n_objects)
        image_boxes, image_labels, image_source = [], [], []
        for s in range(n_sources):
            seen = np.repeat(np.flatnonzero(rng.random(n_objects) < 0.85), copies)
            jitter = rng.normal(0, rng.choice([0.01, 0.06, 0.15]), (len(seen), 4))
            span = np.tile(objects[seen, 2:] - objects[seen, :2], 2)
            clutter = rng.integers(0, noise + 1)
            image_boxes += [objects[seen] + jitter * span, _objects(rng, clutter, side)]
            image_labels += [kinds[seen], rng.integers(0, n_labels, clutter)]
            image_source.append(np.full(len(seen) + clutter, s))
        some = np.concatenate(image_boxes).reshape(-1, 4)
        some[:, :2] = np.clip(np.minimum(some[:, :2], some[:, 2:] - 0.02 * side), 0, 0.97 * side)
        some[:, 2:] = np.clip(np.maximum(some[:, 2:], some[:, :2] + 0.02 * side), 0, side)
        boxes.append(some)
        labels += image_labels
        source += image_source
        counts.append(len(some))
    total = sum(counts)
    ladder = (np.arange(total) + 1 + rng.uniform(-0.2, 0.2, total)) / (total + 2)
    scores = rng.permutation(ladder ** rng.choice([1.0, 3.0])).astype(np.float32)
    return Rows(
        np.concatenate(boxes).astype(np.float32).reshape(-1, 4),
        np.maximum(scores, np.float32(1e-6)),
        np.concatenate(labels).astype(np.int16),
        np.concatenate(source).astype(np.int16),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sizes,
        n_sources,
    )


def _objects(rng, n, side):
    centre = rng.uniform(0.15, 0.85, (n, 2))
    half = rng.uniform(0.03, 0.2, (n, 2))
    return np.concatenate([centre - half, centre + half], 1) * np.tile(side, 2)


def ensemble_boxes(rows, i, method, *, iou, skip, weights, conf_type, overflow, sigma, soft):
    """What ensemble-boxes 1.0.9 says for image i: boxes in pixels, scores, labels.

    Corrected: its soft_nms returns undecayed scores, so its inner function is called, which decays
    the array it is given; `nms` has no score floor, so it gets filtered rows; a score above 1 is 1.
    """
    boxes, scores, labels, source = rows.image(i)
    scale = np.tile(rows.sizes[i], 2).astype(np.float64)
    part = boxes / scale
    scores = scores.astype(np.float64)
    if method in ("nms", "soft_nms"):
        factor = np.ones(rows.n_sources) if weights is None else np.asarray(weights, float)
        if weights is not None:
            factor = factor / factor.sum()
        keep = scores >= skip
        part, labels = part[keep], labels[keep]
        scores = (scores * factor[source])[keep]
        if len(scores) == 0:
            return np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)
        if method == "nms":
            found = nms([part], [scores], [labels], iou_thr=iou)
        else:
            found = _eb_soft_nms(part, scores, labels, iou, sigma, skip, soft)
    else:
        lists = [[a[source == s] for s in range(rows.n_sources)] for a in (part, scores, labels)]
        options = {"weights": weights, "iou_thr": iou, "skip_box_thr": skip}
        if method == "wbf":
            options |= {"conf_type": conf_type, "allows_overflow": overflow}
        fuser = weighted_boxes_fusion if method == "wbf" else non_maximum_weighted
        found = fuser(*lists, **options)
    return found[0] * scale, np.minimum(found[1], 1.0), found[2].astype(int)


def _eb_soft_nms(boxes, scores, labels, iou, sigma, skip, soft):
    kind = {"linear": 1, "gaussian": 2}[soft]
    parts = []
    for label in np.unique(labels):
        mine = labels == label
        decayed = scores[mine].copy()
        kept = ensemble_boxes_nms.cpu_soft_nms_float(boxes[mine].copy(), decayed, iou, sigma, skip, kind)
        parts.append((boxes[mine][kept], decayed[decayed > skip], np.full(len(kept), label)))
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))


@dataclass
class Cluster:
    """A cluster of the plain rewrite."""

    members: list = field(default_factory=list)  # (box, weighted score, weight, source)
    box: np.ndarray | None = None


def overlap(a, b):
    """IoU of two xyxy boxes in float64."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def plain(rows, i, method, *, iou, skip, weights, conf_type, overflow, sigma, soft):
    """The fused boxes of image i by the plain rewrite: ((boxes, scores, labels), margin).

    margin: the least distance of a deciding IoU from the threshold, or of the two best IoUs from
    one another; for soft-NMS also 1e4 x that of two scores and 1e3 x that of one from the skip.
    """
    boxes, scores, labels, source = rows.image(i)
    w = np.ones(rows.n_sources) if weights is None else np.asarray(weights, float)
    factor = w
    if method in ("nms", "soft_nms"):
        factor = np.ones_like(w) if weights is None else w / w.sum()
    if method == "nmw":
        factor = w / w.max()
    result, margin = [], 1.0
    for label in np.unique(labels):
        mine = [k for k in range(len(scores)) if labels[k] == label and scores[k] >= np.float32(skip)]
        members = [
            (
                boxes[k].astype(float),
                float(scores[k]) * factor[source[k]],
                factor[source[k]],
                source[k],
            )
            for k in mine
            if factor[source[k]] > 0
        ]
        members.sort(key=lambda m: -m[1])
        if method == "soft_nms":
            found, near = _plain_soft(members, iou, sigma, skip, soft)
        else:
            found, near = _plain_clusters(members, method, iou, w, conf_type, overflow)
        result += [(box, score, label) for box, score in found]
        margin = min(margin, near)
    result.sort(key=lambda r: -r[1])
    return (
        np.array([r[0] for r in result]).reshape(-1, 4),
        np.array([r[1] for r in result]),
        np.array([r[2] for r in result], int),
    ), margin


def _plain_clusters(members, method, iou, weights, conf_type, overflow):
    clusters, margin = [], 1.0
    for member in members:
        values = [overlap(cluster.box, member[0]) for cluster in clusters]
        margin = min([margin] + [abs(v - iou) for v in values])
        best = int(np.argmax(values)) if values else -1
        if values and values[best] > iou:
            others = values[:best] + values[best + 1 :]
            margin = min([margin] + [values[best] - v for v in others if v > iou])
            if method == "nms":
                continue
        else:
            clusters.append(Cluster(box=member[0]))
            best = -1
        cluster = clusters[best]
        cluster.members.append(member)
        if method == "wbf":
            conf = sum(m[1] for m in cluster.members)
            cluster.box = sum(m[0] * m[1] for m in cluster.members) / conf
    found = []
    for cluster in clusters:
        box, score = cluster.box, cluster.members[0][1]
        if method == "nmw":
            pulls = [m[1] * overlap(m[0], cluster.members[0][0]) for m in cluster.members]
            box = sum(m[0] * p for m, p in zip(cluster.members, pulls, strict=True)) / sum(pulls)
        if method == "wbf":
            score = min(1.0, plain_score(cluster.members, weights, conf_type, overflow))
        found.append((box, score))
    return found, margin


def plain_score(members, weights, conf_type, overflow):
    """Score of a WBF cluster, formula by formula."""
    conf = sum(m[1] for m in members)
    inside = {m[3] for m in members}
    if conf_type == "votes":
        best = [max(m[1] for m in members if m[3] == s) for s in inside]
        return sum(best) / weights.sum()
    if conf_type == "avg":
        times = len(members) if overflow else min((weights > 0).sum(), len(members))
        return conf / len(members) * times / weights.sum()
    if conf_type == "max":
        return max(m[1] for m in members) / weights.max()
    of_boxes = sum(m[2] for m in members)
    of_models = sum(weights[s] for s in inside)
    if conf_type == "box_and_model_avg":
        return conf / of_boxes * of_models / weights.sum()
    return conf / (of_boxes + weights.sum() - of_models)


def _plain_soft(members, iou, sigma, skip, soft):
    left = [[box, score] for box, score, _, _ in members]
    found, margin = [], 1.0
    while left:
        k = int(np.argmax([score for _, score in left]))
        ordered = sorted((score for _, score in left), reverse=True)
        if len(ordered) > 1 and ordered[1] > skip:
            margin = min(margin, (ordered[0] - ordered[1]) * 1e4)
        box, score = left.pop(k)
        margin = min(margin, abs(score - skip) * 1e3)
        if not score > skip:
            break
        found.append((box, score))
        for other in left:
            value = overlap(box, other[0])
            if soft == "linear":
                margin = min(margin, abs(value - iou))
                other[1] *= 1 - value if value > iou else 1
            else:
                other[1] *= np.exp(-value * value / sigma)
    return found, margin


def image_of(fused: Fused, i):
    """(boxes, scores, labels) of image i."""
    span = slice(fused.offsets[i], fused.offsets[i + 1])
    return fused.boxes_xyxy[span], fused.scores[span], fused.labels[span]


def assert_same(found, expected, size):
    """The same number of boxes, each with its partner within the tolerances, one to one."""
    assert len(found[1]) == len(expected[1]), f"{len(found[1])} boxes, expected {len(expected[1])}"
    scale = np.tile(np.asarray(size, float), 2)
    for label in np.unique(expected[2]):
        a, b = found[2] == label, expected[2] == label
        assert a.sum() == b.sum(), f"label {label}"
        boxes = np.abs((found[0][a] / scale)[:, None] - (expected[0][b] / scale)[None]).max(2)
        scores = np.abs(found[1][a].astype(float)[:, None] - expected[1][b][None])
        cost = np.maximum(boxes / BOX_TOLERANCE, scores / SCORE_TOLERANCE)
        partner = cost.argmin(1)
        worst = cost.min(1).max()
        assert worst <= 1, f"label {label}: {worst:.3g} times the tolerance"
        assert len(set(partner)) == len(partner), f"label {label}: two boxes for one"
