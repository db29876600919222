"""Train and predict every model on every fold, side by side on Ray, skipping what is finished.

Runs on this machine, or on the cluster that RAY_ADDRESS names. Each job asks for what its model's
config says (`resources`); several share a GPU when they fit. Jobs that are killed go on from their
checkpoints. runs/<competition>/jobs/ holds a log for each job and state.json, which programs can read.
"""

import argparse
import contextlib
import os
from typing import Any

from pipeline import cli
from pipeline.cluster import connected
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, parse_options
from pipeline.data.predictions import SPLITS
from pipeline.data.profile import load_profile
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.jobs.placement import check_fit
from pipeline.jobs.plan import JobOptions, plan, try_again
from pipeline.jobs.scheduler import nodes, run_jobs
from pipeline.jobs.sharing import Sharing, check_gpus_there
from pipeline.jobs.status import StatusTable
from pipeline.names import number
from pipeline.paths import jobs_dir, shown
from pipeline.training.job import CacheWish
from pipeline.views import parse_views

AUTO = "auto"


def _gpus(text: str) -> float | str:
    with contextlib.suppress(ValueError):
        return text if text == AUTO else number(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number or {AUTO}")


def job_options(options: argparse.Namespace) -> JobOptions:
    train: list[str] = []
    for flag in ("epochs", "image_size", "batch", "recipe"):
        if (value := getattr(options, flag)) is not None:
            train += [f"--{flag.replace('_', '-')}", str(value)]
    if options.cache != "off":
        train += ["--cache", options.cache, *(["--cache-full"] if options.cache_full else [])]
    if options.set:
        train += ["--set", *options.set]
    common = ["--competition", options.competition]
    if options.root:
        common += ["--root", os.path.abspath(options.root)]
    return JobOptions(
        overrides=Overrides(
            options.epochs, options.image_size, options.batch, parse_options(options.set), options.recipe
        ),
        seed=options.seed,
        splits=tuple(options.split),
        views=",".join(options.views),
        device=options.device,
        gpus=1.0 if options.gpus == AUTO else options.gpus,
        share=options.gpus == AUTO,
        nodes=options.nodes,
        workers=options.workers,
        cache=CacheWish(options.cache, options.cache_full),
        train_arguments=tuple(train),
        common_arguments=tuple(common),
    )


def make_variables(options: argparse.Namespace) -> dict[str, Any]:
    """What the user set, as make variables."""
    named = {
        "COMP": options.competition,
        "ROOT": options.root,
        "EPOCHS": options.epochs,
        "IMAGE_SIZE": options.image_size,
        "BATCH": options.batch,
        "RECIPE": options.recipe,
        "VIEWS": ",".join(options.views),
        "DEVICE": options.device,
        "GPUS": options.gpus,
        "NODES": options.nodes,
        "WORKERS": options.workers,
        "CACHE": None if options.cache == "off" else options.cache,
        "CACHE_FULL": int(options.cache_full) or None,
        "SET": " ".join(options.set),
        "SEED": options.seed or None,
    }
    return {key: value for key, value in named.items() if value not in (None, "")}


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    cli.add_models(arguments)
    cli.add_folds(arguments, "folds")
    cli.add_settings(arguments)
    cli.add_seed(arguments)
    cli.add_whole(arguments, "--workers", least=0, help="processes that read photos, a job")
    cli.add_cache(arguments)
    arguments.add_argument("--device", default=None, help="cpu trains without GPUs where there are some")
    arguments.add_argument(
        "--gpus",
        type=_gpus,
        help=f"of each job, instead of the config's; {AUTO}: as many jobs on a GPU as pay",
    )
    cli.add_whole(arguments, "--nodes", help="nodes that may have a job's GPUs together")
    cli.add_list(arguments, "--split", allowed=SPLITS, default=list(SPLITS))
    cli.add_views(arguments)
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    parse_views(options.views)
    split = read_split(profile.name, load_dataset(profile, "train"))
    folds = cli.parse_runs(options.fold, split.n_folds)
    folder = jobs_dir(profile.name)
    with connected() as ray:
        cluster_nodes = nodes(ray)
        if options.gpus == AUTO:
            check_gpus_there(cluster_nodes, options.device)
        jobs, finished = plan(profile, split, options.model, folds, job_options(options), cluster_nodes)
        check_fit(jobs, cluster_nodes)
        if finished:
            print(f"finished already: {', '.join(job.name for job in finished)}")
        if not jobs:
            StatusTable(jobs, folder, finished).save()
            print(f"nothing to do; all {len(finished)} jobs are finished")
            return
        print(
            f"jobs: {len(jobs)}, nodes: {len(cluster_nodes)}; logs and state.json in {shown(folder)}/",
            flush=True,
        )
        with StatusTable(jobs, folder, finished) as table:
            sharing = Sharing(ray, cluster_nodes, jobs, folder, table.say) if options.gpus == AUTO else None
            outcomes = run_jobs(ray, jobs, folder, table.report, table.look, sharing)
    failed = [name for name, outcome in outcomes.items() if not outcome.ok]
    for line in table.summary():
        print(line)
    if failed:
        again = try_again(jobs, failed, make_variables(options))
        raise PipelineError(f"{len(failed)} of {len(jobs)} jobs failed; to try them again: {again}")
    print(f"trained and predicted {len(jobs)} jobs; next: make ensemble COMP={profile.name}")


if __name__ == "__main__":
    cli.run(main)
