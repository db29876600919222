"""Split the train images into folds: writes folds/<competition>/folds.csv, its card and a picture.

The card folds.json holds the balance per fold, class, size and number of boxes beside the integer
floor, the groups, what the annotation reader refused or repaired, the seed and the digests. Photos
are opened for `--groups near` only. With several strategies the first makes folds.csv, which all
stages use; the others are written beside it under their own names, to be compared.
"""

from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.data.contact import draw_pairs
from pipeline.data.dataset import load_dataset
from pipeline.data.photos import photos_of
from pipeline.data.profile import load_profile
from pipeline.paths import folds_csv, shown
from pipeline.splits import STRATEGIES
from pipeline.splits.balance_card import balance_table
from pipeline.splits.fold_file import SplitPlan, make_folds
from pipeline.splits.groups import find_links


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
    cli.add_whole(arguments, "--k", "--folds", least=0, default=5, help="number of folds (5)")
    cli.add_seed(arguments)
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
        plan = SplitPlan(strategy, options.k, options.seed, tuple(links) if grouped else ())
        name = "folds" if place == 0 else strategy
        path, card = make_folds(profile, train, plan, name, options.overwrite)
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
