"""What training recipes are worth: `python -m benchmarks.recipes`, hours on two cores.

Each model is trained from scratch on both of two folds by each recipe, and the out-of-fold boxes are compared
by paired bootstrap: none, basic and strong on bccd, plain and balanced sampling on taco, there also over the
rare classes alone. The data are those of PIPELINE_DATA, or of ../shared/data beside the repository. Trainings
are kept in runs/recipes, and the same command goes on where it was stopped.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.ours import NO_DOWNLOAD
from pipeline import cli, folds, train
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.predictions import Predictions
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import Run
from pipeline.ensembles.results import model_table
from pipeline.errors import PipelineError
from pipeline.paths import PROJECT, home
from pipeline.scoring.assessment import assess, comparisons
from pipeline.scoring.print_scores import show_comparisons, show_scores
from pipeline.training.sampling import RARE

DATA = {"bccd": "bccd", "taco": "taco_recycle10"}  # folders of the development data
PLAIN = "plain"  # no recipe: all is as the model's config has it
RECIPES = {"bccd": ("none", "basic", "strong"), "taco": (PLAIN, "balanced")}
# Epochs, for at most 20 minutes per fold at 320 pixels on two cores, and options of a training from scratch.
MODELS = {"yolov5n": (60, ["pretrained=false"]), "faster_rcnn_tiny": (36, [])}
FOLDS = 2


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_list(arguments, "--competition", allowed=tuple(RECIPES), default=list(RECIPES))
    cli.add_list(arguments, "--model", allowed=tuple(MODELS), default=list(MODELS))
    cli.add_whole(arguments, "--epochs", help="instead of the model's own")
    cli.add_whole(arguments, "--image-size", default=320, help="pixels (320)")
    options = arguments.parse_args(argv)
    data = Path(os.environ.get("PIPELINE_DATA") or PROJECT.parent / "shared" / "data")
    kept = home() / "runs" / "recipes"
    os.environ |= NO_DOWNLOAD
    for competition in options.competition:
        profile = load_profile(competition, data / DATA[competition])
        if not profile.root.is_dir():
            raise PipelineError(f"no data at {profile.root}; set PIPELINE_DATA")
        truth = load_dataset(profile, "train")
        for model in options.model:
            tables = {}
            for recipe in RECIPES[competition]:
                os.environ["PIPELINE_HOME"] = str(kept / f"{competition}-{recipe}")
                tables[recipe] = trained(profile, model, recipe, options.epochs, options.image_size)
            print(f"\n== {model} on {competition}")
            compare(tables, truth, profile)
            if rare := rare_classes(truth):
                print(f"\n== {model} on {competition}, over {', '.join(profile.classes[i] for i in rare)}")
                tables = {recipe: of_classes(table, rare) for recipe, table in tables.items()}
                known = truth.annotations["label"].isin(rare)
                compare(tables, replace(truth, annotations=truth.annotations[known]), profile)


def trained(profile: Profile, model: str, recipe: str, epochs: int | None, image_size: int) -> Predictions:
    """The out-of-fold boxes of a model by a recipe, trained before where it was."""
    of = ["--competition", profile.name, "--root", str(profile.root)]
    if not (home() / "folds").is_dir():
        folds.main([*of, "--folds", str(FOLDS)])
    own, options = MODELS[model]
    train.main(
        [
            *(*of, "--model", model, "--fold", "folds", "--views", "identity", "--split", "oof"),
            *("--epochs", str(epochs or own), "--image-size", str(image_size)),
            *(["--recipe", recipe] if recipe != PLAIN else []),
            *(["--set", *options] if options else []),
        ]
    )
    return model_table([Run(profile.name, model, fold) for fold in range(FOLDS)], "oof")


def compare(tables: dict[str, Predictions], truth: Dataset, profile: Profile) -> None:
    """Print the scores of each recipe, and each other one's against the first one's."""
    assessed = {
        recipe: assess(table, truth, profile.classes, profile.metric, 0) for recipe, table in tables.items()
    }
    show_scores(profile.metric, profile.classes, assessed)
    first, *others = assessed
    for recipe in others:
        show_comparisons(comparisons({recipe: assessed[recipe], first: assessed[first]}))


def rare_classes(truth: Dataset) -> list[int]:
    """The classes that balanced sampling repeats."""
    photos = truth.annotations.groupby("label")["image_id"].nunique() / len(truth.images)
    return [int(label) for label in photos.index[photos < RARE]]


def of_classes(table: Predictions, labels: list[int]) -> Predictions:
    return table.select(np.isin(table.labels, labels))


if __name__ == "__main__":
    cli.run(main)
