"""The ledger `submissions/ledger.csv`: a row for each submission that a site says it has taken."""

import csv
import io
import json
import math
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pandas as pd
from pydantic.dataclasses import dataclass

from pipeline.data.ensemble_card import Score
from pipeline.data.records import DIGEST, STRICT, as_record, note_unchecked
from pipeline.errors import PipelineError
from pipeline.locks import locked
from pipeline.paths import ledger_csv, regular, sent_csv, shown, text_digest, write_text
from pipeline.submissions.card import SubmissionCard

PENDING: Final = "pending"
COMPLETE: Final = "complete"
ERROR: Final = "error"


@dataclass(frozen=True, config=STRICT)
class Entry:
    """A row. Numbers are text as the site or the card gave them, "" where not known."""

    time: str  # when the site took it, UTC
    competition: str
    file: str
    digest: str  # of the file; of a code competition the notebook and its version
    status: Literal["pending", "complete", "error"]
    ref: str  # the site's number of the submission
    ensemble: str  # digest of members and parameters
    members: str
    parameters: str  # json
    metric: str
    oof: str
    oof_low: str
    oof_high: str
    public: str
    private: str
    message: str

    @property
    def oof_number(self) -> float:
        return _number(self.oof)

    @property
    def public_number(self) -> float:
        return _number(self.public)


COLUMNS = tuple(item.name for item in fields(Entry))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def entry_of(
    competition: str,
    file: str,
    digest: str,
    card: SubmissionCard | None,
    *,
    status: Literal["pending", "complete", "error"],
    ref: str = "",
    message: str = "",
    time: str = "",
) -> Entry:
    """A row for a submission and its card (None for a file made elsewhere)."""
    own = card.oof.own if card else Score(value=None)
    card = card or SubmissionCard(file_digest="")
    members = [member.model_dump(mode="json") for member in (*card.members, *card.unmeasured)]
    stated = {"fusion": card.fusion, "across_folds": card.across_folds, "min_scores": card.min_scores}
    parameters = {key: value for key, value in stated.items() if value}
    names = sorted({f"{member.model}[{'+'.join(member.views)}]" for member in card.members})
    names += sorted({f"{member.model}[full, not measured]" for member in card.unmeasured})
    tables = [table.model_dump(exclude_unset=True) for table in card.tables]
    made_of = json.dumps([members, parameters, tables], sort_keys=True)
    oof, oof_low, oof_high = ("" if v is None else f"{v:.5f}" for v in (own.value, own.low, own.high))
    return Entry(
        time or now(),
        competition,
        file,
        digest,
        status,
        ref,
        text_digest(made_of) if card.file_digest else digest,
        " ".join(names),
        json.dumps(parameters, sort_keys=True) if card.file_digest else "",
        own.metric,
        oof,
        oof_low,
        oof_high,
        "",
        "",
        " ".join(message.split()),
    )


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_ledger(path: Path | None = None) -> list[Entry]:
    """All rows, oldest first. Raises PipelineError for a file that is not a ledger, or was changed."""
    path = path or ledger_csv()
    if not path.exists():
        return []
    try:
        text = regular(path).read_bytes().decode()
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise PipelineError(f"{shown(path)}: not a CSV file ({error}); restore it") from None
    header = tuple(rows[0]) if rows else ()
    if header not in (COLUMNS, (*COLUMNS, DIGEST)):
        raise PipelineError(f"{shown(path)}: expected the columns {','.join(COLUMNS)}; restore it")
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise PipelineError(f"{shown(path)}: row {number}: {len(row)} columns, expected {len(header)}")
    entries = [
        as_record(dict(zip(COLUMNS, row, strict=False)), Entry, f"{shown(path)}: row {number}", "restore it")
        for number, row in enumerate(rows[1:], start=2)
    ]
    if not entries:
        raise PipelineError(f"{shown(path)}: no row; restore it, or remove it where nothing was submitted")
    if header == COLUMNS:
        note_unchecked(path)
    elif _csv(entries) != text:
        raise PipelineError(
            f"{shown(path)}: {_change(rows, entries)} since it was written; restore it, or take it as it is: "
            f"remove its last column, {DIGEST}"
        )
    return entries


