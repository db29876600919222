"""Loading checkpoints without running code from them: plain tensors and a short list of classes."""

import contextlib
import pickle
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import PipelineError, printable, reason
from pipeline.paths import regular, shown


@contextlib.contextmanager
def _only(allowed: Sequence[Any]) -> Iterator[None]:
    """No classes but these: a framework leaves its own entries behind, some under the same names."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(allowed))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def numpy_classes() -> list[Any]:
    """What NumPy's arrays and scalars of plain kinds are made of, by the names of its versions 1 and 2."""
    array, scalar = np.zeros(1).__reduce__()[0], np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "uint32", "bool")]
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    names = [(array, f"{module}._reconstruct") for module in modules]
    names += [(scalar, f"{module}.scalar") for module in modules]
    return [np.ndarray, np.dtype, *kinds, *names]


def load_tensors(file: Any, map_location: Any = "cpu", allowed: Sequence[Any] = ()) -> Any:
    """torch.load of plain tensors and containers, and of the classes in `allowed`.

    Raises PipelineError, one line, for anything else and for a damaged file; OSError when there is no file.
    """
    try:
        if isinstance(file, (str, Path)):
            regular(Path(file))
        with _only(allowed):
            return torch.load(file, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        what = "not a file of plain weights; not loaded"
        raise PipelineError(f"{_name(file)}: {what} ({_reason(error)})") from None
    except (FileNotFoundError, PermissionError, PipelineError):
        raise
    except Exception as error:  # whatever its zip, tar and pickle readers make of damaged bytes
        raise PipelineError(f"{_name(file)}: not a whole checkpoint ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if names := re.search(r"(?i)unsupported (?:global: )?GLOBAL (\S+)", text):
        return f"it names {printable(names[1][:60])}"
    text = re.sub(r"^Weights only load failed.*?(trusted source|error message)\.", "", text)
    return reason(text.strip() or type(error).__name__)


def _name(file: Any) -> str:
    return shown(Path(file)) if isinstance(file, (str, Path)) else "a file"
