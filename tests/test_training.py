"""Real trainings of every framework on a handful of rendered photos, from folds to submission."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_backend import EXACT, MODELS, SCRATCH
from prediction_oracle import detect_resized, resize

from pipeline import cost, ensemble, evaluate, folds, predict, submission, train
from pipeline.data import demo
from pipeline.data.models import Overrides, find_model, list_models
from pipeline.data.predictions import SPLITS, read_predictions
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run, only_one
from pipeline.errors import PipelineError
from pipeline.inference.detector import Detector
from pipeline.paths import PROJECT
from pipeline.processes import python_path
from pipeline.training.backend import load_backend, load_detector
from pipeline.training.fold import Devices, check_same_job, plan_fold
from pipeline.training.job import TrainJob
from pipeline.training.weights import find_weights

SMALL = ["--epochs", "1", "--image-size", "64", "--batch", "4", "--device", "cpu"]
COMPETITION = ["--competition", "demo"]


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, every_backend: None) -> Iterator[Path]:
    """A home in which all models are trained and predicted on both folds, one epoch each."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_HOME", str(home))
        demo.generate(home / "data" / "demo", n_train=12, n_test=4, size=96)
        folds.main([*COMPETITION, "--folds", "2"])
        for model in MODELS:
            for fold in "01":
                target = [*COMPETITION, "--model", model, "--fold", fold]
                own = EXACT[model] if EXACT[model][:2] == SCRATCH else []
                train.main([*target, *SMALL, *own, "--views", "identity,hflip"])
        yield home


@pytest.mark.parametrize("model", MODELS)
def test_a_run_holds_what_it_promises(trained: Path, model: str) -> None:
    run = trained / "runs" / "demo" / model / "fold0"
    card = json.loads((run / "card.json").read_text())
    tables = {f"{split}/{view}.parquet" for split in ("oof", "test") for view in ("identity", "hflip")}
    expected = {"card.json", "job.json", "history.csv", "train.log", card["checkpoint"], card["config"]}
    assert files_below(run) == expected | tables
    assert card["epochs"] == 1 and card["image_size"] == 64 and card["seed"] == 0
    assert card["pretrained"] == "from scratch"
    assert card["trained_photos"] + card["held_out_photos"] == 12
    assert (run / "train.log").stat().st_size > 0


