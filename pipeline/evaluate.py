"""Score predictions against the truth, and say how sure the scores are.

    python -m pipeline.evaluate FILE.parquet ... --competition C    any prediction tables
    python -m pipeline.evaluate --model M --competition C           a model's views and their fusion
    python -m pipeline.evaluate --ensemble E --competition C        an ensemble

A table is scored on the images it predicted: out-of-fold tables against the train annotations, test
tables where the test truth is known. Two tables are compared on the same images, of more the best is
compared with each other one, by paired bootstrap. Prints the tables, and saves metrics.json and, in a
folder of its name, pictures of each table: PR curves, confusion matrix, errors and more.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.data.costs import cost_lines, model_cost
from pipeline.data.dataset import Dataset, load_dataset, load_truth
from pipeline.data.predictions import (
    Predictions,
    check_belongs,
    join_predictions,
    not_scored,
    read_predictions,
)
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import Run, need_runs
from pipeline.data.split import read_split
from pipeline.ensembles.fuse_tuned import submitted
from pipeline.ensembles.tables import Fusion, fuse_same_images
from pipeline.errors import PipelineError
from pipeline.paths import ensemble_dir, runs_dir, shown, write_json
from pipeline.scoring.assessment import Assessment, assess, comparisons
from pipeline.scoring.pictures import draw_pictures
from pipeline.scoring.print_scores import show_analysis, show_comparisons, show_scores


def truth_of(profile: Profile, table: Predictions, truths: dict[str, Dataset]) -> Dataset:
    """The images and true boxes that a table is scored against, which it must belong to."""
    split = table.meta.split
    if split not in truths:
        truth = load_truth(profile, "train" if split == "oof" else "test")
        if truth is None:
            raise PipelineError(f"competition '{profile.name}': the test set's truth is not known here")
        truth.findings.show()
        truths[split] = truth
    check_belongs(table, profile.name, truths[split].digest, len(profile.classes))
    return truths[split]


def model_tables(runs: list[Run], profile: Profile, split: str) -> dict[str, Predictions]:
    """A model's pooled folds for each view that all of them predicted, and the fusion of the views.

    On the test split every fold predicted all images, so each view and fold is a table of its own.
    """
    model = runs[0].model
    every = list(dict.fromkeys(view for run in runs for view in run.views(split)))
    views = [view for view in every if all(view in run.views(split) for run in runs)]
    if missing := [view for view in every if view not in views]:
        print(f"  note: {', '.join(missing)} left out: not predicted on {split} by every fold")
    if not views:
        raise PipelineError(
            f"{model}: no view that all its folds predicted on {split}; make predict "
            f"COMP={profile.name} MODEL={model} FOLD={runs[0].fold} SPLIT={split}"
        )
    tables = [[run.table(split, view) for view in views] for run in runs]
    if split == "test":
        return {
            f"{view} fold{run.fold}": table
            for run, row in zip(runs, tables, strict=True)
            for view, table in zip(views, row, strict=True)
        }
    found = {view: join_predictions([row[i] for row in tables]) for i, view in enumerate(views)}
    if len(views) > 1:
        found["fused"] = join_predictions([fuse_same_images(row, Fusion(), name=model) for row in tables])
    return found


def ensemble_tables(profile: Profile, name: str) -> dict[str, Predictions]:
    """An ensemble's boxes as they are submitted: out-of-fold, and where the test set's truth is known
    the result of each fold and their fusion."""
    folder = ensemble_dir(profile.name, name)
    paths = {f"{name} oof": folder / "oof.parquet"}
    if (folder / "test.parquet").is_file() and load_truth(profile, "test") is not None:
        paths |= {
            f"{name} test {path.stem}": path for path in sorted((folder / "test_folds").glob("*.parquet"))
        }
        paths[f"{name} test"] = folder / "test.parquet"
    return {key: submitted(read_predictions(path)) for key, path in paths.items()}


def chosen_runs(profile: Profile, model: str, folds: list[int] | None) -> list[Run]:
    """The trained runs of a model, or those of `folds`; raises PipelineError for one not trained."""
    runs = need_runs(profile.name, model)
    if folds is None:
        return runs
    trained = {run.fold: run for run in runs}
    if missing := ",".join(str(fold) for fold in folds if fold not in trained):
        command = Run(profile.name, model, missing).command()
        raise PipelineError(f"{shown(runs[0].folder.parent)}: fold {missing} is not trained; {command}")
    return [trained[fold] for fold in folds]


def tables_of_models(profile: Profile, options: argparse.Namespace) -> tuple[dict[str, Predictions], Path]:
    """The tables of one or several models, and the file for their scores."""
    folds = None
    if options.fold is not None:
        folds = cli.parse_folds(
            options.fold, read_split(profile.name, load_dataset(profile, "train")).n_folds
        )
    tables = {}
    for model in options.model:
        for key, table in model_tables(chosen_runs(profile, model, folds), profile, options.split).items():
            tables[key if len(options.model) == 1 else f"{model} {key}"] = table
    folder = runs_dir(profile.name)
    folder = folder / options.model[0] if len(options.model) == 1 else folder / "metrics"
    parts = ["metrics", *(options.model if len(options.model) > 1 else [])]
    parts += [options.split] if options.split != "oof" else []
    parts += [f"fold{fold}" for fold in folds or []]
    return tables, folder / f"{'-'.join(parts)}.json"


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("files", nargs="*", type=Path, metavar="FILE.parquet")
    cli.add_models(arguments, needed=False)
    cli.add_folds(arguments, default=None)
    arguments.add_argument(
        "--ensemble", default="", help="default, where no model and no file is named: final"
    )
    arguments.add_argument("--split", choices=("oof", "test"), default="oof", help="with --model")
    arguments.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    arguments.add_argument("-o", "--output", "--out", type=Path, default=None, help="metrics.json to write")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    if sum(map(bool, (options.files, options.model, options.ensemble))) > 1:
        raise PipelineError("expected prediction tables, or --model, or --ensemble, one of them")
    if options.model:
        tables, output = tables_of_models(profile, options)
    elif options.files:
        tables = {str(path): read_predictions(path) for path in options.files}
        if len({path.stem for path in options.files}) == len(options.files):
            tables = {path.stem: table for path, table in zip(options.files, tables.values(), strict=True)}
        output = options.files[0].with_name("metrics.json")
    else:
        name = options.ensemble or "final"
        tables = ensemble_tables(profile, name)
        output = ensemble_dir(profile.name, name) / "metrics.json"
    truths: dict[str, Dataset] = {}
    entries = {}
    for name, table in tables.items():
        truth = truth_of(profile, table, truths)
        for note in not_scored(table, truth.images):
            print(f"  note: {name}: {note}")
        entries[name] = assess(table, truth, profile.classes, profile.metric, options.seed)
    compared = comparisons(entries)
    show_scores(profile.metric, profile.classes, entries)
    if len(entries) == 2 and not compared:
        print("other images in the two tables: nothing to compare")
    show_comparisons(compared)
    main_table = list(entries)[-1]  # a model's fused views; else the last that was named
    show_analysis(main_table, entries[main_table].analysis)
    for model in options.model:
        for line in cost_lines(model_cost(need_runs(profile.name, model))):
            print(line)
    save(options.output or output, profile, entries, compared)


def save(
    output: Path, profile: Profile, entries: dict[str, Assessment], compared: list[dict[str, Any]]
) -> None:
    """Write metrics.json, and in a folder of its name each table's curves and pictures."""
    scores = {}
    for name, entry in entries.items():
        folder = output.with_suffix("") / re.sub(r"[^\w.-]+", "-", name)
        draw_pictures(folder, entry.analysis, f"{profile.title}: {name}")
        curves = entry.analysis.pop("curves")
        write_json(folder / "curves.json", curves)
        scores[name] = entry.scores | {"analysis": entry.analysis}
    write_json(output, {"competition": profile.name, "scores": scores, "comparisons": compared})
    print(f"wrote {shown(output)}, pictures in {shown(output.with_suffix(''))}/")


if __name__ == "__main__":
    cli.run(main)
