"""What models cost: parameters, FLOPs, and photos a second on this device.

    python -m pipeline.cost --competition C                        the table of all trained models
    python -m pipeline.cost --model M --fold 0 --competition C     measure one, on this device

A trained run is timed with its own weights on train photos, decoded and resized beforehand, and the
result goes into its card (parameters and FLOPs are there since it was trained). A model that is not
trained is built from its config, timed on noise, and only printed. What is counted and what is timed
is said in `pipeline/backends/cost.py` and `speed.py`.
"""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import cli
from pipeline.backends import load_backend
from pipeline.backends.base import ModelConfig, Settings, find_model, select_device
from pipeline.data.costs import FORMATS, cost_lines, model_table, read_card, record_cost
from pipeline.data.dataset import load_dataset
from pipeline.data.photos import load_photo, photos_of
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import CARD
from pipeline.errors import PipelineError
from pipeline.paths import run_dir, shown

PHOTOS = 16  # that a trained model is timed on, in turn


def measure_run(profile: Profile, model: ModelConfig, run: Path, device: str) -> list[str]:
    """Count and time a trained run, and record both in its card; returns what to print."""
    from pipeline.backends.cost import complexity
    from pipeline.backends.speed import as_pixels, device_name, speed

    card = read_card(run)
    images = load_dataset(profile, "train").images.head(PHOTOS)
    photos = [load_photo(photo) for photo in photos_of(profile, "train", images)]
    files = run / card["checkpoint"], run / card["config"]
    backend = load_backend(model.backend)
    cost = complexity(backend.load(*files, profile.classes, "cpu"))
    record_cost(run, cost)
    detector = backend.load(*files, profile.classes, device)
    found = speed(detector, as_pixels(photos, detector.image_size).to(device))
    name = device_name(device)
    record_cost(run, cost, {name: found | {"versions": backend.versions()}})
    return [*cost_lines(cost | {"speed": {name: found}}), f"wrote {shown(run / CARD)}"]


def measure_config(profile: Profile, model: ModelConfig, settings: Settings, device: str) -> list[str]:
    """Count and time a model with random weights on noise; returns what to print."""
    from pipeline.backends.cost import complexity, noise
    from pipeline.backends.speed import device_name, speed

    backend = load_backend(model.backend)
    cost = complexity(backend.untrained(model, settings, len(profile.classes), "cpu"))
    detector = backend.untrained(model, settings, len(profile.classes), device)
    found = speed(detector, noise(detector.image_size, PHOTOS).to(device))
    return cost_lines(cost | {"speed": {device_name(device): found}})


def show(table: pd.DataFrame) -> None:
    formatters: Any = {column: form.format for column, form in FORMATS.items()}
    print(table.to_string(index=False, formatters=formatters, na_rep=""))


def add_arguments(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--model", default=None, help="measure it; without: the table of all models")
    arguments.add_argument("--fold", type=int, default=0)
    arguments.add_argument("--device", default=None, help="cpu, cuda:0 ... (default: a GPU if any)")
    arguments.add_argument("--image-size", type=int, default=None, help="for a model that is not trained")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    add_arguments(arguments)
    options = arguments.parse_args(argv)
    if options.image_size is not None and options.image_size < 1:
        raise PipelineError(f"image_size {options.image_size}: expected at least 1")
    profile = load_profile(options.competition, options.root)
    if options.model is None:
        show(model_table(profile.name))
        return
    model = find_model(options.model)
    run = run_dir(profile.name, model.name, options.fold)
    load_backend(model.backend)  # says so when it is not installed
    device = select_device(options.device)
    if (run / CARD).is_file():
        if options.image_size is not None:
            raise PipelineError(f"{shown(run)}: trained; it is measured at its own size, without IMAGE_SIZE=")
        lines = measure_run(profile, model, run, device)
    else:
        lines = measure_config(profile, model, Settings(image_size=options.image_size), device)
        lines.append(f"{run.name} is not trained: random weights, timed on noise, nothing written")
    print(f"{model.name} {run.name}:", *lines, sep="\n  ")


if __name__ == "__main__":
    cli.run(main)
