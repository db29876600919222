"""Training recipes: files in configs/recipes that say how to train, in the same words for every framework.

A recipe lies above the `_base_/` of a framework's configs and below what a model's own file says; SET= is
above both. Its list `holds` says what each framework's built pipeline has of it. A word that a framework
lacks must stand there as `unavailable`, or is refused.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pipeline.data.models import Overrides, merged, read_over_base
from pipeline.data.records import Record, as_record
from pipeline.data.run_card import RecipeNote
from pipeline.errors import PipelineError
from pipeline.names import check_name
from pipeline.paths import CONFIGS, shown

FOLDER = CONFIGS / "recipes"
UNAVAILABLE = "unavailable"
OWN = "the config's own"  # of a word that the model's own file states otherwise
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Sampling = Literal["plain", "balanced"]  # see `training.sampling`
Schedule = Literal["cosine", "linear"]  # of the learning rate, after its warm-up
Parts = dict[str, dict[str, Any]]


class Augment(Record):
    """What is done to photos in training."""

    flip: Share = 0.0  # probability of a horizontal flip
    scale: tuple[Positive, Positive] = (1.0, 1.0)  # smallest, largest
    photometric: bool = False  # other brightness, contrast, saturation and hue, as much as the framework does
    mosaic: Share = 0.0  # probability of four photos in one
    mixup: Share = 0.0  # probability of a photo over another one
    close: Share = 0.1  # part of the epochs, the last ones, without mosaic and mixup

    @model_validator(mode="after")
    def _scale_rises(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: expected smallest, largest, found {list(self.scale)}")
        return self


def closed_epochs(share: float, epochs: int) -> int:
    """A share of the epochs as a whole number, at least 1 of a share above 0."""
    return max(round(share * epochs), 1) if share else 0


class Recipe(Record):
    """A file in configs/recipes; what it does not state is as the model's config has it."""

    augment: Augment | None = None
    sampling: Sampling | None = None
    amp: bool | None = None  # half precision on a GPU
    ema: Annotated[float, Field(ge=0, lt=1)] | None = None  # decay of the weights' average; 0 is none
    patience: Count | None = None  # epochs without a better one after which a training ends
    schedule: Schedule | None = None
    freeze: Literal["backbone"] | None = None  # it stays as pretrained, its norms too
    nominal_batch: Count | None = None  # photos per step: the gradients of smaller batches are added up
    holds: dict[str, dict[str, Literal["unavailable"] | dict[str, Any]]] = Field({})


@dataclass(frozen=True)
class FrameworkKeys:
    """How a framework writes a recipe."""

    name: str  # in a recipe's list `holds`
    parts: Callable[[Recipe], Parts]  # by word, or by what several words have in common: keys of a config
    lacks: tuple[str, ...] = ()  # words of `augment`


@dataclass(frozen=True)
class Chosen:
    """The recipe of one training, in a framework's keys."""

    path: Path
    asked: bool  # by RECIPE=; else the model's config names it
    parts: Parts
    words: Mapping[str, Any]  # what the file states, dotted

    @property
    def layer(self) -> dict[str, Any]:
        """What stands between the `_base_/` of a framework and a model's own file."""
        return reduce(merged, self.parts.values(), {})

    def note(self, config: Mapping[str, Any], model: Path) -> dict[str, Any]:
        """What a config holds of the recipe, for the resolved config.

        Raises PipelineError where RECIPE= asked for it and nothing is left of it.
        """
        own = [part for part, keys in self.parts.items() if not _holds(config, keys)]
        words = dict(self.words)
        for word in words:
            if any(word == part or word.startswith(f"{part}.") for part in own):
                words[word] = OWN
        if self.asked and own and not set(self.parts) - set(own):
            raise PipelineError(
                f"RECIPE={self.path.stem} would change nothing: {shown(model)} states {', '.join(own)} "
                "itself; train a copy of it without that"
            )
        return RecipeNote(name=self.path.stem, words=words).model_dump(mode="json")


def choose(
    model: Path, layers: Iterable[Mapping[str, Any]], overrides: Overrides, keys: FrameworkKeys
) -> Chosen | None:
    """The recipe that RECIPE= asks for, else the one that a model's config names, if any.

    layers: the config's, the model's own file first. Raises PipelineError with file and key for a recipe that
    is not there, is damaged, or says what the framework lacks without a word about it.
    """
    stated = next((layer["recipe"] for layer in layers if "recipe" in layer), None)
    name = overrides.recipe or stated
    if name is None:
        return None
    if not isinstance(name, str):
        raise PipelineError(
            f"{shown(model)}: recipe {name!r}: expected the name of a file in configs/recipes"
        )
    path = FOLDER / f"{check_name('recipe', name)}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
        raise PipelineError(f"no recipe '{name}'; there are: {there}")
    recipe = read_recipe(path)
    words = stated_words(recipe)
    lacking = [word for word in keys.lacks if recipe.augment and getattr(recipe.augment, word)]
    for word in lacking:
        if recipe.holds.get(keys.name, {}).get(word) != UNAVAILABLE:
            raise PipelineError(
                f"{shown(path)}: augment.{word}: {keys.name} has none; leave it out, or list it in holds of "
                f"{keys.name} as {UNAVAILABLE}"
            )
        words[f"augment.{word}"] = UNAVAILABLE
    if recipe.augment:
        off = recipe.augment.model_copy(update=dict.fromkeys(lacking, 0.0))
        recipe = recipe.model_copy(update={"augment": off})
    return Chosen(path, bool(overrides.recipe), keys.parts(recipe), words)


def read_recipe(path: Path) -> Recipe:
    """A recipe over its `_base_`; raises PipelineError with file and key."""
    return as_record(read_over_base(path), Recipe, shown(path), "correct it")


def check_words(config: Mapping[str, Any], words: Iterable[str], source: str) -> None:
    """Raise PipelineError where a config holds some of a recipe's words, but with other values."""
    as_record({word: config[word] for word in words if word in config}, Recipe, source, "correct it")


def parts_at_top(recipe: Recipe, words: Iterable[str]) -> Parts:
    """The words that a framework's config has at its top, as a recipe has them."""
    return {word: {word: value} for word in words if (value := getattr(recipe, word)) is not None}


def stated_words(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says, by dotted words, as JSON data."""
    values = recipe.model_dump(mode="json", exclude={"holds"}, exclude_none=True)
    augment = values.pop("augment", {})
    return {f"augment.{word}": value for word, value in augment.items()} | values


def _holds(config: Any, part: Any) -> bool:
    """Whether a config has all that a part states."""
    if isinstance(part, dict):
        return isinstance(config, dict) and all(
            key in config and _holds(config[key], value) for key, value in part.items()
        )
    return bool(config == part)


def with_recipe(
    layers: list[tuple[Path, dict[str, Any]]], overrides: Overrides, keys: FrameworkKeys
) -> tuple[list[tuple[Path, dict[str, Any]]], Chosen | None]:
    """The layers of a YAML config, the model's own file first, with its recipe among them."""
    model = layers[0][0]
    chosen = choose(model, [values for _, values in layers], overrides, keys)
    layers = [(path, {k: v for k, v in values.items() if k != "recipe"}) for path, values in layers]
    if chosen:
        place = next((i for i, (path, _) in enumerate(layers) if path.parent.name == "_base_"), len(layers))
        layers.insert(place, (chosen.path, chosen.layer))
    return layers, chosen
