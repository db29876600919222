"""Training recipes: what each framework's built pipeline has of them, who wins over whom, and resuming."""

from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from pipeline import launch
from pipeline.data.dataset import load_dataset
from pipeline.data.models import Overrides, find_model
from pipeline.data.profile import load_profile
from pipeline.errors import PipelineError
from pipeline.paths import CONFIGS
from pipeline.training import loop, recipe
from pipeline.training.backend import load_backend
from pipeline.training.fit import fit
from pipeline.training.fold import Devices, plan_fold, train_fold
from pipeline.training.job import PhotoSet
from pipeline.training.recipe import UNAVAILABLE, read_recipe
from pipeline.training.sampling import RepeatingSampler, Repeats

AUGMENTS = ("none", "basic", "strong")
FRAMEWORKS = {"mmdet": "faster_rcnn_tiny", "ultralytics": "yolov5n", "loop": "tv_ssdlite320"}
OFFLINE = {
    "mmdet": {},
    "ultralytics": {"pretrained": False},
    "loop": {"weights": None, "backbone_weights": None},
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, every_backend: None) -> Path:
    return tiny.write_demo(tmp_path_factory.mktemp("data"), 8, 64)


@pytest.fixture
def home(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that shares the data."""
    folder = tmp_path / "home"
    folder.mkdir()
    for part in ("data", "folds"):
        (folder / part).symlink_to(data / part)
    monkeypatch.setenv("PIPELINE_HOME", str(folder))
    return folder


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes a recipe of the user's own beside those that are there."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for path in recipe.FOLDER.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    monkeypatch.setattr(recipe, "FOLDER", folder)

    def write(name: str, text: str) -> None:
        (folder / f"{name}.yaml").write_text(text)

    return write


def overrides(framework: str, name: str | None, epochs: int = 1, **options: Any) -> Overrides:
    return Overrides(epochs, 64, 4, OFFLINE[framework] | options, name)


def values_of(model: str, asked: Overrides) -> Any:
    config = find_model(model)
    return load_backend(config.backend).resolve(config, asked).values


class _BuiltError(Exception):
    """Ends a training when its pipeline is built."""


def built(framework: str, asked: Overrides, patch: pytest.MonkeyPatch) -> Any:
    """The dataset of a training that begins."""
    plan = plan_fold(load_profile("demo"), find_model(FRAMEWORKS[framework]), 0, asked, Devices("cpu"))
    held: list[Any] = []

    def take(dataset: Any, *_: Any) -> None:
        held.append(dataset)
        raise _BuiltError

    plan.job.work.mkdir(parents=True)
    with patch.context() as inner:
        if framework == "loop":
            inner.setattr(loop, "loader_of", take)
        else:
            module = {"mmdet": "mmdet_runner", "ultralytics": "ultralytics_trainer"}[framework]
            inner.setattr(f"pipeline.backends.{module}.take_places", take)
        with pytest.raises(_BuiltError):
            fit(plan.job)
    return held[0]


def parts_of(item: Any, seen: dict[int, Any]) -> dict[int, Any]:
    """Every object of a framework's that an object holds, itself included."""
    if isinstance(item, (list, tuple)):
        for part in item:
            parts_of(part, seen)
    elif id(item) not in seen and hasattr(item, "__dict__"):
        seen[id(item)] = item
        for part in vars(item).values():
            parts_of(part, seen)
    return seen


def classes_of(framework: str, dataset: Any) -> dict[str, list[Any]]:
    roots = [dataset, dataset._steps((8, 8))] if framework == "loop" else [dataset]
    by_class: dict[str, list[Any]] = {}
    for part in parts_of(roots, {}).values():
        if getattr(part, "direction", "horizontal") in ("horizontal", ["horizontal"]):
            by_class.setdefault(type(part).__name__, []).append(part)
    return by_class


def entries(name: str, framework: str) -> Iterator[tuple[str, str, Any]]:
    """(class, attribute, value) of what a recipe's list says of a framework."""
    for held in read_recipe(recipe.FOLDER / f"{name}.yaml").holds[framework].values():
        for key, value in held.items() if isinstance(held, dict) else ():
            kind, _, attribute = key.partition(".")
            yield kind, attribute, value


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_a_recipes_list_is_what_the_built_pipeline_holds(
    framework: str, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = classes_of(framework, built(framework, overrides(framework, name), monkeypatch))
    listed = list(entries(name, framework))
    for kind, attribute, value in listed:
        assert held.get(kind), f"{kind} is not in the pipeline"
        expected = tuple(value) if isinstance(value, list) else value
        for part in held[kind]:
            found = getattr(part, attribute)
            assert (tuple(found) if isinstance(found, list) else found) == expected, (kind, attribute)
    others = {kind for other in AUGMENTS for kind, _, _ in entries(other, framework)}
    assert not (others - {kind for kind, _, _ in listed}) & held.keys()


def test_photos_are_mixed_until_the_last_tenth_of_the_epochs(
    home: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str, str], None]
) -> None:
    write(
        "mixed",
        "{_base_: strong.yaml, augment: {mosaic: 1.0, mixup: 1.0, scale: [1, 1], photometric: false}}",
    )
    photos = built("mmdet", overrides("mmdet", "mixed", epochs=30), monkeypatch)
    inner = photos.dataset
    counts = []
    for photos.epoch in (0, 26, 27, 29):
        read: list[int] = []
        monkeypatch.setattr(photos, "dataset", _Counted(inner, read))
        photos[0]
        counts.append(len(read))
    assert counts[2:] == [1, 1] and min(counts[:2]) >= 5  # the photo, three for the mosaic, one for mixup
    train = values_of("yolov5n", overrides("ultralytics", "mixed", epochs=30))["train"]
    assert (train["close_mosaic"], train["mosaic"], train["mixup"]) == (3, 1.0, 1.0)


