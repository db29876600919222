"""MMDetection's detectors through mmengine's runner.

Configs are the framework's own (`_base_ = "mmdet::..."` reaches those it ships) with three plain variables,
`image_size`, `epochs` and `batch`, that a run may override; see `mmdet_config` for what is honoured.
"""

import contextlib
import copy
import functools
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from pipeline.backends import mmcv_ext

KERNELS = mmcv_ext.install()  # before anything imports mmcv

import mmdet
import mmengine

# It prints and warns that optional packages are missing.
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
    import mmdet.datasets
    import mmdet.models

from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.registry import init_default_scope
from mmengine.runner import checkpoint

from pipeline.backends import mmdet_config, mmdet_runner
from pipeline.backends.mmdet_config import dicts
from pipeline.data.models import ModelConfig, Overrides
from pipeline.errors import PipelineError
from pipeline.inference.detector import Detections, Detector, batch_on, has_half
from pipeline.inference.threads import sharing_weights
from pipeline.paths import shown
from pipeline.training.backend import Backend, Resolved, SavedModel, WantedWeights
from pipeline.training.job import TrainJob
from pipeline.training.plain_data import from_data, to_data
from pipeline.training.safe_load import load_tensors, numpy_classes
from pipeline.training.session import Session
from pipeline.training.staging import write_coco

SAVED = ("model", "test_pipeline", "image_size", "amp")  # what building the detector takes
PASSIVE = ("LoadImageFromFile", "LoadAnnotations", "PackDetInputs")  # test steps that leave pixels alone


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


def _secure() -> None:
    """Make every loader of mmengine use `load_weights`, downloads included: it falls back to full unpickling,
    which runs whatever a file says, and its own list of classes holds `getattr`."""
    checkpoint._safe_torch_load = load_weights
    checkpoint.load_url = functools.partial(torch.hub.load_state_dict_from_url, weights_only=True)


_secure()


