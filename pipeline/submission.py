"""Write a submission from an ensemble's test table, or check one before it leaves.

    python -m pipeline.submission --competition C --ensemble final
    python -m pipeline.submission check FILE --competition C [--against OTHER]

The first writes submissions/<competition>/<name>.csv, every test image once, and its card <name>.json,
which says how it was made. The second lists every fault with its row and compares the file with the
last one that was submitted; its status is 1 when the site would reject the file or score it wrongly.
"""

from pathlib import Path

from pipeline import cli
from pipeline.data.dataset import load_dataset
from pipeline.data.profile import Profile, load_profile
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, shown, submission_csv
from pipeline.submissions.card import make_submission
from pipeline.submissions.check import check_submission, verdict
from pipeline.submissions.compare import compare
from pipeline.submissions.ledger import last_submitted


def check(profile: Profile, path: Path, against: Path | None) -> None:
    """Print all faults and the verdict; raises PipelineError when there are errors."""
    if not path.is_file():
        raise PipelineError(f"{shown(path)}: no such file; name one with FILE=, or make submission first")
    report = check_submission(path, profile, load_dataset(profile, "test"))
    other = against or last_submitted(profile.name, except_digest=file_digest(path))
    if other is not None:
        what = "" if against else ", the last one submitted"
        report.notes.append(f"against {shown(other)}{what}: {compare(path, other, profile)}")
    print("\n".join(report.lines()))
    if report.errors:
        raise PipelineError(verdict(path, report))
    print(verdict(path, report))


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("action", nargs="?", default="write", choices=("write", "check"))
    arguments.add_argument(
        "file", nargs="?", type=Path, metavar="FILE", help="check: the CSV (default: the ensemble's)"
    )
    arguments.add_argument(
        "--against", type=Path, default=None, metavar="OTHER", help="compare with this CSV"
    )
    arguments.add_argument("--ensemble", default="final")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    if options.action == "check":
        check(profile, options.file or submission_csv(profile.name, options.ensemble), options.against)
        return
    if options.file is not None:
        raise PipelineError("write FILE: its name is the ensemble's; expected no FILE")
    path, card = make_submission(profile, options.ensemble)
    print(
        f"wrote {shown(path)}: {card.images} images, {card.boxes} boxes, "
        f"{card.images_without_box} images without a box; card {path.stem}.json"
    )


if __name__ == "__main__":
    cli.run(main)
