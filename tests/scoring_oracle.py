"""The metrics again, in plain Python, straight from their definitions; slow, and sharing no code.

Boxes are tuples (x1, y1, x2, y2); found: a list an image of (label, score, box); truth: a list an
image of (label, box).
"""

from itertools import pairwise

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (area(a) + area(b) - width * height)


def count_image(found, truth, threshold):
    """TP, FP, FN of one image: by score, each box takes the best free truth of its label."""
    free = list(range(len(truth)))
    true = 0
    for label, _, box in sorted(found, key=lambda f: -f[1]):
        fits = [g for g in free if truth[g][0] == label and iou(box, truth[g][1]) >= threshold]
        if fits:
            free.remove(max(fits, key=lambda g: iou(box, truth[g][1])))
            true += 1
    return true, len(found) - true, len(truth) - true


def wheat(found, truth, thresholds):
    """As Kaggle's pages of Global Wheat and RSNA say it."""
    images = []
    for mine, real in zip(found, truth, strict=True):
        if not mine and not real:
            continue
        counts = [count_image(mine, real, threshold) for threshold in thresholds]
        images.append(sum(tp / (tp + fp + fn) for tp, fp, fn in counts) / len(thresholds))
    return sum(images) / len(images)


def f_beta(found, truth, thresholds, beta):
    """As the page of the Great Barrier Reef says it, through precision and recall."""
    values = []
    for threshold in thresholds:
        counts = [count_image(mine, real, threshold) for mine, real in zip(found, truth, strict=True)]
        tp, fp, fn = (sum(column) for column in zip(*counts, strict=True))
        precision, recall = tp / (tp + fp) if tp else 0.0, tp / (tp + fn) if tp else 0.0
        below = beta**2 * precision + recall
        values.append((1 + beta**2) * precision * recall / below if below else 0.0)
    return sum(values) / len(values)


def voc_ap(found, truth, threshold, strict, label):
    """Area below the falling precision curve of one label; None without truth."""
    total = sum(name == label for real in truth for name, _ in real)
    if not total:
        return None
    mine = [(s, i, b) for i, image in enumerate(found) for name, s, b in image if name == label]
    taken = set()
    points = []
    hits = 0
    for n, (_, i, box) in enumerate(sorted(mine, key=lambda row: -row[0]), start=1):
        overlaps = [(iou(box, b), -g) for g, (name, b) in enumerate(truth[i]) if name == label]
        best, place = max(overlaps, default=(0.0, 0))
        enough = best > threshold if strict else best >= threshold
        if overlaps and enough and (i, place) not in taken:
            taken.add((i, place))
            hits += 1
        points.append((hits / total, hits / n))
    recalls = sorted({recall for recall, _ in points} | {0.0})
    steps = pairwise(recalls)
    return sum((b - a) * max(p for r, p in points if r >= b) for a, b in steps)


def coco(found, truth, crowd, n_classes, limit=100):
    """(IoU, class) AP by pycocotools; -1 without truth. crowd: a list an image of bools."""
    return _pycocotools(found, truth, crowd, n_classes, limit)[:, :, 0]


def coco_sizes(found, truth, crowd, n_classes, limit=100):
    """(size, class) AP at IoU 0.5 of small, medium and large boxes by pycocotools; -1 without truth."""
    return _pycocotools(found, truth, crowd, n_classes, limit)[0, :, 1:].T


def _pycocotools(found, truth, crowd, n_classes, limit):
    """(IoU, class, area range) AP; the ranges are all, small, medium, large."""
    dataset = {
        "images": [{"id": i} for i in range(len(found))],
        "categories": [{"id": c} for c in range(n_classes)],
        "annotations": [],
    }
    for i, (real, flags) in enumerate(zip(truth, crowd, strict=True)):
        for (label, box), flag in zip(real, flags, strict=True):
            x1, y1, x2, y2 = box
            dataset["annotations"].append(
                {
                    "id": len(dataset["annotations"]) + 1,
                    "image_id": i,
                    "category_id": label,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area(box),
                    "iscrowd": int(flag),
                }
            )
    gt = COCO()
    gt.dataset = dataset
    gt.createIndex()
    results = [
        {"image_id": i, "category_id": label, "score": score, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, image in enumerate(found)
        for label, score, (x1, y1, x2, y2) in image
    ]
    if results:
        dt = gt.loadRes(results)
    else:
        dt = COCO()
        dt.dataset = dataset | {"annotations": []}
        dt.createIndex()
    run = COCOeval(gt, dt, "bbox")
    run.params.maxDets = [limit]  # it sorts them: of several, the last one would be the largest
    run.evaluate()
    run.accumulate()
    return run.eval["precision"][:, :, :, :, -1].mean(axis=1)
