"""Score predictions against the truth, with intervals.

    python -m pipeline.evaluate FILE.parquet ... --competition C    any prediction tables
    python -m pipeline.evaluate --model M --competition C           a model's views and their fusion
    python -m pipeline.evaluate --ensemble E --competition C        an ensemble

A table is scored on the images it predicted: out-of-fold tables against the train annotations, test
tables where the test truth is known. Two tables are compared on the same images, by paired bootstrap; the
best of more than two is compared with each other one. Prints the tables, and saves metrics.json and, in a
folder of its name, pictures of each table: PR curves, confusion matrix, errors and more.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.data.costs import cost_lines, model_cost
from pipeline.data.dataset import Dataset, load_dataset, load_truth
from pipeline.data.outputs import check_output
from pipeline.data.predictions import Predictions, check_belongs, not_scored
from pipeline.data.profile import Profile, load_profile
from pipeline.data.records import write_record
from pipeline.data.runs import Run, need_runs, read_table
from pipeline.data.split import read_split
from pipeline.ensembles.results import ensemble_tables, model_tables
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
        for key, table in model_tables(chosen_runs(profile, model, folds), options.split).items():
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
    cli.add_seed(arguments)
    arguments.add_argument("-o", "--output", "--out", type=Path, default=None, help="metrics.json to write")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    if sum(map(bool, (options.files, options.model, options.ensemble))) > 1:
        raise PipelineError("expected prediction tables, or --model, or --ensemble, one of them")
    if options.output:
        check_output(options.output, [*options.files, *profile.files], profile.root)
    if options.model:
        tables, output = tables_of_models(profile, options)
    elif options.files:
        tables = {str(path): read_table(path) for path in options.files}
        if len({path.stem for path in options.files}) == len(options.files):
            tables = {path.stem: table for path, table in zip(options.files, tables.values(), strict=True)}
        output = options.files[0].with_name("metrics.json")
    else:
        name = options.ensemble or "final"
        tables = ensemble_tables(profile, name)
        output = ensemble_dir(profile.name, name) / "metrics.json"
    truths: dict[str, Dataset] = {}
    assessments = {}
    for name, table in tables.items():
        truth = truth_of(profile, table, truths)
        for note in not_scored(table, truth.images):
            print(f"  note: {name}: {note}")
        assessments[name] = assess(table, truth, profile.classes, profile.metric, options.seed)
    compared = comparisons(assessments)
    show_scores(profile.metric, profile.classes, assessments)
    if len(assessments) == 2 and not compared:
        print("the two tables have different images: nothing to compare")
    show_comparisons(compared)
    main_table = list(assessments)[-1]  # a model's fused views; else the last that was named
    show_analysis(main_table, assessments[main_table].analysis)
    for model in options.model:
        for line in cost_lines(model_cost(need_runs(profile.name, model))):
            print(line)
    save(options.output or output, profile, assessments, compared)


def save(
    output: Path, profile: Profile, assessments: dict[str, Assessment], compared: list[dict[str, Any]]
) -> None:
    """Write metrics.json, and in a folder of its name each table's curves and pictures."""
    scores = {}
    for name, assessment in assessments.items():
        folder = output.with_suffix("") / re.sub(r"[^\w.-]+", "-", name)
        draw_pictures(folder, assessment.analysis, f"{profile.title}: {name}")
        curves = assessment.analysis.pop("curves")
        write_json(folder / "curves.json", curves)
        scores[name] = assessment.scores | {"analysis": assessment.analysis}
    write_record(output, {"competition": profile.name, "scores": scores, "comparisons": compared})
    print(f"wrote {shown(output)}, pictures in {shown(output.with_suffix(''))}/")


if __name__ == "__main__":
    cli.run(main)
