"""The numbers of a tuning for report.json: members, methods, the nested score, what was tried."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.boxes import Boxes
from pipeline.ensembles.tables import describe
from pipeline.ensembles.tuned import describe_tuned
from pipeline.scoring.bootstrap import Interval, compare, interval, resampled
from pipeline.scoring.matching import TRUE, match
from pipeline.tuning import candidates as grid
from pipeline.tuning.candidates import Candidate
from pipeline.tuning.engine import Engine
from pipeline.tuning.members import copies
from pipeline.tuning.nested import TuningResult, best_cut, cut_boxes
from pipeline.tuning.search import State

_METHODS = ("wbf", "nms", "soft_nms", "nmw")
SHARED_RECALL_IOU = 0.5


def bootstrapped(engine: Engine, boxes: Boxes, seed: int) -> Interval:
    """The metric of boxes, with the interval of a thousand resamples of the images."""
    scored = engine.scored(boxes)
    value = float(np.nan_to_num(scored.value()))
    return interval(value, resampled(scored, len(engine.truth.image_ids), seed=seed))


def nested_value(engine: Engine, each: Sequence[Boxes], seed: int) -> dict[str, float]:
    """The mean over partitions, with the interval of the first around it."""
    values = [float(np.nan_to_num(engine.scored(boxes).value())) for boxes in each]
    first, mean = bootstrapped(engine, each[0], seed), float(np.mean(values))
    return _rounded(Interval(mean, first.low + mean - first.value, first.high + mean - first.value))


def gain_over_member(engine: Engine, chosen: Boxes, alone: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The nested boxes against the best member's, on the same resamples of the images."""
    best = max(range(len(alone)), key=lambda i: float(alone[i]["value"]))
    boxes = engine.members[best].table
    cut, _ = best_cut(engine, engine.scored(boxes), engine.weights[0])
    pair = [engine.scored(each) for each in (chosen, cut_boxes(boxes, cut))]
    n = len(engine.truth.image_ids)
    values = [(float(np.nan_to_num(s.value())), resampled(s, n, seed=seed)) for s in pair]
    comparison = compare(*values[0], *values[1])
    return {
        "over": alone[best]["member"],
        **_rounded(comparison.difference),
        "wins": round(comparison.wins, 4),
    }


def _rounded(bounds: Interval) -> dict[str, float]:
    return {"value": round(bounds.value, 5), "low": round(bounds.low, 5), "high": round(bounds.high, 5)}


def members_alone(engine: Engine, seed: int) -> list[dict[str, Any]]:
    """Each member's boxes as they are, at their best cut where the metric has one."""
    rows = []
    for member in engine.members:
        boxes = member.table
        cut, _ = best_cut(engine, engine.scored(boxes), engine.weights[0])
        bounds = bootstrapped(engine, cut_boxes(boxes, cut), seed)
        seconds = None if np.isnan(member.seconds) else round(member.seconds, 4)
        rows.append({"member": member.name, **_rounded(bounds), "seconds_per_image": seconds})
    return rows


def best_of_methods(engine: Engine) -> list[dict[str, Any]]:
    """The best candidate of each method, chosen and scored on the same images."""
    rows = []
    for method in _METHODS:
        scored = [
            (value, candidate.key, candidate)
            for candidate in engine.seen.values()
            if candidate.fusion.method == method and len(candidate.kept) > 1
            if (value := engine.known(candidate)) is not None
        ]
        if scored:
            value, _, candidate = max(scored, key=lambda row: row[:2])
            rows.append({"method": method, "value": round(value, 5), **_settings(engine, candidate)})
    return rows


def _settings(engine: Engine, candidate: Candidate) -> dict[str, Any]:
    """A candidate for the report; of members with the settings of the start only the name."""
    rows = []
    for i in candidate.kept:
        row: dict[str, Any] = {"member": engine.members[i].name}
        if candidate.weights[i] != 1:
            row["weight"] = candidate.weights[i]
        if candidate.floors[i] != grid.FLOORS[0]:
            row["floor"] = candidate.floors[i]
        if candidate.nms[i]:
            row["nms"] = candidate.nms[i]
        if candidate.calibrations[i] != "none":
            row["calibration"] = candidate.calibrations[i]
        rows.append(row)
    return {"fusion": describe(candidate.fusion), "members": rows}


