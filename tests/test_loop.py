"""Our own training loop: its steps, its schedule, how it reads photos, and pretrained weights."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torchvision
from every_backend import EXACT, fit_toy
from PIL import Image
from torch import nn

from pipeline import predict, train
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, find_model, parse_options
from pipeline.data.photos import Photo
from pipeline.data.predictions import read_predictions
from pipeline.data.profile import load_profile
from pipeline.data.run_card import RecoveryNote
from pipeline.data.runs import Run
from pipeline.errors import PipelineError
from pipeline.paths import PROJECT
from pipeline.scoring.coco import evaluate
from pipeline.training import loop
from pipeline.training.backend import load_backend
from pipeline.training.fold import Devices, plan_fold
from pipeline.training.job import PhotoBoxes, PhotoSet
from pipeline.training.options import AugmentOptions, TrainOptions
from pipeline.training.pretrained import take_in_order
from pipeline.training.processes import fit_in_processes
from pipeline.training.reading import EpochBatches, TrainPhotos

MODEL = "tv_ssdlite320"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, every_backend: None) -> Path:
    return tiny.write_demo(tmp_path_factory.mktemp("data"), 10, 128)


@pytest.fixture
def enter(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make and enter a home of the same data; returns it."""

    def enter(name: str) -> Path:
        home = tmp_path / name
        for part in ("data", "folds"):
            shutil.copytree(data / part, home / part)
        monkeypatch.setenv("PIPELINE_HOME", str(home))
        return home

    return enter


def arguments(model: str, *options: str, **flags: int) -> list[str]:
    """Of `train`, for fold 0; options are the config's, as key=value."""
    numbers = {"epochs": 2, "image-size": 128, "batch": 2, "workers": 0} | flags
    given = [text for key, value in numbers.items() for text in (f"--{key}", str(value))]
    target = ["--competition", "demo", "--model", model, "--fold", "0", "--device", "cpu"]
    return [*target, *given, *EXACT[model], *options]


