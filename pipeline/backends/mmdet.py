"""MMDetection's detectors through mmengine's runner.

Configs are the framework's own, in a short form (`mmdet_files`), with three plain variables, `image_size`,
`epochs` and `batch`, that a run may override; see `mmdet_config` for what is honoured.
"""

import functools
import json
from pathlib import Path
from typing import Any

import torch

from pipeline.backends import mmcv_ext, mmdet_imports

KERNELS = mmcv_ext.install()  # before anything imports mmcv
mmdet_imports.install()

import mmdet
import mmengine
from mmengine.config import Config
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.registry import init_default_scope
from mmengine.runner import checkpoint

from pipeline.backends import mmdet_config, mmdet_runner
from pipeline.backends.mmdet_detector import MMDetector
from pipeline.backends.mmdet_masks import wants_masks
from pipeline.backends.mmdet_types import check_types, dicts
from pipeline.data.models import ModelConfig, Overrides
from pipeline.errors import PipelineError
from pipeline.inference.detector import Detector
from pipeline.paths import shown
from pipeline.training.backend import Backend, Resolved, SavedModel, WantedWeights
from pipeline.training.job import TrainJob
from pipeline.training.plain_data import from_data, to_data
from pipeline.training.pretrained import GivenWeights, given_weights
from pipeline.training.safe_load import load_tensors, numpy_classes
from pipeline.training.session import Session
from pipeline.training.staging import write_coco
from pipeline.training.weights import fetch

SAVED = ("model", "test_pipeline", "image_size", "amp")  # what building the detector takes


def _history_method(owner: Any, name: str) -> Any:
    """What mmengine's log history asks of `getattr`, and no more."""
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(owner, name)
    raise PipelineError(f"getattr of {owner!r}.{name} refused")


def load_weights(file: Any, map_location: Any = "cpu", weights_only: bool = True) -> Any:
    """A checkpoint of mmengine's from plain tensors and its log history, whatever the caller asked."""
    return load_tensors(
        file, map_location, [HistoryBuffer, (_history_method, "builtins.getattr"), *numpy_classes()]
    )


# mmengine falls back to full unpickling, which runs whatever a file says, and its own list of classes holds
# `getattr`: every loader, downloads included, is to use ours.
checkpoint._safe_torch_load = load_weights
checkpoint.load_url = functools.partial(torch.hub.load_state_dict_from_url, weights_only=True)


class MMDetection(Backend):
    """See the module."""

    def versions(self) -> dict[str, str]:
        own = {"mmdet": mmdet.__version__, "mmengine": mmengine.__version__}
        return own | {"torch": torch.__version__, "mmcv kernels": KERNELS}

    def resolve(self, model: ModelConfig, overrides: Overrides) -> Resolved:
        cfg = mmdet_config.configured(model, overrides)
        values = json.loads(json.dumps(cfg.to_dict(), default=str))
        largest = mmdet_config.largest_input(cfg)
        masks = wants_masks(cfg)
        return Resolved(values, cfg.epochs, cfg.image_size, cfg.batch, largest, cfg.resources, masks)

    def stage(self, job: TrainJob) -> None:
        write_coco(job)

    def wanted_weights(self, job: TrainJob) -> WantedWeights:
        cfg = mmdet_config.configured(job.model, job.overrides)
        parts = [init["checkpoint"] for _, init in mmdet_config.pretrained_parts(cfg)]
        return WantedWeights(cfg.get("load_from"), parts)

    def download(self, wanted: str) -> str:
        if wanted.startswith("https://"):
            return fetch(wanted)
        checkpoint.CheckpointLoader.load_checkpoint(wanted, "cpu", "silent")  # fills the cache
        return wanted

    def fit(self, job: TrainJob, session: Session) -> None:
        init_default_scope("mmdet")
        if last := session.last():
            session.resume(self.read_checkpoint(last), "meta", "state_dict", "optimizer")
        cfg = mmdet_runner.runner_config(job, last)
        session.patience = cfg.get("patience")
        if not session.ends_early:
            mmdet_runner.run(cfg, session)

    def saved_config(self, job: TrainJob) -> dict[str, Any]:
        cfg = _buildable(job.model, job.overrides, len(job.classes))
        saved = to_data({key: cfg[key] for key in SAVED})
        return saved | {"trained_with": self.resolve(job.model, job.overrides).values}

    def load(self, model: SavedModel, device: str) -> MMDetector:
        init_default_scope("mmdet")
        mmdet_config.import_modules_of(model.name)
        values = from_data({key: model.config[key] for key in SAVED})
        check_types(values, f"{shown(model.checkpoint.parent)}: its config")
        return MMDetector.build(Config(values), device, self.read_weights(model.checkpoint))

    def untrained(self, model: ModelConfig, overrides: Overrides, n_classes: int, device: str) -> Detector:
        init_default_scope("mmdet")
        return MMDetector.build(_buildable(model, overrides, n_classes), device)

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        return load_weights(path)

    def read_detector(self, path: Path) -> GivenWeights:
        checkpoint = self.read_checkpoint(path)
        meta = checkpoint.get("meta") or {}
        classes = (meta.get("dataset_meta") or {}).get("classes") or meta.get("CLASSES") or ()
        return given_weights(checkpoint.get("state_dict", checkpoint), classes)

    def exported(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        return {key: checkpoint[key] for key in ("meta", "state_dict")}


def _buildable(model: ModelConfig, overrides: Overrides, n_classes: int) -> Config:
    """A config for so many classes that names no pretrained weights."""
    cfg = mmdet_config.for_classes(model, overrides, n_classes)
    for part in dicts(cfg.model):
        part.pop("init_cfg", None)
    return cfg
