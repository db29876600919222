"""Trainings in trouble: cut off, damaged checkpoints, losses that are not finite, memory that runs out."""

import csv
import errno
import importlib
import json
import math
import os
import re
import resource
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from every_backend import EXACT, MODELS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from pipeline import train
from pipeline.data.models import Overrides, find_model
from pipeline.data.profile import load_profile
from pipeline.data.records import read_record
from pipeline.data.run_card import RecoveryNote
from pipeline.errors import LostProcessError, NoMemoryError, PipelineError
from pipeline.inference.memory import is_out_of_memory
from pipeline.paths import PROJECT
from pipeline.processes import python_path
from pipeline.training import recipe, recovery, sampling
from pipeline.training.backend import SavedModel, load_backend
from pipeline.training.checkpoints import BEST, LAST, Checkpoints, save_tensors
from pipeline.training.fit import fit_here
from pipeline.training.fold import Devices, plan_fold
from pipeline.training.job import SHARED_GPU, TrainJob
from pipeline.training.network import NetworkBackend
from pipeline.training.progress import PROGRESS, Progress, ProgressRecord
from pipeline.training.session import CHECK_STEPS, Session, checkpoints_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, every_backend: None) -> Path:
    """Home with the data and folds of a tiny competition."""
    return tiny.write_demo(tmp_path_factory.mktemp("data"), 8, 64)


