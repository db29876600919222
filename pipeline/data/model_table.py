"""The table of all models: what is the same everywhere, what was measured here, what they scored.

Made from files alone: no torch, nothing built.
"""

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from pipeline.data.model_facts import read_facts
from pipeline.data.models import ModelConfig, list_models, read_layers
from pipeline.data.records import Record, read_record
from pipeline.data.run_card import DeviceSpeed
from pipeline.data.runs import find_runs
from pipeline.errors import PipelineError
from pipeline.paths import PROJECT, runs_dir, shown, speeds_json, weights_dir, write_text

PAGE = PROJECT / "docs" / "models.md"
BEGIN, END = (
    "<!-- models: made from configs/models.yaml by make models-measure -->\n",
    "<!-- end of models -->",
)
COLUMNS = (
    "model",
    "family",
    "paper",
    "year",
    "backend",
    "M params",
    "GFLOPs",
    "at",
    "code licence",
    "weights licence",
)


class Speeds(Record):
    """Photos a second by device, then by model, with 80 classes and at random weights."""

    devices: dict[str, dict[str, DeviceSpeed]] = Field(default={})


class _Score(Record, extra="ignore"):
    value: float | None = None
    low: float | None = None
    high: float | None = None


class _ViewScores(Record, extra="ignore"):
    split: str = ""
    competition: _Score = _Score()


class _Metrics(Record, extra="ignore"):
    """What the table takes of a model's metrics.json."""

    scores: dict[str, _ViewScores] = Field(default={})


def constant_rows() -> list[dict[str, str]]:
    """The columns that are the same on every machine, as text: empty where a config has no line yet."""
    rows, lines = [], read_facts()
    for name, model in sorted(list_models().items()):
        row = dict.fromkeys(COLUMNS, "") | {"model": name, "backend": model.backend}
        if facts := lines.get(name):
            row |= {"family": facts.family, "paper": facts.paper, "year": str(facts.year)}
            row |= {"code licence": facts.code, "weights licence": facts.weights}
            row["M params"] = f"{facts.parameters / 1e6:.1f}" if facts.parameters else ""
            row["GFLOPs"] = f"{facts.gflops:.1f}" if facts.gflops is not None else ""
            row["at"] = str(facts.size or "")
        rows.append(row)
    return rows


def read_speeds() -> Speeds:
    path = speeds_json()
    return read_record(path, Speeds, "make models-measure again") if path.exists() else Speeds()


def all_rows(competition: str, devices: Sequence[str]) -> list[dict[str, str]]:
    """The constant columns, and the photos a second here, the OOF score and whether the weights are here.

    devices: how the names of this machine's devices begin; what was measured on the first of them is shown.
    """
    rows, models, speeds = constant_rows(), list_models(), read_speeds().devices
    runs = find_runs(competition)
    for row in rows:
        name = row["model"]
        costs = [cost for run in runs if run.model == name and (cost := run.card().cost)]
        measured = {device: found[name] for device, found in speeds.items() if name in found}
        for cost in costs:  # of its own weights
            measured |= cost.speed
        row["photos/s here"] = _speed_here(measured, devices)
        row["OOF"] = _oof(competition, name)
        row["weights here"] = weights_here(models[name])
    return rows


def _speed_here(measured: Mapping[str, DeviceSpeed], devices: Sequence[str]) -> str:
    here = (
        found for device in devices for name, found in measured.items() if name.partition(",")[0] == device
    )
    best = next(here, None)
    return f"{best.fps_best:.1f}" if best else ""


def _oof(competition: str, model: str) -> str:
    """The competition's metric with its interval, of the model's views fused, or of its one view."""
    path = runs_dir(competition) / model / "metrics.json"
    if not path.exists():
        return ""
    scores = read_record(path, _Metrics, f"make evaluate COMP={competition} MODEL={model} again").scores
    for view in ("fused", "identity", *scores):
        if view in scores and scores[view].split == "oof" and scores[view].competition.value is not None:
            found = scores[view].competition
            return f"{found.value:.3f} [{found.low or 0:.3f}, {found.high or 0:.3f}]"
    return ""


def weights_here(model: ModelConfig) -> str:
    """yes, backbone or no, as the files that a config names lie in weights/; "" where it names none."""
    whole, parts = _named_weights(model)
    folder = weights_dir()
    if whole and (folder / whole).is_file():
        return "yes"
    if any((folder / name).is_file() for name in parts):
        return "backbone"
    return "no" if whole or parts else ""


def _named_weights(model: ModelConfig) -> tuple[str, list[str]]:
    """The names of the files of a whole detector's weights and of its parts', as the config says."""
    if model.path.suffix == ".yaml":
        values: dict[str, Any] = {}
        for _, layer in reversed(read_layers(model.path)):
            values |= layer
        return _file(values.get("weights")), [_file(values.get("backbone_weights"))]
    return _weights_of_python(model.path)


def _weights_of_python(path: Path) -> tuple[str, list[str]]:
    whole, parts = "", list[str]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            texts = [c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)]
            if names == ["load_from"]:
                whole = _file(texts[0])
            elif names == ["_base_"] and str(texts[0]).startswith("./"):
                whole, parts = _weights_of_python(path.parent / str(texts[0]))
            else:
                parts += [_file(text) for text in texts if str(text).endswith((".pth", ".pt"))]
    return whole, parts


def _file(name: Any) -> str:
    return name.rsplit("/", 1)[-1] if isinstance(name, str) else ""


def page_table() -> str:
    """The constant columns as Markdown."""
    lines = [" | ".join(COLUMNS), " | ".join("--:" if c in COLUMNS[5:8] else "---" for c in COLUMNS)]
    for row in constant_rows():
        if not row["family"]:  # a config of the user's own
            continue
        paper = row["paper"].removeprefix("arXiv ")
        address = f"arxiv.org/abs/{paper}" if paper != row["paper"] else paper
        linked = row | {
            "model": f"`{row['model']}`",
            "paper": f"[{row['paper'].split('/')[0]}](https://{address})",
        }
        lines.append(" | ".join(linked[column] for column in COLUMNS))
    return "".join(f"| {line} |\n" for line in lines)


def page_text(text: str) -> str:
    """docs/models.md with its table made anew. Raises PipelineError where the table's marks are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise PipelineError(f"{shown(PAGE)}: expected the lines {BEGIN.strip()} and {END}; restore it")
    return f"{before}{BEGIN}\n{page_table()}\n{END}{after}"


def write_page() -> None:
    write_text(PAGE, page_text(PAGE.read_text(encoding="utf-8")))
