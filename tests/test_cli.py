"""The stages as processes of their own: without torch, and with one line for a user's mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from pipeline import cli, convert, ensemble, evaluate, folds, submission
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.errors import LONGEST_LINE, PipelineError, one_line
from pipeline.paths import file_digest

PROJECT = Path(__file__).resolve().parent.parent
# Found by the interpreter at its start, before anything else is imported.
BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "mmdet", "mmcv", "mmengine", "ultralytics", "cv2"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def stage(home, tmp_path):
    """Run a stage in a process in which no framework can be imported."""
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCKER)
    search = os.pathsep.join([str(tmp_path / "block"), str(PROJECT)])

    def run(name, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"pipeline.{name}", *map(str, arguments)],
            cwd=home,
            check=False,
            env=os.environ | {"PYTHONPATH": search},
            capture_output=True,
            text=True,
        )

    return run


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_from_annotations_to_a_submission_without_a_framework(recycle, home, stage):
    train, test = (load_dataset(load_profile("recycle"), split) for split in ("train", "test"))
    assert stage("folds", "--folds", 2).stderr == ""
    rows = [line.split(",") for line in (home / "folds/recycle/folds.csv").read_text().splitlines()[1:]]
    for fold in (0, 1):
        digest = file_digest(home / "folds/recycle/folds.csv")
        run = tiny.write_card(Run("recycle", "cascade_swin", fold), folds_digest=digest)
        ids = [int(row[0]) for row in rows if int(row[2]) == fold]
        held_out = train.images[train.images["image_id"].isin(ids)]
        table = tiny.table(train, tiny.guesses(held_out, fold), image_ids=ids, fold=fold)
        write_predictions(tiny.table_path(run, "oof", "identity"), table)
        write_predictions(
            tiny.table_path(run, "test", "identity"), tiny.table(test, tiny.guesses(test.images, fold))
        )
    csv = home / "submissions/recycle/final.csv"
    for name, arguments in (
        ("ensemble", ["--ensemble", "final"]),
        ("submission", []),
        ("evaluate", ["--model", "cascade_swin"]),
        ("convert", [csv, home / "again.parquet", "--split", "test"]),
    ):
        done = stage(name, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), name
        assert done.stdout.splitlines()[-1].startswith("wrote ")
    assert len(csv.read_text().splitlines()) == 1 + 5
    assert json.loads(csv.with_suffix(".json").read_text())["models"] == ["cascade_swin"]


def test_the_frameworks_are_blocked_in_these_tests(home, stage):
    """Without this the test above could not fail."""
    assert "cv2 is blocked" in stage("data.demo").stderr


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("folds", ["--competition", "wheet"], "error: no competition 'wheet'; there are: bccd, "),
        (
            "convert",
            ["s.csv", "out.parquet", "--split", "test"],
            "error: s.csv: row 2 (test/0000.jpg): broken box string: 5 values, expected a multiple of 6",
        ),
        ("ensemble", ["cut.parquet", "-o", "out.parquet"], "error: cut.parquet: not a whole Parquet file"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(recycle, home, stage, name, arguments, message):
    (home / "s.csv").write_text("PredictionString,image_id\n1 0.5 0 0 9,test/0000.jpg\n")
    test = load_dataset(load_profile("recycle"), "test")
    write_predictions(home / "cut.parquet", tiny.table(test, [(0, 1, 0.5, 0, 0, 9, 9)]))
    tiny.cut_in_half(home / "cut.parquet")
    before = files(home)
    done = stage(name, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert files(home) == before


@pytest.mark.parametrize("stage_module", [folds, convert, ensemble, evaluate, submission])
def test_every_stage_has_help_and_refuses_what_it_does_not_know(home, capsys, stage_module):
    for arguments, status in ((["--help"], 0), (["--no-such-option"], 2)):
        with pytest.raises(SystemExit) as end:
            stage_module.main(arguments)
        assert end.value.code == status
    said = capsys.readouterr()
    assert "--competition C" in said.out
    assert (stage_module.__doc__ or "").splitlines()[0] in said.out


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (PipelineError("a.csv: row 3: wrong"), 1, "error: a.csv: row 3: wrong\n"),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here\n"),
    ],
)
def test_how_a_stage_ends(capsys, error, status, line):
    def main():
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\x1b[2J\u202ec\ud800", "a\\nb\\x1b[2J\\u202ec\\ud800"),
        ("쓰레기.jpg: no such photo", "쓰레기.jpg: no such photo"),
        ("x" * 10**7 + "; restore it", "..." + "x" * 56 + "; restore it"),
        ("x " * 10**7 + "; restore it", "x " * 100 + " ... " + " x" * 41 + " ; restore it"),
        (
            f"/{'a/' * 99}b.csv: is there, /{'c/' * 99}d too; OVERWRITE=1 replaces it",
            f"...{'/a' * 25}/b.csv: is there, ...{'c/' * 28}d too; OVERWRITE=1 replaces it",
        ),
    ],
)
def test_a_message_is_one_printable_line_whatever_it_quotes(text, line):
    assert str(PipelineError(text)) == one_line(text) == line
    assert line.isprintable() and len(line) <= LONGEST_LINE


def test_a_fault_of_ours_keeps_its_traceback():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(main)


@pytest.fixture(autouse=True)
def no_variables_of_make(monkeypatch):
    """These tests may themselves be run by make, which hands its variables on."""
    for name in [name for name in os.environ if name.startswith("PIPE_")]:
        monkeypatch.delenv(name)


def stage_arguments():
    """A parser with each kind of argument that the stages have."""
    arguments = cli.parser("A stage.")
    cli.add_competition(arguments)
    cli.add_models(arguments)
    cli.add_folds(arguments)
    cli.add_settings(arguments)
    cli.add_list(arguments, "--split", allowed=("oof", "test"), default=["oof", "test"])
    arguments.add_argument("files", nargs="*", type=Path)
    arguments.add_argument("--message", default="")
    arguments.add_argument("--overwrite", action="store_true")
    return arguments


@pytest.mark.parametrize(
    ("variables", "key", "value"),
    [
        ({}, "fold", ["0"]),
        ({}, "split", ["oof", "test"]),
        ({"FOLD": "0 2,1"}, "fold", ["0", "2", "1"]),
        ({"FOLDS": " 3, 1 3"}, "fold", ["3", "1"]),
        ({"MODEL": "a", "MODELS": ""}, "model", ["a"]),
        ({"MODEL": "", "MODELS": "a,b"}, "model", ["a", "b"]),
        ({"COMP": "demo"}, "competition", "demo"),
        ({"SPLIT": "test"}, "split", ["test"]),
        ({"IMAGE_SIZE": "320"}, "image_size", 320),
        ({"FILES": "a.parquet, b.parquet"}, "files", [Path("a.parquet"), Path("b.parquet")]),
        ({"MESSAGE": "--again  `a` $(b) 'c'"}, "message", "--again  `a` $(b) 'c'"),
        ({"OVERWRITE": "1"}, "overwrite", True),
        ({"OVERWRITE": "0"}, "overwrite", False),
        (
            {"SET": "a=1, b=[1, (2, 3)] c='x, y',d={e: 1}"},
            "set",
            ["a=1", "b=[1, (2, 3)]", "c='x, y'", "d={e: 1}"],
        ),
    ],
)
def test_variables_of_make_are_options(monkeypatch, variables, key, value):
    for name, text in ({"MODEL": "m"} | variables).items():
        monkeypatch.setenv(f"PIPE_{name}", text)
    assert getattr(stage_arguments().parse_args(["--from-make"]), key) == value


def test_the_command_line_wins_over_variables_of_make(monkeypatch):
    for name, text in {"MODEL": "a", "FOLD": "1", "MESSAGE": "theirs", "FILES": "a.parquet"}.items():
        monkeypatch.setenv(f"PIPE_{name}", text)
    given = ["b.parquet", "--from-make", "--fold", "2", "3", "--message", "mine"]
    options = stage_arguments().parse_args(given)
    assert (options.model, options.fold, options.message) == (["a"], ["2", "3"], "mine")
    assert options.files == [Path("b.parquet")]


def test_a_stage_that_make_did_not_start_ignores_its_variables(monkeypatch):
    for name, text in {"MODEL": "theirs", "FOLD": "nonsense", "OVERWRITE": "perhaps"}.items():
        monkeypatch.setenv(f"PIPE_{name}", text)
    options = stage_arguments().parse_args(["--model", "m"])
    assert (options.model, options.fold, options.overwrite) == (["m"], ["0"], False)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MODEL= (--model) is missing, as in MODEL=cascade_swin"),
        ({"MODEL": " , "}, "MODEL= (--model) is missing"),
        ({"MODEL": "m", "FOLD": "1", "FOLDS": "2"}, "error: FOLD=1 and FOLDS=2: give one of the two; "),
        ({"MODEL": "m", "OVERWRITE": "perhaps"}, "error: OVERWRITE=perhaps: expected 1 or 0; "),
        ({"MODEL": "m", "SPLIT": "oof train"}, "error: argument --split: 'train': expected oof, test; "),
        (
            {"MODEL": "m", "EPOCHS": "ten"},
            "error: argument --epochs: 'ten': expected a whole number from 1 to ",
        ),
    ],
)
def test_a_wrong_variable_is_one_line(monkeypatch, capsys, variables, message):
    for name, text in variables.items():
        monkeypatch.setenv(f"PIPE_{name}", text)
    with pytest.raises((SystemExit, PipelineError)) as end:
        stage_arguments().parse_args(["--from-make"])
    said = capsys.readouterr().err or f"{end.value}\n"
    assert said.startswith(message)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "folds"),
    [
        (["0"], [0]),
        (["4", "2", "4"], [4, 2]),
        (["folds"], [0, 1, 2, 3, 4]),
        (["3", "folds"], [3, 0, 1, 2, 4]),
    ],
)
def test_folds_are_numbers_or_all_of_them(values, folds):
    assert cli.parse_folds(values, 5) == folds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("5", "fold '5': expected 0 to 4, or FOLD=folds for all of them"),
        ("-1", "fold '-1': expected 0 to 4"),
        ("٣", "fold '٣': expected 0 to 4"),
        ("1.0", "fold '1.0': expected 0 to 4"),
        ("all", "FOLD=all: half of the people mean every fold.* say FOLD=folds or FOLD=full"),
        ("full", "FOLD=full: the model on all photos has no held-out photos"),
    ],
)
def test_what_is_no_fold_is_refused(value, message):
    with pytest.raises(PipelineError, match=message):
        cli.parse_folds(["0", value], 5)


def test_no_result_replaces_what_is_read_or_kept(recycle, home):
    """Neither by its name nor through a link: an input, a run's table, the competition's annotations."""
    test = load_dataset(load_profile("recycle"), "test")
    run = Run("recycle", "cascade_swin", 0)
    tiny.write_card(run)
    own = run.table_path("test", "identity")
    tables = [home / "a.parquet", home / "b.parquet"]
    for path in (*tables, own):
        write_predictions(path, tiny.table(test, tiny.guesses(test.images, 1)))
    (home / "link.parquet").symlink_to(tables[1])
    (home / "link.json").symlink_to(recycle / "train.json")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    fuse = [str(path) for path in tables]
    for target, message in (
        (tables[0], r"a\.parquet: is read too, as .*a\.parquet; give the result another name"),
        (home / "link.parquet", r"link\.parquet: is read too, as .*b\.parquet"),
        (own, r"identity\.parquet: belongs to .*fold0, as its card\.json says"),
    ):
        with pytest.raises(PipelineError, match=message):
            ensemble.main([*fuse, "-o", str(target)])
    for target, message in (
        (recycle / "train.json", r"train\.json: is read too"),
        (home / "link.json", r"link\.json: is read too, as .*recycle/train\.json"),
        (tables[0], r"a\.parquet: is read too"),
    ):
        with pytest.raises(PipelineError, match=message):
            convert.main([fuse[0], str(target), "--split", "test"])
    with pytest.raises(PipelineError, match=r"test\.json: is read too"):
        evaluate.main([*fuse, "-o", str(recycle / "test.json")])
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    convert.main([fuse[0], str(home / "new.json"), "--split", "test"])
    convert.main([fuse[0], str(home / "new.json"), "--split", "test"])  # its own result it replaces
