"""The first damaged inputs of every kind that `make torture` knows: one clear line, or the right value."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torture.inputs import KINDS
from torture.stages import Stages
from torture.state import BAD, State
from torture.trials import judge
from torture.tries import Found, Tries, Worker, as_a_stage, fault_of_line

from pipeline.data import models, profile
from pipeline.ensembles import config

NO_FILES: dict[str, Callable[[Path], None]] = {
    "named pipe": os.mkfifo,
    "socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


@pytest.fixture(scope="module")
def tries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tries]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_HOME", "")  # and the folder and the configs are those from before afterwards
        patch.chdir(os.getcwd())
        for module in (models, profile, config):
            patch.setattr(module, "CONFIGS", module.CONFIGS)
        yield Tries(tmp_path_factory.mktemp("torture"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_inputs_are_one_line_or_read_right(tries: Tries, name: str) -> None:
    _, found = tries.run(name, 0, 30, 600)
    assert not found.examples


def test_an_input_is_the_same_each_time(tries: Tries) -> None:
    assert [tries.input("ledger", n) for n in range(5)] == [tries.input("ledger", n) for n in range(5)]
    assert len({tries.input("ledger", n) for n in range(50)}) > 40


def test_the_state_goes_on_and_adds_up(tmp_path: Path) -> None:
    state = State(tmp_path)
    found = Found()
    found.counts.update({"refused": 3, "traceback": 1})
    state.add_inputs("ledger", 4, found.counts)
    state.find("ledger", "traceback: ValueError at x.py:f", 1, 2, b"long", "why")
    state.find("ledger", "traceback: ValueError at x.py:f", 2, 3, b"new", "why")
    state.save()
    again = State(tmp_path)
    assert again.next_input("ledger", 0) == 4 and again.next_input("other", 7) == 7
    (finding,) = again.values["findings"].values()
    assert finding["times"] == 3 and (tmp_path / finding["example"]).read_bytes() == b"new"
    assert any("ledger" in line and "3" in line for line in again.lines())


def test_a_worker_that_dies_is_a_finding(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    try:
        worker.process.kill()
        following, found = worker.run("ledger", 5, 9, 1)
        assert following == 6 and list(found.counts) == ["crash"]
        assert worker.run("ledger", 0, 3, 1)[1].counts.total() == 3
    finally:
        worker.close()


def test_outcomes_that_break_the_rule_have_a_column() -> None:
    assert set(BAD) >= {"traceback", "bad line", "third thing", "unseen", "hang", "crash"}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    made = Stages(tmp_path_factory.mktemp("stages"))
    yield made
    made.close()


@pytest.mark.parametrize("trial", ["killed", "small files only", "closed stdout"])
def test_folds_survive(stages: Stages, trial: str) -> None:
    outcomes, wrong = judge(stages, "folds", trial, 1)
    assert outcomes and not wrong


def test_what_is_lost_changed_or_left_over_is_told(stages: Stages) -> None:
    stages.prepare("folds")
    stages.reset("folds")
    assert stages.difference("folds") == "lost: folds/demo/folds.csv"
    assert stages.run("folds").status == 0 and stages.difference("folds") == ""
    (stages.home / "folds/demo/.folds.7.tmp.csv").touch()
    assert stages.difference("folds") == "left over: folds/demo/.folds.7.tmp.csv"
    (stages.home / "folds/demo/folds.csv").write_text("image_id,file_name,fold,group\n")
    assert "folds/demo/folds.csv" in stages.difference("folds")


@pytest.mark.parametrize("what", NO_FILES)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_file_is_one_line_at_once(tries: Tries, name: str, what: str) -> None:
    if (name, what) == ("LabelMe", "folder"):
        pytest.skip("a folder of json files may hold folders of any name")
    path = tries.kind(name)[0].path
    whole = path.read_bytes()
    path.unlink()
    try:
        NO_FILES[what](path)
        status, stderr, where = as_a_stage(tries.kind(name)[0].read)
        assert status and stderr, where
        assert fault_of_line(stderr) == ""
    finally:
        path.rmdir() if what == "folder" else path.unlink()
        path.write_bytes(whole)
