"""Several folds in one command, and the one model on all photos."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import test_ensemble
import tiny
from every_backend import EXACT, MODELS

from pipeline import cli, folds, predict, train
from pipeline.data import demo
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides
from pipeline.data.predictions import read_predictions, write_predictions
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run, full_epochs
from pipeline.data.split import read_split
from pipeline.ensembles.tables import ACROSS_FOLDS, fuse_same_images
from pipeline.errors import PipelineError
from pipeline.jobs.placement import Node
from pipeline.jobs.plan import JobOptions, plan
from pipeline.paths import ensemble_dir
from pipeline.submissions.card import make_submission
from pipeline.submissions.ledger import entry_of
from pipeline.training.progress import Progress

pytestmark = pytest.mark.usefixtures("one_thread")
runs, write_yaml = test_ensemble.runs, test_ensemble.write_yaml  # fixtures
PHOTOS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, every_backend: None) -> Path:
    home = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_HOME", str(home))
        demo.generate(home / "data" / "demo", n_train=PHOTOS, n_test=2, size=64)
        folds.main(["--competition", "demo", "--folds", "3"])
    return home


@pytest.fixture
def small(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a few photos in three folds, none trained; returns it."""
    shutil.copytree(data, tmp_path / "home")
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def fit(model: str, fold: str, *more: str) -> None:
    sizes = ["--image-size", "64", "--batch", "4", "--device", "cpu"]
    train.main(["--competition", "demo", "--model", model, "--fold", fold, *sizes, *EXACT[model], *more])


