"""Pretrained weights put into a network: those that fit, whatever the number of classes."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.training.safe_load import load_tensors


def take_fitting(module: nn.Module, path: Path) -> None:
    """Load the weights of a file that fit by name and shape."""
    _take(module, _weights_of(path), path)


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