def left_out(engine: Engine, state: State) -> list[dict[str, Any]]:
    """The gain by each member: the plain ensemble with it less without it, on all images."""
    rows = []
    for i, member in enumerate(engine.members):
        included = state.best if i in state.best.kept else state.best.with_member(i, weights=1.0)
        without = included.with_member(i, weights=0.0)
        gain = engine.value(included, 0) - (engine.value(without, 0) if without.kept else 0.0)
        seconds = None if np.isnan(member.seconds) else round(member.seconds, 4)
        rows.append(
            {
                "member": member.name,
                "kept": i in state.best.kept,
                "gain": round(gain, 5),
                "seconds_per_image": seconds,
            }
        )
    return rows


def shared_errors(engine: Engine) -> NDArray[np.float64]:
    """(n, n) of the truths that one of two members misses, the share that both miss.

    A truth is missed when no box at IoU 0.5 finds it with a score at least the member's best one for F1.
    """
    missed = []
    for source in engine.sources:
        matches = match(source, engine.truth, np.array([SHARED_RECALL_IOU]), owners=True)
        correct = matches.state[0] == TRUE
        order = np.argsort(-source.scores, kind="stable")
        hits = np.cumsum(correct[order])
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + len(engine.truth))
        least = source.scores[order][int(np.argmax(f1))] if len(order) else 1.0
        mask = np.ones(len(engine.truth), bool)
        mask[matches.owner[0][correct & (source.scores >= least)]] = False
        missed.append(mask & ~engine.truth.rows.crowd)
    table = np.ones((len(missed), len(missed)))
    for i, a in enumerate(missed):
        for j, b in enumerate(missed):
            either = (a | b).sum()
            table[i, j] = (a & b).sum() / either if either else 1.0
    return table


def tried(engine: Engine, state: State) -> list[dict[str, Any]]:
    """For each setting of the final candidate the best other value, and the loss by it."""
    rows = []
    best = state.best
    groups: dict[str, Sequence[Candidate]] = {
        "one member less": list(grid.fewer(best)),
        "one member more": list(grid.more(best)),
        "calibration": [c for c in grid.calibrated(best) if c != best],
        "a member's floor, NMS, weight or calibration": [c for c in grid.member_settings(best) if c != best],
        "IoU or cluster score": [c for c in grid.fine(best) if c != best],
    }
    for name, proposals in groups.items():
        known = [(value, c.key, c) for c in proposals if (value := engine.known(c)) is not None]
        if known:
            value, _, candidate = max(known, key=lambda row: row[:2])
            rows.append(
                {
                    "changed": name,
                    "tried": len(known),
                    "best": round(value, 5),
                    "loses": round(state.value - value, 5),
                    **_settings(engine, candidate),
                }
            )
    return rows


def make_report(engine: Engine, states: list[State], tuned: TuningResult, seed: int) -> dict[str, Any]:
    """All of a tuning's numbers, json-ready."""
    first = tuned.nested[0]
    stacked = [part.rescored for part in tuned.nested if part.rescored is not None]
    errors = shared_errors(engine)
    alone = members_alone(engine, seed)
    return {
        "metric": str(engine.metric),
        "images": len(engine.truth.image_ids),
        "candidates": len(engine.values),
        "resumed": engine.journal.resumed,
        "members": alone,
        "copies": copies(engine.members),
        "methods": best_of_methods(engine),
        "nested": {
            **nested_value(engine, [part.chosen for part in tuned.nested], seed),
            "partitions": [round(part.value, 5) for part in tuned.nested],
            "optimism": round(tuned.optimism, 5),
            "plain": nested_value(engine, [part.plain for part in tuned.nested], seed),
            "rescored": nested_value(engine, stacked, seed) if stacked else None,
            "rescoring_chosen": sum(c.rescored for part in tuned.nested for c in part.choices),
            "parts": sum(len(part.choices) for part in tuned.nested),
        },
        "gain": gain_over_member(engine, first.chosen, alone, seed),
        "recipe": describe_tuned(tuned.ensemble),
        "rescoring": {"used": tuned.choice.rescored, "wins": _or_none(tuned.choice.wins), "note": tuned.note},
        "left_out": left_out(engine, states[0]),
        "shared_errors": [[round(float(v), 4) for v in row] for row in errors],
        "tried": tried(engine, states[0]),
    }


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)
