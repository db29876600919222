"""MMDetection's detectors through mmengine's runner.

Configs are the framework's own (`_base_ = "mmdet::..."` reaches those it ships) with three plain
variables, `image_size`, `epochs` and `batch`, that a run may override. `resolve` puts in what a config
must not know: classes, files, device.
"""

import contextlib
import copy
import functools
import io
import json
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backends import mmcv_ext

mmcv_ext.install()  # before anything imports mmcv

import mmdet
import mmengine

# It prints and warns that optional packages are missing.
with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
    import mmdet.datasets
    import mmdet.models

from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from pipeline.backends import distributed, mmdet_runner
from pipeline.backends.base import (
    MAX_BOXES,
    SCORE_FLOOR,
    Image,
    ModelConfig,
    PhotoSet,
    RawBoxes,
    Settings,
    Shrinking,
    Trained,
    TrainJob,
    TrainTask,
    by_shape,
    cpu_batch,
)
from pipeline.backends.checkpoints import BEST, LAST
from pipeline.backends.recovery import Recovery, recovering
from pipeline.backends.safe_load import secure_mmengine
from pipeline.backends.streams import sharing_weights
from pipeline.backends.weights import local_weights, say_scratch
from pipeline.boxes import xyxy_to_xywh
from pipeline.data.photos import stage_photos, staged_name
from pipeline.errors import PipelineError
from pipeline.paths import atomic, shown, write_json, write_text

secure_mmengine()
RESIZES = ("Resize", "RandomResize", "FixScaleResize", "RandomChoiceResize")


def versions() -> dict[str, str]:
    return {
        "mmdet": mmdet.__version__,
        "mmengine": mmengine.__version__,
        "torch": torch.__version__,
        "mmcv kernels": mmcv_ext.install(),
    }


