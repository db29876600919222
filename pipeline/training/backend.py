"""The contract of a detection framework: configs in, a training through a session, a detector out."""

import importlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.data.models import BACKENDS, ModelConfig, Overrides
from pipeline.data.runs import Run
from pipeline.errors import PipelineError, reason
from pipeline.paths import shown
from pipeline.training.job import TrainJob

if TYPE_CHECKING:  # these need torch
    from torch import Tensor

    from pipeline.inference.detector import Detector
    from pipeline.training.pretrained import GivenWeights
    from pipeline.training.session import Session


@dataclass(frozen=True)
class WantedWeights:
    """Pretrained weights that a config names: those of a whole detector, and those of parts of it.

    Names are the framework's own: a file, an address, a name with a scheme. The parts are looked for when
    there is no whole detector, or it cannot be had.
    """

    detector: str | None = None
    parts: Sequence[str] = ()


@dataclass(frozen=True)
class SavedModel:
    """A trained model as its run's folder holds it."""

    name: str
    checkpoint: Path
    config: Mapping[str, Any]  # what `Backend.saved_config` made; data alone
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Resolved:
    """A model's config with a run's overrides worked in; `values` is JSON data.

    It holds no path, no fold and no fact about the machine, so that its digest tells trainings apart.
    """

    values: Mapping[str, Any]
    epochs: int
    image_size: int
    batch: int
    largest_input: int  # pixels, the longer side of the largest input that training makes of a photo
    resources: Mapping[str, Any] = field(default_factory=dict)
    masks: bool = False  # whether it learns from the objects' outlines


class Backend(ABC):
    """A framework that trains detectors and predicts with them. A new one implements the abstract methods.

    Frameworks with a loop of their own call the session from their hooks; those that bring a network and a
    loss hand both to `training.loop`.
    """

    suffix: ClassVar[str] = ".pth"  # of checkpoints
    background_first: ClassVar[bool] = False  # whether a head's background has its first row, or its last
    several_nodes: ClassVar[bool] = True  # whether one model can be trained on the GPUs of several machines

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """The versions of the packages that decide a result."""

    @abstractmethod
    def resolve(self, model: ModelConfig, overrides: Overrides) -> Resolved:
        """Read a config and work a run's overrides into it.

        Raises PipelineError with file and key for what the backend does not honour.
        """

    @abstractmethod
    def fit(self, job: TrainJob, session: "Session") -> None:
        """Train to the last epoch, from `session.last()` if there is one.

        Photos are staged and `stage` has run. Raises `recovery.LossNotFiniteError` or the framework's
        out-of-memory error where the session or the device says so; the caller decides how to go on.
        """

    def saved_config(self, job: TrainJob) -> dict[str, Any]:
        """JSON data, enough to build the detector again with `load`; the resolved config by default."""
        return dict(self.resolve(job.model, job.overrides).values)

    @abstractmethod
    def load(self, model: SavedModel, device: str) -> "Detector":
        """The detector of a run. Nothing in a run's folder may cause an import or a call.

        Raises PipelineError for a checkpoint that is damaged or foreign. What else a framework raises becomes
        one line in `load_detector`.
        """

    @abstractmethod
    def untrained(self, model: ModelConfig, overrides: Overrides, n_classes: int, device: str) -> "Detector":
        """A config's detector with random weights, to measure what it costs."""

    def wanted_weights(self, job: TrainJob) -> WantedWeights:
        """The pretrained weights that the config asks for; none by default."""
        return WantedWeights()

    def download(self, wanted: str) -> str:
        """Fetch weights by the framework's name for them; returns a path, or a name that is cached now.

        Raises OSError or RuntimeError when they cannot be had.
        """
        raise OSError("no download for it")

    def stage(self, job: TrainJob) -> None:  # noqa: B027  most frameworks need nothing
        """Write beside the staged photos what the framework reads of them (see `training.staging`)."""

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        """A checkpoint's dictionary; raises PipelineError for more than plain tensors and known classes."""
        from pipeline.training.safe_load import load_tensors

        return load_tensors(path)

    def read_detector(self, path: Path) -> "GivenWeights":
        """A whole pretrained detector, from a file of the framework's own format."""
        from pipeline.training.pretrained import given_weights

        checkpoint = self.read_checkpoint(path)
        held = checkpoint.get("state_dict", checkpoint)
        return given_weights(held, checkpoint.get("classes", ()))

    def exported(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """What stays of the best epoch's checkpoint in the run's folder."""
        return checkpoint

    def read_weights(self, path: Path) -> dict[str, "Tensor"]:
        """The weights of an exported checkpoint by name, on the CPU; for averaging."""
        weights: dict[str, Tensor] = self.read_checkpoint(path)["state_dict"]
        return weights

    def write_weights(self, path: Path, weights: Mapping[str, "Tensor"], target: Path) -> None:
        """Write `target`: the exported checkpoint `path` with other weights of the same names and shapes."""
        from pipeline.training.checkpoints import save_tensors

        save_tensors(self.read_checkpoint(path) | {"state_dict": dict(weights)}, target)


def saved_model(run: Run) -> SavedModel:
    """A run's model as `Backend.load` takes it."""
    return SavedModel(run.model, run.checkpoint, run.config(), run.card().classes)


def load_backend(name: str) -> Backend:
    """Import a backend; raises PipelineError that names the set-up command when a package is missing."""
    if name not in BACKENDS:
        raise PipelineError(f"no backend {name[:60]!r}; there are: {', '.join(BACKENDS)}")
    module, _, cls = BACKENDS[name].partition(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), cls)()
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"backend '{name}' needs the package '{error.name}', which is not installed; make setup"
        ) from None
    return backend


def load_detector(run: Run, device: str | None = None) -> "Detector":
    """The detector of a trained run on a device, see `select_device`."""
    backend, device = load_backend(run.card().backend), select_device(device)
    try:
        detector = backend.load(saved_model(run), device)
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise PipelineError(
            f"{shown(run.folder)}: its checkpoint and config make no detector ({reason(error)}); "
            f"{run.command(OVERWRITE=1)}"
        ) from None
    detector.versions = backend.versions()
    return detector


def check_nodes_of(model: ModelConfig, nodes: int) -> None:
    """Raise PipelineError when a backend cannot train a model on so many nodes."""
    if nodes > 1 and not load_backend(model.backend).several_nodes:
        raise PipelineError(
            f"{model.name}: {model.backend} trains a model on the GPUs of one machine, not of {nodes}"
        )


def select_device(device: str | None, gpus: int = 1) -> str:
    """The device to use: the one asked for, else the first GPU if there is one, else the CPU.

    Raises PipelineError when there are not so many GPUs; several are always the first ones. Those of a
    cluster may be on other machines: the processes of a training wait for them.
    """
    import torch

    if gpus > 1 and device != "cpu" and "RAY_ADDRESS" in os.environ:
        return "cuda:0"
    if gpus > 1 and device != "cpu" and torch.cuda.device_count() < gpus:
        raise PipelineError(f"GPUS={gpus}: torch sees {torch.cuda.device_count()} GPUs here (make doctor)")
    if device in (None, ""):
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    index = device.removeprefix("cuda").removeprefix(":") or "0"
    count = torch.cuda.device_count()
    if not re.fullmatch("[0-9]+", index) or int(index) >= count:
        raise PipelineError(
            f"device '{device}': torch sees {count} GPUs; expected cpu or cuda:<index> (make doctor)"
        )
    return f"cuda:{index}"
