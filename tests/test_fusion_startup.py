"""What a new process pays: imports and the kernel cache; and what the package may import."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "pipeline" / "fusion"
OURS = ("fusion", "kernels", "errors", "boxes", "cpus")
FIRST_CALL = """
import sys
from pipeline.fusion import driver, fuse, grouping, pack
fused = fuse(pack([[0, 0, 9, 9]], [0.5], [0], [0], [0, 1], n_sources=1))
assert len(fused.scores) == 1
for heavy in ("torch", "pandas", "ensemble_boxes"):
    assert heavy not in sys.modules, heavy
print(sum(len(kernel.stats.cache_misses) for kernel in (driver.fuse_images, grouping.pack_images)))
"""

# Stands in for machine code, which takes 15 s to make.
CACHE_ENTRY = """
from pipeline.fusion import driver, grouping
from pipeline.kernels import order
key = getattr(order, "Key", "key")
for kernel in (driver.fuse_images, grouping.pack_images):
    if {save}:
        kernel._cache._impl.locator.ensure_cache_path()
        kernel._cache._cache_file.save(key, "machine code")
    print(kernel._cache._cache_file.load(key))
"""


def run(code: str, cwd: Path = ROOT, **environment: str) -> str:
    """The output of a new Python process."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_call_of_a_later_process_compiles_nothing():
    run(FIRST_CALL)
    assert int(run(FIRST_CALL)) == 0


@pytest.fixture
def copy(tmp_path):
    """A copy of what compiled code is made of, which a test may edit."""
    folder = tmp_path / "pipeline"
    for name in ("fusion", "kernels"):
        shutil.copytree(ROOT / "pipeline" / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("errors.py", "boxes.py", "cpus.py"):
        shutil.copy(ROOT / "pipeline" / name, folder)
    (folder / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("edited", ["fusion/overlap.py", "fusion/wbf.py", "kernels/order.py"])
def test_the_cache_outlives_a_process_and_not_an_edit(tmp_path, copy, edited):
    """An edit of a helper's file must reach the kernel that calls it from another file."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    kept, gone = ["machine code"] * 2, ["None"] * 2
    assert run(CACHE_ENTRY.format(save=True), tmp_path, **environment).split("\n")[:2] == kept
    assert run(CACHE_ENTRY.format(save=False), tmp_path, **environment).split("\n")[:2] == kept
    with (copy / edited).open("a") as file:
        file.write("\n# edited\n")
    assert run(CACHE_ENTRY.format(save=False), tmp_path, **environment).split("\n")[:2] == gone


def test_the_cache_of_older_code_with_other_classes_is_not_read(tmp_path, copy):
    """The cache names the classes of a kernel's arguments, which newer code may have renamed."""
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
    order = copy / "kernels" / "order.py"
    text = order.read_text()
    order.write_text(text + "\n\nclass Key:\n    pass\n")
    assert run(CACHE_ENTRY.format(save=True), tmp_path, **environment).split("\n")[:2] == ["machine code"] * 2
    order.write_text(text)
    assert run(CACHE_ENTRY.format(save=False), tmp_path, **environment).split("\n")[:2] == ["None"] * 2


def test_imports_go_one_way():
    """Only NumPy, Numba and those of OURS, besides the standard library."""
    allowed = {"numpy", "numba", "llvmlite"} | set(sys.stdlib_module_names)
    for path in [*FOLDER.glob("*.py"), *FOLDER.with_name("kernels").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            for name in names:
                ours = name.startswith(tuple(f"pipeline.{part}" for part in OURS))
                assert ours or name.split(".")[0] in allowed, f"{path.name} imports {name}"
