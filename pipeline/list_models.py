"""All models to choose from, and what they cost.

    python -m pipeline.list_models --competition C      the table: builds nothing, imports no torch
    python -m pipeline.list_models measure [--model M]  counts and times models, by default those not measured

`measure` writes parameters and GFLOPs into configs/models.yaml, the page docs/models.md from it, and photos
a second on this device into runs/speeds.json. What is counted and timed is said in
`pipeline/inference/cost.py` and `speed.py`; weights are random, with 80 classes.
"""

import pandas as pd

from pipeline import cli
from pipeline.cpus import processor_name
from pipeline.data.model_facts import CLASSES, FACTS, read_facts, write_facts
from pipeline.data.model_table import PAGE, Speeds, all_rows, read_speeds, write_page
from pipeline.data.models import ModelConfig, Overrides, find_model
from pipeline.data.profile import load_profile
from pipeline.data.records import write_record
from pipeline.data.run_card import DeviceSpeed
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import shown, speeds_json
from pipeline.training.probe import ask_nvidia_smi

PHOTOS = 16  # of noise, that a model is timed on in turn


def devices_here() -> list[str]:
    """How the names of this machine's devices begin, GPUs first."""
    gpus = ask_nvidia_smi()
    names = [gpu["name"] for gpu in gpus] if isinstance(gpus, list) else []
    return [*dict.fromkeys(names), processor_name()]


def show(competition: str) -> None:
    profile = load_profile(competition)
    table = pd.DataFrame(all_rows(profile.name, devices_here()))
    table["paper"] = table["paper"].str.split("/").str[0]
    print(table.to_string(index=False))
    print(
        f"\nM params, GFLOPs: with {CLASSES} classes, on a square photo of the side `at`; "
        f"OOF: {profile.metric} in {profile.name}, with its 95 % interval"
    )


def measure(model: ModelConfig, device: str) -> str:
    """Count and time a model with random weights, and write down both; returns a line to print."""
    from pipeline.inference.cost import complexity, noise
    from pipeline.inference.speed import device_name, speed
    from pipeline.training.backend import load_backend

    if model.name not in read_facts():
        raise PipelineError(f"{shown(FACTS)}: no line for {model.name}; its head says how to write one")
    backend = load_backend(model.backend)
    cost = complexity(backend.untrained(model, Overrides(), CLASSES, "cpu"))
    counts = {"size": cost["input_size"], "parameters": cost["parameters"]}
    counts["gflops"] = round(cost["flops"] / 1e9, 2)
    with locked(FACTS):
        facts = read_facts()
        facts[model.name] = facts[model.name].model_copy(update=counts)
        write_facts(facts)
    detector = backend.untrained(model, Overrides(), CLASSES, device)
    measured = DeviceSpeed.model_validate(speed(detector, noise(detector.image_size, PHOTOS).to(device)))
    with locked(speeds_json()):
        devices = read_speeds().devices
        name = device_name(device)
        devices[name] = devices.get(name, {}) | {model.name: measured}
        write_record(speeds_json(), Speeds(devices=devices))
    line = f"{counts['parameters'] / 1e6:.2f} M parameters, {counts['gflops']} GFLOPs at {counts['size']}"
    return f"{model.name}: {line}, {measured.fps_best:.1f} photos/s ({name})"


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    arguments.add_argument("action", nargs="?", default="show", choices=("show", "measure"))
    cli.add_competition(arguments)
    cli.add_models(arguments, needed=False)
    cli.add_device(arguments)
    options = arguments.parse_args(argv)
    if options.action == "show":
        show(options.competition)
        return 0
    from pipeline.inference.speed import device_name
    from pipeline.training.backend import select_device

    device = select_device(options.device)
    known, there = read_facts(), read_speeds().devices.get(device_name(device), {})
    names = options.model or [n for n, facts in known.items() if n not in there or not facts.parameters]
    failed = 0
    for model in [find_model(name) for name in names]:
        try:
            print(measure(model, device), flush=True)
        except PipelineError as error:
            failed += 1
            print(f"{model.name}: not measured: {error}", flush=True)
    write_page()
    print(f"wrote {shown(FACTS)}, {shown(PAGE)}, {shown(speeds_json())}")
    return int(failed > 0)


if __name__ == "__main__":
    cli.run(main)
