"""Pretrained weights put into a network: those that fit, and the rows of classes that have the same names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.data.records import write_record
from pipeline.data.run_card import DetectorStart
from pipeline.errors import PipelineError, reason
from pipeline.paths import shown
from pipeline.training.backend import load_backend
from pipeline.training.job import TrainJob
from pipeline.training.safe_load import load_tensors
from pipeline.training.weights import check_digest

START = "start.json"  # in a run's scratch folder
MORE = 100  # classes of the network whose shapes say what depends on their number
# A class's rows lie together here; elsewhere, as with anchors, those of all classes repeat.
TOGETHER = re.compile(r"(fc_reg|bbox_pred)")


@dataclass(frozen=True)
class GivenWeights:
    """A whole detector's weights by name, and the names of its classes, () where they are not known."""

    weights: Mapping[str, Tensor]
    classes: tuple[str, ...] = ()


def given_weights(held: Mapping[str, Any], classes: Sequence[Any]) -> GivenWeights:
    """From a state dict, without what is no tensor."""
    weights = {str(name).removeprefix("module."): value for name, value in held.items()}
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    return GivenWeights(tensors, tuple(map(str, classes)))


def take_detector(job: TrainJob, module: nn.Module) -> None:
    """Fill a network with the weights of the whole detector that its config names, if it was found.

    One line says what was filled, and START keeps it for the run's card. Raises PipelineError for a file of
    another architecture or framework.
    """
    backend = load_backend(job.model.backend)
    path = job.weights.get(backend.wanted_weights(job).detector or "")
    if path is None:
        return
    with torch.random.fork_rng():
        detector = backend.untrained(job.model, job.overrides, len(job.classes) + MORE, "cpu")
    larger: nn.Module = getattr(detector, "model", None) or getattr(detector, "module")  # noqa: B009
    given = backend.read_detector(Path(path))
    shapes = {name: tuple(value.shape) for name, value in larger.state_dict().items()}
    start = fill(module, given, job.classes, shapes, Path(path), backend.background_first)
    if not dist.is_initialized() or dist.get_rank() == 0:
        print(f"{job.model.name}: {_line(start)}")
        write_record(job.work / START, start)


def fill(
    module: nn.Module,
    given: GivenWeights,
    classes: Sequence[str],
    larger: Mapping[str, tuple[int, ...]],
    path: Path,
    background_first: bool,
) -> DetectorStart:
    """Put in what fits by name and shape, and the rows of classes of the same names.

    larger: the shapes of the same network for MORE more classes; where they differ, a weight depends on the
    number of classes. Raises PipelineError where another weight has another shape, or hardly any is there.
    """
    own = module.state_dict()
    pairs = _same_names(classes, given.classes)
    filled: dict[str, Tensor] = {}
    by_rows, fixed = [], 0
    for name, value in own.items():
        theirs = given.weights.get(name)
        is_fixed = larger[name] == tuple(value.shape)
        fixed += is_fixed
        if theirs is None:
            continue
        if is_fixed and theirs.shape != value.shape:
            raise PipelineError(
                f"{shown(path)}: {name} is {tuple(theirs.shape)}, in the model {tuple(value.shape)}: "
                "weights of an architecture of another size"
            )
        if is_fixed or (theirs.shape == value.shape and not given.classes):
            filled[name] = theirs
            continue
        per_class, rest = divmod((larger[name] or (0,))[0] - value.shape[0], MORE)
        layout = _Layout(per_class, value.shape[0] - per_class * len(classes), name, background_first)
        if pairs and rest == 0 and per_class > 0 and layout.fits(theirs, value, len(given.classes)):
            mixed = value.clone()
            for here, there in [(None, None), *pairs]:
                rows = theirs[layout.rows(there, len(given.classes))]
                mixed[layout.rows(here, len(classes))] = rows.to(mixed)
            filled[name] = mixed
            by_rows.append(name)
        elif theirs.shape == value.shape and rest:  # a width that follows the number of classes
            filled[name] = theirs
    if 2 * sum(larger[name] == tuple(own[name].shape) for name in filled) < fixed:
        raise PipelineError(
            f"{shown(path)}: {len(filled)} of the model's {len(own)} weights are in it: it is of another "
            "architecture or framework"
        )
    module.load_state_dict(filled, strict=False)
    return DetectorStart(
        file=path.name,
        sha256=check_digest(path),
        filled=len(filled),
        weights=len(own),
        anew=tuple(name for name in own if name not in filled),
        by_rows=tuple(by_rows),
        classes=tuple(classes[here] for here, _ in pairs) if by_rows else (),
        left_over=tuple(name for name in given.weights if name not in own),
    )


