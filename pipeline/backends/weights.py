"""Pretrained weights: the local folder first, then the framework's own download, else from scratch."""

from pathlib import Path

from pipeline.paths import shown, weights_dir


def local_weights(name: str) -> Path | None:
    """A file of the weights folder by its file name, or by its name up to the hash (`resnet50-*`)."""
    folder = weights_dir()
    base = name.split("://")[-1].split("?")[0].rsplit("/", 1)[-1]
    if not base or not folder.is_dir():
        return None
    stem, dot, _ = base.partition(".")
    candidates = [folder / base] if dot else []
    candidates += sorted(folder.glob(f"{stem}.pt*")) + sorted(folder.glob(f"{stem}-*.pt*"))
    return next((path for path in candidates if path.is_file()), None)


def say_scratch(model: str, wanted: str, reason: str) -> str:
    """Print the one line that says a training starts without pretrained weights; returns the note."""
    print(
        f"{model}: training from scratch: no {wanted.rsplit('/', 1)[-1]} in {shown(weights_dir())} "
        f"and the download failed ({reason})"
    )
    return "from scratch"
