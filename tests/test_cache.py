"""Decoded photos that a training keeps: the weights stay the same, and no fault of the file does harm."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from every_backend import EXACT
from numpy.typing import NDArray

from pipeline import train
from pipeline.data.models import Overrides, find_model
from pipeline.data.photos import Photo, load_photo
from pipeline.data.profile import load_profile
from pipeline.data.runs import Run
from pipeline.errors import PipelineError
from pipeline.training import cache as caching
from pipeline.training.backend import load_backend
from pipeline.training.cache import PhotoCache, Slot, photo_cache
from pipeline.training.fold import Devices, plan_fold
from pipeline.training.job import CachePlan, CacheWish, TrainJob

TARGET = ["--competition", "demo", "--fold", "0", "--device", "cpu", "--batch", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, every_backend: None) -> Path:
    return tiny.write_demo(tmp_path_factory.mktemp("data"), 10, 128)


@pytest.fixture(autouse=True)
def at_home(data: Path, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_HOME", str(data))


def trained(model: str, *options: str) -> dict[str, torch.Tensor]:
    """The weights of a training of fold 0 from its beginning."""
    train.main([*TARGET, "--model", model, "--overwrite", *options, *EXACT[model]])
    return load_backend(find_model(model).backend).read_weights(Run("demo", model, 0).checkpoint)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_cache_in_full_size_changes_no_weight(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = trained("toy", "--epochs", "2")
    card = Run("demo", "toy", 0).card()
    size = f"5 of 5 photos in {5 * 3 * 128**2 / 1e9:.2f} GB"
    for place, workers in (("ram", "2"), ("disk", "0"), ("disk", "2")):
        capsys.readouterr()
        options = ("--cache", place, "--cache-full", "--workers", workers)
        assert same(trained("toy", "--epochs", "2", *options), without)
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("CACHE=")]
        assert lines[0].endswith("room for 5") and lines[1] == f"CACHE={place}: {size}"
        assert Run("demo", "toy", 0).card().config_digest == card.config_digest
    assert "5 of 5" in lines[0]  # the first training on the disk left them there
    assert len(list((data / "cache/demo").iterdir())) == 1


def test_reduced_photos_make_another_training_and_the_card_says_so(data: Path) -> None:
    full = plan("off").description
    trained("toy", "--epochs", "1", "--cache", "ram")
    card = Run("demo", "toy", 0).card()
    assert card.photo_side == 96 and full.photo_side is None  # 64 pixels, at most 1.5 times
    assert card.config_digest != full.config_digest
    with pytest.raises(PipelineError, match=r"photo_side 96, now asked for None"):
        train.main([*TARGET, "--model", "toy", "--epochs", "1", *EXACT["toy"]])


@pytest.mark.parametrize("model", ["faster_rcnn_tiny", "yolov5n"])
def test_frameworks_train_on_reduced_photos(model: str) -> None:
    """That those of full size change no weight is tested where a training is killed."""
    trained(model, "--epochs", "2", "--image-size", "64", "--cache", "ram")
    side = Run("demo", model, 0).card().photo_side
    assert side and 64 <= side < 128


def plan(place: str, full: bool = False) -> Any:
    overrides = Overrides(epochs=1, batch=4)
    return plan_fold(
        load_profile("demo"), find_model("toy"), 0, overrides, Devices("cpu", cache=CacheWish(place, full))
    )


class Counted:
    """A photo's decoding that counts how often it happens, and takes a while."""

    def __init__(self, photo: Photo, seconds: float = 0.0) -> None:
        self.photo, self.seconds, self.count = photo, seconds, 0

    def __call__(self) -> NDArray[np.uint8]:
        self.count += 1
        time.sleep(self.seconds)
        return load_photo(self.photo)


def read(cache: PhotoCache, photo: Photo) -> int:
    """How often reading a photo decoded it; its pixels are right."""
    decode = Counted(photo)
    assert np.array_equal(cache.read(str(photo.path), decode), load_photo(photo))
    return decode.count


