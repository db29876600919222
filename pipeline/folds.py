"""Split the train images into folds: writes folds/<competition>/folds.csv, its card and a picture.

The card folds.json holds the balance per fold, class, size and number of boxes beside the integer
floor, the groups, what the annotation reader refused or repaired, the seed and the digests. Photos
are opened for `--groups near` only. With several strategies the first makes folds.csv, which all
stages use; the others are written beside it under their own names, to be compared.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import cli
from pipeline.data.contact import draw_pairs
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.photos import photos_of
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import trained_on
from pipeline.data.split import COLUMNS
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, folds_csv, shown, write_json, write_text
from pipeline.splits import STRATEGIES, content_of, split_images
from pipeline.splits.card import balance_card, balance_table
from pipeline.splits.groups import Links, find_links, join, split_bursts
from pipeline.splits.picture import draw_balance


def make_folds(
    profile: Profile,
    train: Dataset,
    n_folds: int,
    seed: int,
    strategy: str,
    *,
    links: list[Links] | None = None,
    name: str = "folds",
    overwrite: bool = False,
) -> tuple[Path, dict[str, Any]]:
    """Write a fold file, its card and its picture; returns the fold file's path and the card.

    Raises PipelineError when runs were trained on the split that is there, unless `overwrite`.
    """
    images, boxes, links = train.images, train.annotations, links or []
    ids = images["image_id"].to_numpy(np.int64)
    content = content_of(
        ids,
        boxes["image_id"].to_numpy(np.int64),
        boxes["label"].to_numpy(np.int64),
        boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64),
        len(profile.classes),
        join(ids, links),
    )
    fold = split_images(content, strategy, n_folds, seed)
    table = images[["image_id", "file_name"]].assign(fold=fold, group=content.group)
    text = io.StringIO()
    table[COLUMNS].to_csv(text, index=False, lineterminator="\n")
    path = folds_csv(profile.name).with_name(f"{name}.csv")
    if not overwrite:
        check_unused(profile.name, path, text.getvalue())
    card: dict[str, Any] = {
        "competition": profile.name,
        "strategy": strategy,
        "seed": seed,
        "image_digest": train.digest,
    }
    card |= balance_card(content, fold, n_folds, profile.classes)
    card["groups"] |= {
        "by": [link.text for link in links],
        "joined_pairs": [len(link.pairs) for link in links],
    }
    card["bursts"] = split_bursts(train, fold)
    card["findings"] = train.findings.as_json()
    write_text(path, text.getvalue())
    write_json(path.with_suffix(".json"), card | {"digest": file_digest(path)})
    draw_balance(path.with_suffix(".png"), profile.title, card)
    return path, card


def check_unused(competition: str, path: Path, text: str) -> None:
    """Raise PipelineError when a run was trained on the split in `path` and `text` is another one."""
    if not path.is_file() or path.read_bytes() == text.encode():
        return
    if runs := trained_on(competition, file_digest(path)):
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        raise PipelineError(
            f"{shown(path)}: {shown(runs[0].folder)}{more} trained on this split, which another would "
            "replace; OVERWRITE=1 (--overwrite) replaces it, and those runs have to be trained again"
        )


def show(path: Path, card: dict[str, Any]) -> None:
    print(balance_table(card).to_string())
    for line in card["not_met"]:
        print(f"  note: {line}")
    if bursts := card["bursts"]:
        print(
            f"  note: bursts: {bursts['in_different_folds']} of {bursts['neighbours']} photos taken at most "
            f"{bursts['seconds']:g} s after another lie in a different fold than that one"
        )
    worst, groups = card["worst"], card["groups"]
    joined = f", {groups['of_several_images']} groups kept whole" if groups["by"] else ""
    print(
        f"wrote {shown(path)}, its card {path.stem}.json and its picture {path.stem}.png: largest deviation "
        f"{100 * worst['deviation']:.2f} % ({worst['class']}), integer floor "
        f"{100 * worst['integer_floor']:.2f} %{joined}"
    )


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("--k", "--folds", type=int, default=5, help="number of folds (5)")
    arguments.add_argument("--seed", type=int, default=0)
    cli.add_list(arguments, "--strategy", allowed=list(STRATEGIES), default=["boxes"])
    cli.add_list(
        arguments,
        "--groups",
        default=[],
        help="images that stay together: bursts:10,near:56,column:NAME,csv:FILE; "
        "for the strategy `groups` only, where it is one of several (default there: bursts)",
    )
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace a split that runs were trained on"
    )
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    train = load_dataset(profile, "train")
    train.findings.show()
    wanted = options.groups or (["bursts"] if "groups" in options.strategy else [])
    links = find_links(profile, train, wanted)
    for place, strategy in enumerate(options.strategy):
        grouped = strategy == "groups" or "groups" not in options.strategy
        path, card = make_folds(
            profile,
            train,
            options.k,
            options.seed,
            strategy,
            links=links if grouped else [],
            name="folds" if place == 0 else strategy,
            overwrite=options.overwrite,
        )
        show(path, card)
    photos = photos_of(profile, "train", train.images)
    for link in links:
        if link.distance is not None:
            sheet = draw_pairs(
                folds_csv(profile.name).with_name("pairs.png"), photos, photos, link.pairs, link.distance
            )
            print(f"wrote {shown(sheet)}: {len(link.pairs)} pairs of {link.text}")


if __name__ == "__main__":
    cli.run(main)
