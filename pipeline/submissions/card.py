"""A submission and its card, which says how the file was made: members, digests, parameters, score."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipeline import __version__
from pipeline.data.dataset import load_dataset
from pipeline.data.ensemble_card import Ingredients, read_ensemble_card
from pipeline.data.predictions import check_belongs, read_predictions
from pipeline.data.profile import Profile
from pipeline.data.records import read_record, write_record
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import CARD, PROJECT, ensemble_dir, file_digest, shown, submission_csv
from pipeline.submissions.writer import write_submission


def git_revision() -> str | None:
    """Revision of the project's checkout, with `+changes` when files differ; None outside of git."""
    try:
        git = ["git", "-C", str(PROJECT)]
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


class SubmissionCard(Ingredients):
    """The card beside a submission: the ensemble it was written from, the file, and what the site said."""

    file: str = ""
    file_digest: str
    images: int = 0
    images_without_box: int = 0
    boxes: int = 0
    version: str = ""
    git_revision: str | None = None
    made_at: str = "?"
    public: str | None = None  # scores as the site gave them
    private: str | None = None
    submission: str | None = None  # the site's number

    def lines(self) -> list[str]:
        """What a person wants to see of a card before the file leaves."""
        own = self.oof.own
        score = "unknown" if own.value is None else f"{own.metric} {own.value:.4f}"
        interval = "" if own.low is None or own.high is None else f" ({own.low:.4f} to {own.high:.4f})"
        members = [
            f"{member.model} fold {member.fold} [{', '.join(member.views)}] weight {member.weight:g}"
            f"{'' if member in self.members else ', not measured'}"
            for member in (*self.members, *self.unmeasured)
        ]
        fusion = ", ".join(f"{key} {value}" for key, value in self.fusion.items())
        scores = {"public": self.public, "private": self.private}
        return [
            f"made:     {self.made_at}, revision {self.git_revision or 'unknown'}",
            f"file:     {self.boxes} boxes on {self.images} images, digest {self.file_digest}",
            f"fusion:   {fusion or 'unknown'}",
            *(f"{'members:' if k == 0 else '':9} {member}" for k, member in enumerate(members)),
            f"oof:      {score}{interval}",
            *(f"{name}:{'':{9 - len(name)}}{value}" for name, value in scores.items() if value),
        ]


def make_submission(profile: Profile, name: str) -> tuple[Path, SubmissionCard]:
    """Write the CSV and its card; returns the CSV's path and the card.

    Boxes below the cut that the ensemble was tuned with (a score a class) are left out.
    """
    folder = ensemble_dir(profile.name, name)
    test = load_dataset(profile, "test")
    with locked(folder):  # table and card are written one after the other
        ensemble = read_ensemble_card(profile.name, name)
        table = read_predictions(folder / "test.parquet")
        table_digest = file_digest(folder / "test.parquet")
    check_belongs(table, profile.name, test.digest, len(profile.classes))
    missing = np.setdiff1d(test.images["image_id"], table.meta.image_ids)
    if table.meta.split != "test" or len(missing):
        raise PipelineError(
            f"{table.name}: predicted {len(table.meta.image_ids)} of {len(test.images)} test images; the "
            f"first missing id is {missing[0] if len(missing) else '-'}"
        )
    if table_digest != ensemble.test_table_digest:
        raise PipelineError(
            f"{table.name}: is not the one that {shown(folder / CARD)} describes; make ensemble "
            f"COMP={profile.name} ENSEMBLE={name} again"
        )
    if ensemble.cut is not None and len(ensemble.cut) != len(profile.classes):
        raise PipelineError(
            f"{shown(folder / CARD)}: cut: expected {len(profile.classes)} numbers, one a class, "
            f"found {len(ensemble.cut)}; make ensemble COMP={profile.name} ENSEMBLE={name} again"
        )
    path = submission_csv(profile.name, name)
    cut = None if ensemble.cut is None else np.array(ensemble.cut, np.float32)
    with locked(path):
        written = write_submission(path, profile, table, test.images, cut)
        card = SubmissionCard(
            **dict(ensemble),
            file=path.name,
            file_digest=file_digest(path),
            images=len(test.images),
            images_without_box=int(len(test.images) - np.count_nonzero(np.diff(table.offsets))),
            boxes=written,
            version=__version__,
            git_revision=git_revision(),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        write_card(path, card)
    return path, card


def read_card(path: Path) -> SubmissionCard | None:
    """The card beside a submission; None where there is none, as for a file made elsewhere.

    Raises PipelineError when it is damaged, or describes another file of that name.
    """
    card_path = path.with_suffix(".json")
    if not card_path.exists():
        return None
    remedy = "make submission again, or remove the card if the file was made elsewhere"
    card = read_record(card_path, SubmissionCard, remedy)
    if card.file_digest != file_digest(path):
        raise PipelineError(f"{shown(path)}: is not the file that {shown(card_path)} describes; {remedy}")
    return card


def write_card(path: Path, card: SubmissionCard) -> None:
    """Write a card beside the submission at `path`."""
    write_record(path.with_suffix(".json"), card)


def card_lines(card: SubmissionCard | None) -> list[str]:
    return card.lines() if card else ["no card: the file was made elsewhere"]