@dataclass(frozen=True)
class _Layout:
    """How the rows of a weight belong to classes: so many per class, and others (background, box)."""

    per_class: int
    others: int
    name: str
    background_first: bool

    def fits(self, theirs: Tensor, own: Tensor, classes: int) -> bool:
        rows = self.per_class * classes + self.others
        return theirs.shape == (rows, *own.shape[1:]) and self.others % self.per_class == 0 and classes > 0

    def rows(self, of: int | None, classes: int) -> list[int]:
        """The rows of a class, or of none, among so many classes."""
        groups, unit = (1, self.per_class) if TOGETHER.search(self.name) else (self.per_class, 1)
        others = self.others // groups
        first = others if self.background_first or others > unit else 0  # before the classes
        size = classes * unit + others
        if of is None:
            within = [row for row in range(size) if not first <= row < first + classes * unit]
        else:
            within = list(range(first + of * unit, first + (of + 1) * unit))
        return [group * size + row for group in range(groups) for row in within]


def _same_names(own: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """(position here, position there) of the classes that both have, whatever their capitals."""
    there = {name.casefold(): i for i, name in reversed(list(enumerate(theirs)))}
    return [(i, there[name.casefold()]) for i, name in enumerate(own) if name.casefold() in there]


def _line(start: DetectorStart) -> str:
    """What was filled, in at most 300 characters."""
    copied = f"; rows of {_some(start.classes)} copied" if start.classes else ""
    anew = f"; {_some(start.anew)} anew" if start.anew else ""
    left = f"; not in the model: {_some(start.left_over)}" if start.left_over else ""
    return reason(f"{start.file}: {start.filled} of {start.weights} weights filled{copied}{anew}{left}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more


def take_in_order(module: nn.Module, path: Path, prefix: str) -> None:
    """Load a classifier's weights into the layers whose names start with `prefix`.

    Both hold the same layers in the same order, under other names, until they differ as at the classifier's
    last layers.
    """
    named: dict[str, Tensor] = {}
    theirs = list(_weights_of(path).items())
    for own, weight in module.state_dict().items():
        name, value = theirs[len(named)] if len(named) < len(theirs) else ("", weight)
        same = own.rpartition(".")[2] == name.rpartition(".")[2] and weight.shape == value.shape
        if own.startswith(prefix) and same:
            named[own] = value
    _take(module, named, path)


def _weights_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name. Raises PipelineError for a file that holds something else."""
    weights = load_tensors(path)
    if not isinstance(weights, Mapping):
        raise PipelineError(f"{path.name}: expected a mapping of names to weights; download it again")
    return {str(name): value for name, value in weights.items() if isinstance(value, Tensor)}


def _take(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load those of the weights that fit; one line says how many. Raises PipelineError when none does."""
    own = module.state_dict()
    fitting = {key: value for key, value in weights.items() if key in own and own[key].shape == value.shape}
    if not fitting:
        raise PipelineError(f"{path.name}: none of its weights fits the network by name and shape")
    module.load_state_dict(fitting, strict=False)
    print(f"{path.name}: {len(fitting)} of {len(own)} weights are pretrained, the others begin at random")
