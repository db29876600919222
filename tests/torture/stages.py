"""A tiny competition that every stage is run on, each from a snapshot of what the stages before it wrote.

The pipeline runs from a copy of the project, beside the toy framework of the tests, so that nothing of it
changes during a share. `Stages.prepare` runs all stages twice undisturbed: what the two results differ in
(times, and digests of files with times) is no part of a result.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from kaggle_server import KEY, USER, KaggleServer

from pipeline.paths import PROJECT

COMPETITION = ["--competition", "demo"]
TRAIN = [*COMPETITION, "--fold", "0", "--device", "cpu", "--epochs", "2", "--image-size", "64"]
SCRATCH = ["--set", "weights=null"]
TOY = "{epochs: 2, image_size: 64, batch: 4, augment: {scale: [0.5, 1.5], photometric: 0.5}}"
YOLO = ["pretrained=false", "nbs=4", "optimizer=AdamW", "lr0=0.002"]
VIEWS = ["--views", "identity,hflip"]
TIMES = re.compile("second|time|fps|made_at|speed|photos/s|record_digest|resumed", re.IGNORECASE)
VARIES = object()  # in place of a value that two undisturbed runs do not share
AGENTS = (
    "ray::DashboardA",
    "ray::RuntimeEnv",
)  # Ray's: of a killed driver they ask the dead cluster for a minute
PATIENCE = 300  # seconds of an undisturbed command at most


@dataclass(frozen=True)
class Stage:
    """A command: the module of a stage and its arguments. `after`: the stage whose result it begins with."""

    arguments: list[str]
    after: str = ""
    kills: int = 60  # that are wanted
    status: int = 0
    again: str = ""  # what the command says, with status 1, where its result is there already


STAGES = {
    "data": Stage(["demo", "--data-only"]),
    "new": Stage(["new", "--competition", "mine", "--root", "data/demo"], "data", again="is there already"),
    "check_data": Stage(["check_data", *COMPETITION], "data"),
    "folds": Stage(["folds", *COMPETITION, "--k", "2"], "data"),
    "train toy": Stage(["train", *TRAIN, "--model", "toy", *SCRATCH], "folds", 70),
    "train torchvision": Stage(
        ["train", *TRAIN, "--model", "tv_ssdlite320", *SCRATCH, "backbone_weights=null"], "folds", 10
    ),
    "train mmdet": Stage(["train", *TRAIN, "--model", "faster_rcnn_tiny"], "folds", 10),
    "train yolo": Stage(["train", *TRAIN, "--model", "yolov5n", "--batch", "4", "--set", *YOLO], "folds", 10),
    "train-all": Stage(
        ["launch", *COMPETITION, "--model", "toy", "--epochs", "1", "--image-size", "64", "--device", "cpu"],
        "folds",
    ),
    "trained": Stage(["train", *TRAIN, "--model", "toy", "--fold", "0,1", *SCRATCH], "folds", 0),
    "predict": Stage(["predict", *COMPETITION, "--model", "toy", "--fold", "0,1", *VIEWS], "trained", 100),
    "cost": Stage(["cost", *COMPETITION, "--model", "toy", "--fold", "0", "--device", "cpu"], "trained"),
    "evaluate": Stage(["evaluate", *COMPETITION, "--model", "toy"], "predict"),
    "tune": Stage(["tune", *COMPETITION, "--trials", "8", "--partitions", "1", "--budget", "100"], "predict"),
    "ensemble": Stage(["ensemble", *COMPETITION], "predict"),
    "tuned ensemble": Stage(["ensemble", *COMPETITION], "tune"),
    "submission": Stage(["submission", *COMPETITION], "ensemble"),
    "check": Stage(["submission", "check", *COMPETITION], "submission"),
    "submit": Stage(["submit", *COMPETITION, "--yes", "--patience", "30"], "submission"),
    "score": Stage(["submit", "score", *COMPETITION, "--public", "0.5"], "submission"),
    "ledger": Stage(["ledger", *COMPETITION], "submit"),
    "convert": Stage(
        ["convert", "runs/demo/toy/fold0/test/identity.parquet", "out.json", *COMPETITION, "--split", "test"],
        "predict",
    ),
    "doctor": Stage(["doctor"], "data"),
}


@dataclass
class Ended:
    """How a command ended."""

    status: int | None  # None: it was killed because it took too long
    out: str
    err: str
    seconds: float


@dataclass
class Stages:
    """`folder`: where the copy of the project, the snapshots and the home of the runs are."""

    folder: Path
    server: KaggleServer = field(default_factory=KaggleServer)
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)  # by stage: the leaves of its result
    duration: dict[str, float] = field(default_factory=dict)
    temporary: set[str] = field(default_factory=set)  # what undisturbed commands leave in TMPDIR
    mounted: bool = False  # the home is a file system of its own

    def __post_init__(self) -> None:
        self.home, self.project = self.folder / "home", self.folder / "project"
        if not self.project.is_dir():
            for name in ("pipeline", "configs"):
                shutil.copytree(PROJECT / name, self.project / name)
            for name in ("requirements.in", "requirements-ensemble.txt"):
                shutil.copy(PROJECT / name, self.project)
            shutil.copy(Path(__file__).parents[1] / "toy_backend.py", self.project)
            (self.project / "configs/toy").mkdir()
            (self.project / "configs/toy/toy.yaml").write_text(TOY)
            source = self.project / "pipeline/data/demo.py"
            text = source.read_text()
            for name, size, small in (("n_train", 240, 12), ("n_test", 80, 4), ("size", 256, 64)):
                assert f"{name}: int = {size}" in text, source
                text = text.replace(f"{name}: int = {size}", f"{name}: int = {small}")
            source.write_text(text)
            with open(self.project / "pipeline/data/models.py", "a") as file:
                file.write('\nBACKENDS["toy"] = "toy_backend:Toy"\n')
            with open(self.project / "configs/competitions/demo.yaml", "a") as file:
                file.write("site: {api: kaggle, competition: demo}\n")
            # Profiles lie in the home: `new` writes one, and disks are full or read-only there.
            (self.folder / "after ").mkdir()
            (self.project / "configs/competitions").rename(self.folder / "after " / "profiles")
            (self.project / "configs/competitions").symlink_to("nowhere")  # see `reset`

    def environment(self, **changes: str | None) -> dict[str, str]:
        """The environment of a command; None takes a variable away."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "HOME") if key in os.environ}
        address = self.server.address
        values: dict[str, str | None] = {
            **kept,
            "PYTHONPATH": str(self.project),
            "PIPELINE_HOME": str(self.home),
            "TMPDIR": str(self.folder / "tmp"),
            "RAY_TMPDIR": str(self.folder / "ray"),
            "OMP_NUM_THREADS": "1",
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "KAGGLE_CONFIG_DIR": str(self.folder / "kaggle"),
            **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), address),
        }
        return {key: value for key, value in (values | changes).items() if value is not None}

    def start(self, stage: str, preexec: Any = None, **options: Any) -> "subprocess.Popen[bytes]":
        """Start a stage in a session of its own, with its output in files."""
        (self.folder / "tmp").mkdir(exist_ok=True)
        for name in {"stdout", "stderr"} - options.keys():
            options[name] = open(self.folder / f"{name}{time.monotonic_ns()}", "w+b")  # noqa: SIM115
        options.setdefault("env", self.environment())
        command = [
            sys.executable,
            "-m",
            f"pipeline.{STAGES[stage].arguments[0]}",
            *STAGES[stage].arguments[1:],
        ]
        process = subprocess.Popen(
            command,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=preexec,
            **options,
        )
        process.files, process.began = (options["stdout"], options["stderr"]), time.monotonic()  # type: ignore[attr-defined]
        return process

    def finish(self, process: Any, patience: float = PATIENCE) -> Ended:
        """Wait for a command, and for those of its session."""
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            status = None
        seconds = time.monotonic() - process.began
        left = time.monotonic() + 30  # Ray looks whether its driver lives now and then
        while status is not None and in_session(process.pid, AGENTS) and time.monotonic() < left:
            time.sleep(0.05)
        running = in_session(process.pid, AGENTS)
        for pid in in_session(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        texts = []
        for file in process.files:
            texts.append("")
            if file.seekable():  # one of `start`, no pipe
                file.seek(0)
                texts[-1] = file.read().decode(errors="replace")
                file.close()
                os.unlink(file.name)
        if running and status is not None:
            texts[-1] += "\nprocesses that it started went on running"
        return Ended(status, *texts, seconds)

    def run(self, stage: str, **options: Any) -> Ended:
        return self.finish(self.start(stage, **options))

    def reset(self, stage: str) -> None:
        """Put what the stage begins with into the home."""
        snapshot = self.folder / f"after {STAGES[stage].after}"
        for path in [*self.home.glob("*"), *self.home.glob(".*")] if self.home.is_dir() else []:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        self.home.mkdir(exist_ok=True)
        profiles = self.project / "configs/competitions"
        profiles.unlink()
        profiles.symlink_to(self.home / "profiles")
        if snapshot.is_dir():
            shutil.copytree(snapshot, self.home, dirs_exist_ok=True, symlinks=True)
        self.server.faults.clear()
        self.server.submissions.clear()

    def prepare(self, stage: str) -> None:
        """Run a stage undisturbed, twice, and keep its result; those that it follows come first."""
        if stage in self.expected:
            return
        if after := STAGES[stage].after:
            self.prepare(after)
        results = []
        for _ in range(2):
            self.reset(stage)
            ended = self.run(stage)
            if ended.status or "Traceback" in ended.err:
                raise RuntimeError(f"{stage}: status {ended.status}: {ended.err[-2000:]}")
            results.append(leaves(self.home))
        self.duration[stage] = ended.seconds
        self.temporary |= self.temporary_names()
        snapshot = self.folder / f"after {stage}"
        shutil.copytree(self.home, snapshot, symlinks=True)
        first, second = results
        self.expected[stage] = {
            key: value if second[key] == value else VARIES for key, value in first.items() if key in second
        }

    def difference(self, stage: str) -> str:
        """The first place in which the home differs from the undisturbed result; "" where it is equal."""
        expected, found = self.expected[stage], leaves(self.home)
        for key, value in expected.items():
            if key not in found:
                return f"lost: {key}"
            if value is not VARIES and found[key] != value:
                return f"other result: {key}"
        files = {key.split(" ")[0] for key in expected}
        more = sorted(key for key in found if key.split(" ")[0] not in files)
        temporary = sorted(self.temporary_names() - self.temporary)
        if more:
            return f"left over: {more[0]}"
        return f"left over in TMPDIR: {temporary[0]}" if temporary else ""

    def temporary_names(self) -> set[str]:
        return {re.sub("[0-9]+", "N", path.name) for path in (self.folder / "tmp").glob("*")}

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.home)], check=True)
            self.mounted = False

    def close(self) -> None:
        self.unmount()
        self.server.stop()


