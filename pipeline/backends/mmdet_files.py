"""MMDetection's configs as files: one base each, down to a model of MMDetection's own and our defaults."""

import copy
import difflib
import functools
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmdet
from mmengine.config import Config

from pipeline.backends.mmdet_recipe import KEYS_OF_RECIPES
from pipeline.data.models import Overrides
from pipeline.errors import PipelineError, reason
from pipeline.paths import CONFIGS, shown
from pipeline.training.recipe import choose

SHIPPED = "mmdet::"
DEFAULTS = CONFIGS / "mmdet" / "_base_" / "default.py"


def read_files(path: Path, overrides: Overrides) -> Config:
    """A config's values over those of its `_base_`: another of our files, or `mmdet::<file>`.

    Of a config that MMDetection ships the model is taken. All else (data, schedule, runtime) is that of our
    `_base_/default.py` and of the recipe, where no file says otherwise. Raises PipelineError with the file.
    """
    merged = Config.fromfile(DEFAULTS).to_dict()
    layers = list(_layers(path))
    chosen = choose(path, layers, overrides, KEYS_OF_RECIPES)
    for values in [*([chosen.layer] if chosen else []), *reversed(layers)]:
        try:
            merged = Config._merge_a_into_b(values, merged)
        except TypeError as error:
            raise PipelineError(f"{shown(path)}: {reason(error)}") from None
    if "type" not in merged.get("model", {}):
        raise PipelineError(f"{shown(path)}: expected 'model' with a type, or a _base_ that has one")
    if chosen:
        merged["recipe"] = chosen.note(merged, path)
    return Config(merged)


def _layers(path: Path) -> Iterator[dict[str, Any]]:
    """The values of a config, then those of its base, and so on."""
    seen: list[Path] = []
    while path.resolve() not in seen:
        seen.append(path.resolve())
        values = _values(path)
        base = values.pop("_base_", None)
        yield values
        if base is None:
            return
        if not isinstance(base, str) or not re.fullmatch(f"({SHIPPED})?[^:]+\\.py", base):
            raise PipelineError(
                f"{shown(path)}: _base_ {str(base)[:80]!r}: expected one file, './faster_rcnn.py' or "
                f"'{SHIPPED}fcos/...py' (its model; the rest is in _base_/default.py)"
            )
        if base.startswith(SHIPPED):
            yield {"model": copy.deepcopy(_shipped_model(base.removeprefix(SHIPPED), shown(path)))}
            return
        path = path.parent / base
    raise PipelineError(f"{shown(path)}: its _base_ leads back to itself")


def _values(path: Path) -> dict[str, Any]:
    """What a config file assigns."""
    names: dict[str, Any] = {}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    except OSError as error:
        raise PipelineError(f"{shown(path)}: {error.strerror}") from None
    except Exception as error:  # whatever its code raises
        raise PipelineError(f"{shown(path)}: {reason(error)}") from None
    modules = {name for name, value in names.items() if isinstance(value, types.ModuleType)}
    return {name: names[name] for name in names.keys() - modules if not name.startswith("__")}


@functools.cache
def _shipped_model(name: str, source: str) -> dict[str, Any]:
    """The model of a config that MMDetection ships, by its path in MMDetection's `configs/`."""
    folder = Path(mmdet.__file__).parent / ".mim" / "configs"
    if not (folder / name).is_file():
        known = [str(path.relative_to(folder)) for path in folder.rglob("*.py")]
        meant = "".join(
            f"; is '{SHIPPED}{near}' meant?" for near in difflib.get_close_matches(name, known, 1)
        )
        raise PipelineError(f"{source}: MMDetection {mmdet.__version__} ships no '{name[:80]}'{meant}")
    return Config.fromfile(folder / name).to_dict()["model"]
