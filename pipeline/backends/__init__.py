"""Detection frameworks behind one interface; the only code that knows torch.

A backend is a module with four functions: `resolve`, `train` and `load` (see `base.py`), and `untrained`,
whose detectors, as those of `load`, can be measured (see `cost.py`). It is imported when a model of its
folder in configs/ is used, and not before.
"""

import importlib
from types import ModuleType

from pipeline.errors import PipelineError

BACKENDS = {
    "mmdet": "pipeline.backends.mmdet",
    "ultralytics": "pipeline.backends.ultralytics",
}
# ultralytics takes the number of processes from its list of GPUs, all of which it looks for on each machine.
ONE_MACHINE = {"ultralytics"}


def load_backend(name: str) -> ModuleType:
    """Import a backend; raises PipelineError that names the set-up command when it is not installed."""
    try:
        return importlib.import_module(BACKENDS[name])
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"backend '{name}' needs the package '{error.name}', which is not installed; make setup"
        ) from None


def check_nodes_of(model: str, backend: str, nodes: int) -> None:
    """Raise PipelineError when a backend cannot train a model on so many nodes."""
    if nodes > 1 and backend in ONE_MACHINE:
        raise PipelineError(f"{model}: {backend} trains a model on the GPUs of one machine, not of {nodes}")
