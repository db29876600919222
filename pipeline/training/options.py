"""What the config of a network on our own loop may say: one YAML file over its `_base_`, read by type.

A key that is not known is refused with its name; `--set` takes the same keys, dotted: `train.lr=0.01`.
"""

import json
from functools import reduce
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from pipeline.data.models import ModelConfig, Overrides, merged, read_layers
from pipeline.data.records import Record, parse_record
from pipeline.data.run_card import RecipeNote
from pipeline.paths import shown
from pipeline.training.recipe import (
    Count,
    FrameworkKeys,
    Parts,
    Positive,
    Recipe,
    Sampling,
    Schedule,
    Share,
    parts_at_top,
    with_recipe,
)

JITTER = 0.5  # probability of photometric changes where a recipe says so


def _is_none(value: object) -> bool:
    return value is None


class TrainOptions(Record):
    """The optimizer and its schedule. Steps are the optimizer's, of `nominal_batch` photos each."""

    optimizer: Literal["AdamW", "SGD"] = "AdamW"
    lr: Positive = 5e-4  # for a step of nominal_batch photos; larger steps raise it in proportion
    momentum: Share | None = None  # SGD's, 0.9 by default
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4  # not of biases and norms
    warmup: Annotated[int, Field(ge=0)] = 500  # steps from 0 to lr, at most a tenth of the training
    final_lr: Share = 0.01  # where the schedule ends, as a share of lr
    nominal_batch: Count = 16  # photos per step: the gradients of smaller batches are added up
    clip: Positive | None = 10.0  # the largest norm of the gradient
    ema: Annotated[float, Field(gt=0, lt=1)] | None = 0.9998  # decay of the weights' average
    amp: bool = True  # half precision on a GPU
    freeze: tuple[str, ...] = ()  # prefixes of weights that stay as pretrained
    freeze_norms: tuple[str, ...] = ()  # prefixes of modules whose batch norms do
    val_interval: Count = 1  # epochs between two validations; the last epoch has one
    schedule: Schedule = Field(default="cosine", exclude_if=lambda kind: kind == "cosine")
    patience: Count | None = Field(default=None, exclude_if=_is_none)  # epochs without a better one

    @model_validator(mode="after")
    def _momentum_of_sgd(self) -> Self:
        if self.optimizer != "SGD" and self.momentum is not None:
            raise ValueError(f"momentum: {self.optimizer} does not take it")
        return self


class AugmentOptions(Record):
    """What is done to a photo in training, on top of resizing it."""

    flip: Share = 0.5  # probability of a horizontal flip
    scale: tuple[Positive, Positive] = (1.0, 1.0)  # smallest, largest; cropped or padded to the input's size
    photometric: Share = 0.0  # probability of other brightness, contrast, saturation and hue

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: expected smallest, largest, found {list(self.scale)}")
        return self


class NetworkConfig(Record):
    """The keys that every network on our loop takes; a framework adds its own."""

    epochs: Count
    image_size: Count  # pixels, the longer side of the network's input
    batch: Count  # photos per batch and device
    resources: dict[str, float] = Field({})
    weights: str | None = None  # pretrained ones of the whole detector: a file name
    train: TrainOptions = TrainOptions()
    augment: AugmentOptions = AugmentOptions()
    sampling: Sampling = Field(default="plain", exclude_if=lambda kind: kind == "plain")
    freeze: Literal["backbone"] | None = Field(default=None, exclude_if=_is_none)  # more than `train.freeze`
    recipe: RecipeNote | None = Field(default=None, exclude_if=_is_none)  # what it holds of one


AnyConfig = TypeVar("AnyConfig", bound=NetworkConfig)


def configured(kind: type[AnyConfig], model: ModelConfig, overrides: Overrides) -> AnyConfig:
    """A model's config with a run's overrides worked in; raises PipelineError with file and key."""
    layers, chosen = with_recipe(read_layers(model.path), overrides, OUR_LOOP)
    values = reduce(merged, [values for _, values in reversed(layers)])
    if chosen:
        values["recipe"] = chosen.note(values, model.path)
    values = merged(values, overrides.sizes())
    for key, value in overrides.options.items():
        first, _, rest = key.partition(".")
        values = merged(values, {first: {rest: value} if rest else value})
    return config_of(kind, values, shown(model.path))


def config_of(kind: type[AnyConfig], values: dict[str, Any], source: str) -> AnyConfig:
    """A config from JSON data; raises PipelineError that starts with `source`."""
    return parse_record(json.dumps(values, default=str), kind, source, "correct it")


def recipe_parts(recipe: Recipe) -> Parts:
    """A recipe in the keys of this file."""
    parts: Parts = {}
    if augment := recipe.augment:
        values = {
            "flip": augment.flip,
            "scale": list(augment.scale),
            "photometric": JITTER if augment.photometric else 0.0,
        }
        parts |= {f"augment.{word}": {"augment": {word: value}} for word, value in values.items()}
    for word in ("amp", "ema", "patience", "schedule", "nominal_batch"):
        if (value := getattr(recipe, word)) is not None:
            parts[word] = {"train": {word: value if word == "amp" else value or None}}
    return parts | parts_at_top(recipe, ("sampling", "freeze"))


OUR_LOOP = FrameworkKeys("loop", recipe_parts, lacks=("mosaic", "mixup"))