class _Counted:
    def __init__(self, dataset: Any, read: list[int]) -> None:
        self.dataset, self.read = dataset, read

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        return self.dataset[index]


def test_boxes_of_a_mosaic_lie_on_their_objects() -> None:
    """Photos of white rectangles: what is white is in a box, and the other way round."""
    load_backend("mmdet")
    from mmdet.structures.bbox import HorizontalBoxes

    from pipeline.backends.mmdet_recipe import SomeMosaic

    def photo(number: int) -> dict[str, Any]:
        x, y = 10 + 5 * number, 30 - 4 * number
        pixels = np.zeros((80, 100, 3), np.uint8)
        pixels[y : y + 40, x : x + 50] = 255
        boxes = HorizontalBoxes(torch.tensor([[x, y, x + 50.0, y + 40]]))
        labels, ignored = np.array([number]), np.array([False])
        return {"img": pixels, "gt_bboxes": boxes, "gt_bboxes_labels": labels, "gt_ignore_flags": ignored}

    mosaic, seen = SomeMosaic(probability=1.0, img_scale=(100, 100)), set[int]()
    for seed in range(12):
        np.random.seed(seed)  # noqa: NPY002
        result = mosaic.transform(photo(0) | {"mix_results": [photo(number) for number in (1, 2, 3)]})
        assert result["img"].shape == (100, 100, 3) and result["img_shape"] == (100, 100)
        white, inside = result["img"][..., 0] > 200, np.zeros((100, 100), bool)
        corners = result["gt_bboxes"].tensor.numpy()
        for x1, y1, x2, y2 in corners.round().astype(int):
            inside[y1:y2, x1:x2] = True
        assert (white != inside).mean() < 0.02
        assert len(corners) == len(result["gt_bboxes_labels"]) == len(result["gt_ignore_flags"])
        seen |= set(result["gt_bboxes_labels"].tolist())
    assert seen == {0, 1, 2, 3}


