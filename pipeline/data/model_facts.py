"""What is known of each model on every machine: `configs/models.yaml`, a line per model."""

from itertools import takewhile
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from pipeline.data.records import Record, as_record, read_yaml
from pipeline.paths import CONFIGS, shown, write_text

FACTS = CONFIGS / "models.yaml"
CLASSES = 80  # with which parameters and GFLOPs are counted, as COCO has


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


def read_facts(path: Path | None = None) -> dict[str, ModelFacts]:
    """The lines by model; raises PipelineError for one that is not as the head of the file says."""
    path = path or FACTS
    return {
        name: as_record(values, ModelFacts, f"{shown(path)}: {name}", "correct it")
        for name, values in read_yaml(path).items()
    }


def write_facts(facts: dict[str, ModelFacts], path: Path | None = None) -> None:
    """Write all lines, in order of their names, below the head that is there."""
    path = path or FACTS
    text = path.read_text(encoding="utf-8")
    head = takewhile(lambda line: line.startswith("#"), text.splitlines(keepends=True))
    lines = [f"{name}: {_line(facts[name])}\n" for name in sorted(facts)]
    write_text(path, "".join([*head, *lines]))


def _line(facts: ModelFacts) -> str:
    values = facts.model_dump(exclude_none=True)
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=10**6).strip()
