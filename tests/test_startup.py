"""How stages begin and end in processes of their own: Ctrl-C at once, no UTF-8, output that goes nowhere."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent
# Found by the interpreter at its start: Ctrl-C as soon as the stage imports its command line.
CTRL_C = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "pipeline.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
"""


@pytest.fixture
def ledger(home):
    """Run `python -m pipeline.ledger`, which prints one line; returns (status, stdout, stderr)."""

    def run(*arguments, stdout=subprocess.PIPE, **environment):
        search = {"PYTHONPATH": os.pathsep.join([str(home), str(PROJECT)])}
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.ledger", *arguments],
            cwd=home,
            check=False,
            env=os.environ | search | environment,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )
        return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()

    return run


def test_ctrl_c_during_the_imports_is_one_line(home, ledger):
    (home / "sitecustomize.py").write_text(CTRL_C)
    assert ledger() == (130, "", "stopped; the same command goes on from here\n")


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"PYTHONUTF8": "0", "LC_ALL": "C"}, "한글"),
        ({"PYTHONIOENCODING": "ascii"}, r"\ud55c\uae00"),
    ],
)
def test_names_are_shown_without_utf_8(ledger, environment, name):
    status, _, said = ledger("--competition", "한글", **environment)
    assert status == 1
    assert said.startswith(f"error: no competition '{name}'; there are: ")
    assert said.count("\n") == 1


def test_output_that_is_not_read_is_one_line(ledger):
    end, begin = os.pipe()
    os.close(end)
    line = "stopped: what it prints is not read any more; the same command goes on from here\n"
    assert ledger(stdout=begin) == (1, "", line)
    os.close(begin)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_output_to_a_full_disk_is_one_line(ledger):
    with open("/dev/full", "wb") as full:
        status, _, said = ledger(stdout=full)
    assert status == 1
    assert said.startswith("error: a file, or what it prints: no space left on the disk; ")
    assert said.count("\n") == 1
