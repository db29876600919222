"""Outlines of objects in MMDetection: which models learn from them, and how a training reads them."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray
from pycocotools import mask

from pipeline.backends.mmdet_types import dicts
from pipeline.data.outlines import SEGMENTATION, Outline
from pipeline.errors import PipelineError
from pipeline.training.job import PhotoSet

# Steps that move boxes alone.
WITHOUT_MASKS = (
    "Mosaic",
    "MixUp",
    "RandomAffine",
    "RandomCenterCropPad",
    "RandomShift",
    "SomeMixUp",
    "SomeMosaic",
)


def load_masks(cfg: Config, source: str) -> None:
    """Load outlines where the model has a head for them; raises PipelineError for a step that loses them."""
    if any("mask_head" in part for part in dicts(cfg.model)):
        for step in _steps(cfg, "LoadAnnotations"):
            step.setdefault("with_mask", True)
    if wants_masks(cfg) and (lost := _steps(cfg, *WITHOUT_MASKS)):
        raise PipelineError(
            f"{source}: {lost[0]['type']}: moves no outlines, which the model learns from; RECIPE=basic does "
            "without it"
        )


def wants_masks(cfg: Config) -> bool:
    """Whether a training loads outlines."""
    return any(step.get("with_mask") for step in _steps(cfg, "LoadAnnotations"))


def _steps(cfg: Mapping[str, Any], *kinds: str) -> list[dict[str, Any]]:
    """The steps of these kinds in a training's pipelines."""
    steps = dicts([cfg.get("train_pipeline"), cfg.get("train_dataloader")])
    return [step for step in steps if str(step.get("type", "")).rpartition(".")[2] in kinds]


def choose_form(loader: dict[str, Any], photos: PhotoSet, source: str) -> None:
    """Let a loader keep outlines as polygons, which is faster, where none is a run-length mask."""
    has_runs = any(outline.startswith("{") for outline in photos.annotations.get(SEGMENTATION, ()))
    for step in dicts(loader):
        if step.get("with_mask") and not step.setdefault("poly2mask", has_runs) and has_runs:
            raise PipelineError(f"{source}: poly2mask=False: it leaves out objects with run-length masks")


def resized(outline: Outline, factors: NDArray[np.float64], size: tuple[int, int]) -> Outline:
    """An outline in a photo that was resized by factors (x, y) to a size (width, height)."""
    if isinstance(outline, list):
        return [(np.reshape(polygon, (-1, 2)) * factors).ravel().tolist() for polygon in outline]
    pixels = cv2.resize(mask.decode(outline), size, interpolation=cv2.INTER_NEAREST)
    packed: dict[str, Any] = mask.encode(np.asfortranarray(pixels))
    return packed | {"counts": packed["counts"].decode()}