def history(run: Path) -> list[tuple[str, str, str]]:
    with open(run / "history.csv", newline="") as file:
        return [(row["epoch"], row["loss"], row["map50"]) for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_backend("torchvision").read_weights(run / "best.pth") for run in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_score_of_an_epoch_is_that_of_the_predicted_table(enter: Any) -> None:
    run = enter("home") / "runs/demo" / MODEL / "fold0"
    train.main(arguments(MODEL))
    predict.main(["--competition", "demo", "--model", MODEL, "--fold", "0", "--device", "cpu"])
    profile = load_profile("demo")
    table = read_predictions(run / "oof/identity.parquet")
    scores = evaluate(table, load_dataset(profile, "train").annotations, profile.classes)
    assert Run("demo", MODEL, 0).card().framework_map50 == pytest.approx(scores["map50"], abs=1e-4)
    assert scores["map50"] > 0


def stepped(patch: pytest.MonkeyPatch, batch: int) -> int:
    """Train the toy for two epochs; returns the number of optimizer steps."""
    steps = []
    step = torch.optim.SGD.step

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        steps.append(1)
        return step(self, *args, **kwargs)

    with patch.context() as inner:
        inner.setattr(torch.optim.SGD, "step", counted)
        options = ("train.optimizer=SGD", "train.lr=0.05", "train.nominal_batch=4")
        train.main(arguments("toy", *options, batch=batch))
    return len(steps)


def test_small_batches_add_up_to_the_steps_of_large_ones(enter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five photos in steps of four: the epoch ends with a step of one, and nothing is carried over."""
    runs = []
    for batch in (4, 2, 1):
        runs.append(enter(str(batch)) / "runs/demo/toy/fold0")
        assert stepped(monkeypatch, batch) == 2 * 2
    weights = [load_backend("toy").read_weights(run / "best.pth") for run in runs]
    for others in weights[1:]:
        torch.testing.assert_close(others, weights[0])


def test_two_processes_make_the_steps_of_one_with_as_many_photos(
    enter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Ray; four photos in a batch of four, and in two of two, a step per epoch either way."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT / "tests"))
    home = enter("home")
    options = parse_options(["train.optimizer=SGD", "train.lr=0.05", "train.nominal_batch=4"])
    overrides = Overrides(epochs=3, batch=4, options=options)
    job = plan_fold(load_profile("demo"), find_model("toy"), 0, overrides, Devices("cpu", workers=0)).job
    images = job.train.images[:4]
    boxes = job.train.annotations[job.train.annotations["image_id"].isin(images["image_id"])]
    one = replace(job, train=PhotoSet(images, boxes, job.train.photos[:4]), run=home / "one")
    two = replace(one, overrides=replace(overrides, batch=2), gpus=2, run=home / "two")
    for job in (one, two):
        job.work.mkdir(parents=True)
    fit_toy(one, RecoveryNote(), 0)
    fit_in_processes(two, RecoveryNote(), fit_toy)
    assert history(two.run)[-1][0] == "3"
    assert [row[2] for row in history(two.run)] == [row[2] for row in history(one.run)]
    weights, others = (
        load_backend("toy").read_weights(next(job.work.glob("checkpoints/last-00003-*")))
        for job in (one, two)
    )
    torch.testing.assert_close(others, weights)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    options = TrainOptions(warmup=4, final_lr=0.1)
    rates = [loop.lr_factor(step, 104, options) for step in range(105)]
    assert rates[:5] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5, 1])
    assert rates[54] == pytest.approx(0.1 + 0.9 / 2) and rates[104] == pytest.approx(0.1)
    assert rates[29] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi / 4)) / 2)
    line = options.model_copy(update={"schedule": "linear"})
    assert [loop.lr_factor(step, 104, line) for step in (4, 29, 54, 104)] == pytest.approx(
        [1, 0.1 + 0.9 * 0.75, 0.1 + 0.9 / 2, 0.1]
    )
    assert loop.lr_factor(0, 5, options) == 1  # a warm-up takes at most a tenth of the training


@pytest.mark.parametrize(
    ("model", "option", "message"),
    [
        (MODEL, "train.lrr=1", r"tv_ssdlite320\.yaml: unknown key 'train\.lrr'; known: amp, clip"),
        (MODEL, "mosaic=1", r"tv_ssdlite320\.yaml: unknown key 'mosaic'; known: augment, backbone_weights"),
        (MODEL, "train.momentum=0.9", r"momentum: AdamW does not take it"),
        (MODEL, "augment.scale=[2, 1]", r"scale: expected smallest, largest"),
        (MODEL, "train.clip=-1", r"train\.clip: expected .*greater than 0"),
        (MODEL, "model=os.system", r"model: expected 'fasterrcnn_resnet50_fpn_v2'"),
    ],
)
def test_a_key_that_is_not_honoured_is_refused_with_its_name(model: str, option: str, message: str) -> None:
    config = find_model(model)
    with pytest.raises(PipelineError, match=message) as caught:
        load_backend(config.backend).resolve(config, Overrides(options=parse_options([option])))
    assert "\n" not in str(caught.value)


def test_an_ssd_of_too_few_pixels_is_one_clear_line() -> None:
    model = find_model("tv_ssd300_vgg16")
    detector = load_backend("torchvision").untrained(model, Overrides(image_size=268), 3, "cpu")
    detector.detect(torch.zeros(1, 3, *detector.resized(100, 200, 1.0), dtype=torch.uint8))
    small = detector.resized(100, 200, 0.9962)  # what augmentation takes, and pads to the whole size
    assert small == (267, 267)
    with pytest.raises(PipelineError, match=r"ssd300_vgg16: 267 pixels: expected at least 268"):
        detector.detect(torch.zeros(1, 3, *small, dtype=torch.uint8))
    with pytest.raises(PipelineError, match=r"ssd300_vgg16: 267 pixels: expected at least 268"):
        load_backend("torchvision").untrained(model, Overrides(image_size=267), 3, "cpu")


def test_a_run_that_was_killed_before_its_cost_was_counted_knows_it_later(enter: Any) -> None:
    enter("home")
    train.main(arguments("toy", epochs=1))
    run = Run("demo", "toy", 0)
    card = run.card()
    run.write_card(card.model_copy(update={"cost": None}))
    train.main(arguments("toy", epochs=1))
    assert card.cost is not None and run.card().cost == card.cost


def test_processes_share_the_photos_and_each_epoch_has_an_order_of_its_own() -> None:
    parts = [EpochBatches(5, 2, 0, rank, 2) for rank in (0, 1)]
    assert [len(part) for part in parts] == [2, 2] and [part.photos for part in parts] == [3, 3]
    taken = [[place for batch in part for place in batch] for part in parts]
    assert {epoch for own in taken for epoch, _ in own} == {0}
    assert {position for own in taken for _, position in own} == set(range(5))
    alone = EpochBatches(5, 2, 0)
    orders = []
    for epoch in (0, 1, 0):
        alone.epoch = epoch
        orders.append([position for batch in alone for _, position in batch])
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1]) == list(range(5))


class _OnePhoto:
    """A photo set of one black photo with a white box."""

    def __init__(self, folder: Path) -> None:
        pixels = np.zeros((60, 80, 3), np.uint8)
        pixels[10:40, 20:60] = 255
        Image.fromarray(pixels).save(folder / "photo.png")
        self.photos = [Photo(folder / "photo.png", 80, 60)]

    def boxes(self) -> list[Any]:
        corners = np.array([[20.0, 10, 60, 40], [0, 0, 80, 60]])
        return [PhotoBoxes(corners, np.array([3, 4]), np.array([False, True]))]


def test_boxes_follow_the_pixels_and_what_is_drawn_depends_on_the_epoch_and_the_photo(tmp_path: Path) -> None:
    augment = AugmentOptions(flip=0.5, scale=(0.5, 2.0))
    photos: Any = _OnePhoto(tmp_path)
    read = TrainPhotos(photos, lambda h, w, scale: (round(120 * scale), round(160 * scale)), augment, seed=1)
    seen = []
    for epoch in range(12):
        image, boxes, labels = read[epoch, 0]
        assert image.shape == (3, 120, 160) and image.dtype == torch.uint8 and boxes.dtype == torch.float32
        assert labels.tolist() == [3]  # the crowd is left out
        white = torch.nonzero(image[0] > 200)
        corners = [*white.amin(0).flip(0).tolist(), *(white.amax(0) + 1).flip(0).tolist()]
        assert boxes[0].tolist() == pytest.approx(corners, abs=2)
        seen.append(tuple(boxes[0].tolist()))
        before = torch.get_rng_state()
        assert torch.equal(read[epoch, 0].image, image)
        assert torch.equal(torch.get_rng_state(), before)
    assert len(set(seen)) > 6


@pytest.mark.parametrize("held", [[1, 2], torch.zeros(3), "text", {}, {"bias": "text", 7: torch.zeros(2)}])
def test_a_file_that_holds_no_weights(tmp_path: Path, held: Any) -> None:
    torch.save(held, tmp_path / "a.pth")
    module = nn.Linear(3, 2)
    with pytest.raises(PipelineError, match=r"a\.pth: (expected a mapping of names|none of its weights)"):
        take_in_order(module, tmp_path / "a.pth", "")


CLASSIFIERS = {
    "tv_faster_rcnn_v2": ("resnet50", lambda net: nn.Sequential(*list(net.children())[:-2])),
    "tv_faster_rcnn_mobile": ("mobilenet_v3_large", lambda net: net.features),
    "tv_ssd300_vgg16": ("vgg16", lambda net: net.features[:23]),
    MODEL: ("mobilenet_v3_large", lambda net: net.features[:13]),
}


@pytest.mark.parametrize("name", list(CLASSIFIERS))
def test_a_classifiers_weights_go_to_the_same_layers_of_a_backbone(name: str, tmp_path: Path) -> None:
    """The features of the last layer that both have are the same."""
    kind, features_of = CLASSIFIERS[name]
    torch.manual_seed(5)
    classifier = torchvision.models.get_model(kind, weights=None).eval()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    detector: Any = load_backend("torchvision").untrained(find_model(name), Overrides(), 3, "cpu")
    take_in_order(detector.module, tmp_path / "classifier.pth", "backbone.")
    backbone = detector.module.backbone
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = features_of(classifier)(images)
        if hasattr(backbone, "body"):
            (*_, found) = backbone.body(images).values()
        elif name == MODEL:  # up to the expansion inside the block that is split
            expected = classifier.features[13].block[0](expected)
            found = backbone.features[0](images)
        else:
            found = backbone.features(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_frozen_weights_stay_as_pretrained_and_only_then(
    enter: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = enter("home")
    detector: Any = load_backend("torchvision").untrained(find_model(MODEL), Overrides(), 3, "cpu")
    torch.save(detector.module.state_dict(), tmp_path / "mine.pth")
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path))
    keys = {
        "weights": "mine.pth",
        "train.freeze": ["backbone.features.0."],
        "train.freeze_norms": ["backbone"],
    }
    options = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    for start in (True, False):
        given = options if start else options[1:]
        train.main([*arguments(MODEL, *given, epochs=1, batch=4), "--overwrite"])
        run = home / "runs/demo" / MODEL / "fold0"
        trained = load_backend("torchvision").read_weights(run / "best.pth")
        pretrained = torch.load(tmp_path / "mine.pth")
        same = {key for key, value in trained.items() if torch.equal(value, pretrained[key])}
        norm = "backbone.features.1.0.1.1.running_mean"
        frozen = {key for key in trained if key.startswith("backbone.features.0.")} | {norm}
        assert frozen <= same if start else not frozen & {k for k in same if "num_batches" not in k}
        assert "backbone.features.1.0.1.0.weight" not in same
    assert json.loads((run / "card.json").read_text())["pretrained"] == "from scratch"


def test_a_job_says_what_it_would_download(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_HOME", str(data))
    job = plan_fold(load_profile("demo"), find_model(MODEL), 0, Overrides(), Devices("cpu")).job
    wanted = load_backend("torchvision").wanted_weights(job)
    assert wanted.detector == "ssdlite320_mobilenet_v3_large_coco-a79551df.pth"
    assert wanted.parts == ["mobilenet_v3_large-8738ca79.pth"]
