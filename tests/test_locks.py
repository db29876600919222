"""Several processes at once: no lost row, no half-written file, and one line for whoever waits."""

import multiprocessing
import os
import time
from contextlib import contextmanager

import pytest
from test_ledger import entry

from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import write_text
from pipeline.submissions.ledger import read_ledger, record, record_scores

FORK = multiprocessing.get_context("fork")


def in_processes(function, values):
    """Call a function in one process for each value, all at once; returns how they ended."""
    processes = [FORK.Process(target=function, args=(value,)) for value in values]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@contextmanager
def held_elsewhere(path, seconds=60.0):
    """Another process holds the lock of a path, for so long or until the block ends."""
    begun = FORK.Event()

    def hold():
        with locked(path):
            begun.set()
            time.sleep(seconds)

    process = FORK.Process(target=hold)
    process.start()
    begun.wait()
    yield process
    process.kill()
    process.join()


def test_no_row_of_the_ledger_is_lost(home):
    def write_five(process):
        for row in range(5):
            record(entry(f"{process}-{row}", public=""))
            record_scores(entry(f"{process}-{row}", public=f"0.{process}{row}"))

    assert in_processes(write_five, range(8)) == [0] * 8
    assert {(e.digest, e.public) for e in read_ledger()} == {
        (f"{process}-{row}", f"0.{process}{row}") for process in range(8) for row in range(5)
    }
    assert len(read_ledger()) == 40


def test_who_waits_says_what_for(tmp_path, capsys):
    path = tmp_path / "folder" / "file.csv"
    with held_elsewhere(path, seconds=1.5), locked(path):
        said = capsys.readouterr().err
    assert said == f"waiting: another process is writing {path} (Ctrl-C stops waiting)\n"
    with locked(path):  # nobody has it: not a word
        assert capsys.readouterr().err == ""


def test_who_does_not_wait_is_told_what_the_other_one_does(tmp_path):
    refused = pytest.raises(
        PipelineError, match=r"another process is sending .*f\.csv; wait for it or stop it"
    )
    with held_elsewhere(tmp_path / "f.csv"), refused, locked(tmp_path / "f.csv", wait=0, doing="sending"):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    with held_elsewhere(tmp_path / "f.csv") as process:
        process.kill()
        with locked(tmp_path / "f.csv", wait=5):
            pass


def test_temporary_files_of_processes_that_are_gone_are_removed(tmp_path, monkeypatch):
    def stop_half_way(path):
        monkeypatch.setattr(os, "replace", lambda *_: os._exit(3))  # as a kill would
        write_text(path, "half")

    assert in_processes(stop_half_way, [tmp_path / "a.csv"]) == [3]
    (left,) = tmp_path.iterdir()
    name = left.name
    machine, _, process = name.split(".")[2].partition("-")
    kept = tmp_path / name.replace(process, str(os.getppid()))  # at work
    elsewhere = tmp_path / name.replace(machine, "0" * 8)
    outdated = tmp_path / name.replace(machine, "1" * 8)
    others = tmp_path / ".notes.tmp"
    for path in (kept, elsewhere, outdated, others):
        path.write_text("")
    os.utime(outdated, (0, 0))
    os.utime(others, (0, 0))
    write_text(tmp_path / "c.csv", "whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "c.csv", kept, elsewhere, others}
