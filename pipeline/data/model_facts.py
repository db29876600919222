"""What is known of each model on every machine: `configs/models.yaml`, a line per model."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from pipeline.data.models import ModelConfig, list_models
from pipeline.data.records import Record, as_record, read_yaml_record
from pipeline.paths import CONFIGS, shown, write_text

FACTS = CONFIGS / "models.yaml"
CLASSES = 80  # with which parameters and GFLOPs are counted, as COCO has
MODELS = "\nmodels:\n"  # what is before it, is written by hand alone


class ModelFacts(Record):
    """A line. The last three are counted by `make models-measure`, None before."""

    family: str
    paper: str  # "arXiv 1506.01497", or an address without its https://
    year: Annotated[int, Field(ge=1950)]
    code: str  # licences
    weights: str
    size: Annotated[int, Field(ge=1)] | None = None  # pixels, the side of a square photo
    parameters: Annotated[int, Field(ge=1)] | None = None
    gflops: Annotated[float, Field(ge=0)] | None = None  # two operations for a multiply-add


class _Family(Record):
    paper: str
    year: int


class _File(Record):
    """configs/models.yaml: what the lines of a framework and of a family have in common, and the lines."""

    licences: dict[str, str]  # by framework, of code and weights
    families: dict[str, _Family]
    models: dict[str, dict[str, Any]]

    def in_common(self, config: ModelConfig | None, family: Any) -> dict[str, Any]:
        """What a line of that framework and family need not state."""
        licence = self.licences.get(config.backend) if config else None
        found = {"code": licence, "weights": licence} if licence else {}
        return found | (self.families[family].model_dump() if family in self.families else {})


def _read(path: Path) -> _File:
    return read_yaml_record(path, _File, "its head says how it is written")


def read_facts(path: Path | None = None) -> dict[str, ModelFacts]:
    """The lines by model; raises PipelineError for one that is not as the head of the file says."""
    path = path or FACTS
    file, configs, facts = _read(path), list_models(), dict[str, ModelFacts]()
    for name, own in file.models.items():
        values = file.in_common(configs.get(name), own.get("family")) | own
        facts[name] = as_record(values, ModelFacts, f"{shown(path)}: {name}", "correct it")
    return facts


def write_facts(facts: dict[str, ModelFacts], path: Path | None = None) -> None:
    """Write all lines, in order of their names, below what is there before them."""
    path = path or FACTS
    file, configs, before = _read(path), list_models(), path.read_text(encoding="utf-8").partition(MODELS)[0]
    lines = []
    for name in sorted(facts):
        common = file.in_common(configs.get(name), facts[name].family)
        values = facts[name].model_dump(exclude_none=True)
        own = {key: value for key, value in values.items() if common.get(key) != value}
        line = yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=10**6)
        lines.append(f"  {name}: {line.strip()}\n")
    write_text(path, "".join([before, MODELS, *lines]))
