"""The frameworks' own commands over the photos of a training of ours: training, and test-time augmentation.

Weights that a config names are not looked for: both sides start from scratch, on any machine. torchvision
has no command of its own.
"""

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pipeline.training.backend import load_backend
from pipeline.training.job import TrainJob
from pipeline.training.staging import data_folder, stage

# Views by their number. The frameworks' own augmentation has those in OWN_VIEWS.
VIEWS = {
    1: "identity",
    2: "identity,hflip",
    3: "identity,hflip+scale0.83,scale0.67",
    8: "identity,hflip,scale0.75,hflip+scale0.75,scale0.875,hflip+scale0.875,scale1.25,hflip+scale1.25",
}
OWN_VIEWS = {"mmdet": (1, 2, 8), "ultralytics": (1, 3), "torchvision": ()}
SCALES = {1: (1.0,), 2: (1.0,), 8: (1.0, 0.75, 0.875, 1.25)}  # of MMDetection's views, each with its mirror


def lay_out(job: TrainJob) -> None:
    """What a framework reads: the photos that are trained on in its own layout, and the held-out ones."""
    for part in (job, _held_out(job)):
        part.work.mkdir(parents=True, exist_ok=True)
        stage(part)
        load_backend(part.model.backend).stage(part)


def _held_out(job: TrainJob) -> TrainJob:
    """The held-out photos, laid out as if a training were given those."""
    return replace(job, run=job.run / "held_out", train=job.held_out)


def training(job: TrainJob, folder: Path) -> list[str] | None:
    """The framework's own training command, whose last line of output is {"seconds": ...}.

    The photos are laid out already; files go into `folder`. None where the framework has no such command.
    """
    if job.model.backend == "torchvision":
        return None
    write = _mmdet_config if job.model.backend == "mmdet" else _ultralytics_arguments
    device = job.device.partition(":")[0]
    return [sys.executable, "-m", "benchmarks.plain", job.model.backend, str(write(job, folder)), device]


def _mmdet_config(job: TrainJob, folder: Path) -> Path:
    from pipeline.backends.mmdet_runner import runner_config

    cfg = runner_config(job)
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=cfg.epochs, val_interval=cfg.val_interval)
    cfg.train_dataloader.pop("worker_init_fn", None)
    cfg.train_dataloader.persistent_workers = job.workers > 0
    best = dict(save_best="coco/bbox_mAP_50")
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=2, **best)
    cfg.val_cfg = dict(type="ValLoop")
    cfg.val_dataloader = dict(
        batch_size=max(cfg.batch // 2, 1),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=_dataset(_held_out(job), cfg.test_pipeline),
    )
    annotations = str(data_folder(_held_out(job)) / "train.json")
    cfg.val_evaluator = dict(type="CocoMetric", ann_file=annotations, metric="bbox")
    cfg.work_dir = str(folder / "plain")
    cfg.dump(folder / "plain.py")
    return folder / "plain.py"


def _dataset(job: TrainJob, pipeline: Any) -> dict[str, Any]:
    """The photos of a job's train part, for testing."""
    data = data_folder(job)
    return dict(
        type="CocoDataset",
        ann_file=str(data / "train.json"),
        test_mode=True,
        data_prefix=dict(img=f"{data / 'images/train'}/"),
        pipeline=pipeline,
        metainfo=dict(classes=job.classes),
    )


def _ultralytics_arguments(job: TrainJob, folder: Path) -> Path:
    data, held_out = data_folder(job), data_folder(_held_out(job))
    content = yaml.safe_load((data / "data.yaml").read_text())
    content |= {"path": str(data), "train": str(data / "images/train"), "val": str(held_out / "images/train")}
    (folder / "plain.yaml").write_text(yaml.safe_dump(content))
    resolved = load_backend("ultralytics").resolve(job.model, job.overrides)
    arguments = resolved.values["train"] | {
        "model": resolved.values["model"],
        "pretrained": False,
        "data": str(folder / "plain.yaml"),
        "epochs": resolved.epochs,
        "imgsz": resolved.image_size,
        "batch": resolved.batch,
        "device": job.device.removeprefix("cuda:"),
        "workers": job.workers,
        "plots": False,
        "project": str(folder),
        "name": "plain",
        "exist_ok": True,
        "save_dir": str(folder / "plain"),
        "val": True,
        "seed": job.seed,
    }
    (folder / "plain.json").write_text(json.dumps(arguments))
    return folder / "plain.json"


def augmented(job: TrainJob, detector: Any, views: int, batch: int) -> Callable[[], int]:
    """The framework's own test-time augmentation with so many views over the photos that are trained on.

    detector: of a trained run of ours. What is returned predicts, and says on how many photos.
    """
    return {"mmdet": _mmdet, "ultralytics": _ultralytics}[job.model.backend](job, detector, views, batch)


def _mmdet(job: TrainJob, detector: Any, views: int, batch: int) -> Callable[[], int]:
    """As tools/test.py does it; with several views through mmdet's DetTTAModel, merged by NMS."""
    from mmdet.registry import MODELS
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    init_default_scope("mmdet")
    model = detector.model.to(job.device).eval()
    side = detector.image_size
    sizes = [round(side * scale) for scale in SCALES[views]]
    resizes = [dict(type="Resize", scale=(size, size), keep_ratio=True) for size in sizes]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    pack = dict(type="PackDetInputs", meta_keys=keys)
    steps = [resizes[0], dict(type="RandomFlip", prob=0.0), pack]
    if views > 1:
        merge = ConfigDict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=300)
        model = MODELS.build(dict(type="DetTTAModel", module=model, tta_cfg=merge)).eval()
        flips = [dict(type="RandomFlip", prob=probability) for probability in (0.0, 1.0)]
        steps = [dict(type="TestTimeAug", transforms=[resizes, flips, [pack]])]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools
        loader = Runner.build_dataloader(
            dict(
                batch_size=batch,
                num_workers=job.workers,
                sampler=dict(type="DefaultSampler", shuffle=False),
                dataset=_dataset(job, [dict(type="LoadImageFromFile"), *steps]),
            )
        )

    @torch.inference_mode()
    def run() -> int:
        with torch.autocast("cuda", enabled=job.device != "cpu"):
            return sum(len(model.test_step(data)) for data in loader)

    return run


def _ultralytics(job: TrainJob, detector: Any, views: int, batch: int) -> Callable[[], int]:
    """`yolo predict`; three views are its `augment=True`."""
    from ultralytics import YOLO

    model = YOLO(str(job.run / "best.pt"))
    options = {
        "imgsz": detector.image_size,
        "augment": views == 3,
        "conf": 0.001,
        "iou": 0.7,
        "max_det": 300,
        "verbose": False,
        "device": job.device,
        "quantize": 16 if job.device != "cpu" else None,
    }

    def run() -> int:
        folder = str(data_folder(job) / "images/train")
        return sum(1 for _ in model.predict(folder, stream=True, batch=batch, **options))

    return run
