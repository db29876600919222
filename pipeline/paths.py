"""Where things lie, and how files are written: to a temporary name, then renamed.

Nothing else in the package spells a folder's name. `PIPELINE_HOME` moves everything a stage
writes (folds, runs, submissions) away from the project's own folder, as the tests do.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.names import check_name

PROJECT = Path(__file__).resolve().parent.parent
CONFIGS = PROJECT / "configs"
CARD = "card.json"  # in the folder of a run or an ensemble, whose files it describes
ENSEMBLES = "ensembles"  # beside the models' folders, so that no model has this name
_TEMPORARY = re.compile(r"\..+\.(?P<machine>[0-9a-f]{8})-(?P<process>[0-9]{1,9})\.tmp(\.[^.]*)?")
_DAY = 86400.0  # seconds


def home() -> Path:
    """Folder that holds folds/, runs/, submissions/, data/ and weights/."""
    return Path(os.environ.get("PIPELINE_HOME", PROJECT)).resolve()


def shown(path: Path) -> str:
    """A path as messages show it: relative to the working folder where it lies below it."""
    path = Path(path)
    with contextlib.suppress(ValueError):
        return str(path.resolve().relative_to(Path.cwd()))
    return str(path)


def folds_csv(competition: str) -> Path:
    return home() / "folds" / check_name("competition", competition) / "folds.csv"


def runs_dir(competition: str) -> Path:
    return home() / "runs" / check_name("competition", competition)


def speeds_json() -> Path:
    """Photos a second of models that need not be trained, by device."""
    return home() / "runs" / "speeds.json"


def run_dir(competition: str, model: str, fold: int | str) -> Path:
    """Folder of one trained model; `fold` is a number, or "full" for the model of all photos."""
    return runs_dir(competition) / check_name("model", model) / fold_name(fold)


def fold_name(fold: int | str) -> str:
    """fold0, fold1 ... or full."""
    return "full" if fold == "full" else f"fold{fold}"


def ensemble_dir(competition: str, name: str) -> Path:
    return runs_dir(competition) / ENSEMBLES / check_name("ensemble", name)


def jobs_dir(competition: str) -> Path:
    """Logs and state of the trainings that run side by side."""
    return runs_dir(competition) / "jobs"


def cache_dir(competition: str) -> Path:
    """Decoded photos that trainings keep; may be deleted when none is running."""
    return home() / "cache" / check_name("competition", competition)


def submissions_dir(competition: str) -> Path:
    return home() / "submissions" / check_name("competition", competition)


def submission_csv(competition: str, name: str) -> Path:
    return submissions_dir(competition) / f"{check_name('ensemble', name)}.csv"


def ledger_csv() -> Path:
    """The record of all submissions that were made, of all competitions."""
    return home() / "submissions" / "ledger.csv"


def sent_csv(competition: str, digest: str) -> Path:
    """The copy of a submitted file, which stays when the file is written anew."""
    return submissions_dir(competition) / "sent" / f"{check_name('digest', digest)}.csv"


def weights_dir() -> Path:
    """Local folder of pretrained weights, looked into before anything is downloaded."""
    return Path(os.environ.get("PIPELINE_WEIGHTS", home() / "weights"))


@lru_cache
def _machine() -> str:
    """8 hex digits for this machine, and the container in it: where a process's number means something."""
    namespace = Path("/proc/self/ns/pid")
    container = namespace.stat().st_ino if namespace.exists() else ""
    return text_digest(f"{platform.node()} {container}")[:8]


def sweep(folder: Path) -> None:
    """Remove the temporary files and folders in a folder whose process is gone.

    Of a process on another machine that is not known: they go when they are a day old.
    """
    for path in folder.glob(".*.tmp*"):
        if match := _TEMPORARY.fullmatch(path.name):
            here = match["machine"] == _machine() and os.name == "posix"
            with contextlib.suppress(OSError):  # another process was faster
                if time.time() - path.stat().st_mtime > _DAY or (
                    here and not _is_alive(int(match["process"]))
                ):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends without error.

    A killed process leaves the old file or none, and a temporary file that the next one removes which
    writes in this folder. The temporary keeps the suffix, because writers choose their format by it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path, path.suffix)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None:  # else it is a text alone, which a file name would hide
            error.filename = error.filename or str(path)  # a full disk does not say which file it was
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `path`, which goes when the block ends or by `sweep`."""
    name = _temporary(path, ".").name
    with tempfile.TemporaryDirectory(prefix=name, dir=path.parent) as folder:
        yield Path(folder)


def _temporary(path: Path, suffix: str = "") -> Path:
    """A name beside `path` by which `sweep` knows the process; sweeps that folder."""
    sweep(path.parent)
    return path.with_name(f".{path.stem}.{_machine()}-{os.getpid()}.tmp{suffix}")


def sync_folder(folder: Path) -> None:
    """Make renames in a folder last through a power failure; nothing where folders cannot be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_text(path: Path, text: str) -> None:
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def check_inside(folder: Path, path: Path) -> Path:
    """The path, which lies in a folder of a run; raises PipelineError where a link leads out of it.

    The folder itself may be a link, as to a larger disk.
    """
    if path.resolve().is_relative_to(folder.resolve()):
        return path
    name = f"{shown(folder)}/{path.relative_to(folder)}"
    raise PipelineError(f"{name}: a link that leads out of the run's folder; put a copy there")


def regular(path: Path) -> Path:
    """The path of a file that is about to be read; readers of what people name ask this before they open it.

    Raises PipelineError for what a reader would wait for, or read for ever; OSError where nothing is there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a named pipe, a socket or a device"
        raise PipelineError(f"{shown(path)}: {what}; expected a file")
    return path


def file_digest(path: Path) -> str:
    """First 16 hex digits of the SHA-256 of a file."""
    with open(regular(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def text_digest(text: str) -> str:
    """First 16 hex digits of the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
