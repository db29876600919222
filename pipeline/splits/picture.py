"""The picture of a split: how far each fold is from an even share, beside how near it could be."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.paths import atomic
from pipeline.splits.balance_card import integer_floor

LEAST = 10  # of a column in each fold, for it to set the scale; bars of rarer ones may be cut off


def draw_balance(path: Path, title: str, card: dict[str, Any]) -> None:
    """Bars of each fold's deviation from an even share, in percent; grey: the integer floor."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    k = card["folds"]
    below = {"images": card["images"], "boxes": card["boxes"]}
    below |= {f"{name}\nboxes": counts for name, counts in card["boxes_per_size"].items()}
    below |= {f"images\nwith {name}": counts for name, counts in card["images_by_boxes"].items()}
    panels = (("boxes of each class", card["boxes_per_class"]), ("sizes and numbers", below))
    width = max(7.0, 1.1 * max(len(counts) for _, counts in panels))
    figure, axes = plt.subplots(2, 1, figsize=(width, 6.4), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0.1, 0.9, k))
    for axis, (name, counts) in zip(axes, panels, strict=True):
        values = np.array([counts[key] for key in counts], float)
        totals = values.sum(axis=1)
        away = 100 * (k * values / np.where(totals > 0, totals, k)[:, None] - 1)
        away[totals == 0] = 0
        floor = 100 * integer_floor(totals.astype(np.int64), k)
        places = np.arange(len(values))
        axis.bar(places, 2 * floor, 0.94, bottom=-floor, color="0.87", label="integer floor")
        for i in range(k):
            x = places + (i - (k - 1) / 2) * 0.8 / k
            axis.bar(x, away[:, i], 0.8 / k, color=colours[i], label=f"fold {i}")
        axis.axhline(0, color="black", linewidth=0.8)
        counted = totals >= min(LEAST * k, totals.max())
        limit = max(1.0, 1.15 * float(np.maximum(np.abs(away).max(axis=1), floor)[counted].max()))
        axis.set_ylim(-limit, limit)
        axis.set_xticks(
            places, [f"{key}\n{int(n)}" for key, n in zip(counts, totals, strict=True)], fontsize=8
        )
        axis.set_ylabel(f"{name},\n% off an even share")
    worst = card["worst"]
    groups = card["groups"]["of_several_images"]
    figure.suptitle(
        f"{title}: {sum(card['images'])} images in {k} folds, strategy {card['strategy']}"
        + (f", {groups} groups kept whole" if groups else "")
        + f"\nlargest deviation of a class {100 * worst['deviation']:.2f} % ({worst['class']}), integer "
        f"floor {100 * worst['integer_floor']:.2f} %",
        fontsize=10,
    )
    axes[0].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)
