"""Check a submission, show its card, send it after a yes, wait for the score and record it.

    python -m pipeline.submit --competition C [--ensemble final | --file FILE] [--yes]
    python -m pipeline.submit score --competition C --file FILE --public 0.7 [--private 0.6]

A competition on Kaggle is sent to with its own client; of a code competition a notebook's version is
submitted (--kernel owner/name --kernel-version 3). A competition without an API gets the checked
file's path; `score` then records what its site said.
"""

import shlex
from dataclasses import replace
from pathlib import Path

from pipeline import cli
from pipeline.data.dataset import load_dataset
from pipeline.data.profile import Profile, load_profile
from pipeline.errors import PipelineError
from pipeline.names import is_name, number
from pipeline.paths import file_digest, ledger_csv, shown, submission_csv
from pipeline.submissions.card import card_lines, read_card
from pipeline.submissions.check import check_submission, verdict
from pipeline.submissions.compare import compare
from pipeline.submissions.kaggle_site import KaggleSite
from pipeline.submissions.ledger import (
    COMPLETE,
    count_today,
    entries_of,
    entry_of,
    last_submitted,
    record_scores,
)
from pipeline.submissions.submit import Upload, keep_copy, score_card, submit

OUTPUT_FILE = "submission.csv"  # what a notebook of a code competition writes


def check_and_show(profile: Profile, path: Path) -> None:
    """Check the file and print its card; raises PipelineError when the check finds an error."""
    report = check_submission(path, profile, load_dataset(profile, "test"))
    if report.errors:
        print("\n".join(report.lines()))
        raise PipelineError(f"{verdict(path, report)}; nothing was sent")
    for fault in report.warnings:
        print(f"warning: {fault.lines()[0]}")
    print("\n".join([verdict(path, report), *card_lines(read_card(path))]))
    other = last_submitted(profile.name, except_digest=file_digest(path))
    if other is not None:
        print(f"against the last one submitted: {compare(path, other, profile)}")


def confirm(question: str, yes: bool) -> None:
    """Raise PipelineError unless the user says yes; without a terminal only `yes` counts."""
    if yes:
        return
    try:
        said = input(f"{question} [y/N] ")
    except EOFError:
        raise PipelineError("nobody to ask; YES=1 (--yes) submits without asking") from None
    if said.strip().lower() not in ("y", "yes"):
        raise PipelineError("not submitted")


def show_manual_upload(profile: Profile, path: Path) -> None:
    """Say what to do with a checked file of a competition that has no API."""
    made = count_today(entries_of(profile.name))
    budget = (
        f"{profile.site.per_day - made} of {profile.site.per_day} left today" if profile.site.per_day else ""
    )
    print(
        f"\n'{profile.name}' has no API: nothing was uploaded. Upload this file on its site by hand"
        f"{f' ({budget})' if budget else ''}:\n  {path}\nthen record what the site said:\n"
        f"  make record-score COMP={profile.name} FILE={shlex.quote(shown(path))} PUBLIC=0.1234 PRIVATE="
    )


def record_score(profile: Profile, path: Path, public: str, private: str, message: str) -> None:
    """Write the scores that a site gave to a file into the ledger and the card."""
    for name, text in (("public", public), ("private", private)):
        try:
            good = not text or -1e9 < number(text) < 1e9
        except ValueError:
            good = False
        if not good:
            raise PipelineError(f"{name} score '{text}': expected a number")
    if not public and not private:
        raise PipelineError("expected PUBLIC= or PRIVATE=, what the site said")
    digest, card = file_digest(path), read_card(path)
    fresh = entry_of(profile.name, path.name, digest, card, status=COMPLETE, message=message)
    entry = record_scores(replace(fresh, public=public, private=private))
    keep_copy(profile.name, path, digest, card)
    score_card(path, card, entry)
    scores = f"public {entry.public or '-'}, private {entry.private or '-'}"
    print(f"wrote {shown(ledger_csv())}: {path.name}, {scores}")


def send(
    profile: Profile, path: Path, message: str, kernel: str, version: int, again: bool, patience: float
) -> None:
    """Send a checked file, or a notebook's version, to Kaggle; print the score."""
    card, digest = read_card(path), file_digest(path)
    with KaggleSite(profile.site.competition) as site:

        def send_upload(text: str) -> str:
            if profile.site.code:
                return site.submit_code(kernel, version, OUTPUT_FILE, text)
            return site.submit(path, text)

        if profile.site.code:
            digest = f"{kernel.replace('/', '--')}-v{version}"
        upload = Upload(profile.name, path, digest, card, message, send_upload)
        entry = submit(upload, site, again=again, patience=patience)
    scores = f"public {entry.public or '-'}, private {entry.private or '-'}"
    print(f"wrote {shown(ledger_csv())}: number {entry.ref}, {entry.status}, {scores}")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("action", nargs="?", default="submit", choices=("submit", "score"))
    arguments.add_argument("--ensemble", default="final")
    arguments.add_argument("--file", type=Path, default=None, help="default: the ensemble's submission")
    arguments.add_argument("--yes", action="store_true", help="do not ask")
    arguments.add_argument("--message", default="", help="what the site and the ledger keep with it")
    arguments.add_argument("--again", action="store_true", help="send a file that the site already has")
    arguments.add_argument("--kernel", default="", help="code competition: owner/name of the notebook")
    cli.add_whole(arguments, "--kernel-version", "--version", least=0, default=0)
    cli.add_number(arguments, "--patience", default=1800, help="seconds to wait for the score")
    arguments.add_argument("--public", default="", help="score: what the site said")
    arguments.add_argument("--private", default="")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    path = (options.file or submission_csv(profile.name, options.ensemble)).resolve()
    if not path.is_file():
        raise PipelineError(
            f"{shown(path)}: no such submission; make submission COMP={profile.name} writes it"
        )
    code = profile.site.code and options.action == "submit"
    is_kernel = list(map(is_name, options.kernel.split("/"))) == [True, True]
    if code and not (is_kernel and options.kernel_version):
        raise PipelineError(
            f"'{profile.name}' is a code competition: expected KERNEL=owner/name VERSION=3, the notebook's "
            "version whose output is submitted"
        )
    if options.action == "score":
        record_score(profile, path, options.public, options.private, options.message)
        return
    check_and_show(profile, path)
    if not profile.site.api:
        show_manual_upload(profile, path)
        return
    confirm(f"Submit it to {profile.site.competition} on {profile.site.api}?", options.yes)
    send(
        profile,
        path,
        options.message,
        options.kernel,
        options.kernel_version,
        options.again,
        options.patience,
    )


if __name__ == "__main__":
    cli.run(main)
