"""The tables of a trained model and of an ensemble, for scores, reports and whoever else compares them."""

from collections.abc import Sequence

from pipeline.data.dataset import load_truth
from pipeline.data.predictions import Predictions, join_predictions, read_predictions
from pipeline.data.profile import Profile
from pipeline.data.runs import Run
from pipeline.ensembles.fuse_tuned import submitted
from pipeline.ensembles.tables import ACROSS_FOLDS, Fusion, fuse_same_images
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import ensemble_dir


def model_tables(runs: Sequence[Run], split: str) -> dict[str, Predictions]:
    """The views that all `runs` of a model predicted on a split, then their fusion as "fused".

    Out-of-fold, the folds of a view are joined to one table. On the test split every fold predicted all
    images: each view and fold is a table of its own, and there is no fused one.
    """
    views, tables = _load_tables(runs, split)
    if split == "test":
        return {
            f"{view} fold{run.fold}": table
            for run, row in zip(runs, tables, strict=True)
            for view, table in zip(views, row, strict=True)
        }
    results = {view: join_predictions([row[i] for row in tables]) for i, view in enumerate(views)}
    if len(views) > 1:
        results["fused"] = _pool(runs[0].model, tables, split)
    return results


def model_table(runs: Sequence[Run], split: str) -> Predictions:
    """A model's boxes as one table: its views fused, and the folds joined (oof) or fused (test)."""
    return _pool(runs[0].model, _load_tables(runs, split)[1], split)


def _load_tables(runs: Sequence[Run], split: str) -> tuple[list[str], list[list[Predictions]]]:
    """The views that all runs predicted, and one row of their tables per run."""
    every = list(dict.fromkeys(view for run in runs for view in run.views(split)))
    views = [view for view in every if all(view in run.views(split) for run in runs)]
    if missing := [view for view in every if view not in views]:
        print(f"  note: {', '.join(missing)} left out: not predicted on {split} by every fold")
    if not views:
        raise PipelineError(
            f"{runs[0].model}: no view that all its folds predicted on {split}; "
            + runs[0].command("predict", SPLIT=split)
        )
    return views, [[run.table(split, view) for view in views] for run in runs]


def _pool(model: str, tables: Sequence[Sequence[Predictions]], split: str) -> Predictions:
    folds = [fuse_same_images(row, Fusion(), name=model) if len(row) > 1 else row[0] for row in tables]
    if split == "oof":
        return join_predictions(folds)
    return fuse_same_images(folds, ACROSS_FOLDS, name=model)


def ensemble_tables(profile: Profile, name: str) -> dict[str, Predictions]:
    """An ensemble's boxes as they are submitted: out-of-fold, and where the truth of the test set is
    known the result of each fold and their fusion."""
    folder = ensemble_dir(profile.name, name)
    with locked(folder):
        paths = {f"{name} oof": folder / "oof.parquet"}
        if (folder / "test.parquet").is_file() and load_truth(profile, "test") is not None:
            folds = sorted((folder / "test_folds").glob("[!.]*.parquet"))
            paths |= {f"{name} test {path.stem}": path for path in folds}
            paths[f"{name} test"] = folder / "test.parquet"
        return {key: submitted(read_predictions(path)) for key, path in paths.items()}