@pytest.fixture
def enter(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make and enter a home that shares the data; returns where fold 0 of a model will lie."""

    def enter(name: str) -> Path:
        home = tmp_path / name
        home.mkdir()
        for part in ("data", "folds"):
            (home / part).symlink_to(data / part)
        monkeypatch.setenv("PIPELINE_HOME", str(home))
        return home / "runs" / "demo"

    return enter


def fit(model: str, epochs: int, *more: str) -> None:
    train.main(
        [
            "--competition",
            "demo",
            "--model",
            model,
            "--fold",
            "0",
            "--epochs",
            str(epochs),
            "--image-size",
            "64",
            "--batch",
            "4",
            "--device",
            "cpu",
            *EXACT.get(model, []),
            *more,
        ]
    )


def fit_until(model: str, epochs: int, stop: int, patch: pytest.MonkeyPatch, *more: str) -> None:
    """Train, cut off by Ctrl-C in the first step after `stop` epochs."""
    step = Progress.step

    def interrupted(self: Progress, loss: float) -> None:
        if self.epoch == stop:
            raise KeyboardInterrupt
        step(self, loss)

    with patch.context() as inner:
        inner.setattr(Progress, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(model, epochs, *more)


def history(run: Path) -> list[tuple[str, str, str]]:
    with open(run / "history.csv", newline="") as file:
        return [(row["epoch"], row["loss"], row["map50"]) for row in csv.DictReader(file)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    card = json.loads((run / "card.json").read_text())
    return load_backend(card["backend"]).read_weights(run / card["checkpoint"])


@pytest.mark.parametrize("model", [*MODELS, "mask_rcnn_tiny"])
def test_a_resumed_training_is_the_undisturbed_one(
    model: str, enter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 + 2 epochs and 4 epochs: the same losses, scores and weights, to the last bit on a CPU."""
    whole = enter("whole") / model / "fold0"
    fit(model, 4)
    cut = enter("cut") / model / "fold0"
    fit_until(model, 4, 2, monkeypatch)
    fit(model, 4)
    assert len(history(whole)) == 4
    assert history(cut) == history(whole)
    expected, found = weights(whole), weights(cut)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("model", ["faster_rcnn_tiny", "yolov5n", "toy"])
def test_a_resumed_training_with_a_recipe_is_the_undisturbed_one(
    model: str, enter: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos are repeated, and mixed but in the last epoch; the second time another process reads them."""
    words = "sampling: balanced, ema: 0.9, schedule: linear, nominal_batch: 8"
    (tmp_path / "all.yaml").write_text(f"{{_base_: {recipe.FOLDER}/strong.yaml, {words}}}")
    monkeypatch.setattr(recipe, "FOLDER", tmp_path)
    monkeypatch.setattr(sampling, "RARE", 0.8)
    whole = enter("whole") / model / "fold0"
    fit(model, 3, "--recipe", "all")
    assert re.search("balanced sampling: [1-9][0-9]*% .* grows by [1-9]", (whole / "train.log").read_text())
    cut = enter("cut") / model / "fold0"
    fit_until(model, 3, 1, monkeypatch, "--recipe", "all", "--workers", "1")
    fit(model, 3, "--recipe", "all", "--workers", "1")
    assert history(cut) == history(whole)
    expected, found = weights(whole), weights(cut)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("model", MODELS)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(
    model: str,
    enter: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = enter("home") / model / "fold0"
    fit_until(model, 3, 2, monkeypatch)
    (newest,) = (run / "work/checkpoints").glob(f"{LAST}-00002-*")
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1  # one bit
    newest.write_bytes(data)
    fit(model, 3)
    said = capsys.readouterr().out
    assert re.search(r"last-00002-\w+\.pth?: damaged, .* set aside as damaged-last-00002", said)
    assert said.count("epoch 2/3") == 2 and said.count("epoch 1/3") == 1
    assert [row[0] for row in history(run)] == ["1", "2", "3"]


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_without_a_network_is_refused_in_one_line(
    model: str, enter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record of the session is whole, and so is its digest."""
    work = enter("home") / model / "fold0/work"
    fit_until(model, 2, 1, monkeypatch)
    checkpoints = checkpoints_of(work, load_backend(find_model(model).backend).suffix)
    held = load_backend(find_model(model).backend).read_checkpoint(checkpoints.newest(LAST))
    networks = {
        key: type(value)() for key, value in held.items() if key in ("model", "state_dict", "weights")
    }
    for changed in (held | networks, {key: value for key, value in held.items() if key not in networks}):
        with checkpoints.write(LAST, 1) as path:
            save_tensors(changed, path)
        with pytest.raises(PipelineError, match=r"damaged checkpoints, or of another version .* OVERWRITE=1"):
            fit(model, 2)


def poison(patch: pytest.MonkeyPatch, times: int) -> None:
    """Make the loss of the second epoch NaN, so often."""
    left = iter(range(times))

    def due(epoch: int) -> bool:
        return epoch == 1 and next(left, None) is not None

    step = Session.step

    def poisoned(self: Session, losses: Any) -> None:
        step(self, torch.tensor(float("nan")) if due(self.epoch) else losses)

    patch.setattr(Session, "step", poisoned)


@pytest.mark.parametrize("model", MODELS)
def test_a_loss_that_is_not_finite_halves_the_learning_rate_once(
    model: str,
    enter: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = enter("once") / model / "fold0"
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def spy(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[-1]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    with monkeypatch.context() as patch:
        poison(patch, times=1)
        fit(model, 2)
    assert f"{model} fold0: loss is nan at epoch 2" in capsys.readouterr().out
    assert [row[0] for row in history(run)] == ["1", "2"]
    assert json.loads((run / "card.json").read_text())["recovery"] == {"parts": 1, "lr_factor": 0.5}
    _, poisoned, again = rates  # a step an epoch
    assert again == pytest.approx(poisoned / 2)


def test_a_loss_that_is_not_finite_twice_ends_the_training(
    enter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    enter("home")
    poison(monkeypatch, times=2)
    with pytest.raises(PipelineError, match=r"half the learning rate: gave up"):
        fit("yolov5n", 2)


@pytest.mark.parametrize("model", MODELS)
def test_out_of_memory_halves_the_photos_at_once_and_says_so(
    model: str,
    enter: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = enter("home") / model / "fold0"
    forward, seen = torch.nn.Conv2d.forward, []

    def small(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        if self.training:
            seen.append(x.shape[0])
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", small)
    fit(model, 1)
    assert "going on with 2 photos at a time instead of 4" in capsys.readouterr().out
    assert json.loads((run / "card.json").read_text())["recovery"] == {"parts": 2, "lr_factor": 1.0}
    assert max(seen) == 2


def test_out_of_memory_with_one_photo_is_one_clear_line(tmp_path: Path) -> None:
    tried = []

    def attempt(plan: RecoveryNote) -> None:
        tried.append(plan.photos_at_once(5))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore words")

    with pytest.raises(PipelineError, match=r"^m: out of GPU memory with one photo at a time; .*2 GiB\)$"):
        recovery.recovering("m", tmp_path, 5, attempt)
    assert tried == [5, 3, 2, 1]


def test_out_of_memory_beside_other_trainings_ends_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried alone with its whole batch: nothing is decided."""
    monkeypatch.setenv(SHARED_GPU, "1")

    def attempt(plan: RecoveryNote) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    with pytest.raises(NoMemoryError, match=r"^m: out of GPU memory beside other trainings"):
        recovery.recovering("m", tmp_path, 5, attempt)
    assert recovery.read_recovery(tmp_path) == RecoveryNote()


class _Runner:
    """Like a framework's that fails: in a reference cycle, and with more reading processes than batches."""

    def __init__(self) -> None:
        self.itself = self
        photos = [torch.zeros(3, 8, 8)] * 2
        self.loader = DataLoader(photos, 2, num_workers=2, persistent_workers=True)

    def run(self, readers: list[Any], fails: bool) -> None:
        iterator = iter(self.loader)
        readers += iterator._workers
        next(iterator)
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory")


def test_reading_processes_end_in_order_when_a_training_does(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector closes their pipes first: threads then fail, and readers are killed."""
    readers: list[Any] = []
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def fit(self: Any, job: TrainJob, session: Session) -> None:
        _Runner().run(readers, fails=session.recovery.parts == 1)

    monkeypatch.setattr(NetworkBackend, "fit", fit)
    recovery.recovering("m", session.job.work, 2, lambda note: fit_here(session.job, note))
    assert [reader.exitcode for reader in readers] == [0] * 4
    assert not failed


class _Square(torch.nn.Module):
    """Stands for a detector of mmengine's: the loss is the mean over its photos."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)

    def data_preprocessor(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        return {"x": torch.stack(data["inputs"]), "y": torch.stack(data["data_samples"])}

    def _run_forward(self, data: dict[str, Any], mode: str) -> dict[str, torch.Tensor]:
        return {"loss": ((self.layer(data["x"]) - data["y"]) ** 2).mean()}

    def parse_losses(self, losses: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return losses["loss"], losses


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_a_step_in_parts_is_the_step_of_the_whole_batch(parts: int) -> None:
    from mmengine.optim import OptimWrapper

    from pipeline.backends.mmdet_runner import step_in_parts

    torch.manual_seed(0)
    whole = _Square()
    cut = _Square()
    cut.load_state_dict(whole.state_dict())
    batch = {"inputs": list(torch.randn(5, 3)), "data_samples": list(torch.randn(5, 1))}
    expected = ((whole.layer(torch.stack(batch["inputs"])) - torch.stack(batch["data_samples"])) ** 2).mean()
    expected.backward()
    torch.optim.SGD(whole.parameters(), lr=0.1).step()
    wrapper = OptimWrapper(torch.optim.SGD(cut.parameters(), lr=0.1))
    logs = step_in_parts(cut, wrapper, batch, parts)
    torch.testing.assert_close(logs["loss"], expected.detach())
    torch.testing.assert_close(cut.layer.weight, whole.layer.weight)
    assert wrapper._inner_count == 1  # one batch, whatever its parts


def test_ultralytics_keeps_the_photos_of_a_step_and_their_weight_decay() -> None:
    """accumulate = max(round(nbs / batch), 1); decay = weight_decay * batch * accumulate / nbs."""
    from pipeline.backends.ultralytics_trainer import in_parts

    def step(a: dict[str, Any]) -> tuple[int, float]:
        accumulate = max(round(a["nbs"] / a["batch"]), 1)
        return a["batch"] * accumulate, a["weight_decay"] * a["batch"] * accumulate / a["nbs"]

    for batch in (16, 64, 128, 256):
        plain = {"batch": batch, "nbs": 64, "weight_decay": 0.0005}
        for parts in (1, 2, 4):
            assert step(plain | in_parts(plain, RecoveryNote(parts=parts))) == pytest.approx(step(plain))


def test_a_step_uses_a_part_of_the_learning_rates_which_come_back_exactly() -> None:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.1}, {"params": weights[1:]}], lr=0.3)
    recovery.scale_steps(optimizer, 1 / 3)
    for weight in weights:
        weight.grad = torch.ones(1)
    optimizer.step()
    assert [weight.item() for weight in weights] == pytest.approx([-0.1 / 3, -0.1])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3]


def test_checkpoints_keep_two_and_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path, ".pt")
    assert store.newest(LAST) is None and store.epoch(LAST) == 0
    for epoch in (1, 2, 3):
        with store.write(LAST, epoch) as path:
            path.write_text(f"epoch {epoch}")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["epoch 2", "epoch 3"]

    def fail() -> None:
        with store.write(LAST, 4) as path:
            path.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert store.epoch(LAST) == 3 and store.newest(BEST) is None
    with store.write(LAST, 2) as path:  # after a step back
        path.write_text("epoch 2 again")
    newest = store.newest(LAST)
    assert newest is not None and newest.read_text() == "epoch 3"


@pytest.fixture
def session(enter: Callable[[str], Path]) -> Session:
    """Of a training that has begun nothing yet, with losses that are looked at as seldom as on a GPU."""
    enter("home")
    job = plan_fold(load_profile("demo"), find_model("toy"), 0, Overrides(), Devices("cpu")).job
    job.run.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CHECK_STEPS, "cpu", 50)
        return Session(job, RecoveryNote(), ".pth")


def train_epoch(session: Session, layer: torch.nn.Module, loss: float = 1.0) -> None:
    session.begin_epoch()
    session.step(torch.tensor(loss))
    session.end_epoch(0.5, [layer], lambda whole: {"weights": layer.state_dict(), "step": [session.epoch]})


def test_a_training_says_how_many_photos_it_learned_from(session: Session) -> None:
    layer, photos = torch.nn.Linear(2, 2), len(session.job.train.photos)
    with session:
        session.begin(3, 1, torch.optim.SGD(layer.parameters()))
        train_epoch(session, layer)
        train_epoch(session, layer)
        record = read_record(session.job.run / PROGRESS, ProgressRecord, "")
    assert record.photos == 2 * photos and record.memory == 0 and record.epoch == 2
    again = Session(session.job, session.recovery, ".pth")
    again.epoch = 2  # it goes on
    with again:
        again.begin(3, 1, torch.optim.SGD(layer.parameters()))
        train_epoch(again, layer)
        assert read_record(session.job.run / PROGRESS, ProgressRecord, "").photos == photos


def on_the_thread(patch: pytest.MonkeyPatch, before: Callable[[], Any]) -> None:
    """Call something before a checkpoint is synced."""
    sync = os.fsync

    def patched(file: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            before()
        sync(file)

    patch.setattr(os, "fsync", patched)


def test_a_checkpoint_is_that_of_its_epoch_though_written_while_the_next_one_runs(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_epoch_ran = threading.Event()
    on_the_thread(monkeypatch, lambda: next_epoch_ran.wait(20))
    layer = torch.nn.BatchNorm2d(2)
    with session:
        train_epoch(session, layer)
        session.begin_epoch()
        torch.nn.init.zeros_(layer.weight)
        session.step(torch.tensor(1.0))
        assert session.checkpoints.newest(LAST) is None
        next_epoch_ran.set()
    for kind in (BEST, LAST):
        newest = session.checkpoints.newest(kind)
        assert newest is not None
        held = torch.load(newest, weights_only=True)
        assert held["weights"]["weight"].tolist() == [1, 1] and held["step"] == [1]
        assert held["weights"]._metadata == layer.state_dict()._metadata  # type: ignore[attr-defined]


def test_a_full_disk_ends_a_training_at_its_next_step_or_at_its_end(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Linear(2, 1)
    with session:
        train_epoch(session, layer)

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    on_the_thread(monkeypatch, full)

    def train_on(again: Session, steps: int) -> None:
        with again:
            train_epoch(again, layer)
            for _ in range(steps):
                again.step(torch.tensor(1.0))
            assert not steps, "a step told of it"

    for steps in (0, 10**6):
        again = Session(session.job, session.recovery, ".pth")
        with pytest.raises(OSError, match="No space left"):
            train_on(again, steps)
        whole = {again.checkpoints.newest(kind) for kind in (BEST, LAST)}
        assert set(again.checkpoints.folder.iterdir()) == whole, "nothing half-written"


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_no_checkpoint_is_written_after_a_nan(session: Session, what: str) -> None:
    layer = torch.nn.Linear(2, 1)
    with session:
        train_epoch(session, layer)
        torch.nn.init.constant_(layer.bias, math.nan if what == "weights" else 0)
        with pytest.raises(recovery.LossNotFiniteError, match=rf"{what}.* epoch 2"):
            train_epoch(session, layer, math.nan if what == "loss" else 1.0)
    assert session.checkpoints.epoch(LAST) == session.checkpoints.epoch(BEST) == 1


def test_a_training_without_room_for_a_checkpoint_says_so_and_goes_on_later(
    enter: Callable[[str], Path],
) -> None:
    run = enter("home") / "toy" / "fold0"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fit("toy", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "work/checkpoints" in caught.value.filename and not list(run.glob("work/checkpoints/.*"))
    fit("toy", 2)
    assert len(history(run)) == 2


class Waits(TorchDispatchMode):
    """Notes the lines of the pipeline that read a tensor's value, for which the host waits for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.lines = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            stack = traceback.extract_stack()[:-1]
            if not any("/torch/utils/data/" in frame.filename for frame in stack):  # what is read is no wait
                (*_, caller) = (frame for frame in stack if "/torch/" not in frame.filename)
                self.lines.append(f"{caller.filename}:{caller.lineno}")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("model", MODELS)
def test_nothing_of_ours_waits_for_the_device_between_two_steps(
    model: str, enter: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the frameworks do of their own stays: ultralytics' bar, and sampling."""
    enter("home")
    monkeypatch.setitem(CHECK_STEPS, "cpu", 50)
    step, waits = Session.step, Waits()

    def counted(self: Session, losses: Any) -> None:
        step(self, losses)
        waits.steps += 1
        if waits.steps == 1:
            waits.__enter__()
        elif waits.steps == 3:
            waits.__exit__(None, None, None)

    monkeypatch.setattr(Session, "step", counted)
    fit(model, 1, "--batch", "1")
    assert waits.steps == 4
    assert not [line for line in waits.lines if line.startswith(str(PROJECT / "pipeline"))]


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("bomb-went-off"),))


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_that_holds_code_is_refused_and_the_code_not_run(
    model: str, enter: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmengine.logging.history_buffer import HistoryBuffer

    from pipeline.backends.mmdet import load_weights
    from pipeline.data.models import find_model

    enter("home")
    monkeypatch.chdir(tmp_path)
    backend = load_backend(find_model(model).backend)
    bad = tmp_path / f"bad{backend.suffix}"
    torch.save({"model": _Bomb(), "state_dict": _Bomb(), "meta": {}}, bad)
    whole = tmp_path / "whole.pth"
    torch.save({"state_dict": {}, "log": HistoryBuffer([1.0], [1])}, whole)  # as in mmengine's checkpoints
    job = plan_fold(load_profile("demo"), find_model(model), 0, Overrides(), Devices("cpu")).job
    saved = SavedModel(model, bad, backend.saved_config(job), ("a",))
    with pytest.raises(PipelineError, match=r"bad\.pth?: .*(plain weights|not a whole checkpoint)"):
        backend.load(saved, "cpu")
    for resumed in (backend.read_checkpoint, backend.read_weights):
        with pytest.raises(PipelineError, match=r"bad\.pth?: .*(plain weights|not a whole checkpoint)"):
            resumed(bad)
    assert not (tmp_path / "bomb-went-off").exists()
    assert load_weights(whole)["state_dict"] == {}, "and whole ones are read as before"


def test_a_photo_that_turns_unreadable_is_named_and_nothing_is_lost(
    enter: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = enter("home") / "faster_rcnn_tiny" / "fold0"
    with open(data / "folds/demo/folds.csv", newline="") as file:
        name = next(row["file_name"] for row in csv.DictReader(file) if row["fold"] == "1")
    photo = data / "data/demo" / name
    whole = photo.read_bytes()
    step = Progress.step

    def spoil(self: Progress, loss: float) -> None:
        step(self, loss)
        if self.epoch == 1:
            photo.write_bytes(b"")

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "step", spoil)
            with pytest.raises(PipelineError, match=rf"{Path(name).name}: not a read"):
                fit("faster_rcnn_tiny", 3)
    finally:
        photo.write_bytes(whole)
    assert len(list((run / "work/checkpoints").glob("last-*"))) >= 1
    fit("faster_rcnn_tiny", 3)
    assert [row[0] for row in history(run)] == ["1", "2", "3"]


def test_a_whole_run_whose_checkpoint_is_damaged_is_trained_again(
    enter: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = enter("home") / "yolov5n" / "fold0"
    fit("yolov5n", 1)
    whole = weights(run)
    checkpoint = run / "best.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    capsys.readouterr()
    fit("yolov5n", 1)
    assert "best.pt: damaged or gone; trained again" in capsys.readouterr().out
    assert (run / "damaged-best.pt").is_file()
    again = weights(run)
    assert all(torch.equal(whole[key], again[key]) for key in whole), "the same seed, the same weights"


@pytest.mark.parametrize(
    ("cause", "raised"),
    [
        (recovery.LossNotFiniteError("m: loss is nan"), recovery.LossNotFiniteError),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), RuntimeError),
        (PipelineError("photo.jpg: not a readable photo"), PipelineError),
    ],
)
def test_of_what_several_processes_met_the_cause_is_raised(
    cause: Exception, raised: type[Exception], enter: Callable[[str], Path]
) -> None:
    """Not that another process went, or that others lost touch with it, whichever was seen first."""
    pytest.importorskip("ray")
    from ray.exceptions import ActorDiedError, OutOfMemoryError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

    from pipeline.training.processes import cause_of

    enter("home")
    job = plan_fold(load_profile("demo"), find_model("faster_rcnn_tiny"), 0, Overrides(), Devices("cpu")).job
    touch = ConnectionError("lost touch with another process: connection closed by peer")
    killed = WorkerHealthCheckFailedError("A worker health check failed.", ActorDiedError())
    error = cause_of(job, [touch, killed, cause], "report")
    assert type(error) is raised and str(error) == str(cause)
    assert is_out_of_memory(error) == ("memory" in str(cause))
    assert type(cause_of(job, [touch, killed], "")) is type(cause_of(job, [touch], "")) is LostProcessError
    full = WorkerHealthCheckFailedError("A worker health check failed.", OutOfMemoryError("killed"))
    assert type(cause_of(job, [touch, full], "")) is NoMemoryError


def test_the_batch_is_that_of_one_gpu_and_the_learning_rate_follows_all_of_them(
    enter: Callable[[str], Path], tmp_path: Path
) -> None:
    """mmengine: lr * (GPUs * batch) / base_batch_size; the warm-up is in steps of all GPUs."""
    from pipeline.backends.mmdet_runner import runner_config

    enter("home")
    overrides, devices = Overrides(epochs=40, batch=1), Devices("cpu", workers=0)
    job = plan_fold(load_profile("demo"), find_model("faster_rcnn_tiny"), 0, overrides, devices).job
    one, four = runner_config(job), runner_config(replace(job, gpus=4))
    assert one.train_dataloader.batch_size == four.train_dataloader.batch_size == 1
    assert four.auto_scale_lr == dict(enable=True, base_batch_size=16)
    warm_up = [next(p for p in cfg.param_scheduler if not p.get("by_epoch", True)) for cfg in (one, four)]
    assert [part["end"] for part in warm_up] == [40 * 4 // 10, 40 * 1 // 10]


NOTE = """
import json
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Note(Hook):
    priority = "LOWEST"
    def before_val_epoch(self, runner):
        average = next(hook.ema_model for hook in runner.hooks if hasattr(hook, "ema_model"))
        found = [b.double().sum().item() for m in (runner.model, average) for b in m.buffers()]
        open(f"{runner.work_dir}/../../rank{get_rank()}.json", "w").write(json.dumps(found))
"""


# Ray's own processes start slowly enough.
IN_WORKERS = """
import sys
if any(argument.endswith("default_worker.py") for argument in sys.orig_argv):
    import note_hook
"""


def test_two_processes_train_one_model(
    enter: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through Ray Train; before they validate, they agree on the statistics of batch norms, and on
    those of the weights' running average."""
    for backend in ("mmdet", "ultralytics"):
        (tmp_path / "configs" / backend).mkdir(parents=True)
    (tmp_path / "configs" / "mmdet" / "averaged.py").write_text(
        f"_base_ = {str(PROJECT / 'configs/mmdet/faster_rcnn_tiny.py')!r}\n"
        "custom_hooks = [dict(type='EMAHook'), dict(type='Note')]\n"
    )
    (tmp_path / "note_hook.py").write_text(NOTE)
    (tmp_path / "sitecustomize.py").write_text(IN_WORKERS)
    monkeypatch.setattr("pipeline.data.models.CONFIGS", tmp_path / "configs")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("note_hook")
    run = enter("home") / "averaged" / "fold0"
    options = "--epochs 1 --batch 1 --image-size 64 --device cpu --workers 0 --gpus 2"
    train.main(["--competition", "demo", "--model", "averaged", "--fold", "0", *options.split()])
    card = json.loads((run / "card.json").read_text())
    assert (card["gpus"], card["batch"], card["trained_photos"]) == (2, 1, 4)
    assert (run / "train.log").read_text().count("Epoch(train) [1][2/2]") == 1
    assert len((run / "history.csv").read_text().splitlines()) == 2
    notes = [json.loads((run / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert len(notes[0]) > 100 and notes[0] == notes[1]


def test_a_process_finds_the_pipeline_and_what_it_found_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/modules")
    assert python_path() == {"PYTHONPATH": f"{PROJECT}:/modules"}
    monkeypatch.delenv("PYTHONPATH")
    assert python_path() == {"PYTHONPATH": str(PROJECT)}
