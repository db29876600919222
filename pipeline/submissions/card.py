"""A submission and its card, which says how the file was made: members, digests, parameters, score."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import __version__
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import check_belongs, read_predictions
from pipeline.data.profile import Profile
from pipeline.errors import PipelineError
from pipeline.paths import PROJECT, ensemble_dir, file_digest, shown, submission_csv, write_json
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


def make_submission(profile: Profile, name: str) -> tuple[Path, dict[str, Any]]:
    """Write the CSV and its card; returns the CSV's path and the card.

    Boxes below the cut that the ensemble was tuned with (a score a class) are left out.
    """
    folder = ensemble_dir(profile.name, name)
    if not (folder / "card.json").is_file():
        raise PipelineError(
            f"{shown(folder)}: no ensemble yet; make ensemble COMP={profile.name} ENSEMBLE={name}"
        )
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    test = load_dataset(profile, "test")
    table = read_predictions(folder / "test.parquet")
    check_belongs(table, profile.name, test.digest, len(profile.classes))
    missing = np.setdiff1d(test.images["image_id"], table.meta.image_ids)
    if table.meta.split != "test" or len(missing):
        raise PipelineError(
            f"{table.name}: predicted {len(table.meta.image_ids)} of {len(test.images)} test images; the "
            f"first missing id is {missing[0] if len(missing) else '-'}"
        )
    if file_digest(folder / "test.parquet") != card.get("test_table_digest"):
        raise PipelineError(
            f"{table.name}: is not the one that {shown(folder / 'card.json')} describes; make ensemble "
            f"COMP={profile.name} ENSEMBLE={name} again"
        )
    path = submission_csv(profile.name, name)
    cut = None if card.get("cut") is None else np.array(card["cut"], np.float32)
    written = write_submission(path, profile, table, test.images, cut)
    card |= {
        "file": path.name,
        "file_digest": file_digest(path),
        "images": len(test.images),
        "images_without_box": int(len(test.images) - np.count_nonzero(np.diff(table.offsets))),
        "boxes": written,
        "version": __version__,
        "git_revision": git_revision(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(path.with_suffix(".json"), card)
    return path, card


def read_card(path: Path) -> dict[str, Any]:
    """The card beside a submission; empty where there is none, as for a file made elsewhere.

    Raises PipelineError when the card describes another file of that name.
    """
    card_path = path.with_suffix(".json")
    if not card_path.is_file():
        return {}
    try:
        card = json.loads(card_path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(f"{shown(card_path)}: not a whole json file ({error}); write it again") from None
    if not isinstance(card, dict):
        raise PipelineError(f"{shown(card_path)}: expected a mapping; write the submission again")
    if card.get("file_digest") != file_digest(path):
        raise PipelineError(
            f"{shown(path)}: is not the file that {shown(card_path)} describes; write it again, or remove "
            "the card if the file was made elsewhere"
        )
    return card


def oof_score(card: dict[str, Any]) -> tuple[str, float | None, float | None, float | None]:
    """(metric, score, low, high) out-of-fold as the card has them, None for what it lacks."""
    oof = card.get("oof") or {}
    own = oof.get("competition") or {"metric": "map50", "value": oof.get("map50")}
    return str(own["metric"]), own["value"], own.get("low"), own.get("high")


def card_lines(card: dict[str, Any]) -> list[str]:
    """What a person wants to see of a card before the file leaves."""
    if not card:
        return ["no card: the file was made elsewhere"]
    metric, score, low, high = oof_score(card)
    interval = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    members = [
        f"{m['model']} fold {m['fold']} [{', '.join(m['views'])}] weight {m['weight']:g}"
        for m in card.get("members", [])
    ]
    fusion = ", ".join(f"{key} {value}" for key, value in card.get("fusion", {}).items())
    return [
        f"made:     {card.get('made_at', '?')}, revision {card.get('git_revision') or 'unknown'}",
        f"file:     {card.get('boxes', '?')} boxes on {card.get('images', '?')} images, digest "
        f"{card['file_digest']}",
        f"fusion:   {fusion or 'unknown'}",
        *(f"{'members:' if k == 0 else '':9} {member}" for k, member in enumerate(members)),
        f"oof:      {metric} {score:.4f}{interval}" if score is not None else "oof:      unknown",
        *(f"{name}:{'':{9 - len(name)}}{card[name]}" for name in ("public", "private") if name in card),
    ]