class MMDetection(Backend):
    """See the module."""

    def versions(self) -> dict[str, str]:
        own = {"mmdet": mmdet.__version__, "mmengine": mmengine.__version__}
        return own | {"torch": torch.__version__, "mmcv kernels": KERNELS}

    def resolve(self, model: ModelConfig, overrides: Overrides) -> Resolved:
        cfg = mmdet_config.configured(model, overrides)
        values = json.loads(json.dumps(cfg.to_dict(), default=str))
        return Resolved(values, cfg.epochs, cfg.image_size, cfg.batch, cfg.resources)

    def stage(self, job: TrainJob) -> None:
        write_coco(job)

    def wanted_weights(self, job: TrainJob) -> WantedWeights:
        cfg = mmdet_config.configured(job.model, job.overrides)
        parts = [init["checkpoint"] for _, init in mmdet_config.pretrained_parts(cfg)]
        return WantedWeights(cfg.get("load_from"), parts)

    def download(self, wanted: str) -> str:
        checkpoint.CheckpointLoader.load_checkpoint(
            wanted, map_location="cpu", logger="silent"
        )  # fills the cache
        return wanted

    def fit(self, job: TrainJob, session: Session) -> None:
        init_default_scope("mmdet")
        if last := session.last():
            session.resume(self.read_checkpoint(last))
        cfg = mmdet_runner.runner_config(job, last)
        mmdet_runner.run(cfg, job, session)

    def saved_config(self, job: TrainJob) -> dict[str, Any]:
        cfg = _buildable(job.model, job.overrides, len(job.classes))
        saved = to_data({key: cfg[key] for key in SAVED})
        return saved | {"trained_with": self.resolve(job.model, job.overrides).values}

    def load(self, model: SavedModel, device: str) -> "MMDetector":
        init_default_scope("mmdet")
        mmdet_config.import_modules_of(model.name)
        values = from_data({key: model.config[key] for key in SAVED})
        mmdet_config.check_types(values, f"{shown(model.checkpoint.parent)}: its config")
        return MMDetector(Config(values), device, self.read_weights(model.checkpoint))

    def untrained(self, model: ModelConfig, overrides: Overrides, n_classes: int, device: str) -> Detector:
        init_default_scope("mmdet")
        return MMDetector(_buildable(model, overrides, n_classes), device)

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        return load_weights(path)

    def exported(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        return {key: checkpoint[key] for key in ("meta", "state_dict")}


def _buildable(model: ModelConfig, overrides: Overrides, n_classes: int) -> Config:
    """A config for so many classes, with our export limits and no pretrained weights."""
    cfg = mmdet_config.configured(model, overrides)
    mmdet_config.set_classes(cfg, n_classes)
    mmdet_config.set_export_limits(cfg)
    for part in dicts(cfg.model):
        part.pop("init_cfg", None)
    return cfg


class MMDetector(Detector):
    """A detector of MMDetection; its test pipeline's resizing and padding are read as data."""

    def __init__(self, cfg: Config, device: str, weights: Mapping[str, Tensor] | None = None) -> None:
        self.device, self.image_size = device, cfg.image_size
        self.batch = batch_on(device, cfg.image_size, 8)
        self.half = bool(cfg.amp) and has_half(device)
        self.resizing, self.padding = _test_steps(cfg.test_pipeline)
        values = self.padding.get("pad_val", 0)
        values = values.get("img", 0) if isinstance(values, dict) else values
        (self.pad_value,) = {int(v) for v in (values if isinstance(values, (list, tuple)) else [values])}
        self.model = MODELS.build(cfg.model)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if weights is not None:
            self.model.load_state_dict(weights)
        self.model.to(device).eval()
        if device == "cpu" or self.half:  # the layout of oneDNN's convolutions, and of tensor cores
            self.model.to(memory_format=torch.channels_last)

    def resized(self, height: int, width: int, scale: float) -> tuple[int, int]:
        """As mmcv's Resize: to fit into (long, short), or to exactly (width, height)."""
        long, short = (round(side * scale) for side in self.resizing["scale"])
        if not self.resizing.get("keep_ratio"):
            return short, long
        long, short = max(long, short), min(long, short)
        factor = min(long / max(height, width), short / min(height, width))
        return int(height * factor + 0.5), int(width * factor + 0.5)

    def padded(self, height: int, width: int, scale: float) -> tuple[int, int]:
        divisor = self.padding.get("size_divisor") or 1
        sides = (max(height, width),) * 2 if self.padding.get("pad_to_square") else (height, width)
        if size := self.padding.get("size"):
            sides = max(round(size[1] * scale), height), max(round(size[0] * scale), width)
        return -(-sides[0] // divisor) * divisor, -(-sides[1] // divisor) * divisor

    def clone(self) -> Self:
        other = copy.copy(self)
        other.model = sharing_weights(self.model, self.model)
        return other

    @torch.inference_mode()
    def detect(self, pixels: Tensor) -> Detections:
        size = tuple(pixels.shape[2:])
        info = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
        samples = [DetDataSample(metainfo=info) for _ in pixels]
        with torch.autocast("cuda", enabled=self.half):
            results = self.model.test_step({"inputs": pixels.flip(1), "data_samples": samples})
        return Detections.of([(r.bboxes, r.scores, r.labels) for r in (s.pred_instances for s in results)])

    @contextlib.contextmanager
    def constant_work(self) -> Iterator[None]:
        """Let no proposal be suppressed, so that as many go to the second stage as the config allows."""
        proposers = self.model.rpn_head.modules() if hasattr(self.model, "rpn_head") else ()
        heads = [head for head in proposers if "nms" in (getattr(head, "test_cfg", None) or ())]
        before = [head.test_cfg for head in heads]
        for head in heads:
            head.test_cfg = copy.deepcopy(head.test_cfg)
            head.test_cfg.nms.iou_threshold = 1.0
        try:
            yield
        finally:
            for head, test_cfg in zip(heads, before, strict=True):
                head.test_cfg = test_cfg


def _test_steps(pipeline: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(resize step, pad step or {}) of a test pipeline; raises PipelineError for a step of another kind."""
    resizing: dict[str, Any] = {}
    padding: dict[str, Any] = {}
    for step in pipeline:
        kind = step["type"].rpartition(".")[2]
        if kind in ("Resize", "FixScaleResize") and step.get("interpolation", "bilinear") == "bilinear":
            scale = step["scale"]
            resizing = dict(step) | {"scale": (scale, scale) if isinstance(scale, int) else scale}
        elif kind == "Pad" and step.get("padding_mode", "constant") == "constant":
            padding = dict(step)
        elif kind not in PASSIVE:
            raise PipelineError(
                f"test_pipeline: step {kind}: expected Resize (bilinear), Pad (constant), {PASSIVE}"
            )
    if not resizing:
        raise PipelineError("test_pipeline: expected a step Resize")
    return resizing, padding
