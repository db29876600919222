"""Predict with trained folds: one prediction table per view, beside each checkpoint.

`oof` predicts a fold's held-out train photos, `test` all test photos. A photo is decoded once for all views.
Tables that are there already and were made by the same checkpoint are left alone. Of several models and folds
one that cannot be predicted stops no other. Fold `full`, the one model on all photos, predicts the test
photos alone.
"""

from functools import partial

from pipeline import cli
from pipeline.data.dataset import load_dataset
from pipeline.data.models import find_model
from pipeline.data.predictions import SPLITS
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.training.backend import load_detector
from pipeline.views import parse_views


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    cli.add_models(arguments)
    cli.add_folds(arguments)
    cli.add_device(arguments)
    cli.add_list(arguments, "--split", allowed=SPLITS, default=list(SPLITS))
    cli.add_views(arguments)
    options = arguments.parse_args(argv)
    views = parse_views(options.views)
    if not views:
        raise PipelineError("--views: expected at least one, as in identity,hflip")
    models = [find_model(name) for name in options.model]
    profile = load_profile(options.competition, options.root)
    folds = cli.parse_runs(options.fold, read_split(profile.name, load_dataset(profile, "train")).n_folds)
    from pipeline.inference.fold import predict_runs  # needs torch

    runs = [Run(profile.name, model.name, fold) for model in models for fold in folds]
    predict_runs(profile, runs, options.split, views, partial(load_detector, device=options.device))


if __name__ == "__main__":
    cli.run(main)
