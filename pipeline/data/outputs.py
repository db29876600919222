"""What a result may not replace: what is read for it, and what runs and competitions keep."""

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.paths import CARD, shown


def check_output(target: Path, inputs: Iterable[Path], folder: Path | None = None) -> None:
    """Raise PipelineError where writing `target` would replace a file that is no result of the same command.

    inputs: files that are read; links are followed. folder: of a competition's data, all of which stay.
    """
    if not target.exists():
        return
    for path in inputs:
        if path.exists() and path.samefile(target):
            raise PipelineError(
                f"{shown(target)}: is read too, as {shown(path)}; give the result another name"
            )
    whole = target.resolve()
    described = [parent for parent in list(whole.parents)[:2] if (parent / CARD).is_file()]
    if described and target.name != "metrics.json":  # which `evaluate` writes there itself
        raise PipelineError(
            f"{shown(target)}: belongs to {shown(described[0])}, as its {CARD} says; give the result another "
            "name"
        )
    if folder and whole.is_relative_to(folder.resolve()):
        raise PipelineError(
            f"{shown(target)}: is data of the competition in {shown(folder)}; write elsewhere, or remove it "
            "first"
        )
