"""Pretrained weights: files that are what their names say, and whole detectors whose classes differ."""

import hashlib
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.errors import PipelineError
from pipeline.training.backend import WantedWeights
from pipeline.training.weights import check_digest, find_weights


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIPELINE_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("PIPELINE_HOME", str(tmp_path))
    return tmp_path


def test_eight_digits_in_a_files_name_begin_its_sha256(folder: Path) -> None:
    content = b"weights"
    digest = hashlib.sha256(content).hexdigest()
    right, wrong = folder / f"net-{digest[:8]}.pth", folder / "net-0123abcd.pth"
    for path in (right, wrong):
        path.write_bytes(content)
    assert check_digest(right) == digest
    with pytest.raises(
        PipelineError, match=rf"net-0123abcd\.pth: its SHA-256 begins with {digest[:8]}"
    ) as it:
        find_weights(cast(Any, _Any()), "m", WantedWeights("https://host/net-0123abcd.pth"))
    assert "\n" not in str(it.value) and len(str(it.value)) <= 300
    assert not (folder / "manifest.csv").exists()


def test_a_file_without_digits_is_noted_at_first_use_and_a_later_difference_refused(folder: Path) -> None:
    path = folder / "net_20200130.pth"
    path.write_bytes(b"weights")
    digest = check_digest(path)
    assert (folder / "manifest.csv").read_text() == f"file,sha256\nnet_20200130.pth,{digest}\n"
    assert check_digest(path) == digest
    (folder / "other.pt").write_bytes(b"others")
    check_digest(folder / "other.pt")
    path.write_bytes(b"Weights")
    with pytest.raises(PipelineError, match=r"net_20200130\.pth: its SHA-256 is .*at first use it was"):
        check_digest(path)
    path.write_bytes(b"weights")
    assert check_digest(path) == digest
    assert len((folder / "manifest.csv").read_text().splitlines()) == 3
    (folder / "manifest.csv").write_text("file\n")
    with pytest.raises(PipelineError, match=r"manifest\.csv: expected rows of file, sha256; remove it"):
        check_digest(path)


WIDTH = 64  # of torchvision's smallest: photos of 64 pixels
SHOWN = {  # model, its first and its other classes
    "faster_rcnn_tiny": "load_from",
    "yolov5n": "weights",
    "tv_ssdlite320": "weights",
}


class _Any:
    """A backend that reads everything."""

    def read_checkpoint(self, path: Path) -> dict[str, Any]:
        return {}
