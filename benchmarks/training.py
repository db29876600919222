"""Training and prediction beside the frameworks' own: `make bench-train BENCH="--photos 64 --rounds 3"`.

Training: images a second of `make train` and of the framework's plain command on the same photos and the
same config, each in a process of its own, alternating; from the first step to the last epoch's score, so
that checkpoints and validation count and imports do not. Prediction: images a second of our k views and of
the framework's own test-time augmentation with the same views, decoding, boxes and merging of views by
each as it does it, at the best of the framework's batch sizes, and on all cores, of which ultralytics by
itself leaves one out. The best round of each counts.
"""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import cli, folds
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model
from pipeline.data.predictions import Meta, Predictions, make_predictions
from pipeline.data.profile import load_profile
from pipeline.ensembles.tables import Fusion, fuse_same_images
from pipeline.inference.boxes import PhotoBoxes
from pipeline.inference.detector import Detector
from pipeline.inference.views import predict_views
from pipeline.paths import PROJECT
from pipeline.training.backend import load_backend, load_detector
from pipeline.training.fold import Devices, Plan, plan_fold
from pipeline.training.job import TrainJob
from pipeline.training.staging import stage
from pipeline.views import parse_views

OVERRIDES = {
    "faster_rcnn_tiny": Overrides(image_size=192, batch=8),
    "yolov5n": Overrides(image_size=192, batch=8, options={"pretrained": False}),
}
# The framework's own augmentation has these views: mmdet's flip, ultralytics' scales and flip.
VIEWS = {"faster_rcnn_tiny": "identity,hflip", "yolov5n": "identity,hflip+scale0.83,scale0.67"}
BATCHES = (1, 4, 8, 16)


def plan_of(model: str, epochs: int, device: str) -> Plan:
    overrides = replace(OVERRIDES[model], epochs=epochs)
    return plan_fold(load_profile("demo"), find_model(model), 0, overrides, Devices(device))


def ours(job: TrainJob) -> float:
    """Seconds of our command; it starts from nothing each time."""
    overrides = job.overrides
    options = [f"{key}={json.dumps(value)}" for key, value in overrides.options.items()]
    command = [
        sys.executable,
        "-m",
        "pipeline.train",
        "--competition",
        "demo",
        "--model",
        job.model.name,
        "--fold",
        "0",
        "--epochs",
        str(overrides.epochs),
        "--image-size",
        str(overrides.image_size),
        "--batch",
        str(overrides.batch),
        "--device",
        job.device,
        "--overwrite",
        *(["--set", *options] if options else []),
    ]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open(job.run / "history.csv", newline="") as file:
        return float(list(csv.DictReader(file))[-1]["seconds"])


