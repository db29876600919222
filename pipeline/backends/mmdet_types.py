"""What a config of MMDetection may name: keys at its top, and classes as `type`."""

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mmdet.registry
import mmengine.registry
from mmengine.registry import Registry
from mmengine.runner import Runner

from pipeline.backends.mmdet_imports import import_named
from pipeline.errors import PipelineError

SCOPES = ("mmdet", "mmengine")  # for another one mmengine imports `<scope>.registry`
# Operators that configs name as a `type` and mmcv looks up by itself.
OPERATORS = {"nms", "soft_nms", "nms_match", "RoIAlign", "RoIPool", "SimpleRoIAlign"}
# What we read at the top of a config besides what mmengine's Runner takes.
TOP = (
    "amp",
    "batch",
    "close",
    "compiled",
    "custom_imports",
    "ema",
    "epochs",
    "freeze",
    "image_size",
    "image_size_divisor",
    "nominal_batch",
    "patience",
    "recipe",
    "resources",
    "sampling",
    "test_pipeline",
    "train_pipeline",
    "val_interval",
)
ALIKE = 0.885  # of difflib: load_form is load_from, tta_pipeline (0.88) is not test_pipeline


def dicts(node: Any, skip: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every mapping of a config, itself included, but not below the keys in `skip`."""
    if isinstance(node, dict):
        yield node
        node = [value for key, value in node.items() if key not in skip]
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from dicts(item, skip)


def check_keys(keys: Iterable[str], source: str) -> None:
    """Raise PipelineError for a misspelt key at the top of a config; others may be variables of its own."""
    known = {*inspect.signature(Runner.__init__).parameters, *TOP}
    for key in set(keys) - known - {"img_size"}:
        for meant in difflib.get_close_matches(key, known, 1, ALIKE):
            if not key.endswith(f"_{meant}"):
                raise PipelineError(f"{source}: '{key}' is no key of a config; is '{meant}' meant?")


def registered() -> dict[str, Any]:
    """Every class and function that is imported and that a config may name as `type`, by its name."""
    spaces = (mmengine.registry, mmdet.registry)
    registries = [value for space in spaces for value in vars(space).values() if isinstance(value, Registry)]
    for registry in registries:
        registry.import_from_location()  # the framework's own modules, which register themselves
    return {name: found for registry in registries for name, found in registry.module_dict.items()}


def check_types(config: Mapping[str, Any], source: str) -> None:
    """Give every `type` of a config its registered name; raises PipelineError for one that is not registered.

    mmengine would import whatever stands before a dot, also as the scope of a whole part, and call it.
    """
    for part in dicts(config):
        if kind := part.get("type"):
            import_named(kind if isinstance(kind, str) else kind.__name__)
    known = registered()
    by_path = {f"{item.__module__}.{name}": name for name, item in known.items()}
    for part in dicts(config):
        for key in ("_scope_", "default_scope"):
            if (scope := part.get(key)) is not None and scope not in SCOPES:
                raise PipelineError(f"{source}: {key} '{scope}': expected {' or '.join(SCOPES)}")
        if "type" not in part:
            continue
        stated = part["type"]
        name = stated if isinstance(stated, str) else f"{stated.__module__}.{stated.__qualname__}"
        scope, _, bare = name.partition(".")
        bare = by_path.get(name, bare if scope in SCOPES else name)
        if bare not in known and bare not in OPERATORS:
            raise PipelineError(f"{source}: type '{name}': no such class is registered")
        part["type"] = name if scope in SCOPES and bare == name.partition(".")[2] else bare