def _csv(entries: list[Entry]) -> str:
    """The ledger's text. A row's digest is of its number, the number of rows and its values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, DIGEST])
    for number, entry in enumerate(entries, start=1):
        values = list(asdict(entry).values())
        writer.writerow([*values, text_digest(json.dumps([number, len(entries), *values]))])
    return text.getvalue()


def _change(rows: list[list[str]], entries: list[Entry]) -> str:
    """What was changed in a ledger, as far as its rows' digests tell."""
    written = csv.reader(io.StringIO(_csv(entries), newline=""))
    changed = [k for k, pair in enumerate(zip(written, rows, strict=False), start=1) if pair[0] != pair[1]]
    if len(changed) == len(entries) != 1:
        return "rows were added or removed"
    return f"row {changed[0]} was changed" if changed else "quotes, spaces or line ends were changed"


def record(entry: Entry) -> None:
    """Add a row, or replace the one of the same competition, digest and ref.

    Where the site has judged that one already, one that is pending does not replace it.
    """
    with locked(ledger_csv()):
        entries = read_ledger()
        place = _find(entries, entry.competition, entry.digest, entry.ref)
        if place is None:
            entries.append(entry)
        elif entry.status != PENDING or entries[place].status == PENDING:
            entries[place] = replace(entry, time=entries[place].time)
        write_text(ledger_csv(), _csv(entries))


def record_scores(entry: Entry) -> Entry:
    """Put the scores of a file, and its message, into its newest row, whatever its ref, or add `entry`.

    What is "" in `entry` stays as it is in the row; returns the row.
    """
    with locked(ledger_csv()):
        entries = read_ledger()
        place = _find(entries, entry.competition, entry.digest)
        if place is None:
            place = len(entries)
            entries.append(entry)
        given = {"public": entry.public, "private": entry.private, "message": entry.message}
        scores = {name: value for name, value in given.items() if value}
        entries[place] = replace(entries[place], status=entry.status, **scores)
        write_text(ledger_csv(), _csv(entries))
        return entries[place]


def _find(entries: list[Entry], competition: str, digest: str, ref: str | None = None) -> int | None:
    """Where the newest row of a submission is."""
    for place in reversed(range(len(entries))):
        row = entries[place]
        if (row.competition, row.digest) == (competition, digest) and ref in (None, row.ref):
            return place
    return None


def entries_of(competition: str) -> list[Entry]:
    return [entry for entry in read_ledger() if entry.competition == competition]


def last_submitted(competition: str, except_digest: str = "") -> Path | None:
    """The newest submitted file, of which a copy is kept, with another digest than `except_digest`."""
    digests = (entry.digest for entry in reversed(entries_of(competition)))
    files = (sent_csv(competition, digest) for digest in digests if digest != except_digest)
    return next((path for path in files if path.is_file()), None)


def correlation(entries: list[Entry]) -> tuple[int, float, float]:
    """(pairs, Pearson, Spearman) of OOF and public score; NaN with fewer than three or all alike."""
    pairs = np.array([(e.oof_number, e.public_number) for e in entries]).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return len(pairs), math.nan, math.nan
    ranks = pd.DataFrame(pairs).rank().to_numpy()
    return len(pairs), float(np.corrcoef(pairs.T)[0, 1]), float(np.corrcoef(ranks.T)[0, 1])


def picks(entries: list[Entry]) -> list[tuple[str, Entry]]:
    """Two submissions for the end: the best OOF, and the best public score of a different ensemble.

    Ties go to the better other score, then to the earlier one.
    """
    done = [e for e in entries if e.status == COMPLETE]
    by_oof = [e for e in done if math.isfinite(e.oof_number)]
    chosen: list[tuple[str, Entry]] = []
    if by_oof:
        best = max(by_oof, key=lambda e: (e.oof_number, np.nan_to_num(e.public_number, nan=-1)))
        chosen.append(("best OOF", best))
    by_public = [
        e
        for e in done
        if math.isfinite(e.public_number) and not any(e.ensemble == c.ensemble for _, c in chosen)
    ]
    if by_public:
        best = max(by_public, key=lambda e: (e.public_number, np.nan_to_num(e.oof_number, nan=-1)))
        chosen.append(("best public, another ensemble", best))
    return chosen


def count_today(entries: list[Entry]) -> int:
    """Submissions of today (UTC, as sites count); one that ended in an error does not count."""
    return sum(e.time[:10] == now()[:10] and e.status != ERROR for e in entries)
