"""COCO average precision of a prediction table, by pycocotools, the metric's own reference code."""

import contextlib
import io
from typing import Any

import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipeline.boxes import xyxy_to_xywh
from pipeline.data.predictions import Predictions
from pipeline.errors import PipelineError
from pipeline.scoring.truth import no_truth

MAX_DETECTIONS = 100  # per photo and class, COCO's limit


def _truth(annotations: pd.DataFrame, image_ids: list[int], n_classes: int) -> COCO:
    """Truth as pycocotools holds it. Ids start at 1: it counts an annotation with id 0 as missed."""
    boxes = xyxy_to_xywh(annotations[["x1", "y1", "x2", "y2"]].to_numpy(np.float64))
    columns = (annotations["image_id"], annotations["label"], annotations["iscrowd"], boxes.tolist())
    coco = COCO()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in image_ids],
        "categories": [{"id": label} for label in range(n_classes)],
        "annotations": [
            {
                "id": i,
                "image_id": int(image_id),
                "category_id": int(label),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(crowd),
            }
            for i, (image_id, label, crowd, box) in enumerate(zip(*columns, strict=True), start=1)
        ],
    }
    coco.createIndex()
    return coco


def evaluate(predictions: Predictions, annotations: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, Any]:
    """Score a table on the images that it predicted.

    Returns map50 and map50_95 (averaged over the classes that have truth on these images, 101 recall
    points, 100 detections per photo and class), ap50 of each class (None without truth), and the
    counts of images, truths and boxes. Source: cocodataset.org, "Detection Evaluation".
    """
    image_ids = predictions.meta.image_ids.tolist()
    known = annotations["image_id"].isin(predictions.meta.image_ids)
    truth = annotations[known]
    if (truth["iscrowd"] != 0).all():  # also when there is none
        raise PipelineError(f"{predictions.name}: {no_truth(len(image_ids), len(truth))}")
    boxes = xyxy_to_xywh(predictions.boxes_xyxy.astype(np.float64))
    rows = np.column_stack([predictions.image_id, boxes, predictions.scores, predictions.labels]).astype(
        np.float64
    )
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        coco = _truth(truth, image_ids, len(classes))
        if len(rows):
            results = coco.loadRes(rows)
        else:
            results = COCO()
            results.dataset = coco.dataset | {"annotations": []}
            results.createIndex()
        run = COCOeval(coco, results, "bbox")
        run.params.imgIds = image_ids
        run.params.maxDets = [1, 10, MAX_DETECTIONS]
        run.params.areaRng, run.params.areaRngLbl = run.params.areaRng[:1], ["all"]  # a quarter of the work
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all sizes
    ap = np.where(precision[:, :1] > -1, precision, np.nan).mean(axis=1)  # (IoU, class)
    per_class = {
        name: None if np.isnan(ap[0, c]) else round(float(ap[0, c]), 5) for c, name in enumerate(classes)
    }
    return {
        "map50": round(float(np.nanmean(ap[0])), 5),
        "map50_95": round(float(np.nanmean(ap)), 5),
        "ap50": per_class,
        "images": len(image_ids),
        "truths": len(truth),
        "boxes": len(predictions),
    }