def in_session(session: int, but: tuple[str, ...] = ()) -> list[int]:
    """The processes of a session that are not dead, nor have one of these names."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            before, _, after = path.read_text().rpartition(")")
            state, _, _, its_session = after.split()[:4]
            if int(its_session) == session and state != "Z" and before.partition("(")[2] not in but:
                found.append(int(path.parent.name))
    return found


def leaves(home: Path) -> dict[str, Any]:
    """Every value of every file below a home by "file key", but for scratch folders, locks and times."""
    found: dict[str, Any] = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix().replace(" ", "_")
        if path.is_dir() or "/work/" in name or name.endswith(".lock"):
            continue
        found[name] = ""
        for key, value in leaves_of(path, whole=name.startswith("data/")):
            if not TIMES.search(key):
                found[f"{name} {key}"] = value
    return found


def leaves_of(path: Path, whole: bool) -> Iterator[tuple[str, Any]]:
    """The values of a file, or the digest of all of it."""
    data = path.read_bytes()
    try:
        if whole:
            yield "digest", hashlib.sha256(data).hexdigest()
        elif path.suffix == ".json":
            yield from _plain("", json.loads(data))
        elif path.suffix == ".csv":
            header, *rows = [*csv.reader(io.StringIO(data.decode()))] or [[]]
            for number, row in enumerate(rows):
                yield from ((f"{number} {key}", value) for key, value in zip(header, row, strict=False))
            yield "rows", len(rows)
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            yield "boxes", hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()
            yield from _plain("", json.loads((table.schema.metadata or {})[b"pipeline"]))
        elif path.suffix in (".pt", ".pth"):
            yield "tensors", digest_of_tensors(path)
        elif path.suffix not in (".log", ".jsonl"):  # notes on the way, of which a resume leaves its own
            yield "digest", hashlib.sha256(data).hexdigest()
    except (ValueError, KeyError, OSError) as error:
        yield "half written", str(error)[:80]


def digest_of_tensors(path: Path) -> str:
    """A digest of all tensors of a checkpoint, in order: other values in it may be times."""
    import torch

    digest, waiting = hashlib.sha256(), [torch.load(path, map_location="cpu", weights_only=False)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.nn.Module):
            value = value.state_dict()
        if isinstance(value, torch.Tensor):
            digest.update(repr((value.dtype, value.shape)).encode())
            digest.update(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, (dict, list, tuple)):
            waiting += value.values() if isinstance(value, dict) else value
    return digest.hexdigest()


def _plain(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if items is None:
        yield place, value
    for key, item in items or ():
        yield from _plain(f"{place}.{key}", item)
