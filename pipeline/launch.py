"""Train and predict every model on every fold, side by side on Ray, skipping what is finished.

Runs on this machine, or on the cluster that RAY_ADDRESS names. Each job asks for what its model's
config says (`resources`); several share a GPU when they fit. Jobs that are killed go on from their
checkpoints. runs/<competition>/jobs/ holds a log for each job and state.json, which programs can read.
"""

import argparse
import os
from typing import Any

from pipeline import cli
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, parse_options
from pipeline.data.predictions import SPLITS
from pipeline.data.profile import load_profile
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.jobs.board import Board
from pipeline.jobs.cluster import connected, nodes, run_jobs
from pipeline.jobs.fit import check_fit
from pipeline.jobs.plan import Asked, plan, try_again
from pipeline.paths import jobs_dir, shown
from pipeline.training.progress import PROGRESS
from pipeline.views import parse_views

PASSED_ON = ("PIPELINE_HOME", "PIPELINE_WEIGHTS")  # environment that the stages read


def asked_for(options: argparse.Namespace) -> Asked:
    settings = Overrides(options.epochs, options.image_size, options.batch, parse_options(options.set))
    train: list[str] = []
    for flag in ("epochs", "image_size", "batch"):
        if (value := getattr(options, flag)) is not None:
            train += [f"--{flag.replace('_', '-')}", str(value)]
    if options.set:
        train += ["--set", *options.set]
    common = ["--competition", options.competition]
    if options.root:
        common += ["--root", os.path.abspath(options.root)]
    environment = tuple((key, os.environ[key]) for key in PASSED_ON if key in os.environ)
    return Asked(
        settings,
        options.seed,
        tuple(options.split),
        ",".join(options.views),
        options.device,
        options.gpus,
        options.nodes,
        options.workers,
        tuple(train),
        tuple(common),
        environment,
    )


def make_variables(options: argparse.Namespace) -> dict[str, Any]:
    """What the user set, as make variables."""
    named = {
        "COMP": options.competition,
        "ROOT": options.root,
        "EPOCHS": options.epochs,
        "IMAGE_SIZE": options.image_size,
        "BATCH": options.batch,
        "VIEWS": ",".join(options.views),
        "DEVICE": options.device,
        "GPUS": options.gpus,
        "NODES": options.nodes,
        "WORKERS": options.workers,
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
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--workers", type=int, default=None, help="processes that read photos, a job")
    arguments.add_argument("--device", default=None, help="cpu trains without GPUs where there are some")
    arguments.add_argument(
        "--gpus", type=float, default=None, help="GPUs of each job, instead of the config's"
    )
    arguments.add_argument("--nodes", type=int, default=None, help="nodes that share each job's GPUs equally")
    cli.add_list(arguments, "--split", allowed=SPLITS, default=list(SPLITS))
    cli.add_views(arguments)
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    parse_views(options.views)
    split = read_split(profile.name, load_dataset(profile, "train"))
    folds = cli.parse_folds(options.fold, split.n_folds)
    asked = asked_for(options)
    folder = jobs_dir(profile.name)
    with connected() as ray:
        found = nodes(ray)
        jobs, finished = plan(profile, split, options.model, folds, asked, found)
        check_fit(jobs, found)
        if finished:
            print(f"finished already: {', '.join(finished)}")
        if not jobs:
            print(f"nothing to do; all {len(finished)} jobs are finished")
            return
        print(f"jobs: {len(jobs)}, nodes: {len(found)}; logs and state.json in {shown(folder)}/", flush=True)
        with Board(jobs, folder, PROGRESS) as board:
            outcomes = run_jobs(ray, jobs, folder, board.report, board.look)
    failed = [name for name, outcome in outcomes.items() if not outcome.ok]
    for line in board.summary():
        print(line)
    if failed:
        again = try_again(jobs, failed, make_variables(options))
        raise PipelineError(f"{len(failed)} of {len(jobs)} jobs failed; to try them again: {again}")
    print(f"trained and predicted {len(jobs)} jobs; next: make ensemble COMP={profile.name}")


if __name__ == "__main__":
    cli.run(main)
