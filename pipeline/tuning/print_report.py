"""Printing of a tuning's report."""

from typing import Any

import numpy as np
import pandas as pd


def _frame(rows: list[dict[str, Any]], **formats: str) -> str:
    frame = pd.DataFrame(rows).fillna(np.nan).infer_objects()
    first = frame.columns[0]
    frame[first] = frame[first].str.ljust(int(frame[first].str.len().max()))
    return str(
        frame.to_string(
            index=False,
            na_rep="-",
            justify="left",
            formatters={name: form.format for name, form in formats.items() if name in frame},
        )
    )


def _settings(row: dict[str, Any]) -> str:
    fusion = dict(row["fusion"])
    parts = [str(fusion.pop("method")), *(f"{key} {value}" for key, value in fusion.items() if key != "skip")]
    changed = []
    for member in row["members"]:
        extras = [f"{key} {value}" for key, value in member.items() if key != "member"]
        if extras:
            changed.append(f"{member['member']}: {', '.join(extras)}")
    return "; ".join([" ".join(parts), *changed])


def show_report(report: dict[str, Any]) -> None:
    """Print a tuning's report; report: as report.json has it."""
    nested, digits = report["nested"], "{:.4f}"
    print(f"\n{report['metric']} on {report['images']} images, with 95 % intervals")
    print(
        _frame(
            [
                {
                    "member alone": row["member"],
                    "value": row["value"],
                    "low": row["low"],
                    "high": row["high"],
                    "s/image": row["seconds_per_image"],
                }
                for row in report["members"]
            ],
            value=digits,
            low=digits,
            high=digits,
        )
    )
    for a, b in report["copies"]:
        print(f"{b} is a copy of {a}: the same boxes, nothing to gain")
    if report["methods"]:
        print("\nthe best of each method, chosen and scored on the same images")
        for row in report["methods"]:
            print(f"  {row['value']:.4f}  {_settings(row)}")
    print(f"\nnested over {report['parts']}: each part scored with what was chosen without it")
    spread = "{value:.4f} [{low:.4f}, {high:.4f}]"
    print(f"  tuned       {spread.format(**nested['plain'])}")
    if nested["rescored"] is not None:
        print(f"  rescored    {spread.format(**nested['rescored'])}")
    print(
        f"  chosen      {spread.format(**nested)}   rescoring in "
        f"{nested['rescoring_chosen']} of {nested['parts']} parts"
    )
    if len(nested["partitions"]) > 1:
        each = ", ".join(f"{value:.4f}" for value in nested["partitions"])
        print(f"              the mean of {len(nested['partitions'])} partitions: {each}")
    print(f"  optimism    {nested['optimism']:+.4f}   (what the choices' own images promised beyond that)")
    gain = report["gain"]
    print(
        f"  gain over {gain['over']} alone: {gain['value']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
        + ("; noise: these images do not tell them apart" if gain["low"] <= 0 <= gain["high"] else "")
    )
    tuned = report["recipe"]
    trees = "rescored by boosted trees" if tuned["rescored"] else "not rescored"
    if (wins := report["rescoring"]["wins"]) is not None:
        trees += f": the better one in {wins if tuned['rescored'] else 1 - wins:.0%} of resamples"
    print(f"\nthe tuned ensemble, fitted on everything; {trees}")
    print(f"  {_settings(tuned)}")
    if tuned["cut"]:
        print(f"  scores below the cut are left out: {', '.join(f'{c:g}' for c in tuned['cut'])}")
    if report["rescoring"]["note"]:
        print(f"  {report['rescoring']['note']}")
    print("\nleaving out one member (plain ensemble, all images)")
    print(
        _frame(
            [
                {
                    "member": row["member"],
                    "kept": "yes" if row["kept"] else "no",
                    "gain by it": row["gain"],
                    "s/image": row["seconds_per_image"],
                }
                for row in report["left_out"]
            ],
            **{"gain by it": "{:+.4f}"},
        )
    )
    names = [row["member"] for row in report["members"]]
    if len(names) > 1:
        print("\nof the truths that one of two members misses, the share that both miss")
        short = [str(i + 1) for i in range(len(names))]
        table = pd.DataFrame(
            report["shared_errors"],
            index=[f"{i} {n}" for i, n in zip(short, names, strict=True)],
            columns=short,
        )
        print(table.to_string(float_format="{:.2f}".format))
    if report["tried"]:
        print("\ntried, and lost: what the best other setting does to the plain ensemble, on all images")
        for row in report["tried"]:
            print(f"  {-row['loses']:+.4f}  {row['changed']} (best of {row['tried']})")
        if any(row["loses"] < 0 for row in report["tried"]):
            print("  a gain that is not sure on the parts is not taken")
    earlier = f", {report['resumed']} of them by an earlier run" if report["resumed"] else ""
    print(
        f"\n{report['candidates']} candidates scored{earlier}; {report['seconds']:.0f} s with everything else"
    )
    if report["stopped"]:
        print("stopped: this is the best so far; the same command goes on with the search")
    elif not report["at_rest"]:
        print("the time ended before the search found no more gain; the same command goes on with it")
