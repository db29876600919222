"""Trials of whole commands: killed, doubled, interrupted, without room, without rights, with a bad site.

The rule for all: a command ends with the right result, or with one line and a status that is not 0; and the
same command, undisturbed, then ends with the right result, and nothing is left over.
"""

import contextlib
import os
import random
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from kaggle_server import drop, drop_half_way, status, take_and_drop, take_and_hang

from torture.stages import STAGES, Ended, Stages
from torture.tries import fault_of_line

OF_CALL = {"PUT": [drop_half_way], "CreateSubmission": [take_and_drop, take_and_hang(2)]}
KILLED, STOPPED = -signal.SIGKILL, 130
SITE_CALLS = ("StartSubmissionUpload", "PUT", "CreateSubmission", "ListSubmissions", "GetSubmissionLimits")


def killed(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """Killed one to three times, each time at a moment of the undisturbed command's whole life."""
    for _ in range(rng.choice((1, 2, 3))):
        ended = stopped_at(stages, stage, rng, signal.SIGKILL)
        yield ended
        if ended.status != KILLED:
            return


def interrupted(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """Ctrl-C at a random moment, imports included."""
    yield stopped_at(stages, stage, rng, signal.SIGINT)


def stopped_at(stages: Stages, stage: str, rng: random.Random, number: int) -> Ended:
    moment, process = rng.uniform(0, stages.duration[stage]), stages.start(stage)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if process.poll() is None:
        process.send_signal(number)
    return stages.finish(process)


def two_at_once(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """The same command a second time before the first has ended."""
    first = stages.start(stage)
    with contextlib.suppress(subprocess.TimeoutExpired):
        first.wait(rng.uniform(0, stages.duration[stage]) * rng.choice((0, 1)))
    second = stages.start(stage)
    yield stages.finish(first)
    yield stages.finish(second)


def on_a_disk(stages: Stages, stage: str, room: int | None) -> Ended:
    """Run on a file system of its own with so many KiB left, or which is read-only."""

    def mount(*options: str) -> None:
        command = ["mount", *options, str(stages.home)]
        subprocess.run(command, check=True, capture_output=True)

    mount("-t", "tmpfs", "-o", "size=1g", "tmpfs")
    stages.mounted = True
    stages.reset(stage)
    blocks = os.statvfs(stages.home)
    used = (blocks.f_blocks - blocks.f_bfree) * blocks.f_frsize // 1024
    mount("-o", f"remount,size={max(used + room, 4)}k" if room is not None else "remount,ro")
    try:
        return stages.run(stage)
    finally:
        mount("-o", "remount,rw,size=1g")


def full_disk(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """A disk with room for a part of what the command writes."""
    room = rng.choice((0, 4, 8, 16, 40, 100, 300))
    yield on_a_disk(stages, stage, room)


def read_only_disk(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    yield on_a_disk(stages, stage, None)


def limited(name: str, low: float, high: float) -> Callable[..., Iterator[Ended]]:
    """A limit of `setrlimit`, between two values."""

    def trial(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
        value = int(rng.uniform(low, high))
        yield stages.run(stage, preexec=lambda: resource.setrlimit(getattr(resource, name), (value, value)))

    return trial


def surroundings(**changes: str | None) -> Callable[..., Iterator[Ended]]:
    """Other variables of the environment."""

    def trial(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
        yield stages.run(stage, env=stages.environment(**changes))

    return trial


def odd_home(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """A home whose name has spaces and Korean letters."""
    plain, stages.home = stages.home, stages.folder / "내 컴퓨터 (1)"
    try:
        stages.reset(stage)
        ended = stages.run(stage)
        wrong = stages.difference(stage) if ended.status == STAGES[stage].status else ""
        yield Ended(ended.status, ended.out, ended.err + (f"\n{wrong}" if wrong else ""), ended.seconds)
    finally:
        stages.home = plain


def closed_stdout(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """stdout is closed, or is a pipe that nobody reads."""
    if rng.random() < 0.5:
        yield stages.run(stage, preexec=lambda: os.close(1))
        return
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as out:
        yield stages.run(stage, stdout=out)


def garbage(rng: random.Random) -> Callable[[Any], bool]:
    """An answer that is none."""
    body = rng.choice(
        (b"", b"{", b"[]", b"null", b"<html>503</html>", b"\xff\xfe", b'{"ref": "\x1b[31m"}', b"0" * 10000)
    )

    def fault(handler: Any) -> bool:
        handler.read()
        handler.send_response(rng.choice((200, 200, 204, 302, 404, 429, 500, 503)))
        handler.send_header("Content-Length", str(len(body) + rng.choice((0, 0, 5))))
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True
        return True

    return fault


def bad_site(stages: Stages, stage: str, rng: random.Random) -> Iterator[Ended]:
    """A site that answers garbage, slowly or not at all; what it has taken it has taken once."""
    for call in rng.sample(SITE_CALLS, rng.choice((1, 2))):
        faults = [
            garbage(rng),
            drop,
            status(rng.choice((400, 401, 403, 429, 500)), rng.choice(("no", "\x1b[2J\nno", "x" * 999))),
        ]
        faults += OF_CALL.get(call, [])
        stages.server.faults[call] = [rng.choice(faults) for _ in range(rng.choice((1, 3, 20)))]
    ended = stages.run(stage)
    stages.server.faults.clear()
    yield ended


TRIALS: dict[str, Callable[..., Iterator[Ended]]] = {
    "killed": killed,
    "Ctrl-C": interrupted,
    "two at once": two_at_once,
    "full disk": full_disk,
    "read-only disk": read_only_disk,
    "small files only": limited("RLIMIT_FSIZE", 0, 60_000),
    "few file descriptors": limited("RLIMIT_NOFILE", 5, 60),
    "little memory": limited("RLIMIT_AS", 0.1e9, 3e9),
    "unwritable TMPDIR": surroundings(TMPDIR="/proc"),
    "no HOME": surroundings(HOME=None),
    "unwritable HOME": surroundings(HOME="/proc/nowhere"),
    "LANG=C": surroundings(LANG="C", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"),
    "odd home": odd_home,
    "closed stdout": closed_stdout,
    "bad site": bad_site,
}
ONLY = {"bad site": ("submit",)}  # stages of a trial, where not all


def judge(stages: Stages, stage: str, trial: str, number: int) -> tuple[list[str], str]:
    """Run a trial: the outcome of each of its commands, and what breaks the rule ("" for nothing)."""
    rng = random.Random(f"{stage} {trial} {number}")
    stages.prepare(stage)
    stages.reset(stage)
    outcomes, wrong = [], ""
    try:
        for ended in TRIALS[trial](stages, stage, rng):
            outcome, why = outcome_of(ended, STAGES[stage].status, trial)
            outcomes.append(outcome)
            wrong = wrong or why
        stages.server.faults.clear()
        last = stages.run(stage)
        for _ in range(3):  # a submission whose fate is not clear is asked for again
            if last.status == STAGES[stage].status or stage != "submit":
                break
            last = stages.run(stage)
        again = STAGES[stage].again
        if last.status != STAGES[stage].status and not (again and again in last.err):
            wrong = wrong or f"does not go on: {last.err.strip()[-300:]}"
        wrong = wrong or stages.difference(stage)
        if len(stages.server.submissions) > 1:
            wrong = wrong or "sent twice"
    finally:
        stages.unmount()
    return outcomes, wrong


def outcome_of(ended: Ended, right: int, trial: str) -> tuple[str, str]:
    """(how a command ended, what is wrong with that)."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    said = lines[-1][:300] if lines else ""
    if ended.status is None:
        return "hang", "hang"
    if "Traceback (most recent call last)" in ended.err:
        return "traceback", f"traceback: {said}"
    if "went on running" in ended.err:
        return "left running", said
    if ended.status == KILLED:
        return "killed", ""
    if ended.status == right:
        wrong = "" if "\nother result" not in ended.err and "\nlost" not in ended.err else said
        return "right", wrong
    if ended.status < 0:
        return "died", "" if ended.status == -signal.SIGINT else f"died by signal {-ended.status}: {said}"
    errors = [line for line in lines if line.startswith(("error:", "stopped;"))]
    if ended.status == STOPPED and errors:
        return "stopped", ""
    if "stdout" in trial and not lines:  # nobody reads what it says
        return "quiet", ""
    fault = fault_of_line("\n".join(lines) + "\n") if lines else "no message"
    return (
        "one line" if not fault else "bad line",
        f"bad line: {fault}: {' / '.join(lines)[:300]}" if fault else "",
    )
