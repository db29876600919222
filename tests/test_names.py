"""Names that are no paths, and numbers in the digits 0 to 9, wherever people type them."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    cli,
    convert,
    cost,
    ensemble,
    evaluate,
    folds,
    launch,
    ledger,
    list_models,
    predict,
    submission,
    submit,
    train,
    tune,
)
from pipeline.data.models import parse_options
from pipeline.data.runs import Run, all_runs
from pipeline.ensembles import config
from pipeline.errors import PipelineError
from pipeline.paths import folds_csv, sent_csv
from pipeline.views import parse_view

PATHS = ("../../x", "/tmp/x", "..", ".hidden", "a/b", "a\\b", "", "a\nb", "x" * 101)
STAGES: dict[str, tuple[Any, list[str]]] = {
    "convert": (convert, ["a.csv", "b.parquet", "--split", "test"]),
    "cost": (cost, ["--model", "yolov5n"]),
    "ensemble": (ensemble, []),
    "evaluate": (evaluate, []),
    "folds": (folds, []),
    "launch": (launch, ["--model", "yolov5n"]),
    "ledger": (ledger, []),
    "list_models": (list_models, []),
    "predict": (predict, ["--model", "yolov5n"]),
    "submission": (submission, []),
    "submit": (submit, []),
    "train": (train, ["--model", "yolov5n"]),
    "tune": (tune, []),
}


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_takes_a_path_for_a_competition(stage: str, home: Path) -> None:
    module, arguments = STAGES[stage]
    with pytest.raises(PipelineError, match=r"^competition '\.\./\.\./x': expected a name"):
        module.main([*arguments, "--competition", "../../x"])


@pytest.mark.parametrize("stage", ["ensemble", "evaluate", "submission", "submit", "tune"])
@pytest.mark.parametrize("name", ["../../x", "/tmp/x"])
def test_no_stage_takes_a_path_for_an_ensemble(stage: str, name: str, recycle: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(PipelineError, match=f"^ensemble '{name}': expected a name"):
        STAGES[stage][0].main(["--ensemble", name])
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("stage", ["predict", "train", "evaluate", "cost"])
def test_no_stage_takes_a_path_for_a_model(stage: str, recycle: Path) -> None:
    with pytest.raises(PipelineError, match=r"model '\.\./\.\./x'"):
        STAGES[stage][0].main(["--model", "../../x"])


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_refused_wherever_a_name_becomes_one(
    name: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ensembles").mkdir()
    monkeypatch.setattr(config, "CONFIGS", tmp_path)
    (tmp_path / "ensembles" / "own.yaml").write_text(f"members: [{{model: {name!r}}}]\n")
    for place in (
        lambda: Run("recycle", name, 0).folder,
        lambda: sent_csv("recycle", name),
        lambda: folds_csv(name),
        lambda: parse_view(name),
        lambda: config.read_ensemble("own"),
    ):
        with pytest.raises(PipelineError, match=r"expected a name|is not an action") as caught:
            place()
        assert str(caught.value).isprintable() and len(str(caught.value)) <= 300


def test_a_folder_whose_name_is_none_is_no_run(home: Path) -> None:
    for name in ("m/fold0", "m/fold00", "m/fold٣", ".m/fold0", "a\nb/fold0", "m/folder"):
        (home / "runs" / "recycle" / name).mkdir(parents=True)
    assert all_runs("recycle") == [Run("recycle", "m", 0)]


WHOLE = ["٣", "３", "²", "1_0", "1.5", "1e3", "", "-1", "99999999999999999999", "0x10", "nan"]


@pytest.mark.parametrize("value", WHOLE)
def test_a_whole_number_is_written_in_the_digits_0_to_9(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = cli.parser("")
    cli.add_settings(arguments)
    cli.add_seed(arguments)
    for flag in ("--seed", "--epochs", "--image-size", "--batch"):
        with pytest.raises(SystemExit) as ended:
            arguments.parse_args([f"{flag}={value}"])
        line = capsys.readouterr().err
        assert ended.value.code == 2 and line.count("\n") == 1
        assert f"argument {flag}: {value!r}: expected a whole number from" in line
    for zero in ("--epochs=0", "--image-size=0", "--batch=0", f"--seed={2**31}"):
        with pytest.raises(SystemExit):
            arguments.parse_args([zero])
    assert arguments.parse_args(["--seed=0", "--epochs=+7"]).epochs == 7


@pytest.mark.parametrize("value", ["٣", "1_0", "nan", "inf", "1e999", "0,5", ""])
def test_a_number_is_finite_and_written_in_the_digits_0_to_9(value: str) -> None:
    arguments = cli.parser("")
    cli.add_number(arguments, "--iou")
    with pytest.raises(SystemExit):
        arguments.parse_args([f"--iou={value}"])
    assert arguments.parse_args(["--iou=.5"]).iou == 0.5


def test_digits_of_other_scripts_are_refused_in_views_folds_and_options() -> None:
    with pytest.raises(PipelineError, match="'scale٣' is not an action"):
        parse_view("scale٣")
    with pytest.raises(PipelineError, match="fold '٣': expected 0 to 4"):
        cli.parse_folds(["٣"], 5)
    for value in ("٣", "1_000.5", "inf", "nan"):
        with pytest.raises(PipelineError, match=f"option 'lr={value}': expected a finite number"):
            parse_options([f"lr={value}"])
    assert parse_options(["a=3", "b=-1e-3", "c='٣'", "d=[1, x]", "e=", "f=null"]) == {
        "a": 3,
        "b": -1e-3,
        "c": "٣",
        "d": [1, "x"],
        "e": None,
        "f": None,
    }


def test_a_device_is_named_by_a_number() -> None:
    from pipeline.training.backend import select_device

    for device in ("cuda:²", "cuda:٣", "cuda:-1", "gpu", "cuda:1/2"):
        with pytest.raises(PipelineError, match=f"^device '{device}': torch sees"):
            select_device(device)