def test_a_recipe_lies_between_the_defaults_and_the_models_own_file_and_set_is_above_both(
    every_backend: None, write: Callable[[str, str], None]
) -> None:
    write("flipped", "augment: {flip: 0.9, scale: [0.8, 1.0]}")
    values = values_of("yolov5n", overrides("ultralytics", "flipped", fliplr=0.3))
    assert (values["train"]["fliplr"], values["train"]["scale"]) == (0.3, [0.8, 1.0])
    values = values_of("toy", overrides("mmdet", "flipped", **{"augment.photometric": 0.25}))
    assert values["augment"] == {"flip": 0.9, "scale": [0.5, 1.5], "photometric": 0.25}  # its own scale
    words = values["recipe"]["words"]
    assert (words["augment.flip"], words["augment.scale"]) == (0.9, "the config's own")
    flipped = values_of("faster_rcnn_tiny", overrides("mmdet", "flipped"))["train_pipeline"]
    assert {step["type"]: step for step in flipped}["RandomFlip"]["prob"] == 0.9
    with pytest.raises(
        PipelineError, match=r"RECIPE=flipped would change nothing: .*ssd300\.py states augment"
    ):
        values_of("ssd300", overrides("mmdet", "flipped"))


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_without_a_recipe_a_config_is_as_it_was(framework: str) -> None:
    assert "recipe" not in values_of(FRAMEWORKS[framework], overrides(framework, None))


def test_what_is_basic_is_what_mmdetections_configs_have_anyway() -> None:
    plain, basic = (values_of("faster_rcnn", overrides("mmdet", name)) for name in (None, "basic"))
    assert basic.pop("recipe")["name"] == "basic"
    assert basic == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("augment: {mosiac: 0.5}", r"mine\.yaml: unknown key 'augment\.mosiac'; known: close, flip"),
        ("augment: {flip: 2}", r"mine\.yaml: augment\.flip: expected .*less than or equal to 1"),
        ("augment: {scale: [2, 1]}", r"scale: expected smallest, largest"),
        ("augment: {mosaic: 0.5}", r"mine\.yaml: augment\.mosaic: loop has none; leave it out, or list it"),
        ("_base_: nowhere.yaml", r"nowhere\.yaml: not readable"),
        (None, r"no recipe 'mine'; there are: .*basic, .*none, .*strong"),
    ],
)
def test_what_cannot_be_honoured_is_refused_in_one_line(
    text: str | None, message: str, write: Callable[[str, str], None]
) -> None:
    if text:
        write("mine", text)
    with pytest.raises(PipelineError, match=message) as caught:
        values_of("tv_ssdlite320", overrides("loop", "mine"))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_run_keeps_its_recipe_and_another_one_is_refused(home: Path) -> None:
    def plan(name: str | None) -> Any:
        asked = replace(overrides("loop", name), options={"weights": None})
        return plan_fold(load_profile("demo"), find_model("toy"), 0, asked, Devices("cpu"))

    first = plan("strong")
    train_fold(first)
    card = first.run.card()
    assert card.recipe == "strong" and card.recipe_words["augment.flip"] == 0.5
    assert card.recipe_words["augment.mosaic"] == card.recipe_words["augment.mixup"] == UNAVAILABLE
    train_fold(plan("strong"))  # there is nothing to do
    with pytest.raises(PipelineError, match=r"was trained with recipe strong, now asked for None"):
        train_fold(plan(None))


@pytest.mark.parametrize(
    ("competition", "folder", "share", "growth"),
    [
        ("recycle", "boostcamp_recycle", 0.12, 0.06),
        ("taco", "taco_recycle10", 0.18, 0.07),
        ("bccd", "bccd", 0, 0),
    ],
)
def test_the_drawn_shares_of_real_annotations(
    competition: str, folder: str, share: float, growth: float, shared_data: Path
) -> None:
    train = load_dataset(load_profile(competition, shared_data / folder), "train")
    boxes = PhotoSet(train.images, train.annotations, []).boxes()
    repeats, count, epochs = Repeats.of(boxes), len(boxes), 40
    copies = np.zeros((epochs, count))
    for epoch in range(epochs):
        np.add.at(copies[epoch], repeats.drawn(0, epoch) % count, 1)
    assert (copies.sum(1) == len(repeats)).all() and copies.min() >= 1
    assert (repeats.factors > 1).mean() == pytest.approx(share, abs=0.01)
    assert copies.mean() - 1 == pytest.approx(growth, abs=0.005)
    assert np.abs(copies.mean(0) - repeats.factors).max() < 0.35  # of 40 draws
    # The definition, by hand, for a class: no photo with it is taken less often on average.
    labels = [set(photo.labels.tolist()) for photo in boxes]
    for label in set().union(*labels):
        own = [label in photo for photo in labels]
        assert (repeats.factors[own] >= max(1, (0.1 / np.mean(own)) ** 0.5) - 1e-9).all()


