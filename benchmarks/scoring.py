"""Scoring beside its peers: `python -m benchmarks.scoring [--rounds R] [--images N]`.

One run, alternating, warm kernels; the best round counts, by the clock, all threads for everyone
(pycocotools and faster-coco-eval use one). mAP50 of a seeded out-of-fold set: peers get the truth
made ready (their COCO object, index and all), the boxes as an array, and are asked for one IoU, one
area range and 100 boxes an image and class only. Ours has its truth grouped, and checks all boxes.
A search point is fusing ten sets at skip 0.05 and scoring the result; ensemble-boxes goes through N
photos, scaled to all.
"""

import argparse
import contextlib
import importlib
import io
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.workload import (
    N_CLASSES,
    N_SOURCES,
    SIDE,
    Scoring,
    Workload,
    fusion_workload,
    scoring_workload,
)
from pipeline.boxes import Boxes
from pipeline.data.metric import MetricSpec, parse_metric
from pipeline.fusion import fuse, pack
from pipeline.kernels.threads import thread_count
from pipeline.scoring.bootstrap import compare, resampled
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import Truth, group_truth

MAP50 = MetricSpec("map50")
SKIP, IOU = 0.05, 0.55
EVALUATORS = (
    ("pycocotools", "pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
    ("faster-coco-eval", "faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    ("hotcoco", "hotcoco", "hotcoco", "COCOeval"),
    ("ultrafast-pycocotools", "ultrafast_pycocotools", "ultrafast_pycocotools", "COCOeval"),
)


def grouped(image: NDArray[Any], boxes: NDArray[Any], labels: NDArray[Any], n_images: int) -> Truth:
    annotations = pd.DataFrame({"image_id": image, "label": labels, "iscrowd": 0})
    annotations[["x1", "y1", "x2", "y2"]] = boxes
    images = pd.DataFrame({"image_id": np.arange(n_images), "width": SIDE, "height": SIDE})
    return group_truth(annotations, images, np.arange(n_images, dtype=np.int32), N_CLASSES)


def coco_json(truth: Truth) -> dict[str, Any]:
    rows = truth.rows
    image = np.repeat(truth.image_ids, np.diff(rows.offsets)).tolist()
    labels, boxes = rows.labels.tolist(), rows.boxes_xywh.tolist()
    return {
        "images": [{"id": i, "width": SIDE, "height": SIDE} for i in truth.image_ids.tolist()],
        "categories": [{"id": c, "name": str(c)} for c in range(N_CLASSES)],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for k, (i, c, box) in enumerate(zip(image, labels, boxes, strict=True), start=1)
        ],
    }


def as_results(image: NDArray[Any], boxes: Any) -> NDArray[np.float64]:
    """(n, 7) image, x, y, w, h, score, label, as every evaluator here loads it."""
    corners = boxes.boxes_xyxy.astype(np.float64)
    return np.column_stack(
        [image, corners[:, :2], corners[:, 2:] - corners[:, :2], boxes.scores, boxes.labels]
    )


def peer(name: str, truth_json: dict[str, Any]) -> Callable[[NDArray[np.float64]], float] | None:
    """A call that loads results and gives their mAP50, or None where the peer is not installed."""
    _, coco_module, eval_module, eval_name = next(row for row in EVALUATORS if row[0] == name)
    try:
        coco_class = importlib.import_module(coco_module).COCO
        evaluator = getattr(importlib.import_module(eval_module), eval_name)
    except ImportError:
        return None
    with contextlib.redirect_stdout(io.StringIO()):
        if name == "hotcoco":
            truth = coco_class(truth_json)
        else:
            truth = coco_class()
            truth.dataset = truth_json
            truth.createIndex()

    def call(results: NDArray[np.float64]) -> float:
        with contextlib.redirect_stdout(io.StringIO()):
            run = evaluator(truth, truth.loadRes(results), "bbox")
            run.params.iouThrs = np.array([0.5])
            run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]
            run.params.maxDets = [100]
            run.evaluate()
            run.accumulate()
        precision = np.asarray(run.eval["precision"])
        return float(precision[precision > -1].mean())

    return call


