"""The rules of the house, read from the sources: who may import whom, and what a stage is."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pipeline"
BASE = {
    "pipeline",
    "boxes",
    "cli",
    "cluster",
    "cpus",
    "errors",
    "locks",
    "names",
    "paths",
    "processes",
    "startup",
    "views",
}
# What each part may import besides itself and the base; stages may import every part.
PARTS = {
    "kernels": set(),
    "data": set(),
    "splits": {"data", "kernels"},
    "checks": {"data"},
    "fusion": {"kernels"},
    "scoring": {"data", "kernels"},
    "inference": {"data"},
    "training": {"data", "inference", "scoring"},
    "backends": {"data", "inference", "training"},
    "models": {"data"},
    "ensembles": {"data", "fusion", "kernels", "scoring"},
    "submissions": {"data", "kernels"},
    "jobs": {"data", "training"},
    "tuning": {"data", "ensembles", "fusion", "kernels", "scoring"},
}
FRAMEWORKS = {"torch", "torchvision", "mmdet", "mmcv", "mmengine", "ultralytics"}
TORCH = {"torch", "torchvision"}
CALLS = ("cli.run(main)", "sys.exit(main())")  # the second where the status says what was found
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
STAGES = [path for path in PACKAGE.glob("*.py") if path.stem not in BASE | {"__init__"}]


def part_of(path):
    """The folder below pipeline/, or `base` or `stage` for a module that lies directly in it."""
    relative = path.relative_to(PACKAGE)
    if len(relative.parts) > 1:
        return relative.parts[0]
    return "stage" if path in STAGES else "base"


def imports(tree):
    """Full names of all modules and names that a module imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def names(paths):
    return [str(path.relative_to(PACKAGE)) for path in paths]


def test_every_folder_has_its_place():
    assert {part_of(path) for path in MODULES} == {"base", "stage", *PARTS}
    assert {"folds", "train", "predict", "evaluate", "ensemble", "submission"} <= {p.stem for p in STAGES}


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_imports_go_one_way(path):
    part = part_of(path)
    allowed = set(PARTS) if part == "stage" else PARTS.get(part, set()) | {part}
    for name in imports(parse(path)):
        top, *rest = name.split(".")
        if top == "pipeline":
            target = rest[0]
            is_constant = target.startswith("__")
            assert is_constant or target in BASE | allowed, f"{part} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_compiled_code_is_made_of_its_folder_and_kernels(path):
    """The stamp of the machine code's cache covers no other source."""
    found = set(imports(parse(path)))
    if any(name.startswith("pipeline.kernels.jit") for name in found):
        parts = {name.split(".")[1] for name in found if name.startswith("pipeline.")}
        assert parts <= {part_of(path), "kernels", *BASE}


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_only_backends_know_the_frameworks(path):
    for name in imports(parse(path)):
        top, *rest = name.split(".")
        part = part_of(path)
        if top in FRAMEWORKS:
            own_framework = top in TORCH and part in ("training", "inference")
            assert part in ("backends", "models") or own_framework, f"imports {name}"
        if top == "pipeline" and rest[:1] == ["backends"]:
            assert part == "backends", f"imports {name}; use load_backend"


@pytest.mark.parametrize("path", STAGES, ids=names(STAGES))
def test_a_stage_is_a_main_that_nothing_calls_at_import(path):
    tree = parse(path)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    main = functions["main"].args
    assert [argument.arg for argument in main.args] == ["argv"]
    assert [ast.unparse(default) for default in main.defaults] == ["None"]
    assert ast.get_docstring(tree)
    *body, last = tree.body
    assert ast.unparse(last) in [f"if __name__ == '__main__':\n    {call}" for call in CALLS]
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    for node in body[1:]:  # after the docstring
        assert isinstance(node, quiet), f"line {node.lineno} runs at import"


@pytest.mark.parametrize("path", MODULES, ids=names(MODULES))
def test_no_module_ends_the_process(path):
    """Only the command line does, a stage's last line, and Ctrl-C before it."""
    body = parse(path).body
    for node in ast.walk(ast.Module(body[:-1] if path in STAGES else body, [])):
        if isinstance(node, ast.Call) and path.stem not in ("cli", "startup"):
            called = ast.unparse(node.func)
            assert called not in ("exit", "quit", "sys.exit", "os._exit"), f"line {node.lineno}"
