"""MMDetection's packages, with their modules imported when they are asked for.

As they are, `mmdet.models` imports 350 modules at once. All that their `__init__` files do is to collect
names from modules; here each name imports its module when somebody first takes it, from the package or by
`Registry.get`. What a config does not use is not imported.
"""

import ast
import functools
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("mmdet.models", "mmdet.datasets", "mmdet.engine", "mmdet.evaluation", "mmdet.visualization")
# They register their classes with mmengine when they are imported.
MMCV = ("mmcv.cnn", "mmcv.cnn.bricks.transformer", "mmcv.ops", "mmcv.transforms")
# Registered by names that no package exports.
UNLISTED = {
    "BaseSemanticHead": "mmdet.models.seg_heads.base_semantic_head",
    "FrozenBN": "mmdet.models.layers.brick_wrappers",
    "LVISFixedAPMetric": "mmdet.evaluation.metrics.lvis_metric",
    "Linear": "mmdet.models.layers.normed_predictor",
    "SiLU": "mmdet.models.layers.activations",
}


class _Package(ModuleType):
    """A package that imports a module for a name that is asked of it."""

    lazy_names: Mapping[str, tuple[str, str]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.lazy_names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, original = self.lazy_names[name]
        value = getattr(import_module(module), original)
        setattr(self, name, value)
        return value


class _Loader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: Any) -> None:
        names = module.lazy_names = collected(Path(str(module.__file__)), module.__name__)
        module.__all__ = list(names)
        for name, (source, _) in names.items():
            if source.rpartition(".")[2] == name:  # else importing its module would put that in its place
                getattr(module, name)


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(PACKAGES):
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.submodule_search_locations is not None:
            spec.loader = _Loader()
        return spec


@functools.cache
def collected(init: Path, package: str) -> Mapping[str, tuple[str, str]]:
    """The names that a package's `__init__` file takes from its modules: (module, name there)."""
    names: dict[str, tuple[str, str]] = {}
    for node in ast.walk(ast.parse(init.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or node.level != 1:
            continue
        module = f"{package}.{node.module}"
        for alias in node.names:
            if alias.name == "*":
                names.update(collected(init.parent / str(node.module) / "__init__.py", module))
            else:
                names[alias.asname or alias.name] = (module, alias.name)
    return names


@functools.cache
def _modules() -> dict[str, list[str]]:
    """The modules, one or more, that may register a class of each name."""
    modules = {name: [module] for name, module in UNLISTED.items()}
    for package in PACKAGES:
        spec = find_spec(package)
        assert spec is not None and spec.origin is not None
        folder = Path(spec.origin).parent
        for init in folder.rglob("__init__.py"):
            inner = ".".join([package, *init.parent.relative_to(folder).parts])
            for name, (module, _) in collected(init, inner).items():
                modules.setdefault(name, []).append(module)
    return modules


def import_named(name: str) -> None:
    """Import what may register a class of this name, which may have a scope or a module before it."""
    for module in _modules().get(name.rpartition(".")[2], ()):
        import_module(module)


def install() -> None:
    """To be called before anything imports mmdet's models or datasets. May be called again."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    from mmengine.registry import Registry

    for name in MMCV:
        import_module(name)
    sys.meta_path.insert(0, _Finder())
    get = Registry.get

    def imported(self: Any, key: str) -> Any:
        import_named(key)
        return get(self, key)

    Registry.get = imported