def clocked(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def bench_map50(work: Scoring, rounds: int) -> None:
    truth = grouped(work.truth_image, work.truth_xyxy, work.truth_labels, work.n_images)
    offsets = np.searchsorted(work.image, np.arange(work.n_images + 1))
    boxes = Boxes(boxes_xyxy=work.boxes_xyxy, scores=work.scores, labels=work.labels, offsets=offsets)
    results, truth_json = as_results(work.image, boxes), coco_json(truth)
    calls: dict[str, Callable[[], float]] = {
        "ours": lambda: score(boxes, truth, MAP50).value(),
        "ours, one thread": lambda: score(boxes, truth, MAP50, threads=1).value(),
    }
    for name, *_ in EVALUATORS:
        if (call := peer(name, truth_json)) is None:
            print(f"{name} is not installed, skipped")
        else:
            calls[name] = lambda call=call: call(results)  # type: ignore[misc]
    best = dict.fromkeys(calls, np.inf)
    values = {name: call() for name, call in calls.items()}  # warm
    for _ in range(rounds):
        for name, call in calls.items():
            best[name] = min(best[name], clocked(call)[0])
    print(
        f"mAP50 of {len(work.scores):,} boxes, {len(work.truth_labels):,} truths, {work.n_images:,} images:"
    )
    for name, seconds in best.items():
        ratio = "" if name.startswith("ours") else f"  ours is {seconds / best['ours']:5.1f} x as fast"
        print(f"  {name:22} {seconds * 1e3:8.1f} ms  {values[name]:.12f}{ratio}")
    for name in ("map50_95", "voc_ap", "wheat", "f2"):
        seconds = min(clocked(lambda: score(boxes, truth, parse_metric(name)).value())[0] for _ in range(3))  # noqa: B023
        print(f"  ours, {name:16} {seconds * 1e3:8.1f} ms")
    noisy = replace(boxes, boxes_xyxy=boxes.boxes_xyxy + np.float32(1))

    def paired() -> Any:
        scores = [score(b, truth, MAP50, checked=True) for b in (boxes, noisy)]
        values = [(one.value(), resampled(one, work.n_images)) for one in scores]
        return compare(*values[0], *values[1])

    seconds, _ = clocked(paired)
    print(
        f"1,000 paired bootstrap resamples of two such sets: {seconds:.2f} s on {thread_count(None)} threads"
    )


def bench_point(work: Workload, rounds: int, n_timed: int) -> None:
    n_images = len(work.offsets) - 1
    truth = grouped(work.truth_image, work.truth_xyxy, work.truth_labels, n_images)
    flat = (work.boxes_xyxy, work.scores, work.labels, work.source, work.offsets)
    packed = pack(*flat, n_sources=N_SOURCES, floor=SKIP)

    def ours() -> Any:
        return score(fuse(packed, iou=IOU, skip=SKIP, conf_type="avg"), truth, MAP50, checked=True).value()

    library = importlib.import_module("ensemble_boxes")
    chosen = np.linspace(0, n_images - 1, n_timed).astype(int)
    fused = fuse(packed, iou=IOU, skip=SKIP, conf_type="avg")
    results = as_results(fused.image_index(), fused)
    coco = peer("pycocotools", coco_json(truth))
    assert coco is not None
    value = ours()
    best = [np.inf, np.inf, np.inf]
    for _ in range(rounds):
        best[0] = min(best[0], clocked(ours)[0])
        best[1] = min(best[1], _ensemble_boxes(library, work, chosen) * n_images / n_timed)
        seconds, theirs = clocked(lambda: coco(results))
        best[2] = min(best[2], seconds)
    total = best[1] + best[2]
    print(
        f"\nA search point, ten sets of {len(work.scores):,} boxes fused at skip {SKIP} and scored:\n"
        f"  ours                          {best[0]:8.3f} s  {value:.12f}  {1 / best[0]:.1f} points a second\n"
        f"  ensemble-boxes + pycocotools  {total:8.3f} s  {theirs:.12f}  {1 / total:.4f} points a second "
        f"({best[1]:.1f} + {best[2]:.1f} s); ours is {total / best[0]:.0f} x as fast"
    )


def _ensemble_boxes(library: Any, work: Workload, images: NDArray[np.int64]) -> float:
    """Seconds that ensemble-boxes takes for these photos, from lists made ready."""
    ready = []
    for image in images:
        span = slice(work.offsets[image], work.offsets[image + 1])
        models = [work.source[span] == s for s in range(N_SOURCES)]
        columns = (work.boxes_xyxy[span] / np.float32(SIDE), work.scores[span], work.labels[span])
        ready.append([[column[m] for m in models] for column in columns])
    return clocked(
        lambda: [
            library.weighted_boxes_fusion(*lists, iou_thr=IOU, skip_box_thr=SKIP, conf_type="avg")
            for lists in ready
        ]
    )[0]


def main(argv: list[str] | None = None) -> None:
    """Print times, ratios and values."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best counts (3)")
    parser.add_argument("--images", type=int, default=100, help="photos ensemble-boxes is timed on (100)")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    bench_map50(scoring_workload(), arguments.rounds)
    bench_point(fusion_workload(), arguments.rounds, arguments.images)


if __name__ == "__main__":
    main()
