"""A damaged input: written, read as a stage reads it, and judged. Many of them, in a process of their own."""

import contextlib
import io
import multiprocessing as mp
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.data.records import DIGEST
from torture import inputs
from torture.mutate import STYLES, damaged
from torture.state import BAD

SECONDS = 10  # that an input may take
MEMORY = 6 << 30  # bytes of the process
LONGEST = 300  # characters of a message
STYLES["parquet"] = (inputs.damage_table,)


@dataclass
class Found:
    """How inputs of a kind ended: counts by outcome, and an example (number, bytes, text) of each bad way."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, bytes, str]] = field(default_factory=dict)  # by "outcome: signature"
    times: Counter[str] = field(default_factory=Counter)


class Hang(BaseException):
    pass


class Tries:
    """Kinds of input below a temporary home, made when first needed."""

    def __init__(self, folder: Path) -> None:
        os.environ["PIPELINE_HOME"] = str(folder / "home")
        os.chdir(folder)
        warnings.simplefilter("ignore")
        inputs.use_configs(folder / "configs")
        self.kinds: dict[str, tuple[inputs.Kind, bytes, Any]] = {}
        self.noise = tempfile.TemporaryFile()  # noqa: SIM115  what C code prints to stderr meanwhile

    def kind(self, name: str) -> tuple[inputs.Kind, bytes, Any]:
        if name not in self.kinds:
            kind = inputs.KINDS[name]()
            whole = kind.read()
            assert kind.plain is None or whole == kind.plain(), f"{name}: {whole} is not {kind.plain()}"
            self.kinds[name] = kind, kind.path.read_bytes(), whole
        return self.kinds[name]

    def input(self, name: str, number: int) -> bytes:
        """Input `number` of a kind: the same on every machine."""
        kind, whole, _ = self.kind(name)
        return damaged(random.Random(f"{name} {number}"), whole, kind.style)

    def judge(self, name: str, data: bytes) -> tuple[str, str]:
        """(outcome, why) of an input; the outcomes of `BAD` break the rule."""
        kind, _, whole = self.kind(name)
        kind.path.write_bytes(data)
        value: list[Any] = []
        before = os.fstat(self.noise.fileno()).st_size
        with to_file(self.noise):
            status, stderr, place = as_a_stage(lambda: value.append(kind.read()))
        if (size := os.fstat(self.noise.fileno()).st_size) > before:
            said = os.pread(self.noise.fileno(), size - before, before).decode(errors="replace")
            return "bad line", f"noise: {said[:80]!r}"
        if status and not stderr:
            return ("hang" if place == "hang" else "traceback"), place
        if status:
            fault = fault_of_line(stderr)
            return ("bad line", f"{fault}, {place}") if fault else ("refused", "")
        if kind.ours and DIGEST.encode() not in data:
            return "read", ""  # with a note, as what earlier versions wrote
        if kind.ours:
            return ("same", "") if value[0] == whole else ("unseen", "another value is read")
        if kind.plain is None:
            return "read", ""
        try:
            expected = kind.plain()
        except Exception as error:
            return "third thing", f"read, but {type(error).__name__} {str(error)[:60]}"
        return ("read", "") if value[0] == expected else ("third thing", difference(value[0], expected))

    def run(self, name: str, start: int, stop: int, seconds: float, at: Any = None) -> tuple[int, Found]:
        """Judge the inputs from `start` on, until `stop` or for `seconds`; returns the next number."""
        found, end, number = Found(), time.monotonic() + seconds, start
        self.kind(name)
        while number < stop and (time.monotonic() < end or number == start):
            if at is not None:
                at.value = number
            data = self.input(name, number)
            outcome, why = self.judge(name, data)
            found.counts[outcome] += 1
            if outcome in BAD:
                key = f"{outcome}: {re.sub(r'[0-9]+', 'N', why)[:160]}"
                found.times[key] += 1
                if key not in found.examples or len(data) < len(found.examples[key][1]):
                    found.examples[key] = number, data, why
            number += 1
        kind, whole, _ = self.kind(name)
        kind.path.write_bytes(whole)
        return number, found


@contextlib.contextmanager
def to_file(file: Any) -> Iterator[None]:
    """What C code writes to stderr goes to a file."""
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def as_a_stage(work: Any) -> tuple[int, str, str]:
    """Run as `cli.run` runs a stage: (status, what it says on stderr, the place that raised).

    An exception that would be a traceback has status 1 and nothing on stderr.
    """
    errors, place = io.StringIO(), ""

    def stop(*_: Any) -> None:
        raise Hang

    def main() -> None:
        nonlocal place
        try:
            work()
        except Exception as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/pipeline/" in f.filename]
            at = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else "?"
            place = f"{type(error).__name__} at {at}"
            raise

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            cli.run(main)
        return 0, errors.getvalue(), ""
    except SystemExit as error:
        return int(error.code or 0), errors.getvalue(), place
    except Hang:
        return 1, "", "hang"
    except Exception:
        return 1, "", place
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def fault_of_line(text: str) -> str:
    """What is wrong with a message on stderr; "" for one printable line of at most 300 characters."""
    line = text.removesuffix("\n").removeprefix("error: ")
    if not line.strip():
        return "no message"
    if not line.isprintable():
        return "not printable"
    return "too long" if len(line) > LONGEST else ""


def difference(value: Any, expected: Any) -> str:
    """The first place where two values differ, in short."""
    if isinstance(value, (list, tuple)) and isinstance(expected, (list, tuple)):
        for a, b in zip(value, expected, strict=False):
            if a != b:
                return difference(a, b)
        return f"{len(value)} items, expected {len(expected)}"
    return f"{str(value)[:60]}, expected {str(expected)[:60]}"


def _work(pipe: Any, at: Any, folder: str) -> None:
    """A worker: answers (name, start, stop, seconds) with what `Tries.run` returns."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    tries = Tries(Path(folder))
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(tries.run(*pipe.recv(), at))


class Worker:
    """A process that judges inputs; one that dies or hangs is a finding, and is replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "inputs"
        self.folder.mkdir()
        self.start()

    def start(self) -> None:
        context = mp.get_context("spawn")
        self.at = context.Value("q", -1)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.at, str(self.folder)), daemon=True)
        self.process.start()
        theirs.close()

    def run(self, name: str, start: int, stop: int, seconds: float) -> tuple[int, Found]:
        self.at.value = start
        try:
            self.pipe.send((name, start, stop, seconds))
            if self.pipe.poll(seconds + 120):
                return self.pipe.recv()
            why = "hang: the process does not answer"
        except (EOFError, OSError):
            why = "crash: the process died"
        number = self.at.value
        self.process.kill()
        self.process.join()
        self.start()
        outcome = why.split(":")[0]
        return number + 1, Found(Counter({outcome: 1}), {why: (number, b"", why)}, Counter({why: 1}))

    def close(self) -> None:
        self.process.kill()
        self.process.join()
