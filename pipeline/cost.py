"""What models cost: parameters, FLOPs, and photos a second on this device.

    python -m pipeline.cost --model M --fold 0 --competition C     measure one, on this device

A trained run is timed with its own weights on train photos, decoded and resized beforehand, and the
result goes into its card (parameters and FLOPs are there since it was trained). A model that is not
trained is built from its config, timed on noise, and only printed. What is counted and what is timed
is said in `pipeline/inference/cost.py` and `speed.py`.
"""

from pipeline import cli
from pipeline.data.costs import cost_lines, record_cost
from pipeline.data.dataset import load_dataset
from pipeline.data.models import ModelConfig, Overrides, find_model
from pipeline.data.photos import load_photo, photos_of
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import Run, find_runs
from pipeline.errors import PipelineError
from pipeline.paths import CARD, shown
from pipeline.training.backend import load_backend, load_detector, select_device

PHOTOS = 16  # that a trained model is timed on, in turn


def measure_run(profile: Profile, run: Run, device: str) -> list[str]:
    """Count and time a trained run, and record both in its card; returns what to print."""
    from pipeline.inference.cost import complexity
    from pipeline.inference.speed import as_pixels, device_name, speed

    cost = complexity(load_detector(run, "cpu"))
    record_cost(run, cost)
    images = load_dataset(profile, "train").images.head(PHOTOS)
    photos = [load_photo(photo) for photo in photos_of(profile, "train", images)]
    detector = load_detector(run, device)
    measured = speed(detector, as_pixels(photos, detector.image_size).to(device))
    name = device_name(device)
    record_cost(run, cost, {name: measured | {"versions": detector.versions}})
    return [*cost_lines(cost | {"speed": {name: measured}}), f"wrote {shown(run.folder / CARD)}"]


def measure_config(profile: Profile, model: ModelConfig, overrides: Overrides, device: str) -> list[str]:
    """Count and time a model with random weights on noise; returns what to print."""
    from pipeline.inference.cost import complexity, noise
    from pipeline.inference.speed import device_name, speed

    backend = load_backend(model.backend)
    cost = complexity(backend.untrained(model, overrides, len(profile.classes), "cpu"))
    detector = backend.untrained(model, overrides, len(profile.classes), device)
    measured = speed(detector, noise(detector.image_size, PHOTOS).to(device))
    return cost_lines(cost | {"speed": {device_name(device): measured}})


def measure(profile: Profile, run: Run, device: str, image_size: int | None) -> list[str]:
    """Measure a run, or its model's config where it is not trained; returns what to print."""
    if not run.is_trained:
        lines = measure_config(profile, find_model(run.model), Overrides(image_size=image_size), device)
        return [*lines, f"{run.folder.name} is not trained: random weights, timed on noise, nothing written"]
    if image_size is not None:
        raise PipelineError(
            f"{shown(run.folder)}: trained; it is measured at its own size, without IMAGE_SIZE="
        )
    return measure_run(profile, run, device)


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    cli.add_models(arguments)
    cli.add_folds(arguments)
    cli.add_device(arguments)
    cli.add_image_size(arguments)
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    for model in [find_model(name) for name in options.model]:
        load_backend(model.backend)  # says so when it is not installed
        device = select_device(options.device)
        n_folds = 1 + max((int(run.fold) for run in find_runs(profile.name, model.name)), default=0)
        for fold in cli.parse_runs(options.fold, n_folds):
            run = Run(profile.name, model.name, fold)
            lines = measure(profile, run, device, options.image_size)
            print(f"{model.name} {run.folder.name}:", *lines, sep="\n  ")


if __name__ == "__main__":
    cli.run(main)
