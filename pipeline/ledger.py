"""Show what was submitted: scores, how OOF and public score go together, today's budget, two picks.

    python -m pipeline.ledger --competition C

The picks for the end are the best out-of-fold score, and the best public score of another ensemble.
"""

import math

import pandas as pd

from pipeline import cli
from pipeline.data.profile import load_profile
from pipeline.data.specs import SiteSpec
from pipeline.paths import ledger_csv, shown
from pipeline.submissions.ledger import Entry, correlation, count_today, entries_of, picks


def table(entries: list[Entry]) -> str:
    """One line a submission, oldest first."""
    rows = [
        {
            "time": e.time[:16].replace("T", " "),
            "file": e.file,
            "digest": e.digest[:8],
            "number": e.ref,
            "status": e.status,
            "oof": f"{e.oof} ({e.oof_low} to {e.oof_high})" if e.oof_low else e.oof or "-",
            "public": e.public or "-",
            "private": e.private or "-",
            "members": e.members or "-",
        }
        for e in entries
    ]
    return pd.DataFrame(rows).to_string(index=False)


def summary(entries: list[Entry], site: SiteSpec) -> list[str]:
    """The lines below the table."""
    pairs, pearson, spearman = correlation(entries)
    together = f"{pairs} with both scores; three different ones tell more"
    if not math.isnan(pearson):
        together = f"correlation {pearson:.3f}, of the ranks {spearman:.3f}, over {pairs} submissions"
    today = count_today(entries)
    budget = f"{today} made"
    if site.per_day:
        budget += f", {max(site.per_day - today, 0)} of {site.per_day} left"
    elif site.api:
        budget += "; the site says what is left when you submit"
    lines = [f"OOF and public: {together}", f"today (UTC):    {budget}"]
    chosen = picks(entries)
    for why, e in chosen:
        scores = f"oof {e.oof or '-'}, public {e.public or '-'}"
        lines.append(f"pick:           {e.file} {e.digest[:8]} ({why}): {scores}")
    if len(chosen) < 2:
        lines.append(
            f"pick:           {len(chosen)} of 2; the other needs a scored submission of another ensemble"
        )
    return lines


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    entries = entries_of(profile.name)
    if not entries:
        print(
            f"{shown(ledger_csv())}: no submission of '{profile.name}' yet; make submit COMP={profile.name}"
        )
        return
    print("\n".join([table(entries), "", *summary(entries, profile.site)]))


if __name__ == "__main__":
    cli.run(main)