def plain(job: TrainJob, folder: Path) -> float:
    """Seconds of the framework's own command with what our backend hands to it."""
    lay_out(job)
    if job.model.backend == "mmdet":
        from pipeline.backends.mmdet_runner import runner_config

        cfg = runner_config(job)
        cfg.train_cfg.type = "EpochBasedTrainLoop"
        cfg.train_dataloader.pop("worker_init_fn")
        cfg.train_dataloader.persistent_workers = job.workers > 0
        cfg.default_hooks.checkpoint = dict(
            type="CheckpointHook", interval=1, max_keep_ckpts=2, save_best="coco/bbox_mAP_50"
        )
        cfg.work_dir = str(folder / "plain")
        path = folder / "plain.py"
        cfg.dump(path)
    else:
        arguments = {
            "model": "yolov5n.yaml",
            "data": str(job.work / "data" / "data.yaml"),
            "epochs": job.overrides.epochs,
            "plots": False,
            "imgsz": job.overrides.image_size,
            "batch": job.overrides.batch,
            "device": job.device,
            "workers": job.workers,
            "project": str(folder),
            "name": "plain",
            "exist_ok": True,
            "save_dir": str(folder / "plain"),
            "val": True,
            "seed": 0,
            **job.overrides.options,
        }
        path = folder / "plain.json"
        path.write_text(json.dumps(arguments))
    command = [sys.executable, "-m", "benchmarks.plain", job.model.backend, str(path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def lay_out(job: TrainJob) -> None:
    """What a framework is given by a training of ours: photos and annotations."""
    job.work.mkdir(parents=True, exist_ok=True)
    stage(job)
    load_backend(job.model.backend).stage(job)


def bench_training(model: str, epochs: int, rounds: int, device: str, folder: Path) -> None:
    job = plan_of(model, epochs, device).job
    photos = epochs * len(job.train.photos)
    best = {"plain": 1e9, "ours": 1e9}
    for _ in range(rounds):
        best["plain"] = min(best["plain"], plain(job, folder))
        best["ours"] = min(best["ours"], ours(job))
    show(f"train {model}", f"plain {job.model.backend}", photos, best["plain"], best["ours"])


def show(what: str, peer: str, photos: int, theirs: float, mine: float) -> None:
    print(
        f"{what:<48} {peer} {photos / theirs:7.1f} images/s   ours {photos / mine:7.1f} images/s   "
        f"ratio {theirs / mine:.2f}",
        flush=True,
    )


def mmdet_tta(job: TrainJob, ours_trained: Any, batch: int) -> Callable[[], int]:
    """mmdet's DetTTAModel over its own data loader: the photo and its mirror image, merged by NMS."""
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    init_default_scope("mmdet")
    detector = ours_trained.model
    merge = ConfigDict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=300)
    model = MODELS.build(dict(type="DetTTAModel", module=detector.to(job.device), tta_cfg=merge)).eval()
    size = ours_trained.image_size
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(
            type="TestTimeAug",
            transforms=[
                [dict(type="Resize", scale=(size, size), keep_ratio=True)],
                [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
                [dict(type="PackDetInputs", meta_keys=keys)],
            ],
        ),
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools
        loader = Runner.build_dataloader(
            dict(
                batch_size=batch,
                num_workers=job.workers,
                sampler=dict(type="DefaultSampler", shuffle=False),
                dataset=dict(
                    type="CocoDataset",
                    ann_file=str(job.work / "data/train.json"),
                    test_mode=True,
                    data_prefix=dict(img=f"{job.work / 'data/images/train'}/"),
                    pipeline=pipeline,
                    metainfo=dict(classes=job.classes),
                ),
            )
        )

    @torch.inference_mode()
    def run() -> int:
        with torch.autocast("cuda", enabled=job.device != "cpu"):
            return sum(len(model.test_step(data)) for data in loader)

    return run


def ultralytics_tta(job: TrainJob, ours_trained: Any, batch: int) -> Callable[[], int]:
    """ultralytics' `augment=True`: the photo, its mirror image at 0.83 and itself at 0.67."""
    from ultralytics import YOLO

    model = YOLO(str(job.run / "best.pt"))
    options = {
        "imgsz": job.overrides.image_size,
        "augment": True,
        "conf": 0.001,
        "iou": 0.7,
        "max_det": 300,
        "verbose": False,
        "device": job.device,
        "quantize": 16 if job.device != "cpu" else None,
    }

    def run() -> int:
        folder = str(job.work / "data/images/train")
        return sum(1 for _ in model.predict(folder, stream=True, batch=batch, **options))

    return run


def ours_tta(job: TrainJob, detector: Detector, views: str) -> Callable[[], int]:
    """Our views over the same photos, and their fusion."""
    chosen = parse_views(views.split(","))
    images = job.train.images
    ids = images["image_id"].to_numpy(np.int32)

    def table(boxes: PhotoBoxes, view: str) -> Predictions:
        meta = Meta("demo", "test", "", ids, np.zeros(len(ids), np.int32), "m", view, {})
        columns = boxes.labels, boxes.scores, boxes.boxes_xyxy
        return make_predictions(ids[boxes.photo], *columns, meta, images)[0]

    def run() -> int:
        found = predict_views(detector, job.train.photos, chosen)
        fused = fuse_same_images([table(found[view.name], view.name) for view in chosen], Fusion())
        return len(fused.meta.image_ids)

    return run


def bench_prediction(model: str, rounds: int, device: str) -> None:
    plan = plan_of(model, 1, device)
    job = plan.job
    ours(job)
    lay_out(job)
    detector = load_detector(plan.run, device)
    peer = mmdet_tta if job.model.backend == "mmdet" else ultralytics_tta
    contestants: dict[str, Callable[[], int]] = {f"batch {b}": peer(job, detector, b) for b in BATCHES}
    contestants["ours"] = ours_tta(job, detector, VIEWS[model])
    views, count = len(VIEWS[model].split(",")), len(job.train.photos)
    clocks = {"clock": time.perf_counter, "processor": time.process_time}
    seconds = {clock: dict.fromkeys(contestants, 1e9) for clock in clocks}
    for _ in range(rounds + 1):  # the first warms up
        for name, run in contestants.items():
            began = {clock: read() for clock, read in clocks.items()}
            assert run() == count
            for clock, read in clocks.items():
                seconds[clock][name] = min(seconds[clock][name], read() - began[clock])
    for clock, of in seconds.items():
        mine = of.pop("ours")
        best = min(of, key=lambda name: of[name])
        show(f"predict {model}, {views} views, by the {clock}", f"its own, {best},", count, of[best], mine)


def main() -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--photos", type=int, default=128, help="of which half are trained on")
    arguments.add_argument("--size", type=int, default=512, help="side of a photo in pixels")
    arguments.add_argument("--epochs", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=2)
    cli.add_list(arguments, "--model", "--models", allowed=list(OVERRIDES), default=list(OVERRIDES))
    cli.add_list(arguments, "--bench", allowed=["train", "predict"], default=["train", "predict"])
    options = arguments.parse_args()
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as home:
        os.environ |= {"PIPELINE_HOME": home, "PIPELINE_WEIGHTS": home}
        demo.generate(Path(home) / "data" / "demo", n_train=options.photos, n_test=2, size=options.size)
        folds.main(["--competition", "demo", "--k", "2"])
        print(
            f"{device}, {torch.get_num_threads()} threads, {options.photos} photos of {options.size} pixels"
        )
        for model in options.model:
            if "train" in options.bench:
                bench_training(model, options.epochs, options.rounds, device, Path(home))
            if "predict" in options.bench:
                bench_prediction(model, options.rounds, device)


if __name__ == "__main__":
    cli.run(main)
