"""Score predictions against the truth, and say how sure the scores are.

    python -m pipeline.evaluate FILE.parquet ... --competition C    any prediction tables
    python -m pipeline.evaluate --model M --competition C           a model's views and their fusion
    python -m pipeline.evaluate --ensemble E --competition C        an ensemble

A table is scored on the images it predicted: out-of-fold tables against the train annotations, test
tables where the test truth is known. Two tables are compared on the same images, of more the best is
compared with each other one, by paired bootstrap. Prints the tables and saves metrics.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import cli
from pipeline.data.dataset import Dataset, load_truth
from pipeline.data.predictions import (
    Predictions,
    check_belongs,
    join_predictions,
    read_predictions,
)
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import need_runs
from pipeline.ensembles.tables import Fusion, fuse_same_images
from pipeline.errors import PipelineError
from pipeline.paths import ensemble_dir, runs_dir, shown, write_json
from pipeline.scoring import evaluate
from pipeline.scoring.bootstrap import RESAMPLES, compare, interval, resampled
from pipeline.scoring.export import export_losses
from pipeline.scoring.metrics import score
from pipeline.scoring.truth import found_of, group_truth


def truth_of(profile: Profile, split: str) -> Dataset:
    """The images and true boxes that a table of the split is scored against."""
    truth = load_truth(profile, "train" if split == "oof" else "test")
    if truth is None:
        raise PipelineError(f"competition '{profile.name}': the test set's truth is not known here")
    truth.findings.show()
    return truth


@dataclass
class Entry:
    """A table's scores, and its metric on each resample of its images."""

    scores: dict[str, Any]
    images: NDArray[np.int32]
    resamples: NDArray[np.float64]


def assess(profile: Profile, table: Predictions, truths: dict[str, Dataset], seed: int) -> Entry:
    """Check that the table belongs to the competition, and score it.

    The competition's own metric comes from our kernels, with its 95 % interval and what a score
    floor would have cost; COCO's numbers come from pycocotools.
    """
    split = table.meta.split
    if split not in truths:
        truths[split] = truth_of(profile, split)
    dataset, ids = truths[split], table.meta.image_ids
    check_belongs(table, profile.name, dataset.digest, len(profile.classes))
    truth = group_truth(dataset.annotations, dataset.images, ids, len(profile.classes))
    scored = score(table, truth, profile.metric)
    value = scored.value()
    values = resampled(scored, len(ids), seed=seed)
    found = interval(value, values)
    losses = export_losses(found_of(table, truth), truth, profile.metric, value)
    own = {
        "metric": str(profile.metric), "value": round(value, 5),
        "low": round(found.low, 5), "high": round(found.high, 5),
        "resamples": len(values), "seed": seed,
        "lost_by_export": {name: round(loss, 5) for name, loss in losses.items()},
    }  # fmt: skip
    return Entry(
        evaluate(table, dataset.annotations, profile.classes) | {"split": split, "competition": own},
        ids, values,
    )  # fmt: skip


def comparisons(entries: Mapping[str, Entry]) -> list[dict[str, Any]]:
    """The first of two tables against the second, or the best of more against each other one.

    Only tables of the same images are compared.
    """
    if len(entries) < 2:
        return []
    names = list(entries)
    first = names[0] if len(names) == 2 else max(names, key=lambda name: value_of(entries[name]))
    others = [
        name
        for name in names
        if name != first
        and entries[name].scores["split"] == entries[first].scores["split"]
        and np.array_equal(entries[name].images, entries[first].images)
    ]
    one = entries[first]
    found = []
    for name in others:
        other = entries[name]
        result = compare(value_of(one), one.resamples, value_of(other), other.resamples)
        gap = result.difference
        found.append(
            {"a": first, "b": name, "difference": round(gap.value, 5), "low": round(gap.low, 5),
             "high": round(gap.high, 5), "wins": round(result.wins, 4), "noise": result.is_noise}
        )  # fmt: skip
    return found


def value_of(entry: Entry) -> float:
    return float(entry.scores["competition"]["value"])


