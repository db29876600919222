"""Write submissions/<competition>/<name>.csv from an ensemble's test table, and its card.

The CSV has the profile's format: every test image once, in the order of the test file. The card
<name>.json says how it was made: members, digests, parameters, out-of-fold score, git revision.
"""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import __version__, cli
from pipeline.data.dataset import load_dataset
from pipeline.data.predictions import check_belongs, read_predictions
from pipeline.data.profile import Profile, load_profile
from pipeline.errors import PipelineError
from pipeline.paths import PROJECT, ensemble_dir, file_digest, shown, submission_csv, write_json
from pipeline.submissions.writer import write_submission


def git_revision() -> str | None:
    """Revision of the project's checkout, with `+changes` when files differ; None outside of git."""
    try:
        git = ["git", "-C", str(PROJECT)]
        revision = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True,
                                 check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def make_submission(profile: Profile, name: str) -> tuple[Path, dict[str, Any]]:
    """Write the CSV and its card; returns the CSV's path and the card."""
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
    written = write_submission(path, profile, table, test.images)
    card |= {
        "file": path.name, "file_digest": file_digest(path),
        "images": len(test.images),
        "images_without_box": int(len(test.images) - len(np.unique(table.image_id))),
        "boxes": written, "version": __version__, "git_revision": git_revision(),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_json(path.with_suffix(".json"), card)
    return path, card


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("--ensemble", default="final")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    path, card = make_submission(profile, options.ensemble)
    print(
        f"wrote {shown(path)}: {card['images']} images, {card['boxes']} boxes, "
        f"{card['images_without_box']} images without a box; card {path.stem}.json"
    )


if __name__ == "__main__":
    cli.run(main)
