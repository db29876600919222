"""Loading checkpoints without running code from them: plain tensors and a short list of classes.

mmengine falls back to full unpickling, which runs whatever a file says, when its own list does not do,
and its list holds `getattr`. ultralytics' own switch is ULTRALYTICS_SAFE_LOAD, set where it is imported.
"""

import functools
import pickle
from typing import Any

import numpy as np
import torch

from pipeline.errors import PipelineError


def _getattr(owner: Any, name: str) -> Any:
    """What mmengine's log history asks of `getattr`, and no more."""
    from mmengine.logging.history_buffer import HistoryBuffer

    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f"getattr of {owner!r}.{name} refused")


def _allowed() -> list[Any]:
    from mmengine.logging.history_buffer import HistoryBuffer

    array, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "uint32", "bool")]
    names = [
        (f, f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")
        for f, name in ((array, "_reconstruct"), (scalar, "scalar"))
    ]
    return [HistoryBuffer, (_getattr, "builtins.getattr"), np.ndarray, np.dtype, *kinds, *names]


def load_weights(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """torch.load with `weights_only`, whatever the caller asked; raises PipelineError for anything else."""
    # Nothing but ours: ultralytics leaves its own entries behind, one of them under the same name.
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(_allowed())
    try:
        return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())[:200]
        raise PipelineError(f"{file}: not a file of plain weights; not loaded ({reason})") from None
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def secure_mmengine() -> None:
    """Make every loader of mmengine use `load_weights`, downloads included."""
    from mmengine.runner import checkpoint

    checkpoint._safe_torch_load = load_weights
    checkpoint.load_url = functools.partial(torch.hub.load_state_dict_from_url, weights_only=True)
