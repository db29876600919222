"""Look at a competition's data before training: annotations and photos side by side. Changes nothing.

Reports what the readers refuse or repair, photos that cannot be used, odd boxes, near-duplicates
within train and between train and test, the classes, and whether test looks like train. Writes
runs/<competition>/data/: report.json with every id, sheet.png with the faults, pairs.png with the
near-duplicates. The status is 1 when training or prediction would stop at a photo or at the annotations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline import cli
from pipeline.checks.boxes import class_table
from pipeline.checks.likeness import Likeness, compare
from pipeline.checks.look import STATISTICS, Look, look_at_all
from pipeline.checks.report import (
    Pairs,
    Row,
    box_rows,
    duplicate_pairs,
    duplicate_rows,
    photo_rows,
    reader_rows,
    size_counts,
)
from pipeline.checks.sheet import draw_findings
from pipeline.data.dataset import Dataset, load_dataset
from pipeline.data.photos import Photo, photos_of
from pipeline.data.profile import Profile, load_profile
from pipeline.paths import runs_dir, shown, write_json

SPLITS = ("train", "test")
SIZES_SHOWN = 4


def read_photos(photos: dict[str, list[Photo]]) -> dict[str, list[Look]]:
    """The looks of each split's photos; none where not one of them is there."""
    there = {split: any(photo.path.is_file() for photo in mine) for split, mine in photos.items()}
    return {
        split: look_at_all(mine, f"look at {split}") if there[split] else [] for split, mine in photos.items()
    }


def likeness(looks: dict[str, list[Look]]) -> Likeness | None:
    values = {
        split: [look.statistics for look in mine if look.statistics is not None]
        for split, mine in looks.items()
    }
    train, test = (np.array(values[split]).reshape(-1, len(STATISTICS)) for split in SPLITS)
    return compare(train, test, STATISTICS)


def find_all(
    data: dict[str, Dataset],
    photos: dict[str, list[Photo]],
    looks: dict[str, list[Look]],
    pairs: dict[str, Pairs],
    one_file: bool,
) -> list[Row]:
    """Every finding, those that stop a training first. `one_file`: test is a part of train's file."""
    rows = []
    for split in SPLITS:
        if looks[split]:
            rows += photo_rows(split, photos[split], looks[split])
    for split in SPLITS[: 1 if one_file else 2]:
        rows += reader_rows(data[split])
    rows += [row for split in SPLITS for row in box_rows(data[split])]
    return sorted(rows + duplicate_rows(pairs, photos), key=lambda row: not row.fatal)


def report(
    profile: Profile,
    data: dict[str, Dataset],
    photos: dict[str, list[Photo]],
    looks: dict[str, list[Look]],
    rows: Sequence[Row],
    alike: Likeness | None,
) -> dict[str, Any]:
    classes = class_table(data["train"], profile.classes)
    return {
        "competition": profile.name,
        "images": {split: len(data[split].images) for split in SPLITS},
        "image_digests": {split: data[split].digest for split in SPLITS},
        "photos_read": {split: len(looks[split]) for split in SPLITS},
        "findings": [row.as_json() for row in rows],
        "sizes": {split: size_counts(photos[split]) for split in SPLITS},
        "classes": classes.astype(object).where(classes.notna(), None).to_dict(orient="index"),
        "test_like_train": None
        if alike is None
        else {
            "auc": round(alike.auc, 4),
            "interval_95": [round(alike.low, 4), round(alike.high, 4)],
            "verdict": alike.verdict,
            "most_telling": list(alike.telling),
        },
    }


def show(profile: Profile, data: dict[str, Dataset], card: dict[str, Any], rows: Sequence[Row]) -> None:
    print(class_table(data["train"], profile.classes).to_string(na_rep="-"))
    for split, sizes in card["sizes"].items():
        first = ", ".join(f"{size}: {count}" for size, count in list(sizes.items())[:SIZES_SHOWN])
        more = f" and {len(sizes) - SIZES_SHOWN} more" if len(sizes) > SIZES_SHOWN else ""
        print(f"{split}: {card['images'][split]} photos; width x height {first}{more}")
        for note in data[split].findings.notes:
            print(f"  note: {note}")
        if not card["photos_read"][split]:
            print(f"  note: not one photo of {split} is there; only its annotations were looked at")
    if alike := card["test_like_train"]:
        low, high = alike["interval_95"]
        telling = f", most by {', '.join(alike['most_telling'])}" if low > 0.5 else ""
        print(
            f"{alike['verdict']}: told apart with AUC {alike['auc']:.2f} (95 % from {low:.2f} to {high:.2f}; "
            f"0.5 is alike){telling}"
        )
    if rows:
        print("\n".join(row.line() for row in rows))
    elif unseen := [split for split in SPLITS if not card["photos_read"][split]]:
        print(
            f"nothing wrong was found in the annotations; photos of {' and '.join(unseen)} were not looked at"
        )
    else:
        print("nothing wrong was found")


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    data = {split: load_dataset(profile, split, strict=False) for split in SPLITS}
    photos = {split: photos_of(profile, split, data[split].images) for split in SPLITS}
    looks = read_photos(photos)
    pairs = duplicate_pairs(looks)
    rows = find_all(data, photos, looks, pairs, profile.holds_out)
    card = report(profile, data, photos, looks, rows, likeness(looks))
    show(profile, data, card, rows)
    folder = runs_dir(profile.name) / "data"
    write_json(folder / "report.json", card)
    written = [folder / "report.json", *draw_findings(folder, profile, data, photos, looks, rows, pairs)]
    fatal = sum(len(row.where) for row in rows if row.fatal)
    print(f"wrote {', '.join(shown(path) for path in written)}; the data are as they were")
    refusals = [refusal for dataset in data.values() for refusal in dataset.findings.refusals]
    for refusal in refusals:
        print(f"every other stage refuses the annotations: {refusal}")
    if fatal:
        print(f"{fatal} photos would stop a training or a prediction")
    return 1 if fatal or refusals else 0


if __name__ == "__main__":
    cli.run(main)
