"""Send a submission, wait for its score, and record it: only what the site says it has.

A submission carries its digest in its message. Before anything is sent, the site's list is searched for
it: a second try finds the first one instead of submitting twice.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pipeline.errors import PipelineError
from pipeline.paths import atomic, sent_csv
from pipeline.submissions.card import SubmissionCard, write_card
from pipeline.submissions.kaggle_site import Submission, Unclear
from pipeline.submissions.ledger import COMPLETE, ERROR, PENDING, Entry, entry_of, now, record

LOOK_UPS = 3  # for a submission of which it is not clear whether it arrived


class Site(Protocol):
    """What the flow needs of a site; each raises PipelineError, `Unclear` where it has no answer."""

    def submissions(self) -> list[Submission]: ...
    def left_today(self) -> int | None: ...


@dataclass(frozen=True)
class Parcel:
    """What is to be submitted: a file, or a notebook's version, which `send` hands over."""

    competition: str
    path: Path
    digest: str  # unmistakable: the file's, or the notebook's name and version
    card: SubmissionCard | None  # None for a file made elsewhere
    message: str
    send: Callable[[str], str]  # message -> the site's number

    @property
    def full_message(self) -> str:
        """The message that the site keeps, with the mark by which the submission is found again."""
        score = self.card.oof.own.value if self.card else None
        words = [self.message or self.path.stem, f"oof {score:.5f}" if score is not None else "", self.mark]
        return " ".join(word for word in words if word)

    @property
    def mark(self) -> str:
        return f"[{self.digest}]"


def submit(
    parcel: Parcel,
    site: Site,
    *,
    again: bool = False,
    patience: float = 1800,
    pause: float = 15,
    say: Callable[[str], None] = print,
) -> Entry:
    """Submit and wait up to `patience` seconds for the score, asking every `pause` seconds.

    A submission with the same digest that the site already has is not sent again without `again`: its
    score is fetched instead. Raises PipelineError when it was not sent, when that is not known, and
    when the site could not score it; the last is recorded as an error, the first two not at all.
    """
    before = [item for item in site.submissions() if parcel.mark in item.message]
    if before and not again:
        ref, made = before[0].ref, before[0].time or now()
        say(
            f"already submitted at {made} (number {ref}, {before[0].status}); not sent again (AGAIN=1 "
            "sends it a second time)"
        )
    else:
        if before:
            say(f"the site has it already, as number {before[0].ref}; sending it a second time")
        if site.left_today() == 0:
            raise PipelineError("no submission is left today by the site's count; nothing was sent")
        ref, made = _send(parcel, site, {item.ref for item in before}, pause, say), now()
    entry = entry_of(
        parcel.competition,
        parcel.path.name,
        parcel.digest,
        parcel.card,
        status=PENDING,
        ref=ref,
        message=parcel.full_message,
        time=made,
    )
    keep(parcel.competition, parcel.path, parcel.digest, parcel.card)
    return _wait(parcel, site, entry, patience, pause, say)


def _send(parcel: Parcel, site: Site, known: set[str], pause: float, say: Callable[[str], None]) -> str:
    """Send; where the answer is not clear, look whether it arrived. Returns the site's number."""
    try:
        return parcel.send(parcel.full_message)
    except Unclear as error:
        say(f"{error}; looking whether it arrived")
        reason = str(error)
    for attempt in range(LOOK_UPS):
        try:
            found = [i for i in site.submissions() if parcel.mark in i.message and i.ref not in known]
        except PipelineError as error:
            raise PipelineError(
                f"{reason}; then {error}. It is not known whether the submission arrived, so it is not "
                "recorded. Run the same command later: it looks first, and does not submit twice"
            ) from None
        if found:
            say(f"it arrived, as number {found[0].ref}")
            return found[0].ref
        if attempt < LOOK_UPS - 1:
            time.sleep(pause)
    raise PipelineError(
        f"{reason}; the site does not list the submission, so it is not recorded. Run the same command "
        "again: it looks first, and does not submit twice"
    )


def _wait(
    parcel: Parcel, site: Site, entry: Entry, patience: float, pause: float, say: Callable[[str], None]
) -> Entry:
    """Ask until the submission is scored; records every state that the site reports."""
    record(entry)
    deadline = time.monotonic() + patience
    while True:
        try:
            mine = next((item for item in site.submissions() if item.ref == entry.ref), None)
        except Unclear as error:  # it is submitted all the same
            say(f"{error}; asking again")
            mine = None
        if mine is not None and mine.status == ERROR:
            record(replace(entry, status=ERROR, message=f"{entry.message} | {mine.error}"))
            raise PipelineError(
                f"submission {entry.ref}: the site could not score it: {mine.error or 'no reason given'}"
            )
        if mine is not None and mine.status == COMPLETE:
            entry = replace(entry, status=COMPLETE, public=mine.public, private=mine.private)
            record(entry)
            score_card(parcel.path, parcel.card, entry)
            return entry
        if time.monotonic() + pause > deadline:
            say(f"submission {entry.ref} is not scored yet; the same command later fetches its score")
            return entry
        time.sleep(pause)


def keep(competition: str, path: Path, digest: str, card: SubmissionCard | None) -> None:
    """Keep a copy of a submitted file and its card, for comparison and for the end."""
    copy = sent_csv(competition, digest)
    if not copy.exists() and path.is_file():
        with atomic(copy) as temporary:
            shutil.copyfile(path, temporary)
    if card:
        write_card(copy, card)


def score_card(path: Path, card: SubmissionCard | None, entry: Entry) -> None:
    """Write the scores into the card beside the file, where it still is this file's, and its copy's."""
    if not card:
        return
    scores = {"public": entry.public, "private": entry.private, "submission": entry.ref}
    scored = card.model_copy(update={key: value for key, value in scores.items() if value})
    write_card(path, scored)
    write_card(sent_csv(entry.competition, entry.digest), scored)