def model_tables(profile: Profile, model: str, split: str) -> dict[str, Predictions]:
    """A model's pooled folds for each view that all of them predicted, and the fusion of the views.

    On the test split every fold predicted all images, so each view and fold is a table of its own.
    """
    runs = need_runs(profile.name, model)
    every = list(dict.fromkeys(view for run in runs for view in run.views(split)))
    views = [view for view in every if all(view in run.views(split) for run in runs)]
    if missing := [view for view in every if view not in views]:
        print(f"  note: {', '.join(missing)} left out: not predicted on {split} by every trained fold")
    if not views:
        raise PipelineError(
            f"{model}: no view that all trained folds predicted on {split}; make predict "
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


def show(profile: Profile, entries: Mapping[str, Entry]) -> None:
    """One column a table, one row a measure and class; intervals and losses by export below."""
    scores = {name: entry.scores for name, entry in entries.items()}
    frame = pd.DataFrame(
        {name: [s["map50"], s["map50_95"], *s["ap50"].values()] for name, s in scores.items()},
        index=["mAP50", "mAP50-95", *(f"  AP50 {name}" for name in profile.classes)], dtype=float,
    )  # fmt: skip
    print(frame.to_string(float_format="{:.4f}".format, na_rep="no truth"))
    counts = {(s["split"], s["images"], s["truths"]) for s in scores.values()}
    for split, images, truths in sorted(counts):
        print(f"{split}: {images} images, {truths} true boxes")
    rows = {}
    for name, one in scores.items():
        own = one["competition"]
        lost = {f"at {cut}": -loss for cut, loss in own["lost_by_export"].items()}
        rows[name] = {"value": own["value"], "low": own["low"], "high": own["high"]} | lost
    frame = pd.DataFrame.from_dict(rows, orient="index")
    print(f"\n{profile.metric}, the competition's metric; 95 % of resampled images lie from low to high;")
    print("then what it would gain or lose if the boxes had been exported")
    print(frame.to_string(float_format="{:.4f}".format, na_rep="-"))


def show_comparisons(found: list[dict[str, Any]]) -> None:
    for one in found:
        verdict = "noise: these images do not tell them apart" if one["noise"] else "more than noise"
        print(
            f"{one['a']} against {one['b']}: {one['difference']:+.4f} [{one['low']:+.4f}, "
            f"{one['high']:+.4f}], ahead in {one['wins']:.1%} of {RESAMPLES} resamples: {verdict}"
        )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("files", nargs="*", type=Path, metavar="FILE.parquet")
    arguments.add_argument("--model", default=None)
    arguments.add_argument("--ensemble", default=None)
    arguments.add_argument("--split", choices=("oof", "test"), default="oof", help="with --model")
    arguments.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    arguments.add_argument("-o", "--output", type=Path, default=None, help="metrics.json to write")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    if sum(map(bool, (options.files, options.model, options.ensemble))) != 1:
        raise PipelineError("expected prediction tables, or --model, or --ensemble, one of them")
    output = options.output
    if options.model:
        tables = model_tables(profile, options.model, options.split)
        name = "metrics.json" if options.split == "oof" else f"metrics-{options.split}.json"
        output = output or runs_dir(profile.name) / options.model / name
    elif options.ensemble:
        folder = ensemble_dir(profile.name, options.ensemble)
        tables = {f"{options.ensemble} oof": read_predictions(folder / "oof.parquet")}
        if (folder / "test.parquet").is_file() and load_truth(profile, "test") is not None:
            tables[f"{options.ensemble} test"] = read_predictions(folder / "test.parquet")
        output = output or folder / "metrics.json"
    else:
        tables = {str(path): read_predictions(path) for path in options.files}
        if len({path.stem for path in options.files}) == len(options.files):
            tables = {path.stem: table for path, table in zip(options.files, tables.values(), strict=True)}
        output = output or options.files[0].with_name("metrics.json")
    truths: dict[str, Dataset] = {}
    entries = {name: assess(profile, table, truths, options.seed) for name, table in tables.items()}
    compared = comparisons(entries)
    show(profile, entries)
    if len(entries) == 2 and not compared:
        print("other images in the two tables: nothing to compare")
    show_comparisons(compared)
    scores = {name: entry.scores for name, entry in entries.items()}
    write_json(output, {"competition": profile.name, "scores": scores, "comparisons": compared})
    print(f"wrote {shown(output)}")


if __name__ == "__main__":
    cli.run(main)
