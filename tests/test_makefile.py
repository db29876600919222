"""The Makefile hands its variables on as they were typed, and runs nothing that stands in one.

make runs for real, in a folder of its own in which Python is a script that notes how it was called.
"""

import importlib
import os
import re
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).resolve().parent.parent / "Makefile"
TEXT = MAKEFILE.read_text(encoding="utf-8")
VARIABLES = re.search(r"^VARIABLES = ((?:.*\\\n)*.*)", TEXT, re.M)[1].replace("\\\n", " ").split()
OF_TORTURE = {"MINUTES", "ONLY", "FIRST"}
OF_BENCHMARKS = {"BENCH", "SMALL"}
TARGETS = sorted({name for names in re.findall(r"^([a-z- ]+):", TEXT, re.M) for name in names.split()})
# What a recipe calls: its words, then its environment, each word and each variable ended by a NUL.
RECORDER = """#!/bin/sh
{ printf '%s\\0' "$(basename "$0")" "$@"; printf '\\0'; env -0; } > "$CALLS/$$"
"""
HOSTILE = (
    "$(shell touch created)",
    "${shell touch created}",
    "`touch created`",
    '"; touch created; "',
    "'; touch created; '",
    "a && touch created # & | > created",
    "it's $$ $ $HOME ${HOME} $(HOME) %d \\ \\\\ \\n",
    "-n --help -- *",
    "한국어 사진 \u3000 é \U0001f600",
    "a\ttab, two  spaces,\na second line",
    "$(eval $(shell touch created))$(error broken)",
    "endef\nall: ; touch created\n",
)


@pytest.fixture
def run_make(tmp_path):
    """Run make with a recorder for Python; returns each call's words and environment, in order."""
    folder = tmp_path / "project"
    for name in (".venv/bin/python", "scripts/setup.sh", "scripts/lock.sh"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(RECORDER)
        (folder / name).chmod(0o755)
    (folder / "Makefile").write_text(TEXT, encoding="utf-8")

    def run(*arguments, **environment):
        calls = tmp_path / "calls"
        calls.mkdir()
        before = sorted(folder.rglob("*"))
        of_make = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # of the make that runs these tests
        clean = {key: value for key, value in os.environ.items() if key not in {*VARIABLES, *of_make}}
        done = subprocess.run(
            ["make", *arguments],
            cwd=folder,
            env=clean | {"CALLS": str(calls)} | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert sorted(folder.rglob("*")) == before
        found = []
        for path in sorted(calls.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            words, _, variables = path.read_text(encoding="utf-8").partition("\0\0")
            pairs = (entry.partition("=") for entry in variables.split("\0") if entry)
            found.append((words.split("\0"), {name: value for name, _, value in pairs}))
            path.unlink()
        calls.rmdir()
        return found

    return run


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("source", ["command line", "environment"])
def test_every_value_arrives_as_typed_at_every_target(run_make, value, source):
    if source == "environment":
        calls = run_make(*TARGETS, **dict.fromkeys(VARIABLES, value))
    else:
        calls = run_make(*TARGETS, *(f"{name}={value}" for name in VARIABLES))
    assert len(calls) >= len(TARGETS) - 5  # help, check and the like share or have no call
    for words, environment in calls:
        assert not any(value in word for word in words)
        assert {environment[f"PIPE_{name}"] for name in VARIABLES} == {value}
        assert not set(VARIABLES) & set(environment)  # make would expand these


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("train", ["-m", "pipeline.train", "--from-make"]),
        ("check-data", ["-m", "pipeline.check_data", "--from-make"]),
        ("check-submission", ["-m", "pipeline.submission", "check", "--from-make"]),
        ("record-score", ["-m", "pipeline.submit", "score", "--from-make"]),
    ],
)
def test_a_target_calls_its_stage(run_make, target, words):
    setup, call = run_make(target, "MODEL=a,b")
    assert setup[0][0] == "setup.sh"
    assert call[0] == ["python", *words]
    assert (call[1]["PIPE_MODEL"], call[1]["PIPE_FOLD"]) == ("a,b", "")


def test_only_what_measures_a_model_needs_torch(run_make):
    assert run_make("models")[0][0] == ["setup.sh", "any"]
    assert run_make("models-measure")[0][0] == run_make("cost")[0][0] == ["setup.sh", "full"]


@pytest.mark.parametrize(
    ("new", "old"), [("check-data", "data"), ("check-submission", "check"), ("record-score", "score")]
)
def test_former_names_of_targets_do_the_same(run_make, new, old):
    assert run_make(new)[1][0] == run_make(old)[1][0]


def test_make_alone_prints_every_target_that_is_described():
    shown = subprocess.run(
        ["make", "-f", MAKEFILE], cwd=MAKEFILE.parent, capture_output=True, text=True, check=True
    )
    named = {name for line in shown.stdout.splitlines() for name in line[:31].replace(",", "").split()[1:]}
    assert set(TARGETS) - {"full", "any"} <= named


def test_recipes_and_conditions_name_no_variable():
    assert not re.search(rf"\$[({{]({'|'.join(VARIABLES)})[)}}]", TEXT.replace("$(MODEL) and the like", ""))


def test_every_variable_is_an_option_of_a_stage(capsys):
    """A variable that is misspelt in the Makefile, or whose option was renamed, would be ignored."""
    others = {"benchmarks", "benchmarks.gpu", "benchmarks.training", "torture"}
    for stage in set(re.findall(r"-m (\S+) .*--from-make", TEXT)) - others:
        with pytest.raises(SystemExit):
            importlib.import_module(stage).main(["--help"])
    said = capsys.readouterr().out
    flags = {flag.strip("-").replace("-", "_").upper() for flag in re.findall(r"--[a-z-]+", said)}
    positional = {"FILE", "FILES"}  # of check, of evaluate and tune
    assert set(VARIABLES) - flags - positional == {"PYTHON", *OF_BENCHMARKS, *OF_TORTURE}


def test_what_test_fast_leaves_out_is_there():
    """A test that was renamed would be run again, and make test-fast be slow."""
    tests = MAKEFILE.parent / "tests"
    for line in (tests / "slow.txt").read_text(encoding="utf-8").splitlines():
        file, _, name = line.partition("::")
        assert line.startswith("#") or f"def {name}" in (tests / file).read_text(encoding="utf-8"), line