def test_repeated_photos_are_shared_out_and_each_copy_is_drawn_by_itself() -> None:
    repeats = Repeats(np.array([1.0, 2.5, 1.2, 1.3]))
    assert len(repeats) == 6 and str(repeats).endswith("75% of the photos repeat, an epoch grows by 50%")
    for epoch in range(5):
        drawn = repeats.drawn(3, epoch)
        assert drawn.tolist() == repeats.drawn(3, epoch).tolist()
        assert len(set(drawn.tolist())) == 6 and set(drawn % 4) == {0, 1, 2, 3}
        parts = []
        for rank in (0, 1):
            sampler = RepeatingSampler(None, repeats, 3, rank, 2)
            sampler.set_epoch(epoch)
            parts += list(sampler)
        assert sorted(parts) == sorted(drawn.tolist())
    assert len({tuple(repeats.drawn(3, epoch)) for epoch in range(9)}) > 1


WORDS = "{amp: false, ema: 0.5, patience: 2, schedule: linear, nominal_batch: 8, sampling: plain}"


def test_the_words_of_a_training_in_each_frameworks_keys(
    home: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str, str], None]
) -> None:
    write("words", WORDS)
    options = values_of("tv_ssdlite320", overrides("loop", "words"))["train"]
    expected = {"amp": False, "ema": 0.5, "patience": 2, "schedule": "linear", "nominal_batch": 8}
    assert options.items() >= expected.items()
    write("unlike", "{ema: 0, schedule: cosine}")
    assert values_of("tv_ssdlite320", overrides("loop", "unlike"))["train"]["ema"] is None
    train = values_of("yolov5n", overrides("ultralytics", "words"))["train"]
    assert train.items() >= {"amp": False, "patience": 2, "cos_lr": False, "nbs": 8}.items()
    assert values_of("yolov5n", overrides("ultralytics", "unlike"))["train"]["cos_lr"] is True

    config = find_model("faster_rcnn_tiny")
    plan = plan_fold(load_profile("demo"), config, 0, overrides("mmdet", "words", 6), Devices("cpu"))
    from pipeline.backends.mmdet_runner import runner_config

    cfg = runner_config(plan.job)
    (average,) = cfg.custom_hooks
    assert (average.type, average.ema_type, average.momentum) == ("EMAHook", "ExpMomentumEMA", 0.5)
    warm_up, line = cfg.param_scheduler
    assert (warm_up.type, line.type, line.begin, line.end) == ("LinearLR", "LinearLR", 0, 6)
    assert cfg.optim_wrapper.accumulative_counts == 2
    assert cfg.auto_scale_lr.base_batch_size == 8  # 16 at the learning rate of the config, in two batches
    assert (cfg.amp, cfg.patience) == (False, 2)


@pytest.mark.parametrize("model", ["faster_rcnn_tiny", "yolov5n", "toy"])
def test_a_training_ends_when_it_gets_no_better_and_stays_ended(
    model: str, home: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str, str], None]
) -> None:
    write("words", WORDS)
    offline = {"toy": {"weights": None}, "yolov5n": OFFLINE["ultralytics"]}.get(model, {})
    asked = Overrides(6, 64, 4, offline, "words")
    plan = plan_fold(load_profile("demo"), find_model(model), 0, asked, Devices("cpu"))
    scores, trainers = iter([0.0, 0.2, 0.3, 0.3, 0.1, 0.5]), []

    def validate(detector: Any, *_: Any) -> float:
        trainers.append(detector)
        return next(scores)

    for module in ("backends.mmdet_runner", "backends.ultralytics_trainer", "training.loop"):
        monkeypatch.setattr(f"pipeline.{module}.validate", validate)
    with monkeypatch.context() as cut:
        cut.setattr("pipeline.training.fit._export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_fold(plan)
    train_fold(plan)
    assert len(trainers) == 5  # the third epoch is the best one, and two follow it
    card = plan.run.card()
    assert (card.best_epoch, card.framework_map50) == (3, 0.3)
    assert card.recipe_words["patience"] == 2


def test_a_patience_of_0_ends_no_training(home: Path) -> None:
    """As ultralytics means it."""
    asked = overrides("ultralytics", None, epochs=2, patience=0)
    plan = plan_fold(load_profile("demo"), find_model("yolov5n"), 0, asked, Devices("cpu"))
    train_fold(plan)
    assert len((plan.run.folder / "history.csv").read_text().splitlines()) == 1 + 2


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_ultralytics_averages_its_weights_with_the_recipes_decay(
    home: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str, str], None]
) -> None:
    load_backend("ultralytics")
    from pipeline.backends.ultralytics_trainer import _Trainer

    write("words", WORDS)
    decays: list[float] = []

    def validate(self: Any) -> Any:
        decays.append(self.ema.decay(10**6))
        return {}, 0.1

    monkeypatch.setattr(_Trainer, "validate", validate)
    asked = overrides("ultralytics", "words")
    train_fold(plan_fold(load_profile("demo"), find_model("yolov5n"), 0, asked, Devices("cpu")))
    assert decays == pytest.approx([0.5])


