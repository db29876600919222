"""MMDetection's modules are imported when they are asked for, and none of its names is lost by that."""

import json
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from pipeline.paths import PROJECT

pytest.importorskip("mmdet")

# As mmdet imports itself.
ALL = """
import json, sys
from pipeline.backends import mmcv_ext
mmcv_ext.install()
import mmdet.registry, mmdet.utils
from mmengine.registry import Registry
mmdet.utils.register_all_modules()
registries = {key: value for key, value in vars(mmdet.registry).items() if isinstance(value, Registry)}
classes = {key: sorted(registry.module_dict) for key, registry in registries.items()}
packages = {name: getattr(module, "__all__", []) for name, module in sys.modules.items()}
packages = {name: names for name, names in packages.items() if name.startswith("mmdet.")}
print(json.dumps([classes, packages]))
"""
ONE = """
import sys
from pipeline.data.models import Overrides, find_model
from pipeline.training.backend import load_backend
load_backend("mmdet").untrained(find_model("faster_rcnn_tiny"), Overrides(), 6, "cpu")
print(*sys.modules)
"""


def output_of(code: str) -> str:
    """What a new process prints in its last line."""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_every_class_and_every_name_of_a_package_is_found() -> None:
    import mmdet.registry

    from pipeline.backends import mmdet as backend  # noqa: F401  installs the imports

    classes, packages = json.loads(output_of(ALL))
    assert sum(map(len, classes.values())) > 500
    registries: dict[str, Any] = {name: getattr(mmdet.registry, name) for name in classes}
    lost = {key for name, keys in classes.items() for key in keys if registries[name].get(key) is None}
    assert not lost
    for name, keys in classes.items():
        assert set(keys) <= set(registries[name].module_dict), name
    for package, names in packages.items():
        module = import_module(package)
        assert [name for name in names if not hasattr(module, name)] == [], package


def test_a_detector_imports_what_its_config_names() -> None:
    modules = output_of(ONE).split()
    assert "mmdet.models.detectors.faster_rcnn" in modules
    assert sum(name.startswith("mmdet.") for name in modules) < 150
    for heavy in ("mmdet.datasets.coco", "mmdet.models.dense_heads.atss_head"):
        assert heavy not in modules
