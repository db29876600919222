"""MMDetection's configs: read, checked, a run's overrides worked in, and saved as data.

What a config states is honoured or refused with its key; what the pipeline sets itself stands in OURS.
"""

import importlib
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import MODELS
from mmengine.config import Config

from pipeline.backends.mmdet_files import read_files
from pipeline.backends.mmdet_masks import load_masks
from pipeline.backends.mmdet_recipe import WORDS
from pipeline.backends.mmdet_types import check_keys, check_types, dicts
from pipeline.data.models import ModelConfig, Overrides, list_models
from pipeline.errors import PipelineError, reason
from pipeline.inference.detector import MAX_BOXES, SCORE_FLOOR
from pipeline.paths import shown
from pipeline.training.recipe import check_words

MODULES = "pipeline.models."  # what custom_imports may name
# Set by the pipeline itself; options that name them are refused.
OURS = (
    "test_dataloader",
    "val_dataloader",
    "test_evaluator",
    "test_cfg",
    "val_cfg",
    "work_dir",
    "randomness",
)
RESIZES = ("Resize", "RandomResize", "FixScaleResize", "RandomChoiceResize", "FixShapeResize")
# Keys of transforms and batch augmentations that hold pixels: they follow a run's image size.
PIXELS = (
    "scale",
    "scales",
    "width",
    "height",
    "size",
    "crop_size",
    "border",
    "img_scale",
    "random_size_range",
)
IN_PIXELS = re.compile(
    "(Fix|Random)?(Scale|Choice|Shape)?Resize|Pad|Random(CenterCropPad|Crop|Affine)|(Cached|Some)?(Mosaic|MixUp)"
    "|BatchFixedSizePad|BatchSyncRandomResize"
)


def read_config(model: ModelConfig, overrides: Overrides) -> Config:
    """A model's config with its recipe, its own modules imported, its types known.

    Raises PipelineError with file and key.
    """
    cfg = read_files(model.path, overrides)
    for key in ("image_size", "epochs", "batch"):
        if not isinstance(cfg.get(key), int):
            raise PipelineError(f"{shown(model.path)}: expected a whole number '{key}' at the top")
    check_keys(cfg, shown(model.path))
    _import_modules(cfg.pop("custom_imports", None), shown(model.path))
    check_types(cfg._cfg_dict, shown(model.path))
    return cfg


def _import_modules(stated: Any, source: str) -> None:
    names = (stated or {}).get("imports", [])
    for name in [names] if isinstance(names, str) else names:
        if not str(name).startswith(MODULES):
            raise PipelineError(
                f"{source}: custom_imports {name}: expected a module below {MODULES.rstrip('.')}"
            )
        importlib.import_module(name)


def import_modules_of(model: str) -> None:
    """Import the modules of our own that a model's config in this checkout names; a run's file names none."""
    config = list_models().get(model)
    if config is not None and config.backend == "mmdet":
        _import_modules(read_files(config.path, Overrides()).get("custom_imports"), shown(config.path))


def for_classes(model: ModelConfig, overrides: Overrides, n_classes: int, processes: int = 1) -> Config:
    """`configured` for so many classes, with a low score floor and many boxes in the final stage.

    The region proposal network has a `num_classes` and limits of its own. A detector with queries has no more
    boxes than queries, times classes where each has a sigmoid. Norms that synchronise need several processes.
    """
    cfg = configured(model, overrides)
    for part in dicts(cfg.model, skip=("rpn_head",)):
        if "num_classes" in part:
            part["num_classes"] = n_classes
        if part.get("type") == "SyncBN" and processes == 1:
            part["type"] = "BN"
    limits = {"score_thr": SCORE_FLOOR, "conf_thr": SCORE_FLOOR, "max_per_img": MAX_BOXES}
    if queries := cfg.model.get("num_queries") or (cfg.model.get("rpn_head") or {}).get("num_proposals"):
        softmax = (cfg.model.get("bbox_head") or {}).get("loss_cls", {}).get("use_sigmoid") is False
        limits["max_per_img"] = min(MAX_BOXES, queries * (1 if softmax else n_classes))
    for part in dicts(cfg.model.get("test_cfg"), skip=("rpn",)):
        part.update({key: limit for key, limit in limits.items() if key in part})
    return cfg


def configured(model: ModelConfig, overrides: Overrides) -> Config:
    """The config with a run's overrides worked into its pipelines and schedule."""
    cfg = read_config(model, overrides)
    written, written_epochs = cfg.image_size, cfg.epochs
    _take_options(cfg, model, overrides.options)
    reference = _reference_size(cfg, written)
    cfg.update(overrides.sizes())
    _check_size(cfg, shown(model.path))
    _rescale(cfg, cfg.image_size / reference)
    for part in dicts(cfg.param_scheduler):
        if part.get("by_epoch", True):  # a schedule of the config's epochs, stretched to the run's
            for key in ("begin", "end", "T_max"):
                if key in part:
                    part[key] = round(part[key] * cfg.epochs / written_epochs)
            if "milestones" in part:
                part["milestones"] = [round(m * cfg.epochs / written_epochs) for m in part["milestones"]]
    load_masks(cfg, shown(model.path))
    return cfg