@pytest.mark.parametrize("framework", list(FRAMEWORKS))
def test_a_frozen_backbone_stays_as_pretrained_and_the_rest_learns(
    framework: str, home: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[str, str], None]
) -> None:
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(home / "weights"))
    write("frozen", "{freeze: backbone, ema: 0}")
    name = "given" + {"ultralytics": ".pt"}.get(framework, ".pth")
    key = {"mmdet": "load_from", "ultralytics": "pretrained", "loop": "weights"}[framework]

    def weights(asked: Overrides) -> dict[str, torch.Tensor]:
        plan = plan_fold(load_profile("demo"), find_model(FRAMEWORKS[framework]), 0, asked, Devices("cpu"))
        train_fold(plan, overwrite=True)
        if asked.recipe is None:
            (home / "weights").mkdir()
            (home / "weights" / name).write_bytes(plan.run.checkpoint.read_bytes())
        return load_backend(plan.run.card().backend).read_weights(plan.run.checkpoint)

    given = weights(overrides(framework, None))
    learned = weights(overrides(framework, "frozen", **{key: name}))
    beginning = {"mmdet": "backbone.", "loop": "backbone.features."}.get(framework, "")
    frozen = [k for k in given if k.startswith(beginning) and (beginning or int(k.split(".")[1]) < 10)]
    same = {k for k in given if torch.equal(given[k], learned[k])}
    assert frozen and set(frozen) <= same
    assert len(same) < 0.9 * len(given)


@pytest.mark.parametrize(
    ("framework", "suffix", "text"),
    [
        ("mmdet", ".py", "_base_ = '{0}/mmdet/faster_rcnn_tiny.py'\nrecipe = 'strong'\n"),
        ("ultralytics", ".yaml", "_base_: {0}/ultralytics/yolov5n.yaml\nrecipe: strong\n"),
        ("loop", ".yaml", "_base_: {0}/torchvision/tv_ssdlite320.yaml\nrecipe: strong\n"),
    ],
)
def test_a_config_names_its_recipe_and_another_one_may_be_asked_for(
    framework: str, suffix: str, text: str, tmp_path: Path
) -> None:
    path = tmp_path / f"own{suffix}"
    path.write_text(text.format(CONFIGS))
    backend = load_backend(find_model(FRAMEWORKS[framework]).backend)
    model = replace(find_model(FRAMEWORKS[framework]), name="own", path=path)
    for name in (None, "basic"):
        found = backend.resolve(model, overrides(framework, name)).values["recipe"]
        assert found["name"] == (name or "strong")
        assert found["words"]["augment.scale"] == ([0.5, 1.5] if name is None else [0.75, 1.25])


def test_train_all_hands_a_recipe_on_to_its_jobs() -> None:
    given = dict.fromkeys(("epochs", "image_size", "batch", "root", "device", "gpus", "nodes", "workers"))
    given |= {"recipe": "strong", "set": [], "views": [], "split": [], "competition": "demo", "seed": 0}
    options = Namespace(**given, cache="off", cache_full=False)
    jobs = launch.job_options(options)
    assert jobs.overrides.recipe == "strong" and jobs.train_arguments == ("--recipe", "strong")
    assert launch.make_variables(options)["RECIPE"] == "strong"