@pytest.mark.parametrize("damage", ["flipped", "zeros", "cut", "half"])
def test_damaged_and_half_written_photos_are_written_again(tmp_path: Path, damage: str) -> None:
    photo = plan("off").job.train.photos[0]
    slot = Slot(4096, photo.height, photo.width)
    file = tmp_path / "file.photos"
    file.touch()

    def again() -> PhotoCache:
        return PhotoCache(str(file), {str(photo.path): slot})

    first = again()
    assert read(first, photo) == 1 and read(first, photo) == 0 and read(again(), photo) == 0
    good = file.read_bytes()
    bad = bytearray(good)
    if damage == "flipped":
        bad[slot.offset + 7777] ^= 4
    elif damage == "zeros":
        bad[slot.offset : slot.offset + 9000] = bytes(9000)
    elif damage == "half":
        bad[slot.offset + 5000 :] = bytes(len(good) - slot.offset - 5000)
    file.write_bytes(bad[:-100] if damage == "cut" else bad)
    assert read(again(), photo) == 1 and read(again(), photo) == 0
    assert file.read_bytes() == good and again().count() == (1, slot.pixels)


def test_a_full_disk_ends_the_caching_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    photo = plan("off").job.train.photos[0]
    cache = PhotoCache("/dev/full", {str(photo.path): Slot(0, photo.height, photo.width)})
    assert [read(cache, photo) for _ in range(3)] == [1, 1, 1]
    line = "cache: /dev/full: No space left on device; photos are decoded each time\n"
    assert capsys.readouterr().err == line
    assert cache.count() == (0, 0)


def test_a_folder_that_cannot_be_made_is_a_line_and_photos_keep_their_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file")
    job = replace(plan("off").job, cache_plan=CachePlan("disk", tmp_path / "cache", 64))
    with photo_cache(job) as cache:
        assert cache is not None
        image = cache.read(str(job.train.photos[0].path), Counted(job.train.photos[0]))
    assert image.shape == (64, 64, 3)
    assert "photos are decoded each time" in capsys.readouterr().out


def test_no_more_is_kept_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job: TrainJob = plan("ram", full=True).job
    slot = Slot(0, 128, 128).size
    monkeypatch.setattr(caching, "free_memory", lambda: 2 * (3 * slot + 100))
    with photo_cache(job) as cache:
        assert cache is not None
        counts = [[read(cache, photo) for photo in job.train.photos] for _ in range(2)]
        file = Path(str(cache.file))
        assert file.stat().st_blocks * 512 <= 3 * slot
    assert counts == [[1] * 5, [0, 0, 0, 1, 1]] and not file.exists()
    assert capsys.readouterr().out.splitlines()[0].endswith("room for 3")


def fill(job: TrainJob, seconds: float, answer: Any) -> None:
    with photo_cache(job) as cache:
        assert cache is not None
        for photo in job.train.photos:
            image = cache.read(str(photo.path), Counted(photo, seconds))
            answer.put(np.array_equal(image, load_photo(photo)))


def test_several_fill_one_file_and_a_kill_leaves_it_usable(tmp_path: Path) -> None:
    job = replace(plan("off").job, cache_plan=CachePlan("disk", tmp_path))
    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    processes = [fork.Process(target=fill, args=(job, seconds, answers)) for seconds in (0.03, 0.031, 0.2)]
    for process in processes:
        process.start()
    time.sleep(0.3)
    os.kill(processes[2].pid or 0, signal.SIGKILL)
    for process in processes:
        process.join(30)
    right = [answers.get() for _ in range(10)]
    assert all(right) and processes[0].exitcode == processes[1].exitcode == 0
    with photo_cache(job) as cache:
        assert cache is not None
        assert [read(cache, photo) for photo in job.train.photos] == [0] * 5
