"""Send a submission, wait for its score, and record it: only what the site says it has.

A submission carries its digest in its message. Before anything is sent, the site's list is searched for
it: a second try finds the first one instead of submitting twice.
"""

import contextlib
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeline.data.text import read_text
from pipeline.errors import PipelineError, reason
from pipeline.locks import locked
from pipeline.paths import atomic, sent_csv, write_text
from pipeline.submissions.card import SubmissionCard, read_card, write_card
from pipeline.submissions.kaggle_site import PAGE, Submission, Today, UnclearAnswer
from pipeline.submissions.ledger import COMPLETE, ERROR, PENDING, Entry, entries_of, entry_of, now, record

LOOK_UPS = 3  # for a submission of which it is not clear whether it arrived


class Site(Protocol):
    """What the flow needs of a site; each raises PipelineError, `UnclearAnswer` where it has no answer."""

    def submissions(self) -> list[Submission]: ...
    def today(self) -> Today | None: ...


@dataclass(frozen=True)
class Upload:
    """What is to be submitted: a file, or a notebook's version, which `send` uploads."""

    competition: str
    path: Path
    digest: str  # unmistakable: the file's, or the notebook's name and version
    card: SubmissionCard | None  # None for a file made elsewhere
    message: str
    send: Callable[[str], str]  # message -> the site's number

    @property
    def full_message(self) -> str:
        """The message that the site keeps, with the tag by which the submission is found again."""
        score = self.card.oof.own.value if self.card else None
        words = [self.message or self.path.stem, f"oof {score:.5f}" if score is not None else "", self.tag]
        return " ".join(word for word in words if word)

    @property
    def tag(self) -> str:
        return f"[{self.digest}]"

    @property
    def mark(self) -> Path:
        """Says when an upload began of which it is not known whether it arrived."""
        return sent_csv(self.competition, self.digest).with_suffix(".sending")


def submit(
    upload: Upload,
    site: Site,
    *,
    again: bool = False,
    patience: float = 1800,
    pause: float = 15,
    show: Callable[[str], None] = print,
) -> Entry:
    """Submit and wait up to `patience` seconds for the score, asking every `pause` seconds.

    A submission with the same digest that the site already has is not sent again without `again`: its
    score is fetched instead. Raises PipelineError when it was not sent, when that is not known, and
    when the site could not score it; the last is recorded as an error, the first two not at all. A file
    `.sending` beside the copies of sent files stays where that is not known, also after a kill.
    """
    # Another one looks only when this one is sent, so that it finds it.
    with locked(sent_csv(upload.competition, upload.digest), doing="sending"):
        ref, submitted_at = _send_once(upload, site, again, pause, show)
        upload.mark.unlink(missing_ok=True)
    entry = entry_of(
        upload.competition,
        upload.path.name,
        upload.digest,
        upload.card,
        status=PENDING,
        ref=ref,
        message=upload.full_message,
        time=submitted_at,
    )
    keep_copy(upload.competition, upload.path, upload.digest, upload.card)
    return _wait(upload, site, entry, patience, pause, show)


def _send_once(
    upload: Upload, site: Site, again: bool, pause: float, show: Callable[[str], None]
) -> tuple[str, str]:
    """Send it unless the site has it already; returns the site's number, and when the site took it."""
    listed = site.submissions()
    recorded = [entry for entry in entries_of(upload.competition) if entry.ref]
    is_whole = not recorded or len(listed) >= PAGE or recorded[-1].ref in {item.ref for item in listed}
    if not is_whole and not again:
        found = f"{len(listed)} other{'s' * (len(listed) > 1)}" if listed else "no submission"
        raise PipelineError(
            f"the site lists {found}, the ledger has {len(recorded)} of {upload.competition}, the last "
            f"with number {recorded[-1].ref}; nothing was sent. Try later; AGAIN=1 if it is another account"
        )
    earlier = [item for item in listed if upload.tag in item.message]
    if earlier and not again:
        ref, submitted_at = earlier[0].ref, earlier[0].time or now()
        show(
            f"already submitted at {submitted_at} (number {ref}, {earlier[0].status}); not sent again "
            "(AGAIN=1 sends it a second time)"
        )
        return ref, submitted_at
    if earlier:
        show(f"the site has it already, as number {earlier[0].ref}; sending it a second time")
    today = site.today()
    if not listed and not again and upload.mark.exists():
        began = read_text(upload.mark)
        if began[:10] != now()[:10] or today is None or today.made:
            raise PipelineError(
                f"the site lists no submission, but an upload of {upload.path.name} began at {began}, and "
                "whether it arrived is not known; nothing was sent. Look there; AGAIN=1 sends it"
            )
    if today is not None and today.left == 0:
        raise PipelineError("no submission is left today by the site's count; nothing was sent")
    return _send(upload, site, {item.ref for item in earlier}, pause, show), now()


