"""MMDetection's packages, with their modules imported when they are asked for.

As they are, `mmdet.models` imports 350 modules at once. All that their `__init__` files do is to collect
names from modules; here each name imports its module when somebody first takes it, from the package or by
`Registry.get`. What a config does not use is not imported.
"""

import ast
import functools
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("models", "datasets", "engine", "evaluation", "visualization")
# They register their classes with mmengine when they are imported.
MMCV = ("mmcv.cnn", "mmcv.cnn.bricks.transformer", "mmcv.ops", "mmcv.transforms")
# The modules, one or more, that may register a class of a name; at first those that no package exports.
_modules: dict[str, list[str]] = {
    "BaseSemanticHead": ["mmdet.models.seg_heads.base_semantic_head"],
    "FrozenBN": ["mmdet.models.layers.brick_wrappers"],
    "LVISFixedAPMetric": ["mmdet.evaluation.metrics.lvis_metric"],
    "Linear": ["mmdet.models.layers.normed_predictor"],
    "SiLU": ["mmdet.models.layers.activations"],
}


class _Package(ModuleType):
    """A package that imports a module for a name that is asked of it."""

    def __init__(self, name: str, init: Path) -> None:
        super().__init__(name)
        names = collected(init, name)
        vars(self).update(
            __file__=str(init), __path__=[str(init.parent)], __all__=list(names), lazy_names=names
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.lazy_names:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        module, original = self.lazy_names[name]
        value = getattr(import_module(module), original)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        """Importing a module binds its name, which may be that of a function in it."""
        if isinstance(value, ModuleType) and name in self.lazy_names:
            value = getattr(value, name)
        super().__setattr__(name, value)


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


def import_named(name: str) -> None:
    """Import what may register a class of this name, which may have a scope or a module before it."""
    for module in _modules.get(name.rpartition(".")[2], ()):
        import_module(module)


def install() -> None:
    """To be called before anything imports mmdet's models or datasets. May be called again."""
    import mmdet
    from mmengine.registry import Registry

    if isinstance(sys.modules.get("mmdet.models"), _Package):
        return
    for name in MMCV:
        import_module(name)
    root = Path(mmdet.__file__).parent
    for init in sorted(path for folder in PACKAGES for path in (root / folder).rglob("__init__.py")):
        parent, _, name = ".".join(["mmdet", *init.parent.relative_to(root).parts]).rpartition(".")
        package = _Package(f"{parent}.{name}", init)
        sys.modules[package.__name__] = package
        setattr(sys.modules[parent], name, package)
        for name, (module, _) in package.lazy_names.items():
            _modules.setdefault(name, []).append(module)
    get = Registry.get

    def imported(self: Any, key: str) -> Any:
        import_named(key)
        return get(self, key)

    Registry.get = imported
