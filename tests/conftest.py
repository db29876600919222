"""Fixtures that several test files share. What a tiny competition looks like is said in `tiny.py`."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import tiny

# The same examples on every run, and no limit of time on a busy machine.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent
SLOW = Path(__file__).with_name("slow.txt")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that slow.txt names by file, or by file and function."""
    names = {line for line in SLOW.read_text(encoding="utf-8").splitlines() if not line.startswith("#")}
    for item in items:
        test = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
        if names & {item.path.name, test}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PIPELINE_HOME (folds/, runs/, submissions/, data/, weights/)."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("PIPELINE_HOME", str(folder))
    monkeypatch.delenv("PIPELINE_WEIGHTS", raising=False)
    return folder


@pytest.fixture
def recycle(home: Path) -> Path:
    """Root of a tiny competition in the format of `recycle`, where the profile looks for it."""
    return tiny.write_coco(home / "data" / "recycle")


@pytest.fixture
def bccd(home: Path) -> Path:
    """Root of a tiny competition in the format of `bccd`, where the profile looks for it."""
    return tiny.write_voc(home / "data" / "bccd")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The development data: PIPELINE_DATA, or ../shared/data beside the repository."""
    folder = Path(os.environ.get("PIPELINE_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder} (set PIPELINE_DATA)")
    return folder


@pytest.fixture(scope="module")
def every_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The models of `every_backend.MODELS` are there, the toy backend's included."""
    from every_backend import register

    with pytest.MonkeyPatch.context() as patch:
        register(tmp_path_factory.mktemp("backends") / "configs", patch)
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Tiny networks are quickest on one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
