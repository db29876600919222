"""An ensemble's file, configs/ensembles/<name>.yaml: which members, and how they are fused."""

from itertools import groupby
from operator import attrgetter
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass

from pipeline.data.records import STRICT, Name, Record, read_yaml_record
from pipeline.ensembles.tables import FUSION_KEYS, Fusion
from pipeline.errors import PipelineError
from pipeline.names import check_name
from pipeline.paths import CONFIGS

BY_MODEL = attrgetter("model")


class MemberChoice(Record):
    """A model as an ensemble's YAML names it; without `views` it takes part with all of them."""

    model: Name
    views: Annotated[list[str], Field(min_length=1)] | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0


def _choices(value: Any) -> Any:
    if value != "all" and (not isinstance(value, list) or not value):
        raise ValueError("expected all, or a list of models")
    return None if value == "all" else value


@dataclass(frozen=True, config=STRICT)
class EnsembleConfig(Fusion):
    """configs/ensembles/<name>.yaml: the members, and how they are fused."""

    # None for "all": every trained model, with every view that was predicted
    members: Annotated[list[MemberChoice] | None, BeforeValidator(_choices)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for model, choices in groupby(sorted(self.members or [], key=BY_MODEL), key=BY_MODEL):
            views = [view for choice in choices for view in choice.views or ["all its views"]]
            if len(set(views)) < len(views) or (len(views) > 1 and "all its views" in views):
                raise PipelineError(f"member {model}: a view is named twice: {', '.join(views)}")

    @property
    def fusion(self) -> Fusion:
        return Fusion(**{key: getattr(self, key) for key in FUSION_KEYS})


def read_ensemble(name: str) -> EnsembleConfig:
    """An ensemble of this checkout; raises PipelineError that names the key."""
    path = CONFIGS / "ensembles" / f"{check_name('ensemble', name)}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise PipelineError(f"no ensemble '{name}'; there are: {known}")
    return read_yaml_record(path, EnsembleConfig)