def _dicts(node: Any, skip: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every mapping of a config, itself included, but not below the keys in `skip`."""
    if isinstance(node, dict):
        yield node
        node = [value for key, value in node.items() if key not in skip]
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _dicts(item, skip)


def read_config(model: ModelConfig) -> Config:
    try:
        cfg = Config.fromfile(model.path)
    except (OSError, SyntaxError, KeyError, TypeError, ValueError) as error:
        raise PipelineError(f"{shown(model.path)}: {' '.join(str(error).split())[:300]}") from None
    for key in ("image_size", "epochs", "batch"):
        if not isinstance(cfg.get(key), int):
            raise PipelineError(f"{shown(model.path)}: expected a whole number '{key}' at the top")
    return cfg


def _configured(model: ModelConfig, settings: Settings) -> Config:
    """The config with a run's overrides worked into its pipelines and schedule."""
    cfg = read_config(model)
    written = cfg.epochs
    if settings.options:
        for option in settings.options:
            if option.split(".")[0] not in cfg:
                raise PipelineError(
                    f"{shown(model.path)}: option '{option}': no '{option.split('.')[0]}' in the config; "
                    f"there are: {', '.join(sorted(cfg))}"
                )
        try:
            cfg.merge_from_dict(settings.options)
        except (KeyError, TypeError, IndexError) as error:
            raise PipelineError(f"{shown(model.path)}: option not taken: {error}") from None
    for key in ("epochs", "image_size", "batch"):
        if (asked := getattr(settings, key)) is not None:
            cfg[key] = asked
    for step in _dicts([cfg.train_pipeline, cfg.test_pipeline]):
        if step.get("type") in RESIZES and "scale" in step:
            step["scale"] = (cfg.image_size, cfg.image_size)
    for part in _dicts(cfg.param_scheduler):
        if part.get("by_epoch", True):  # a schedule of the config's epochs, stretched to the run's
            for key in ("begin", "end", "T_max"):
                if key in part:
                    part[key] = round(part[key] * cfg.epochs / written)
            if "milestones" in part:
                part["milestones"] = [round(m * cfg.epochs / written) for m in part["milestones"]]
    return cfg


def resolve(model: ModelConfig, settings: Settings) -> dict[str, Any]:
    """The config with a run's overrides: what is compared when the same command comes again."""
    return json.loads(json.dumps(_configured(model, settings).to_dict(), default=str))


def _stage(job: TrainJob, part: str, photos: PhotoSet) -> None:
    """A COCO json of the part (ids from 1, labels as ids) and a folder of links to its photos."""
    folder = job.work / "data" / part
    names = [
        staged_name(image_id, photo, job.repaired)
        for image_id, photo in zip(photos.images["image_id"], photos.photos, strict=True)
    ]
    stage_photos(photos.photos, names, folder, job.repaired)
    columns = (photos.images[key].tolist() for key in ("image_id", "width", "height"))
    images = [
        {"id": image_id, "file_name": name, "width": width, "height": height}
        for name, image_id, width, height in zip(names, *columns, strict=True)
    ]
    table = photos.annotations
    boxes = xyxy_to_xywh(table[["x1", "y1", "x2", "y2"]].to_numpy())
    records = zip(table["image_id"], table["label"], table["iscrowd"], boxes.tolist(), strict=True)
    annotations = [
        {
            "id": i,
            "image_id": int(image_id),
            "category_id": int(label),
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": int(crowd),
        }
        for i, (image_id, label, crowd, box) in enumerate(records, start=1)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(job.classes)]
    write_json(
        folder.with_suffix(".json"),
        {"images": images, "annotations": annotations, "categories": categories},
    )


def _loader(cfg: Config, job: TrainJob, part: str, pipeline: Any, train: bool) -> dict[str, Any]:
    data = job.work / "data"
    dataset = {
        "type": "CocoDataset",
        "ann_file": str(data / f"{part}.json"),
        "data_prefix": {"img": f"{data / part}/"},
        "metainfo": {"classes": job.classes},
        "pipeline": pipeline,
        "test_mode": not train,
    }
    if train:  # photos without boxes teach what is background; the boxes were checked by the reader
        dataset["filter_cfg"] = {"filter_empty_gt": False, "min_size": 0}
    loader = {
        "batch_size": cfg.batch if train else max(cfg.batch // 2, 1),
        "num_workers": job.workers,
        # Readers that start anew with each epoch draw what its random state says, see `seeds`.
        "persistent_workers": job.workers > 0 and not train,
        "sampler": {"type": "DefaultSampler", "shuffle": train},
        "dataset": dataset,
    }
    if train:
        loader["batch_sampler"] = {"type": "AspectRatioBatchSampler", "drop_last": False}
        loader["worker_init_fn"] = {"type": "pipeline_seed_reader"}
    return loader


def _for_job(job: TrainJob) -> Config:
    """The whole runner config of one job."""
    cfg = _configured(job.model, job.settings)
    _set_classes(cfg, len(job.classes))
    _set_export_limits(cfg)
    cfg.train_dataloader = _loader(cfg, job, "train", cfg.train_pipeline, train=True)
    cfg.val_dataloader = _loader(cfg, job, "val", cfg.test_pipeline, train=False)
    cfg.val_evaluator = dict(
        type="CocoMetric",
        metric="bbox",
        ann_file=str(job.work / "data" / "val.json"),
        proposal_nums=(1, 10, 100),  # COCO's own limits, so that its mAP50 is pycocotools'
    )
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
    cfg.train_cfg = dict(type="PipelineTrainLoop", max_epochs=cfg.epochs, val_interval=cfg.val_interval)
    cfg.val_cfg = dict(type="ValLoop")
    cfg.default_hooks = dict(cfg.get("default_hooks", {}), checkpoint=None)
    cfg.work_dir = str(job.work / "train")
    cfg.randomness = dict(seed=job.seed)
    steps = -(-len(job.train.images) // (cfg.batch * job.gpus))
    if job.gpus > 1 and not cfg.get("auto_scale_lr", {}).get("enable"):
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=cfg.batch)
    if job.gpus > 1:  # or each process validates, and the first saves, its own batch norms' statistics
        cfg.custom_hooks = [*cfg.get("custom_hooks", []), dict(type="PipelineAgreeHook")]
    for part in _dicts(cfg.param_scheduler):
        if not part.get("by_epoch", True):  # a warm-up takes at most a tenth of the training
            part["end"] = max(2, min(part["end"], cfg.epochs * steps // 10))  # one of 1 never warms up
    if job.device != "cpu" and cfg.amp:
        cfg.optim_wrapper.type = "AmpOptimWrapper"
    return cfg


def _set_classes(cfg: Config, n_classes: int) -> None:
    """Set `num_classes` in every head; the region proposal network has one of its own."""
    for part in _dicts(cfg.model, skip=("rpn_head",)):
        if "num_classes" in part:
            part["num_classes"] = n_classes


def _set_export_limits(cfg: Config) -> None:
    """Low score floor and many boxes in the final stage; the proposals keep their own limits."""
    for part in _dicts(cfg.model.get("test_cfg"), skip=("rpn",)):
        if "score_thr" in part:
            part["score_thr"] = SCORE_FLOOR
        if "max_per_img" in part:
            part["max_per_img"] = MAX_BOXES


def _find_pretrained(cfg: Config, model: str) -> str:
    """Point every pretrained checkpoint at a local file or a download; returns where it came from.

    When a backbone's weights are not to be had, it is thawed: frozen random layers never learn.
    """
    notes = []
    for part in list(_dicts(cfg.model)):
        init = part.get("init_cfg")
        if not isinstance(init, dict) or init.get("type") != "Pretrained":
            continue
        wanted = init["checkpoint"]
        if path := local_weights(wanted):
            init["checkpoint"] = str(path)
            notes.append(shown(path))
            continue
        try:
            CheckpointLoader.load_checkpoint(wanted, map_location="cpu")  # fills the download cache
            notes.append(wanted)
        except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError
            notes.append(say_scratch(model, wanted, str(error).splitlines()[0]))
            part["init_cfg"] = None
            _thaw(part)
    return ", ".join(notes) or "from scratch"


def _thaw(backbone: dict[str, Any]) -> None:
    if "frozen_stages" in backbone:
        backbone["frozen_stages"] = -1
    if "norm_eval" in backbone:
        backbone["norm_eval"] = False
    if isinstance(backbone.get("norm_cfg"), dict):
        backbone["norm_cfg"]["requires_grad"] = True
    if "convert_weights" in backbone:
        backbone["convert_weights"] = False


def train(job: TrainJob) -> Trained:
    """Train, or go on from the checkpoints in run/work of a training that was cut off."""
    init_default_scope("mmdet")
    shutil.rmtree(job.work / "data", ignore_errors=True)
    _stage(job, "train", job.train)
    _stage(job, "val", job.held_out)
    cfg = _for_job(job)
    checkpoints = mmdet_runner.checkpoints(job.work)
    note = job.work / "pretrained.txt"
    if checkpoints.newest(LAST):
        for part in _dicts(cfg.model):  # the checkpoint holds all weights
            if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained":
                part["init_cfg"] = None
                _thaw(part) if note.read_text() == "from scratch" else None
    else:
        write_text(note, _find_pretrained(cfg, job.model.name))
    attempt = functools.partial(mmdet_runner.run, cfg, job.task)
    if job.gpus > 1:
        attempt = functools.partial(_run_ranks, cfg, job)
    recovered = recovering(job.model.name, job.work, cfg.batch, attempt)
    best = checkpoints.newest(BEST) or checkpoints.newest(LAST)
    assert best is not None, "a training ends with a checkpoint"
    checkpoint, config = job.run / "best.pth", job.run / "config.py"
    with atomic(checkpoint) as temporary:
        shutil.copyfile(best, temporary)
    saved = Config(ConfigDict({key: cfg[key] for key in ("model", "test_pipeline", "image_size", "amp")}))
    for part in _dicts(saved.model):
        part.pop("init_cfg", None)
    write_text(config, saved.pretty_text + _rest_as_comment(cfg))
    meta = CheckpointLoader.load_checkpoint(str(best), "cpu", logger="silent")["meta"]
    resolved = {key: cfg[key] for key in ("epochs", "image_size", "batch")}
    return Trained(
        checkpoint,
        config,
        meta["epoch"],
        meta.get("map50", 0.0),
        note.read_text(encoding="utf-8"),
        resolved,
        recovered,
    )


def _run_ranks(cfg: Config, job: TrainJob, recovery: Recovery) -> None:
    path = job.work / "ranks.py"
    cfg.dump(path)
    distributed.launch("mmdet", job.task, recovery, job.gpus, job.nodes, config=str(path))


def run_rank(task: TrainTask, recovery: Recovery, config: str) -> None:
    """One process of several that train a model; see `distributed`."""
    init_default_scope("mmdet")
    cfg = Config.fromfile(config)
    cfg.launcher = "pytorch"
    if task.device == "cpu":  # the runner would ask for a GPU before it joins the others
        torch.distributed.init_process_group("gloo")
        cfg.model_wrapper_cfg = dict(
            type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
        )
    mmdet_runner.run(cfg, task, recovery)
    torch.distributed.destroy_process_group()


def _rest_as_comment(cfg: Config) -> str:
    """The training half of the resolved config, to read, not to run: it names the run's scratch."""
    keys = ("train_pipeline", "optim_wrapper", "param_scheduler", "epochs", "batch", "auto_scale_lr")
    rest = Config(ConfigDict({key: cfg[key] for key in keys if key in cfg}))
    return "\n# Trained with:\n" + "".join(f"# {line}\n" for line in rest.pretty_text.splitlines())


class _Detector(Shrinking):
    """A trained detector. Photos are resized by the config's own test pipeline."""

    def __init__(self, checkpoint: Path | None, cfg: Config, device: str) -> None:
        from mmdet.registry import MODELS

        self.cfg, self.device, self.image_size = cfg, device, cfg.image_size
        self.batch = 8 if device != "cpu" else cpu_batch(cfg.image_size, 8)
        self.half = device != "cpu" and bool(cfg.amp)
        self.model = MODELS.build(cfg.model)
        self.parameters = sum(p.numel() for p in self.model.parameters())
        if checkpoint:
            load_checkpoint(self.model, str(checkpoint), map_location="cpu", strict=True, logger="silent")
        self.model.to(device).eval()
        if device == "cpu" or self.half:  # the layout of oneDNN's convolutions, and of tensor cores
            self.model.to(memory_format=torch.channels_last)
        self.pipelines: dict[float, Compose] = {}

    def _pipeline(self, scale: float) -> Compose:
        """What the test pipeline does to a photo's pixels, at `scale` times the network's input size."""
        if scale not in self.pipelines:
            size = round(self.cfg.image_size * scale)
            steps = []
            for step in self.cfg.test_pipeline:
                step = dict(step)
                if step["type"].startswith(("Load", "Pack")):
                    continue
                if step["type"] in RESIZES:
                    step["scale"] = (size, size)
                steps.append(step)
            self.pipelines[scale] = Compose(steps)
        return self.pipelines[scale]

    def shrink(self, image: Image, scale: float) -> tuple[Image, tuple[float, float]]:
        shape = image.shape[:2]
        done = self._pipeline(scale)({"img": image, "img_shape": shape, "ori_shape": shape})
        return done["img"], tuple(done.get("scale_factor", (1.0, 1.0)))

    def find(self, images: Sequence[Image]) -> list[RawBoxes]:
        found: list[Any] = [None] * len(images)
        for group in by_shape(images):
            rgb = torch.from_numpy(np.stack([images[i] for i in group])).to(self.device, non_blocking=True)
            samples = self.detect(rgb.flip(3).permute(0, 3, 1, 2))
            for i, sample in zip(group, samples, strict=True):
                boxes = sample.pred_instances
                found[i] = RawBoxes(
                    boxes.bboxes.float().cpu().numpy(),
                    boxes.scores.float().cpu().numpy(),
                    boxes.labels.cpu().numpy().astype(np.int64),
                )
        return found

    def twin(self) -> "_Detector":
        other = copy.copy(self)
        other.model = sharing_weights(self.model, self.model)
        return other

    @torch.inference_mode()
    def detect(self, pixels: torch.Tensor) -> Any:
        """See `cost.Measured`."""
        size = tuple(pixels.shape[2:])
        info = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
        samples = [DetDataSample(metainfo=info) for _ in pixels]
        with torch.autocast("cuda", enabled=self.half):
            return self.model.test_step({"inputs": pixels, "data_samples": samples})

    @contextlib.contextmanager
    def full_work(self) -> Iterator[None]:
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


def untrained(model: ModelConfig, settings: Settings, n_classes: int, device: str) -> _Detector:
    """A config's detector with random weights, to measure what it costs."""
    init_default_scope("mmdet")
    cfg = _configured(model, settings)
    _set_classes(cfg, n_classes)
    _set_export_limits(cfg)
    for part in _dicts(cfg.model):
        part.pop("init_cfg", None)
    return _Detector(None, cfg, device)


def load(checkpoint: Path, config: Path, classes: tuple[str, ...], device: str) -> _Detector:
    """A detector from a run's checkpoint and resolved config."""
    init_default_scope("mmdet")
    try:
        cfg = Config.fromfile(config)
        meta = CheckpointLoader.load_checkpoint(str(checkpoint), "cpu", logger="silent")["meta"]
        trained_on = tuple(meta["dataset_meta"]["classes"])
        if trained_on != classes:
            raise PipelineError(f"{shown(checkpoint)}: trained on classes {trained_on}, expected {classes}")
        return _Detector(checkpoint, cfg, device)
    except (OSError, RuntimeError, KeyError, EOFError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"{shown(checkpoint)}: not a whole checkpoint ({reason})") from None
