"""Model configs: one file per model, its name the file's stem, its backend the folder in configs/."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from pipeline.data.records import parse_yaml, read_yaml
from pipeline.errors import PipelineError
from pipeline.names import number, whole_number
from pipeline.paths import CONFIGS, shown, text_digest

# Where each backend's class is; imported when a model of its folder is used, and not before.
BACKENDS = {
    "mmdet": "pipeline.backends.mmdet:MMDetection",
    "ultralytics": "pipeline.backends.ultralytics:Ultralytics",
    "torchvision": "pipeline.backends.torchvision:Torchvision",
}


@dataclass(frozen=True)
class ModelConfig:
    """A model's config file."""

    name: str
    backend: str
    path: Path


def list_models() -> dict[str, ModelConfig]:
    """All models by name: the files directly in configs/<backend>/."""
    models: dict[str, ModelConfig] = {}
    for backend in BACKENDS:
        folder = CONFIGS / backend
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if path.suffix in (".py", ".yaml") and path.is_file():
                if path.stem in models:
                    raise PipelineError(
                        f"{shown(path)}: model '{path.stem}' is also {shown(models[path.stem].path)}"
                    )
                models[path.stem] = ModelConfig(path.stem, backend, path)
    return models


def find_model(name: str) -> ModelConfig:
    """The config of a model; raises PipelineError that lists all models when there is none."""
    models = list_models()
    if name not in models:
        raise PipelineError(f"no model '{name}'; there are: {', '.join(models)}")
    return models[name]


def read_layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The values of a YAML config and below them those of its `_base_`, a path beside it, and so on.

    Raises PipelineError with the file for text that is no YAML, and for bases in a circle.
    """
    layers: list[tuple[Path, dict[str, Any]]] = []
    while path.resolve() not in [above.resolve() for above, _ in layers]:
        values = read_yaml(path)
        base = values.pop("_base_", None)
        layers.append((path, values))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise PipelineError(f"{shown(path)}: _base_ {base!r}: expected the path of another config")
        path = path.parent / base
    raise PipelineError(f"{shown(layers[-1][0])}: its _base_ is {shown(path)}, of which it is a base itself")


def read_over_base(path: Path) -> dict[str, Any]:
    """A YAML file over its `_base_`; mappings merge, other values replace. Raises as `read_layers`."""
    return reduce(merged, [values for _, values in reversed(read_layers(path))])


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`changes` over `base`: mappings merge, other values replace."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def merge_layers(layers: Sequence[tuple[Path, dict[str, Any]]], keys: Sequence[str]) -> dict[str, Any]:
    """The layers of a config, the top one first; the mapping `train` merges, other values replace.

    Raises PipelineError with the file for keys that are not among `keys`.
    """
    result: dict[str, Any] = {}
    for place, values in reversed(layers):
        if unknown := [key for key in values if key not in keys]:
            known = f"_base_, {', '.join(keys)}"
            raise PipelineError(f"{shown(place)}: unknown key '{unknown[0]}'; known: {known}")
        train = values.get("train", {})
        if not isinstance(train, dict):
            raise PipelineError(f"{shown(place)}: train: expected a mapping of keys to values")
        result = result | values | {"train": result.get("train", {}) | train}
    return result


@dataclass(frozen=True)
class Overrides:
    """What a user may override for one run; None keeps the config's value."""

    epochs: int | None = None
    image_size: int | None = None  # pixels, longer side of the network's input
    batch: int | None = None  # photos per step
    options: dict[str, Any] = field(default_factory=dict)  # the framework's own keys, dotted
    recipe: str | None = None  # a file in configs/recipes, see `training.recipe`

    def sizes(self) -> dict[str, int]:
        """Those of epochs, image_size and batch that are given."""
        values = {"epochs": self.epochs, "image_size": self.image_size, "batch": self.batch}
        return {key: value for key, value in values.items() if value is not None}


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """["a.b=1", "c=true", "d=1e-3"] -> {"a.b": 1, "c": True, "d": 0.001}; other values are YAML."""
    options = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise PipelineError(f"option '{pair}': expected key=value")
        options[key] = _option(pair, value)
    return options


def _option(pair: str, value: str) -> Any:
    for kind in (whole_number, number):
        with contextlib.suppress(ValueError):
            return kind(value)
    try:
        float(value)
    except ValueError:
        return parse_yaml(value, f"option '{pair}'", "correct it")
    raise PipelineError(f"option '{pair}': expected a finite number in the digits 0 to 9")


def config_digest(resolved: Mapping[str, Any], photo_side: int | None = None) -> str:
    """Digest of what decides a training's result; what it may use of a machine does not.

    photo_side: pixels, where photos are reduced before they are trained on.
    """
    values = {key: value for key, value in resolved.items() if key != "resources"}
    if photo_side is not None:
        values["photo_side"] = photo_side
    return text_digest(json.dumps(values, sort_keys=True, default=str))
