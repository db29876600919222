"""Train models on folds: writes runs/<competition>/<model>/fold<k>/ for each.

The folder ends up with the best checkpoint by the fold's own mAP50, the resolved config, train.log,
history.csv (a row per epoch) and card.json, which is written last: where it is, the run is whole. The same
command goes on where a killed training stopped, and does nothing when the run is whole. With --views each
fold is predicted as soon as it is trained, as the stage predict would. Of several models and folds those that
are whole are left alone, so that the same command goes on in the fold where it was stopped.

Fold `full` is the one model on all photos: for as many steps as the median of the trained folds' best epochs
had, or --epochs. Its last epoch is taken, and nothing measures it.
"""

from collections.abc import Sequence
from functools import partial

from pipeline import cli
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, find_model, parse_options
from pipeline.data.predictions import SPLITS
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import Run, only_one
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.training.backend import load_detector
from pipeline.training.fold import Devices, plan_fold, train_fold
from pipeline.training.job import CacheWish
from pipeline.views import View, parse_views


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    cli.add_models(arguments)
    cli.add_folds(arguments)
    cli.add_device(arguments)
    cli.add_settings(arguments)
    cli.add_seed(arguments)
    cli.add_whole(arguments, "--gpus", default=1, help="GPUs that train it together")
    cli.add_whole(
        arguments, "--nodes", default=1, help="machines of the cluster of RAY_ADDRESS that may have them"
    )
    cli.add_whole(arguments, "--workers", least=0, help="processes that read photos")
    cli.add_cache(arguments)
    cli.add_number(arguments, "--wait", default=0, help="seconds to wait for another process that trains it")
    cli.add_list(arguments, "--split", allowed=SPLITS, default=list(SPLITS), help="what --views predict")
    cli.add_views(arguments, default=[])
    arguments.add_argument("--overwrite", action="store_true", help="train anew over an old run")
    options = arguments.parse_args(argv)
    if options.nodes > options.gpus:
        raise PipelineError(f"nodes {options.nodes}, gpus {options.gpus}: expected a GPU for each node")
    views = parse_views(options.views)
    models = [find_model(name) for name in options.model]
    profile = load_profile(options.competition, options.root)
    folds = cli.parse_runs(options.fold, read_split(profile.name, load_dataset(profile, "train")).n_folds)
    overrides = Overrides(
        options.epochs, options.image_size, options.batch, parse_options(options.set), options.recipe
    )
    cache = CacheWish(options.cache, options.cache_full)
    devices = Devices(options.device, options.gpus, options.nodes, options.workers, cache)
    for model in models:
        for fold in folds:
            plan = plan_fold(profile, model, fold, overrides, devices, options.seed)
            with only_one(plan.run.folder, options.wait):
                train_fold(plan, options.overwrite)
            if views:
                _predict(profile, plan.run, options.split, views, options.device)


def _predict(
    profile: Profile, run: Run, splits: Sequence[str], views: Sequence[View], device: str | None
) -> None:
    from pipeline.inference.fold import predict_runs  # needs torch

    predict_runs(profile, [run], splits, views, partial(load_detector, device=device))


if __name__ == "__main__":
    cli.run(main)
