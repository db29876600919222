"""Pretrained weights: the local folder first, then the framework's own download, else from scratch."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.paths import shown, weights_dir

if TYPE_CHECKING:
    from pipeline.training.backend import Backend, WantedWeights

SCRATCH = "from scratch"


def local_weights(name: str) -> Path | None:
    """A file of the weights folder by its file name, or by its name up to the hash (`resnet50-*`)."""
    folder = weights_dir()
    base = name.split("://")[-1].split("?")[0].rsplit("/", 1)[-1]
    if not base or not folder.is_dir():
        return None
    stem, dot, _ = base.partition(".")
    candidates = [folder / base] if dot else []
    candidates += sorted(folder.glob(f"{stem}.pt*")) + sorted(folder.glob(f"{stem}-*.pt*"))
    return next((path for path in candidates if path.is_file()), None)


def find_weights(backend: "Backend", model: str, wanted: "WantedWeights") -> dict[str, str | None]:
    """Each name that a config asks for, with the file or cached name it stands for, None if not to be had.

    One line says what is missing. The parts are left out when the whole detector is there.
    """
    if wanted.detector:
        whole = {wanted.detector: _find(backend, model, wanted.detector, bool(wanted.parts))}
        if whole[wanted.detector] or not wanted.parts:
            return whole
        return whole | {name: _find(backend, model, name) for name in wanted.parts}
    return {name: _find(backend, model, name) for name in wanted.parts}


def _find(backend: "Backend", model: str, name: str, others: bool = False) -> str | None:
    if path := local_weights(name):
        backend.read_checkpoint(path)  # raises, before anything begins, for what a framework would unpickle
        return str(path)
    try:
        return backend.download(name)
    except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        start = "starting with parts" if others else f"training {SCRATCH}"
        print(
            f"{model}: {start}: no {name.rsplit('/', 1)[-1]} in {shown(weights_dir())} "
            f"and the download failed ({reason})"
        )
        return None


def weights_note(weights: dict[str, str | None]) -> str:
    """Where the first weights came from, as the card says it."""
    sources = [shown(Path(path)) if Path(path).is_file() else path for path in weights.values() if path]
    return ", ".join(sources) or SCRATCH