def _check_size(cfg: Config, source: str) -> None:
    """Round the image size up to what the config divides; raises PipelineError where it is too small."""
    divisor = cfg.get("image_size_divisor", 1)
    least = cfg.model.get("data_preprocessor", {}).get("least_side", 0)
    cfg.image_size = -(-cfg.image_size // divisor) * divisor
    if cfg.image_size < least:
        raise PipelineError(f"{source}: image size {cfg.image_size}: expected {least} pixels or more")


def _take_options(cfg: Config, model: ModelConfig, options: Mapping[str, Any]) -> None:
    for option in options:
        if (top := option.split(".")[0]) not in cfg and top not in WORDS:
            raise PipelineError(
                f"{shown(model.path)}: option '{option}': no '{top}' in the config; "
                f"there are: {', '.join(sorted(cfg))}"
            )
        if top in OURS:
            raise PipelineError(f"{shown(model.path)}: option '{option}': the pipeline sets '{top}' itself")
    try:
        cfg.merge_from_dict(dict(options))
    except (KeyError, TypeError, IndexError) as error:
        raise PipelineError(f"{shown(model.path)}: option not taken: {reason(error)}") from None
    check_words(cfg, WORDS, shown(model.path))
    check_types(cfg._cfg_dict, shown(model.path))


def _reference_size(cfg: Config, written: int) -> float:
    """The longer side, in pixels, that the pipelines are written for: that of the test photos."""
    for step in dicts(cfg.test_pipeline):
        if step.get("type") in RESIZES:
            return float(np.max(step.get("scale") or (step.get("width", written), step.get("height", 0))))
    return float(written)


def _rescale(cfg: Config, factor: float) -> None:
    """Multiply everything that is in pixels of the network's input."""
    augments = [part.get("batch_augments") for part in dicts(cfg.model)]
    for step, keys in _in_pixels(
        [cfg.train_pipeline, cfg.test_pipeline, augments, cfg.get("train_dataloader")]
    ):
        step.update({key: _times(step[key], factor) for key in keys})


def _in_pixels(parts: list[Any]) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """The steps that have sizes in pixels, each once, with the keys that hold these."""
    for step in {id(part): part for part in dicts(parts)}.values():
        kind, crop_type = str(step.get("type", "")).rpartition(".")[2], step.get("crop_type", "absolute")
        if IN_PIXELS.fullmatch(kind) and crop_type.startswith("absolute"):
            yield step, [key for key in PIXELS if step.get(key) is not None]


def largest_input(cfg: Config) -> int:
    """Pixels of the longest side that a step of the training makes of a photo, or an upper bound of it."""
    largest = 0.0
    for step, keys in _in_pixels([cfg.train_pipeline, cfg.get("train_dataloader")]):
        if step.get("scale_factor"):  # of the photo's own size
            return 2**31 - 1
        factor = max(*(step.get("ratio_range") or (1.0,)), 1.0)
        largest = max([largest, *(np.max(step[key]) * factor for key in keys)])
    return math.ceil(largest) or 2**31 - 1


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_times(item, factor) for item in value)
    return round(value * factor)


def innermost(dataset: dict[str, Any]) -> dict[str, Any]:
    """The dataset that reads files, below those that wrap it (ClassBalancedDataset, MultiImageMixDataset)."""
    while isinstance(dataset.get("dataset"), dict):
        dataset = dataset["dataset"]
    return dataset


def pretrained_parts(cfg: Config) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(part, its init_cfg) of each part of a model that starts from pretrained weights."""
    parts = [(part, part.get("init_cfg")) for part in dicts(cfg.model)]
    return [(p, init) for p, init in parts if isinstance(init, dict) and init.get("type") == "Pretrained"]


def set_weights(cfg: Config, weights: Mapping[str, str | None], last: Path | None) -> None:
    """Start from a checkpoint of this training, or from a whole detector, or from the weights of parts."""
    whole = weights.get(cfg.get("load_from") or "")
    cfg.resume, cfg.load_from = last is not None, str(last) if last else whole
    for part, init in pretrained_parts(cfg):
        path = weights.get(init["checkpoint"])
        if path is None and whole is None:
            _thaw(part)  # frozen random layers never learn
        part["init_cfg"] = None if path is None or cfg.load_from else dict(init, checkpoint=path)


def _thaw(backbone: dict[str, Any]) -> None:
    """Let all of a backbone learn, also where freezing is its class's default and no config says it."""
    defaults: dict[str, Any] = {}
    for cls in MODELS.get(backbone["type"]).__mro__:
        taken = inspect.signature(cls.__init__).parameters.values()
        defaults = {parameter.name: parameter.default for parameter in taken} | defaults
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken):
            break  # it hands on nothing else
    thawed = {"frozen_stages": defaults.get("frozen_stages"), "norm_eval": False, "convert_weights": False}
    backbone.update({key: value for key, value in thawed.items() if key in defaults})
    if isinstance(backbone.get("norm_cfg"), dict):
        backbone["norm_cfg"]["requires_grad"] = True