@pytest.mark.parametrize("model", MODELS)
def test_a_trained_run_knows_its_cost_and_is_timed_on_request(
    trained: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.inference import speed as clock

    monkeypatch.setattr(clock, "ROUND_SECONDS", 0.0)
    monkeypatch.setitem(clock.LARGEST_BATCH, "cpu", 2)
    path = trained / "runs" / "demo" / model / "fold0" / "card.json"
    before = json.loads(path.read_text())
    del before["record_digest"]
    assert {key for key, value in before["cost"].items() if value} == {"parameters", "flops", "input_size"}
    assert before["cost"]["input_size"] == before["image_size"]
    cost.main([*COMPETITION, "--model", model, "--fold", "0", "--device", "cpu"])
    after = json.loads(path.read_text())
    ((device, speed),) = after["cost"]["speed"].items()
    after["cost"]["speed"] = {}
    assert after.pop("record_digest") and after == before
    assert "thread" in device and set(speed["fps_by_batch"]) == {"1", "2"}
    assert 0 < speed["fps"] <= speed["fps_best"]
    with pytest.raises(PipelineError, match=r"measured at its own size, without IMAGE_SIZE="):
        cost.main([*COMPETITION, "--model", model, "--image-size", "96", "--device", "cpu"])


@pytest.mark.parametrize("model", MODELS)
def test_tables_cover_their_images_and_say_which_fold(trained: Path, model: str) -> None:
    with open(trained / "folds" / "demo" / "folds.csv", newline="") as file:
        fold_of = {int(row["image_id"]): int(row["fold"]) for row in csv.DictReader(file)}
    held_out: list[int] = []
    for fold in (0, 1):
        run = trained / "runs" / "demo" / model / f"fold{fold}"
        oof, test = (read_predictions(run / split / "hflip.parquet") for split in ("oof", "test"))
        assert all(fold_of[image_id] == fold for image_id in oof.meta.image_ids.tolist())
        assert set(oof.meta.folds.tolist()) == {fold}
        assert test.meta.image_ids.tolist() == [0, 1, 2, 3]
        assert oof.meta.model == model and oof.meta.view == "hflip"
        held_out += oof.meta.image_ids.tolist()
    assert sorted(held_out) == sorted(fold_of)


def test_evaluate_ensemble_and_submission_follow(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate.main([*COMPETITION, "--model", MODELS[0]])
    metrics = json.loads((trained / "runs" / "demo" / MODELS[0] / "metrics.json").read_text())
    assert set(metrics["scores"]) == {"identity", "hflip", "fused"}
    assert metrics["scores"]["fused"]["images"] == 12
    ensemble.main([*COMPETITION, "--ensemble", "final"])
    submission.main([*COMPETITION])
    capsys.readouterr()
    rows = (trained / "submissions" / "demo" / "final.csv").read_text().splitlines()
    assert rows[0] == "PredictionString,image_id"
    assert [row.rsplit(",", 1)[1] for row in rows[1:]] == [f"test/{i:04d}.jpg" for i in range(4)]
    card = json.loads((trained / "submissions" / "demo" / "final.json").read_text())
    assert 0 <= card["oof"]["map50"] <= 1
    assert len(card["tables"]) == len(MODELS) * 2 * 2 * 2  # models, folds, views, splits


def test_a_whole_run_is_left_alone_and_another_training_refused(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained / "runs" / "demo" / "yolov5n" / "fold0"
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    target = [*COMPETITION, "--model", "yolov5n", "--fold", "0"]
    train.main([*target, *SMALL])
    assert "nothing to do" in capsys.readouterr().out
    predict.main([*target, "--views", "identity,hflip"])
    assert "up to date" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(PipelineError, match=r"epochs 1, now asked for 2: OVERWRITE=1"):
        train.main([*target, *SMALL, "--epochs", "2"])


def test_a_run_that_cannot_be_trained_anew_stays(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that only the framework knows to be wrong is one line, before the old run is given up."""
    run = trained / "runs" / "demo" / "faster_rcnn_tiny" / "fold0"
    target = [*COMPETITION, "--model", "faster_rcnn_tiny", "--fold", "0", *SMALL]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(PipelineError, match=r"faster_rcnn_tiny\.py: mmdet cannot build it: .*float"):
        train.main([*target, "--overwrite", "--set", "train_pipeline.3.prob=0"])
    assert f"{run}: the run that was there before is back" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    log = run / "train.log"
    assert before.pop(log) < after.pop(log) and "Traceback" in log.read_text()
    assert before == after
    run.rename(run.with_name(".fold0.replaced"))  # as a command leaves it that is killed while it builds
    train.main(target)
    assert "nothing to do" in capsys.readouterr().out
    assert before.keys() < {path for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("model", MODELS)
def test_a_scale_view_changes_the_size_of_the_network_input(
    trained: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("PIPELINE_HOME", str(trained))
    detector = load_detector(Run("demo", model, 0), "cpu")
    shapes: list[tuple[int, ...]] = []
    forward = torch.nn.Conv2d.forward

    def spy(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] == 3:
            shapes.append(tuple(x.shape[2:]))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spy)
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    for scale, side in ((1.0, 64), (2.0, 128)):
        small = resize(detector, image, scale)
        detect_resized(detector, [small], scale)  # warm-up passes of the framework are not counted
        shapes.clear()
        (boxes,) = detect_resized(detector, [small], scale)
        assert shapes[-1] == small.shape[:2] == (side, side)
        assert (boxes.boxes_xyxy >= 0).all() and (boxes.boxes_xyxy <= side).all()


def history(run: Path) -> list[tuple[str, str, str]]:
    with open(run / "history.csv", newline="") as file:
        return [(row["epoch"], row["loss"], row["map50"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("model", MODELS)
def test_kill_9_then_the_same_command_goes_on(
    trained: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while a thread writes a checkpoint, a run ends as an undisturbed one.

    Whatever reads photos, and whether a cache keeps them.
    """
    homes = [tmp_path / "whole", tmp_path / "home"]
    undisturbed, run = (home / "runs" / "demo" / model / "fold0" for home in homes)
    for home in homes:
        for part in ("data", "folds"):
            shutil.copytree(trained / part, home / part)
    script = [sys.executable, str(PROJECT / "tests" / "every_backend.py")]
    options = ["--fold", "0", "--epochs", "3", "--image-size", "64", "--batch", "4", "--device", "cpu"]
    command = [*script, *COMPETITION, "--model", model, *options, *EXACT[model]]

    def start(home: Path, *more: str) -> subprocess.Popen[str]:
        environment = os.environ | {"PIPELINE_HOME": str(home), "OMP_NUM_THREADS": "1"} | python_path()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, *more], cwd=PROJECT, env=environment, **pipes)

    cached = ("--cache", "disk", "--cache-full")
    whole, first = start(homes[0]), start(homes[1], "--workers", "2", *cached)
    deadline, kept = time.monotonic() + 120, run / "work/checkpoints"
    while not (list(kept.glob("last-*.pt*")) and list(kept.glob(".*.tmp*"))) and time.monotonic() < deadline:
        assert first.poll() is None, "the training ended before it could be killed"
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert not (run / "card.json").exists() and list(kept.glob(".*.tmp*"))
    again = start(homes[1], *cached)
    printed, errors = again.communicate()
    assert again.returncode == 0 and "Warning" not in errors, errors
    assert f"{model} fold0: epoch 1/3" not in printed and f"{model} fold0: epoch 3/3" in printed
    whole.communicate()
    assert whole.returncode == 0 and files_below(run) == files_below(undisturbed)
    assert history(run) == history(undisturbed)
    backend = load_backend(find_model(model).backend)
    weights, expected = (backend.read_weights(next(folder.glob("best.pt*"))) for folder in (run, undisturbed))
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    monkeypatch.setenv("PIPELINE_HOME", str(homes[1]))
    assert load_detector(Run("demo", model, 0), "cpu").image_size == 64


@pytest.mark.parametrize("name", sorted(list_models()))
def test_every_config_resolves_with_overrides(name: str) -> None:
    model = find_model(name)
    backend = load_backend(model.backend)
    resolved = backend.resolve(model, Overrides(epochs=3, image_size=320, batch=2))
    assert (resolved.epochs, resolved.image_size, resolved.batch) == (3, 320, 2)
    text = json.dumps(resolved.values)
    assert str(PROJECT) not in text and "fold" not in text


def test_cascade_swin_builds_with_the_competitions_classes() -> None:
    detector: Any = load_backend("mmdet").untrained(find_model("cascade_swin"), Overrides(), 7, "cpu")
    heads = detector.model.roi_head
    assert [head.fc_cls.out_features for head in heads.bbox_head] == [8, 8, 8]
    assert heads.test_cfg.score_thr == 0.001 and heads.test_cfg.max_per_img == 300
    assert detector.model.rpn_head.test_cfg.max_per_img == 1000


def job_of(model: str, **overrides: Any) -> TrainJob:
    config = find_model(model)
    devices = Devices(device="cpu", workers=0)
    return plan_fold(load_profile("demo"), config, 0, Overrides(**overrides), devices).job


def started(job: TrainJob) -> Any:
    """MMDetection's config of a job's training from its first weights."""
    from pipeline.backends.mmdet_runner import runner_config

    backend = load_backend("mmdet")
    return runner_config(replace(job, weights=find_weights(backend, "m", backend.wanted_weights(job))))


def test_pretrained_weights_come_from_the_local_folder_first(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path))
    torch.save({}, tmp_path / "saved")
    digits = hashlib.sha256((tmp_path / "saved").read_bytes()).hexdigest()[:8]
    local = (tmp_path / "saved").rename(tmp_path / f"resnet50-{digits}.pth")
    backbone = started(job_of("faster_rcnn", options={"load_from": None})).model.backbone
    assert backbone.init_cfg.checkpoint == str(local)
    assert backbone.frozen_stages == 1
    assert capsys.readouterr().out == ""


def test_without_weights_a_backbone_is_thawed_and_one_line_says_so(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.backends import mmdet

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no net")

    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(mmdet.checkpoint.CheckpointLoader, "load_checkpoint", offline)
    backbone = started(job_of("faster_rcnn", options={"load_from": None})).model.backbone
    assert backbone.init_cfg is None
    assert backbone.frozen_stages == -1 and backbone.norm_eval is False
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("m: training from scratch: no resnet50 in ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "yolov9000", "--fold", "0"], r"no model 'yolov9000'; there are: .*cascade_swin"),
        (["--model", "yolov5n", "--fold", "2"], r"fold '2': expected 0 to 1, or FOLD=folds"),
        (["--model", "yolov5n", "--fold=-1"], r"fold '-1': expected 0 to 1"),
        (["--model", "yolov5n", "--fold", "0", "--root", "/nowhere"], r"no data folder .*ROOT=<folder>"),
        (["--model", "yolov5n", "--fold", "0", "--set", "lr0"], r"option 'lr0': expected key=value"),
        (["--model", "yolov5n", "--fold", "0", "--device", "cuda:7"], r"device 'cuda:7': torch sees \d GPUs"),
    ],
)
def test_train_refuses_in_one_line_and_writes_nothing(
    trained: Path, arguments: list[str], message: str
) -> None:
    before = files_below(trained / "runs")
    with pytest.raises(PipelineError, match=message) as caught:
        train.main([*COMPETITION, *arguments])
    assert "\n" not in str(caught.value)
    assert files_below(trained / "runs") == before


def test_a_photo_of_zero_bytes_stops_a_training_before_it_starts(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    for part in ("data", "folds"):
        shutil.copytree(trained / part, home / part)
    monkeypatch.setenv("PIPELINE_HOME", str(home))
    (home / "data" / "demo" / "train" / "0003.jpg").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"0003\.jpg: not a readable photo \(zero bytes\)"):
        train.main([*COMPETITION, "--model", "yolov5n", "--fold", "0", *SMALL])
    assert not (home / "runs").exists()


def test_a_split_is_kept_and_another_one_is_refused_by_all_stages(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    monkeypatch.setenv("PIPELINE_HOME", str(home))
    other = [*COMPETITION, "--folds", "2", "--seed", "1"]
    with pytest.raises(PipelineError, match=r"fold0 and 7 more trained on this split, .* OVERWRITE=1"):
        folds.main(other)
    before = files_below(home)
    folds.main([*other, "--overwrite"])
    target = [*COMPETITION, "--model", "yolov5n", "--fold", "0"]
    with pytest.raises(PipelineError, match=r"yolov5n/fold1 was trained on another split .* OVERWRITE=1"):
        train.main([*target, *SMALL])
    with pytest.raises(PipelineError, match=r"yolov5n/fold0: trained on another split than"):
        predict.main([*target, "--views", "identity"])
    with pytest.raises(PipelineError, match="made with another split than the fold file holds now"):
        ensemble.main([*COMPETITION, "--ensemble", "final"])
    assert files_below(home) - before <= {"runs/demo/yolov5n/.fold0.lock"}


def test_predict_refuses_a_damaged_checkpoint(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    monkeypatch.setenv("PIPELINE_HOME", str(home))
    checkpoint = home / "runs" / "demo" / "yolov5n" / "fold0" / "best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"best\.pt: digest differs"):
        predict.main([*COMPETITION, "--model", "yolov5n", "--fold", "0", "--views", "vflip"])


def test_several_folds_and_models_are_predicted_in_one_process_as_one_by_one(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tables of the processes that trained them, bit for bit; a damaged run among them costs no other.

    One detector is in memory at a time.
    """
    home = tmp_path / "home"
    shutil.copytree(trained, home)
    monkeypatch.setenv("PIPELINE_HOME", str(home))
    runs = [Run("demo", model, fold) for model in MODELS for fold in (0, 1)]
    damaged = runs[2]
    damaged.checkpoint.write_bytes(damaged.checkpoint.read_bytes()[:1000])
    paths = [
        run.table_path(split, view) for run in runs for split in SPLITS for view in ("identity", "hflip")
    ]
    for path in paths:
        path.unlink()
    loaded: list[weakref.ref[Detector]] = []

    def load(run: Run, device: str) -> Detector:
        assert all(detector() is None for detector in loaded)
        detector = load_detector(run, device)
        loaded.append(weakref.ref(detector))
        return detector

    monkeypatch.setattr(predict, "load_detector", load)
    command = [*COMPETITION, "--model", ",".join(MODELS), "--fold", "folds", "--device", "cpu"]
    with pytest.raises(
        PipelineError, match=rf"1 of {len(runs)} trained folds not predicted.*: .*yolov5n/fold0$"
    ):
        predict.main([*command, "--views", "identity,hflip"])
    assert "best.pt: digest differs" in capsys.readouterr().out
    assert len(loaded) == len(runs) - 1
    for path in paths:
        assert path.exists() != path.is_relative_to(damaged.folder)
        if path.exists():
            made, before = read_predictions(path), read_predictions(trained / path.relative_to(home))
            for name in ("boxes_xyxy", "scores", "labels", "offsets"):
                assert np.array_equal(getattr(made, name), getattr(before, name))
            assert len(made.scores) > 0


def test_the_demo_ends_with_scores_and_a_sheet_of_photos(trained: Path) -> None:
    from PIL import Image

    from pipeline import demo as stage
    from pipeline.data.dataset import load_dataset, load_truth
    from pipeline.data.photos import photos_of
    from pipeline.data.sheet import draw_sheet

    ensemble.main([*COMPETITION, "--ensemble", "final"])
    profile = load_profile("demo")
    truth = load_truth(profile, "test")
    assert truth is not None and len(truth.annotations) > 0
    scores = stage.score_table(profile, load_dataset(profile, "train"), truth)
    assert list(scores.index) == [*stage.TRAININGS, "ensemble"]
    assert scores.to_numpy().min() >= 0 and scores.to_numpy().max() <= 1
    table = read_predictions(trained / "runs" / "demo" / "ensembles" / "final" / "test.parquet")
    photos = photos_of(profile, "test", truth.images)
    path = trained / "sheet.png"
    ids = truth.images["image_id"].tolist()
    draw_sheet(path, photos, ids, truth.annotations, table, profile.classes, min_score=1.0, side=100)
    with Image.open(path) as image:
        assert image.width == 4 * 106 + 6 and image.height == 106 + 6 + 26
        assert len(image.convert("RGB").getcolors(2**24) or []) > 1000


def test_two_trainings_of_one_run_at_a_time_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "fold0"
    refused = pytest.raises(PipelineError, match="another process is training")
    with only_one(run), refused, only_one(run):
        pass
    with only_one(run):
        pass


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("faster_rcnn_tiny", {"optim_wraper.lr": 1}, r"option 'optim_wraper\.lr': no 'optim_wraper' in"),
        ("yolov5n", {"epochs": 3}, r"option 'epochs' is set by the pipeline; use EPOCHS="),
        ("yolov5n", {"lr0": 0.1}, r"option 'lr0': optimizer=auto ignores it"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    model: str, options: dict[str, object], message: str
) -> None:
    config = find_model(model)
    with pytest.raises(PipelineError, match=message):
        load_backend(config.backend).resolve(config, Overrides(options=options))


def test_a_warm_up_ends_even_in_a_training_of_a_few_steps(trained: Path) -> None:
    schedule = started(job_of("faster_rcnn_tiny", epochs=1, batch=4)).param_scheduler
    (warm_up,) = [part for part in schedule if not part.get("by_epoch", True)]
    assert warm_up.end - warm_up.begin >= 2  # a linear ramp over one step stays at its start


def test_a_start_that_failed_does_not_lock_the_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a folder that holds a checkpoint is kept from another training."""
    description = Run("demo", "yolov5n", 0).job()
    assert description is not None
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    run, other = Run("demo", "yolov5n", 0), description.model_copy(update={"epochs": 2})
    folder = run.folder / "work" / "checkpoints"
    folder.mkdir(parents=True)
    run.write_job(description)
    check_same_job(run, other)
    (folder / "last-00001-0123456789abcdef.pth").touch()
    with pytest.raises(PipelineError, match="epochs 1, now asked for 2"):
        check_same_job(run, other)
