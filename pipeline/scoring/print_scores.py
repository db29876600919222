"""Printing of scores and analyses."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from pipeline.data.metric import MetricSpec
from pipeline.scoring.assessment import Assessment
from pipeline.scoring.bootstrap import RESAMPLES

MEASURES = ("score", "precision", "recall", "f1", "true", "false", "missed")


def show_scores(metric: MetricSpec, classes: tuple[str, ...], assessments: Mapping[str, Assessment]) -> None:
    """One column per table, one row per measure and class; intervals and losses by export below."""
    scores = {name: assessment.scores for name, assessment in assessments.items()}
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
    for name, table_scores in scores.items():
        own = table_scores["competition"]
        lost = {f"at {cut}": -loss for cut, loss in own["lost_by_export"].items()}
        rows[name] = {"value": own["value"], "low": own["low"], "high": own["high"]} | lost
    frame = pd.DataFrame.from_dict(rows, orient="index")
    print(f"\n{metric}, the competition's metric; 95 % of the resamples lie from low to high;")
    print("then the gain or loss if the boxes had been exported")
    print(frame.to_string(float_format="{:.4f}".format, na_rep="-"))


def show_comparisons(comparisons: list[dict[str, Any]]) -> None:
    for row in comparisons:
        verdict = "noise: these images do not tell them apart" if row["noise"] else "more than noise"
        print(
            f"{row['a']} against {row['b']}: {row['difference']:+.4f} [{row['low']:+.4f}, "
            f"{row['high']:+.4f}], ahead in {row['wins']:.1%} of {RESAMPLES} resamples: {verdict}"
        )


def show_analysis(name: str, analysis: dict[str, Any]) -> None:
    """Each class at its best score, and what each kind of error costs."""
    rows = []
    for label, measures in [*analysis["classes"].items(), ("all", analysis["all"])]:
        best = measures["at_best"]
        if best is not None:
            ap = measures.get("ap", measures.get("map"))
            rows.append({"": label, "AP": ap} | {name: best[name] for name in MEASURES})
    print(f"\n{name} at IoU {analysis['iou']:g}, each class at the score of its highest F1:")
    if not rows:
        print("  no box matches a truth")
        return
    frame = pd.DataFrame(rows).set_index("")
    print(frame.to_string(float_format="{:.3f}".format, na_rep="-"))
    kinds = analysis["errors"]["kinds"].items()
    print("mAP lost by kind of error: " + ", ".join(f"{kind} {cost['map_lost']:.3f}" for kind, cost in kinds))
    groups = {
        "by size of the box": analysis["by_size"],
        "by true boxes in the image": analysis["by_truths_in_image"],
    }
    for title, parts in groups.items():
        known = [f"{name} {part['map']:.3f}" for name, part in parts.items() if part["map"] is not None]
        print(f"mAP {title}: {', '.join(known)}")
