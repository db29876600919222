"""Training recipes in MMDetection's keys, and its mosaic and mixup as a recipe wants them.

Here both are drawn with a probability, and before other photos are read for them; a mosaic is cut back to the
size of one photo, so that its objects keep their scale; and both end with an epoch that the place tells.
"""

from typing import Any

import numpy as np
from mmdet.datasets import MultiImageMixDataset
from mmdet.datasets.transforms import MixUp, Mosaic
from mmdet.registry import DATASETS, TRANSFORMS

from pipeline.training.recipe import FrameworkKeys, Parts, Recipe, closed_epochs, parts_at_top

SIDE = (1024, 1024)  # pixels, as in _base_/default.py; they follow the run's image size
WORDS = ("sampling", "ema", "freeze", "nominal_batch", "patience")  # that a config has at its top
# As in _base_/default.py, whose 12 epochs become those of the run.
WARM_UP = dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500)
_EPOCHS: dict[str, Any] = dict(by_epoch=True, begin=0, end=12, convert_to_iter_based=True)
SCHEDULES = {
    "cosine": dict(type="CosineAnnealingLR", **_EPOCHS, T_max=12, eta_min_ratio=0.01),
    "linear": dict(type="LinearLR", **_EPOCHS, start_factor=1.0, end_factor=0.01),
}
MIXES = ("SomeMosaic", "SomeMixUp")


def recipe_parts(recipe: Recipe) -> Parts:
    """A recipe in the keys of a config."""
    parts: Parts = {}
    if augment := recipe.augment:
        steps: list[dict[str, Any]] = [
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True),
        ]
        if augment.mosaic:
            steps.append(dict(type="SomeMosaic", probability=augment.mosaic, img_scale=SIDE))
        steps.append(dict(type="RandomResize", scale=SIDE, ratio_range=tuple(augment.scale), keep_ratio=True))
        if augment.mixup:
            steps.append(dict(type="SomeMixUp", probability=augment.mixup, img_scale=SIDE))
        steps.append(dict(type="RandomFlip", prob=augment.flip))
        if augment.photometric:
            steps.append(dict(type="PhotoMetricDistortion"))
        if augment.mosaic or augment.mixup:
            steps.append(dict(type="FilterAnnotations", min_gt_bbox_wh=(1, 1), keep_empty=False))
        steps.append(dict(type="PackDetInputs"))
        parts["augment"] = {"train_pipeline": steps}
        if augment.mosaic or augment.mixup:
            parts["augment"]["close"] = augment.close
    if recipe.amp is not None:
        parts["amp"] = {"amp": recipe.amp}
    if recipe.schedule:
        parts["schedule"] = {"param_scheduler": [WARM_UP, SCHEDULES[recipe.schedule]]}
    return parts | parts_at_top(recipe, WORDS)


KEYS_OF_RECIPES = FrameworkKeys("mmdet", recipe_parts)


def mixing_dataset(pipeline: list[dict[str, Any]], epochs: int, close: float) -> dict[str, Any]:
    """The dataset of a pipeline, which has a wrapper where it takes several photos at a time."""
    kinds = [step["type"] for step in pipeline]
    if not set(kinds) & set(MIXES):
        return dict(type="CocoDataset", pipeline=pipeline)
    first = next(i for i, kind in enumerate(kinds) if kind not in ("LoadImageFromFile", "LoadAnnotations"))
    inner = dict(type="CocoDataset", pipeline=pipeline[:first])
    closed_from = epochs - closed_epochs(close, epochs)
    return dict(type="MixedPhotos", dataset=inner, pipeline=pipeline[first:], closed_from=closed_from)


class _Some:
    """Draws whether to mix before it draws with what."""

    def __init__(self, probability: float, **options: Any) -> None:
        super().__init__(**options)
        self.probability = probability

    def get_indexes(self, dataset: Any) -> Any:
        if np.random.random() >= self.probability:  # noqa: NPY002
            return []
        return super().get_indexes(dataset)  # type: ignore[misc]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        if not results["mix_results"]:
            return results
        return self.mixed(super().transform(results))  # type: ignore[misc]

    def mixed(self, results: dict[str, Any]) -> dict[str, Any]:
        return results


@TRANSFORMS.register_module()
class SomeMosaic(_Some, Mosaic):  # type: ignore[misc]
    """The middle of a mosaic, in the size of one photo."""

    def mixed(self, results: dict[str, Any]) -> dict[str, Any]:
        width, height = self.img_scale
        left, top = width // 2, height // 2
        results["img"] = np.ascontiguousarray(results["img"][top : top + height, left : left + width])
        results["img_shape"] = (height, width)
        boxes = results["gt_bboxes"]
        boxes.translate_([-left, -top])
        boxes.clip_([height, width])
        inside = ((boxes.widths > 0) & (boxes.heights > 0)).numpy()
        results["gt_bboxes"] = boxes[inside]
        for key in ("gt_bboxes_labels", "gt_ignore_flags"):
            results[key] = results[key][inside]
        return results


@TRANSFORMS.register_module()
class SomeMixUp(_Some, MixUp):  # type: ignore[misc]
    """Mixup of some photos."""


@DATASETS.register_module()
class MixedPhotos(MultiImageMixDataset):  # type: ignore[misc]
    """Photos that are mixed up to an epoch, which `training.seeds.take_places` tells."""

    def __init__(self, closed_from: int, **options: Any) -> None:
        super().__init__(**options)
        self.closed_from, self.epoch = closed_from, 0

    def __getitem__(self, position: int) -> Any:
        self._skip_type_keys = MIXES if self.epoch >= self.closed_from else None
        return super().__getitem__(position)
