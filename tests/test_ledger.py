"""The ledger: what it keeps, how OOF and public score go together, the budget and the picks."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from pipeline import ledger as stage
from pipeline.data.records import DIGEST, as_record
from pipeline.errors import PipelineError
from pipeline.paths import ledger_csv
from pipeline.submissions.card import SubmissionCard, card_lines
from pipeline.submissions.ledger import (
    COLUMNS,
    Entry,
    correlation,
    count_today,
    entries_of,
    entry_of,
    now,
    picks,
    read_ledger,
    record,
)


def entry(digest="d", oof="0.6", public="0.5", ensemble="e", status="complete", **changes):
    values = dict.fromkeys(COLUMNS, "") | {
        "time": "2020-11-22T10:00:00Z",
        "competition": "recycle",
        "file": f"{digest}.csv",
        "digest": digest,
        "status": status,
        "ref": digest,
        "ensemble": ensemble,
        "oof": oof,
        "public": public,
    }
    return replace(Entry(**values), **changes)


VALUES = {
    "file_digest": "abc",
    "fusion": {"method": "wbf", "iou": 0.55},
    "made_at": "then",
    "boxes": 7,
    "images": 5,
    "tables": [{"digest": "t"}],
    "oof": {"map50": 0.5, "competition": {"metric": "map50", "value": 0.61234, "low": 0.6, "high": 0.625}},
    "members": [
        {"model": "a", "fold": 0, "views": ["identity"], "weight": 2.0},
        {"model": "a", "fold": 1, "views": ["identity"], "weight": 2.0},
        {"model": "b", "fold": 0, "views": ["identity", "hflip"], "weight": 1.0},
    ],
}
CARD = as_record(VALUES, SubmissionCard, "card.json", "")


def test_a_row_says_how_the_file_was_made(home):
    made = entry_of("recycle", "final.csv", "abc", CARD, status="pending", ref="9", message="a\nb, c")
    assert (made.members, made.oof, made.oof_low, made.oof_high) == (
        "a[identity] b[identity+hflip]",
        "0.61234",
        "0.60000",
        "0.62500",
    )
    assert (made.parameters, made.message) == ('{"fusion": {"iou": 0.55, "method": "wbf"}}', "a b, c")
    record(made)
    assert read_ledger() == [made]
    other = CARD.model_copy(update={"fusion": {"method": "nms", "iou": 0.55}})
    assert entry_of("recycle", "f", "abc", other, status="pending").ensemble != made.ensemble
    assert entry_of("recycle", "f", "x", CARD, status="pending").ensemble == made.ensemble


def test_the_card_is_shown(home):
    assert card_lines(CARD) == [
        "made:     then, revision unknown",
        "file:     7 boxes on 5 images, digest abc",
        "fusion:   method wbf, iou 0.55",
        "members:  a fold 0 [identity] weight 2",
        "          a fold 1 [identity] weight 2",
        "          b fold 0 [identity, hflip] weight 1",
        "oof:      map50 0.6123 (0.6000 to 0.6250)",
    ]
    assert card_lines(None) == ["no card: the file was made elsewhere"]


def test_a_row_is_updated_not_doubled_and_others_stay(home):
    first, other = entry("d", status="pending", public=""), entry("d2", competition="wheat")
    record(first)
    record(other)
    record(replace(first, status="complete", public="0.7", time="later"))
    assert [(e.competition, e.status, e.public, e.time) for e in read_ledger()] == [
        ("recycle", "complete", "0.7", first.time),
        ("wheat", "complete", "0.5", first.time),
    ]
    assert [e.digest for e in entries_of("recycle")] == ["d"]
    with open(ledger_csv(), newline="") as file:
        assert next(csv.reader(file)) == [*COLUMNS, DIGEST]
    assert not list(ledger_csv().parent.glob("*.tmp*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "expected the columns time,competition,"),
        ("", "expected the columns"),
        (",".join(COLUMNS), "no row; restore it"),
        (",".join(COLUMNS) + "\n1,2\n", "row 2: 2 columns, expected 16"),
        (",".join(COLUMNS) + "\n" + "x," * 15 + "\n", "row 2: status: expected 'pending', 'complete' or"),
    ],
)
def test_a_damaged_ledger_is_not_written_over(home, text, message):
    ledger_csv().parent.mkdir()
    ledger_csv().write_text(text)
    with pytest.raises(PipelineError, match=r"ledger\.csv: " + message):
        record(entry())
    assert ledger_csv().read_text() == text


def test_correlation_is_pearsons_and_of_the_ranks():
    oof, public = [0.5, 0.6, 0.7, 0.65], [0.4, 0.55, 0.5, 0.6]
    entries = [
        entry(str(i), oof=str(a), public=str(b)) for i, (a, b) in enumerate(zip(oof, public, strict=True))
    ]
    entries.append(entry("no score yet", public=""))
    pairs, pearson, spearman = correlation(entries)
    assert pairs == 4
    assert pearson == pytest.approx(np.corrcoef(oof, public)[0, 1])
    # ranks 1 2 4 3 and 1 3 2 4: 1 - 6 * (0 + 1 + 4 + 1) / (4 * 15)
    assert spearman == pytest.approx(1 - 6 * 6 / 60)
    assert np.isnan(correlation(entries[:2])[1])
    assert np.isnan(correlation([entry(str(i)) for i in range(4)])[1])


def test_two_picks_of_different_ensembles():
    best = entry("a", oof="0.70", public="0.60", ensemble="one")
    same = entry("b", oof="0.69", public="0.66", ensemble="one")
    other = entry("c", oof="0.50", public="0.65", ensemble="two")
    worse = entry("d", oof="0.60", public="0.64", ensemble="three")
    failed = entry("e", oof="0.90", public="", ensemble="four", status="error")
    chosen = picks([same, worse, other, best, failed])
    assert [(why, e.digest) for why, e in chosen] == [
        ("best OOF", "a"),
        ("best public, another ensemble", "c"),
    ]
    assert [e.digest for _, e in picks([best, same])] == ["a"]
    assert [e.digest for _, e in picks([entry("x", oof="", public="0.5")])] == ["x"]
    assert picks([]) == []


def test_todays_budget_counts_what_the_site_counts():
    entries = [
        entry("a", time=now()),
        entry("b", time=now(), status="pending"),
        entry("c", time=now(), status="error"),
        entry("d"),
    ]
    assert count_today(entries) == 2


def test_the_stage_shows_all_of_it(home, capsys):
    stage.main([])
    assert "ledger.csv: no submission of 'recycle' yet; make submit COMP=recycle" in capsys.readouterr().out
    for i, (oof, public) in enumerate((("0.5", "0.4"), ("0.6", "0.55"), ("0.7", "0.5"))):
        record(
            entry(
                f"digest{i}",
                oof=oof,
                public=public,
                ensemble=str(i),
                time=now(),
                oof_low="0.4",
                oof_high="0.8",
            )
        )
    stage.main([])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == [
        "time",
        "file",
        "digest",
        "number",
        "status",
        "oof",
        "public",
        "private",
        "members",
    ]
    assert "0.7 (0.4 to 0.8)" in said[3]
    assert said[5:] == [
        "OOF and public: correlation 0.655, of the ranks 0.500, over 3 submissions",
        "today (UTC):    3 made, 7 of 10 left",
        "pick:           digest2.csv digest2 (best OOF): oof 0.7, public 0.5",
        "pick:           digest1.csv digest1 (best public, another ensemble): oof 0.6, public 0.55",
    ]
