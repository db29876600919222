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
from pipeline.checks.findings import SPLITS, CheckedData, Finding, all_findings, check_data, count_sizes
from pipeline.checks.photos import STATISTICS
from pipeline.checks.sheet import draw_findings
from pipeline.checks.similarity import Similarity, compare_splits
from pipeline.data.profile import load_profile
from pipeline.paths import runs_dir, shown, write_json

SIZES_SHOWN = 4


def split_similarity(data: CheckedData) -> Similarity | None:
    """How similar the photos of train and test are; None with too few photos."""
    train, test = (
        np.array(
            [check.statistics for check in data.photo_checks[split] if check.statistics is not None]
        ).reshape(-1, len(STATISTICS))
        for split in SPLITS
    )
    return compare_splits(train, test, STATISTICS)


def report(data: CheckedData, findings: Sequence[Finding]) -> dict[str, Any]:
    """What report.json holds."""
    classes = class_table(data.datasets["train"], data.profile.classes)
    similarity = split_similarity(data)
    return {
        "competition": data.profile.name,
        "images": {split: len(data.datasets[split].images) for split in SPLITS},
        "image_digests": {split: data.datasets[split].digest for split in SPLITS},
        "photos_read": {split: len(data.photo_checks[split]) for split in SPLITS},
        "findings": [finding.as_json() for finding in findings],
        "sizes": {split: count_sizes(data.photos[split]) for split in SPLITS},
        "classes": classes.astype(object).where(classes.notna(), None).to_dict(orient="index"),
        "test_like_train": None
        if similarity is None
        else {
            "auc": round(similarity.auc, 4),
            "interval_95": [round(similarity.low, 4), round(similarity.high, 4)],
            "verdict": similarity.verdict,
            "most_telling": list(similarity.top_features),
        },
    }


def show(data: CheckedData, card: dict[str, Any], findings: Sequence[Finding]) -> None:
    """Print the classes, the photos' sizes, whether test looks like train, and the findings."""
    print(class_table(data.datasets["train"], data.profile.classes).to_string(na_rep="-"))
    for split, sizes in card["sizes"].items():
        first = ", ".join(f"{size}: {count}" for size, count in list(sizes.items())[:SIZES_SHOWN])
        more = f" and {len(sizes) - SIZES_SHOWN} more" if len(sizes) > SIZES_SHOWN else ""
        print(f"{split}: {card['images'][split]} photos; width x height {first}{more}")
        for note in data.datasets[split].findings.notes:
            print(f"  note: {note}")
        if not card["photos_read"][split]:
            print(f"  note: not one photo of {split} is there; only its annotations were checked")
    if similarity := card["test_like_train"]:
        low, high = similarity["interval_95"]
        features = f", most by {', '.join(similarity['most_telling'])}" if low > 0.5 else ""
        print(
            f"{similarity['verdict']}: told apart with AUC {similarity['auc']:.2f} (95 % from {low:.2f} to "
            f"{high:.2f}; 0.5 is alike){features}"
        )
    if findings:
        print("\n".join(finding.line() for finding in findings))
    elif card["classes"]["all"]["boxes"]:  # else `main` says what is wrong
        unseen = " and ".join(split for split in SPLITS if not card["photos_read"][split])
        not_checked = f" in the annotations; photos of {unseen} were not checked" if unseen else ""
        print(f"nothing wrong was found{not_checked}")


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    data = check_data(profile)
    findings = all_findings(data)
    card = report(data, findings)
    show(data, card, findings)
    folder = runs_dir(profile.name) / "data"
    write_json(folder / "report.json", card)
    written = [folder / "report.json", *draw_findings(folder, data, findings)]
    fatal = sum(len(finding.where) for finding in findings if finding.fatal)
    print(f"wrote {', '.join(shown(path) for path in written)}; the data are as they were")
    refusals = [refusal for dataset in data.datasets.values() for refusal in dataset.findings.refusals]
    for refusal in refusals:
        print(f"every other stage refuses the annotations: {refusal}")
    if fatal:
        print(f"{fatal} photos would stop a training or a prediction")
    if not (learnable := card["classes"]["all"]["boxes"]):
        print("every training would stop: no box of train can be learned")
    return 1 if fatal or refusals or not learnable else 0


if __name__ == "__main__":
    cli.run(main)
