"""Split the train images into folds: writes folds/<competition>/folds.csv, its card and a picture.

The card folds.json holds the balance per fold and class, what the annotation reader refused or
repaired, the seed and the digests. Photos are not opened.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import cli
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.profile import Profile, load_profile
from pipeline.data.split import COLUMNS
from pipeline.errors import PipelineError
from pipeline.paths import atomic, file_digest, folds_csv, shown, write_json
from pipeline.splits import STRATEGIES


def box_counts(train: Dataset, n_classes: int) -> NDArray[np.int64]:
    """(images, classes) number of boxes, in the order of the image table."""
    counts = np.zeros((len(train.images), n_classes), np.int64)
    rows = np.searchsorted(train.images["image_id"], train.annotations["image_id"])
    np.add.at(counts, (rows, train.annotations["label"].to_numpy(np.int64)), 1)
    return counts


def make_folds(profile: Profile, train: Dataset, n_folds: int, seed: int, strategy: str) -> Path:
    """Write the fold file, its card and its picture; returns the fold file's path."""
    if not 2 <= n_folds <= len(train.images):
        raise PipelineError(
            f"{n_folds} folds of {len(train.images)} images: expected 2 to {len(train.images)} folds"
        )
    counts = box_counts(train, len(profile.classes))
    fold = STRATEGIES[strategy](counts, n_folds, seed)
    images = train.images
    table = images[["image_id", "file_name"]].assign(fold=fold, group=images["image_id"])
    path = folds_csv(profile.name)
    card = balance_card(profile, train, counts, fold, n_folds)
    card |= {"seed": seed, "strategy": strategy, "image_digest": train.digest}
    card["findings"] = train.findings.as_json()
    with atomic(path) as temporary:
        table[COLUMNS].to_csv(temporary, index=False, lineterminator="\n")
    write_json(path.with_suffix(".json"), card | {"digest": file_digest(path)})
    draw_balance(path.with_suffix(".png"), profile, card)
    return path


def balance_card(
    profile: Profile, train: Dataset, counts: NDArray[np.int64], fold: NDArray[np.int32], k: int
) -> dict[str, Any]:
    """Images and boxes per fold and class, and the largest relative deviation from an even split."""
    boxes = np.stack([counts[fold == i].sum(axis=0) for i in range(k)])
    mean = boxes.mean(axis=0)
    deviation = np.abs(boxes - mean).max(axis=0) / np.where(mean > 0, mean, 1)
    return {
        "competition": profile.name,
        "folds": k,
        "images": np.bincount(fold, minlength=k).tolist(),
        "boxes": boxes.sum(axis=1).tolist(),
        "images_without_boxes": [int((counts[fold == i].sum(axis=1) == 0).sum()) for i in range(k)],
        "boxes_per_class": {name: boxes[:, c].tolist() for c, name in enumerate(profile.classes)},
        "largest_deviation": {name: round(float(deviation[c]), 4) for c, name in enumerate(profile.classes)},
    }


def draw_balance(path: Path, profile: Profile, card: dict[str, Any]) -> None:
    """Bars of each class's boxes per fold, relative to an even split."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    k = card["folds"]
    boxes = np.array([card["boxes_per_class"][name] for name in profile.classes], float)
    mean = np.where(boxes.mean(axis=1) > 0, boxes.mean(axis=1), 1)
    figure, axes = plt.subplots(figsize=(max(6.0, 1.1 * len(boxes)), 3.6), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0.1, 0.9, k))
    for i in range(k):
        x = np.arange(len(boxes)) + (i - (k - 1) / 2) * 0.8 / k
        axes.bar(x, 100 * boxes[:, i] / mean, 0.8 / k, color=colours[i], label=f"fold {i}")
    axes.axhline(100, color="black", linewidth=0.8)
    labels = [f"{n}\n{int(b.sum())}" for n, b in zip(profile.classes, boxes, strict=True)]
    axes.set_xticks(np.arange(len(boxes)), labels, fontsize=8)
    axes.set_ylabel("boxes, % of an even split")
    axes.set_title(f"{profile.title}: {sum(card['images'])} images in {k} folds, boxes per class")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def show(card: dict[str, Any]) -> None:
    frame = pd.DataFrame(card["boxes_per_class"]).T
    frame.columns = [f"fold {i}" for i in range(card["folds"])]
    frame["deviation"] = [f"{100 * v:.1f} %" for v in card["largest_deviation"].values()]
    frame.loc["boxes"] = [*card["boxes"], ""]
    frame.loc["images"] = [*card["images"], ""]
    print(frame.to_string())


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("--folds", type=int, default=5, help="number of folds")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--strategy", choices=sorted(STRATEGIES), default="multilabel")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    train = load_dataset(profile, "train")
    train.findings.show()
    counts = box_counts(train, len(profile.classes))
    path = make_folds(profile, train, options.folds, options.seed, options.strategy)
    split = pd.read_csv(path).sort_values("image_id")["fold"].to_numpy(np.int32)
    show(balance_card(profile, train, counts, split, options.folds))
    print(f"wrote {shown(path)}, its card folds.json and its picture folds.png")


if __name__ == "__main__":
    cli.run(main)
