"""What MMDetection reads during a training: the config's own loader, over our files."""

from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.registry import TRANSFORMS
from mmengine.config import Config

from pipeline.backends import mmdet_config, mmdet_recipe
from pipeline.backends.mmdet_masks import choose_form, resized
from pipeline.errors import PipelineError
from pipeline.training.cache import PhotoCache
from pipeline.training.job import TrainJob
from pipeline.training.staging import data_folder, images_folder

# Set for a dataset that is read from our files, whatever a config says of it.
DATASET_OURS = ("ann_file", "data_root", "data_prefix", "metainfo", "filter_cfg", "test_mode", "backend_args")


def train_loader(cfg: Config, job: TrainJob, source: str) -> dict[str, Any]:
    """The config's own loader over our files; its dataset, samplers and wrappers stay."""
    loader: dict[str, Any] = dict(cfg.get("train_dataloader") or {})
    own = mmdet_recipe.mixing_dataset(cfg.train_pipeline, cfg.epochs, cfg.get("close", 0.0))
    outer = loader.setdefault("dataset", own)
    dataset = mmdet_config.innermost(outer)
    if (kind := dataset.get("type", "").rpartition(".")[2]) != "CocoDataset":
        raise PipelineError(f"{source}: train_dataloader: dataset '{kind}': expected CocoDataset")
    for key in DATASET_OURS:
        dataset.pop(key, None)
    # Photos without boxes teach what is background; the boxes were checked by the reader.
    dataset.update(filter_cfg=dict(filter_empty_gt=False, min_size=0), metainfo=dict(classes=job.classes))
    files = data_folder(job) / "train.json"
    dataset.update(ann_file=str(files), data_prefix=dict(img=f"{images_folder(job)}/"))
    choose_form(loader, job.train, source)
    if job.cache:
        _take_kept(loader, job.cache, source)
    if cfg.get("sampling") == "balanced" and "sampler" in loader:
        raise PipelineError(f"{source}: sampling balanced: its train_dataloader has a sampler of its own")
    loader.setdefault("sampler", dict(type="DefaultSampler", shuffle=True))
    loader.setdefault("batch_sampler", dict(type="AspectRatioBatchSampler", drop_last=False))
    return loader | dict(batch_size=cfg.batch, num_workers=job.workers, persistent_workers=job.workers > 0)


def _take_kept(loader: dict[str, Any], cache: PhotoCache, source: str) -> None:
    """Let a loader read photos from a cache wherever it reads them."""
    LoadKeptPhoto.cache = cache
    for step in mmdet_config.dicts(loader):
        if str(step.get("type", "")).rpartition(".")[2] == "LoadImageFromFile":
            if others := set(step) - {"type", "to_float32", "backend_args"}:
                raise PipelineError(f"{source}: LoadImageFromFile: {min(others)}: not with CACHE=")
            step["type"] = "LoadKeptPhoto"


@TRANSFORMS.register_module()
class LoadKeptPhoto(LoadImageFromFile):  # type: ignore[misc]
    """Loads a photo from the training's cache; boxes follow one that is smaller there than its file."""

    cache: PhotoCache

    def __init__(self, to_float32: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.as_floats = to_float32

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        path = results["img_path"]
        plain = super().transform
        image = self.cache.read(Path(path).name, lambda: plain({"img_path": path})["img"])
        height, width = image.shape[:2]
        factors = np.array([width / results["width"], height / results["height"]] * 2)
        for instance in results["instances"]:
            instance["bbox"] = (instance["bbox"] * factors).tolist()
            if "mask" in instance:
                instance["mask"] = resized(instance["mask"], factors[:2], (width, height))
        size = {"img_shape": (height, width), "ori_shape": (height, width), "height": height, "width": width}
        return results | size | {"img": image.astype(np.float32) if self.as_floats else image}


def check_evaluators(cfg: Config, source: str) -> None:
    """Refuse evaluators that ask for something else than mAP of boxes as pycocotools counts it."""
    stated = cfg.get("val_evaluator") or []
    for evaluator in stated if isinstance(stated, (list, tuple)) else [stated]:
        kind, metrics = evaluator.get("type", "").rpartition(".")[2], evaluator.get("metric", "bbox")
        if kind != "CocoMetric" or "bbox" not in ([metrics] if isinstance(metrics, str) else metrics):
            raise PipelineError(f"{source}: val_evaluator {kind} {metrics}: expected CocoMetric of bbox")