def _send(upload: Upload, site: Site, known: set[str], pause: float, show: Callable[[str], None]) -> str:
    """Send; where the answer is not clear, look whether it arrived. Returns the site's number."""
    write_text(upload.mark, now())
    try:
        return upload.send(upload.full_message)
    except UnclearAnswer as error:
        show(f"{error}; looking whether it arrived")
        first = reason(error, 70)
    except PipelineError:  # it was not taken
        upload.mark.unlink()
        raise
    for attempt in range(LOOK_UPS):
        try:
            arrived = [i for i in site.submissions() if upload.tag in i.message and i.ref not in known]
        except PipelineError as error:
            raise PipelineError(
                f"{first}; then {reason(error, 70)}. It is not known whether the submission "
                "arrived, so it is not recorded. Run the same command later: it looks first, and does not "
                "submit twice"
            ) from None
        if arrived:
            show(f"it arrived, as number {arrived[0].ref}")
            return arrived[0].ref
        if attempt < LOOK_UPS - 1:
            time.sleep(pause)
    raise PipelineError(
        f"{first}; the site does not list the submission, so it is not recorded. Run the same command "
        "again: it looks first, and does not submit twice"
    )


def _wait(
    upload: Upload, site: Site, entry: Entry, patience: float, pause: float, show: Callable[[str], None]
) -> Entry:
    """Ask until the submission is scored; records every state that the site reports."""
    record(entry)
    deadline = time.monotonic() + patience
    while True:
        try:
            listed = next((item for item in site.submissions() if item.ref == entry.ref), None)
        except UnclearAnswer as error:  # it is submitted all the same
            show(f"{error}; asking again")
            listed = None
        if listed is not None and listed.status == ERROR:
            record(replace(entry, status=ERROR, message=f"{entry.message} | {listed.error}"))
            raise PipelineError(
                f"submission {entry.ref}: the site could not score it: {listed.error or 'no reason given'}"
            )
        if listed is not None and listed.status == COMPLETE:
            entry = replace(entry, status=COMPLETE, public=listed.public, private=listed.private)
            record(entry)
            score_card(upload.path, upload.card, entry)
            return entry
        if time.monotonic() + pause > deadline:
            show(f"submission {entry.ref} is not scored yet; the same command later fetches its score")
            return entry
        time.sleep(pause)


def keep_copy(competition: str, path: Path, digest: str, card: SubmissionCard | None) -> None:
    """Keep a copy of a submitted file and its card, for comparison and for the end."""
    copy = sent_csv(competition, digest)
    with locked(copy):
        if not copy.exists() and path.is_file():
            with atomic(copy) as temporary:
                shutil.copyfile(path, temporary)
        if card and not copy.with_suffix(".json").exists():
            write_card(copy, card)


def score_card(path: Path, card: SubmissionCard | None, entry: Entry) -> None:
    """Write the scores into the card beside the file, where it still is this file's, and its copy's."""
    if card is None:
        return
    scores = {"public": entry.public, "private": entry.private, "submission": entry.ref}
    for file in (path, sent_csv(entry.competition, entry.digest)):
        with locked(file), contextlib.suppress(PipelineError, FileNotFoundError):
            present = read_card(file)
            if present and present.file_digest == card.file_digest:
                write_card(file, present.model_copy(update={key: v for key, v in scores.items() if v}))