def card_of_fold(fold: int, best_epoch: int) -> None:
    """As if a fold of the toy had been trained."""
    digest = read_split("demo", load_dataset(load_profile("demo"), "train")).digest
    numbers = {"best_epoch": best_epoch, "epochs": 20, "trained_photos": PHOTOS * 2 // 3}
    tiny.write_card(Run("demo", "toy", fold), folds_digest=digest, **numbers)


def test_folds_that_were_stopped_go_on_as_a_whole(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, begun = Progress.step, []

    def stopped(self: Progress, loss: float) -> None:
        begun.append((self.label, self.epoch))
        if begun[-1] == ("toy fold2", 1) and not resumed:
            raise KeyboardInterrupt
        step(self, loss)

    monkeypatch.setattr(Progress, "step", stopped)
    resumed = False
    with pytest.raises(KeyboardInterrupt):
        fit("toy", "0 2", "--epochs", "3")
    first = small / "runs/demo/toy/fold0/card.json"
    written = first.stat().st_mtime_ns
    resumed, begun = True, []
    fit("toy", "0 2", "--epochs", "3")
    assert first.stat().st_mtime_ns == written
    assert {label for label, _ in begun} == {"toy fold2"} and begun[0][1] == 1
    assert Run("demo", "toy", 2).is_trained and not Run("demo", "toy", 1).folder.exists()


@pytest.mark.parametrize(
    ("best", "epochs"),
    [
        ([9, 6, 12], 6),  # the median of 9 epochs over two thirds of the photos
        ([3], 2),
        ([2, 7], 3),  # the mean of the middle two
        ([0], 1),
    ],
)
def test_as_many_steps_as_the_folds_best_epochs_had(small: Path, best: list[int], epochs: int) -> None:
    for fold, best_epoch in enumerate(best):
        card_of_fold(fold, best_epoch)
    assert full_epochs("demo", "toy", PHOTOS) == epochs


def test_without_a_trained_fold_epochs_are_needed(small: Path) -> None:
    expected = r"^FOLD=full: no fold of toy is trained, .*; make train .* FOLD=folds, or give EPOCHS=$"
    with pytest.raises(PipelineError, match=expected):
        fit("toy", "full")
    assert not (small / "runs").exists()


def test_the_model_on_all_photos(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Twice as many epochs for the folds as their steps make of all photos; predicted on test alone."""
    for fold in (0, 1):
        card_of_fold(fold, 5)
    fit("toy", "full", "--views", "identity")
    assert "epoch 3, the last, on all photos: not measured" in capsys.readouterr().out
    run = Run("demo", "toy", "full")
    card = run.card()
    assert (card.fold, card.epochs, card.best_epoch, card.framework_map50) == ("full", 3, 3, None)
    assert (card.trained_photos, card.held_out_photos) == (PHOTOS, 0)
    assert run.views("oof") == [] and run.table("test", "identity").meta.folds.tolist() == [-1, -1]
    fit("toy", "full")
    assert "is trained already" in capsys.readouterr().out
    target = ["--competition", "demo", "--model", "toy", "--fold", "full"]
    with pytest.raises(PipelineError, match=r"trained on all photos, none is held out; SPLIT=test$"):
        predict.main([*target, "--split", "oof"])


@pytest.mark.parametrize("model", MODELS)
def test_every_backend_takes_the_last_epoch_where_nothing_is_held_out(small: Path, model: str) -> None:
    fit(model, "full", "--epochs", "2", "--views", "identity")
    run = Run("demo", model, "full")
    assert (run.card().best_epoch, run.card().framework_map50) == (2, None)
    assert len(run.table("test", "identity").meta.image_ids) == 2
    history = (run.folder / "history.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2] for line in history] == ["", ""]


def test_train_all_trains_on_all_photos_when_the_folds_are_done(small: Path) -> None:
    profile, one = load_profile("demo"), Node(0, 2, 8)
    split = read_split("demo", load_dataset(profile, "train"))

    def names(options: JobOptions, *chosen: int | str) -> list[str]:
        return [job.name for job in plan(profile, split, ["toy"], chosen, options, [one])[0]]

    options = JobOptions(Overrides(image_size=64, batch=4, options={"weights": None}), views="identity")
    with pytest.raises(
        PipelineError, match="told by its trained folds: run FOLD=folds first, or give EPOCHS="
    ):
        names(options, 0, "full")
    with pytest.raises(PipelineError, match="no fold of toy is trained"):
        names(options, "full")
    card_of_fold(0, 3)
    assert names(options, "full") == ["toy-full"]
    fit("toy", "full", "--views", "identity")
    assert names(options, "full") == []
    longer = JobOptions(Overrides(epochs=5, image_size=64, batch=4, options={"weights": None}))
    assert names(longer, 0, "full") == ["toy-fold0", "toy-full"]


def test_full_comes_last_and_only_where_nothing_is_measured() -> None:
    assert cli.parse_runs(["full", "1", "folds"], 3) == [1, 0, 2, "full"]
    assert cli.parse_runs(["0"], 3) == [0]
    with pytest.raises(PipelineError, match=r"^FOLD=all: .* FOLD=folds or FOLD=full$"):
        cli.parse_runs(["all", "full"], 3)


def predict_full(model: str, views: tuple[str, ...]) -> list[Any]:
    """As if a model of the ensemble's had been trained on all photos: fold 1's boxes of test, once more."""
    run = Run("recycle", model, "full")
    tiny.write_card(run, folds_digest=Run("recycle", model, 1).card().folds_digest, framework_map50=None)
    tables = []
    for view in views:
        table = read_predictions(Run("recycle", model, 1).table_path("test", view))
        table.meta.folds[:] = -1
        write_predictions(run.table_path("test", view), table)
        tables.append(run.table("test", view))
    return tables


def test_models_on_all_photos_are_one_more_fold_on_test_and_in_no_score(
    runs: Any, write_yaml: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = load_profile("recycle")
    oof, test, card = test_ensemble.make()
    predict_full("small", test_ensemble.MODELS["small"])
    assert card["unmeasured"] == []
    capsys.readouterr()
    _, same, _ = test_ensemble.make()
    assert "left out: large has none (FOLD=full)" in capsys.readouterr().out
    assert (test_ensemble.rows_of(same) == test_ensemble.rows_of(test)).all()

    predict_full("large", ("identity",))
    oof_with, test_with, card_with = test_ensemble.make()
    assert "over folds [0, 1, 2] and, on test, full (not measured)" in capsys.readouterr().out
    assert (test_ensemble.rows_of(oof_with) == test_ensemble.rows_of(oof)).all()
    folder = ensemble_dir("recycle", "final") / "test_folds"
    parts = [read_predictions(folder / f"{name}.parquet") for name in ("fold0", "fold1", "fold2", "full")]
    assert (parts[3].scores == parts[1].scores).all(), "they have the same boxes here"
    fused = fuse_same_images(parts, ACROSS_FOLDS)
    assert (test_ensemble.rows_of(test_with) == test_ensemble.rows_of(fused)).all()
    for key in ("oof", "nested", "members", "folds"):
        assert card_with[key] == card[key]
    assert {(m["model"], m["fold"]) for m in card_with["unmeasured"]} == {
        ("small", "full"),
        ("large", "full"),
    }
    assert card_with["note"].endswith("(full) are one more fold of it, and no score has seen them")

    path, submission = make_submission(profile, "final")
    assert sum("fold full" in line and line.endswith("not measured") for line in submission.lines()) == 3
    entry = entry_of("recycle", path.name, submission.file_digest, submission, status="pending")
    assert entry.members.endswith("large[full, not measured] small[full, not measured]")
    shutil.rmtree(Run("recycle", "small", "full").folder)
    test_ensemble.make()
    assert not (folder / "full.parquet").exists()


def test_a_view_that_the_model_on_all_photos_lacks_is_named(runs: Any) -> None:
    predict_full("small", ("identity",))
    predict_full("large", ("identity",))
    with pytest.raises(
        PipelineError, match=r"view 'hflip' is not predicted on test; make predict .*FOLD=full"
    ):
        test_ensemble.make()


def test_a_tuned_ensemble_rescores_the_boxes_of_all_photos_as_it_does_a_folds(
    runs: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    test_ensemble.tuned(capsys)
    for model, views in test_ensemble.MODELS.items():
        predict_full(model, views)
    test_ensemble.make()
    folder = ensemble_dir("recycle", "final") / "test_folds"
    full, fold = (read_predictions(folder / f"{name}.parquet") for name in ("full", "fold1"))
    assert (test_ensemble.rows_of(full) == test_ensemble.rows_of(fold)).all()
