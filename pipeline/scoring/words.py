"""Scores and analyses, printed."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.data.metric import MetricSpec
from pipeline.scoring.assessing import Entry
from pipeline.scoring.bootstrap import RESAMPLES


def show_scores(metric: MetricSpec, classes: tuple[str, ...], entries: Mapping[str, Entry]) -> None:
    """One column a table, one row a measure and class; intervals and losses by export below."""
    scores = {name: entry.scores for name, entry in entries.items()}
    frame = pd.DataFrame(
        {name: [s["map50"], s["map50_95"], *s["ap50"].values()] for name, s in scores.items()},
        index=["mAP50", "mAP50-95", *(f"  AP50 {name}" for name in classes)],
        dtype=float,
    )
    print(frame.to_string(float_format="{:.4f}".format, na_rep="no truth"))
    counts = {(s["split"], s["images"], s["truths"]) for s in scores.values()}
    for split, images, truths in sorted(counts):
        print(f"{split}: {images} images, {truths} true boxes")
    rows = {}
    for name, one in scores.items():
        own = one["competition"]
        lost = {f"at {cut}": -loss for cut, loss in own["lost_by_export"].items()}
        rows[name] = {"value": own["value"], "low": own["low"], "high": own["high"]} | lost
    frame = pd.DataFrame.from_dict(rows, orient="index")
    print(f"\n{metric}, the competition's metric; 95 % of resampled images lie from low to high;")
    print("then what it would gain or lose if the boxes had been exported")
    print(frame.to_string(float_format="{:.4f}".format, na_rep="-"))


def show_comparisons(found: list[dict[str, Any]]) -> None:
    for one in found:
        verdict = "noise: these images do not tell them apart" if one["noise"] else "more than noise"
        print(
            f"{one['a']} against {one['b']}: {one['difference']:+.4f} [{one['low']:+.4f}, "
            f"{one['high']:+.4f}], ahead in {one['wins']:.1%} of {RESAMPLES} resamples: {verdict}"
        )


def show_analysis(name: str, analysis: dict[str, Any]) -> None:
    """Each class at its best score, and what each kind of error costs."""
    rows = []
    for label, one in [*analysis["classes"].items(), ("all", analysis["all"])]:
        best = one["at_best"]
        if best is not None:
            kept = {
                key: best[key] for key in ("score", "precision", "recall", "f1", "true", "false", "missed")
            }
            rows.append({"": label, "AP": one.get("ap", one.get("map")), **kept})
    print(f"\n{name} at IoU {analysis['iou']:g}, each class at the score of its highest F1:")
    if not rows:
        print("  no box finds a truth")
        return
    frame = pd.DataFrame(rows).set_index("")
    print(frame.to_string(float_format="{:.3f}".format, na_rep="-"))
    kinds = analysis["errors"]["kinds"].items()
    print("mAP lost by kind of error: " + ", ".join(f"{k} {one['map_lost']:.3f}" for k, one in kinds))
    groups = {
        "by size of the box": analysis["by_size"],
        "by true boxes in the image": analysis["by_truths_in_image"],
    }
    for title, parts in groups.items():
        known = [f"{k} {one['map']:.3f}" for k, one in parts.items() if one["map"] is not None]
        print(f"mAP {title}: {', '.join(known)}")
