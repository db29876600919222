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


def load_backend(name: str) -> ModuleType:
    """Import a backend; raises PipelineError that names the set-up command when it is not installed."""
    try:
        return importlib.import_module(BACKENDS[name])
    except ModuleNotFoundError as error:
        raise PipelineError(
            f"backend '{name}' needs the package '{error.name}', which is not installed; make setup"
        ) from None
