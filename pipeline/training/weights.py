"""Pretrained weights: the local folder first, then the framework's own download, else from scratch.

A file is what it was: eight hex digits before its suffix, as in `resnet50-0676ba61.pth`, begin its SHA-256.
Of a file without them the whole SHA-256 is noted when it is first used.
"""

import csv
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import shown, weights_dir, write_text

if TYPE_CHECKING:
    from pipeline.training.backend import Backend, WantedWeights

SCRATCH = "from scratch"
MANIFEST = "manifest.csv"  # in the weights folder
COLUMNS = ["file", "sha256"]
_DIGITS = re.compile(r"-([0-9a-f]{8})\.[a-z]+")


def local_weights(name: str) -> Path | None:
    """A file of the weights folder by its file name, or by its name up to the hash (`resnet50-*`)."""
    folder = weights_dir()
    base = file_name(name)
    if not base or not folder.is_dir():
        return None
    stem, dot, _ = base.partition(".")
    candidates = [folder / base] if dot else []
    candidates += sorted(folder.glob(f"{stem}.pt*")) + sorted(folder.glob(f"{stem}-*.pt*"))
    return next((path for path in candidates if path.is_file()), None)


def file_name(name: str) -> str:
    """The file name in a framework's name for weights: an address, a name with a scheme, a file."""
    return name.split("://")[-1].split("?")[0].rsplit("/", 1)[-1]


def fetch(address: str) -> str:
    """Download weights to torch's cache unless they are there; returns the path. Raises OSError."""
    import torch

    path = Path(torch.hub.get_dir(), "checkpoints", file_name(address))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path), progress=False)
    return str(path)


def check_digest(path: Path) -> str:
    """The SHA-256 of a file of weights.

    Raises PipelineError where it is another than the file's name says, or than it was at first use.
    """
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digits := _DIGITS.search(path.name):
        if not digest.startswith(digits[1]):
            raise PipelineError(
                f"{shown(path)}: its SHA-256 begins with {digest[:8]}, its name says {digits[1]}: damaged or "
                "another file; download it again, or take the digits out of its name"
            )
        return digest
    manifest = weights_dir() / MANIFEST
    with locked(manifest):
        known = _read_manifest(manifest)
        if known.setdefault(path.name, digest) != digest:
            raise PipelineError(
                f"{shown(path)}: its SHA-256 is {digest[:8]}..., at first use it was "
                f"{known[path.name][:8]}...: restore it, or remove its row of {shown(manifest)}"
            )
        lines = [COLUMNS, *([name, known[name]] for name in sorted(known))]
        text = "".join(f"{','.join(line)}\n" for line in lines)
        if not manifest.is_file() or manifest.read_text(encoding="utf-8") != text:
            write_text(manifest, text)
    return digest


def _read_manifest(path: Path) -> dict[str, str]:
    """The SHA-256 of each file at its first use, by its name."""
    if not path.is_file():
        return {}
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        header, *rows = [row for row in csv.reader(file) if row] or [[]]
    if header != COLUMNS or any(len(row) != 2 or not re.fullmatch("[0-9a-f]{64}", row[1]) for row in rows):
        raise PipelineError(f"{shown(path)}: expected rows of {', '.join(COLUMNS)}; remove it")
    return {row[0]: row[1] for row in rows}


def find_weights(backend: "Backend", model: str, wanted: "WantedWeights") -> dict[str, str | None]:
    """Each name that a config asks for, with the file or cached name it stands for, None if not to be had.

    One line says what is missing. The parts are left out when the whole detector is there. Raises
    PipelineError as `check_digest`.
    """
    if wanted.detector:
        whole = {wanted.detector: _find(backend, model, wanted.detector, bool(wanted.parts))}
        if whole[wanted.detector] or not wanted.parts:
            return whole
        return whole | {name: _find(backend, model, name) for name in wanted.parts}
    return {name: _find(backend, model, name) for name in wanted.parts}


def _find(backend: "Backend", model: str, name: str, others: bool = False) -> str | None:
    local = local_weights(name)
    try:
        found = str(local) if local else backend.download(name)
    except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        start = "starting with parts" if others else f"training {SCRATCH}"
        print(
            f"{model}: {start}: no {name.rsplit('/', 1)[-1]} in {shown(weights_dir())} "
            f"and the download failed ({reason})"
        )
        return None
    if (path := Path(found)).is_file():
        check_digest(path)
        if local:
            backend.read_checkpoint(
                path
            )  # raises, before anything begins, for what a framework would unpickle
    return found


def weights_note(weights: dict[str, str | None]) -> str:
    """Where the first weights came from, as the card says it."""
    sources = [shown(Path(path)) if Path(path).is_file() else path for path in weights.values() if path]
    return ", ".join(sources) or SCRATCH
