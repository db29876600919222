"""Convert predictions between the prediction table, COCO results json and the submission CSV.

    python -m pipeline.convert SRC DST --competition C --split oof|test
        [--model M] [--view V] [--fold K | --folds CSV] [--box '{label} {score} {x} {y} {w} {h}']
    python -m pipeline.convert SRC|truth FOLDER --to coco|yolo|voc --competition C --split oof|test [--fold K]

Formats go by suffix: .parquet, .json, .csv; a folder as SRC holds a file per photo, YOLO text or VOC xml,
with scores. With --to, a new FOLDER holds the boxes of SRC, or as `truth`
the competition's own, in a format of other tools, and links to the photos; the truth of --fold K is
written in two parts, train (the other folds) and val (the fold).

Boxes made elsewhere keep their own split: --fold says of which fold all the images are, --folds names
a CSV with the columns image_id (or file_name) and fold; it is kept as it is and never compared with
folds/. An image counts as predicted when the file names it; with --folds also when the CSV does; for
the test split, a COCO results json counts for every test image.
"""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import cli
from pipeline.data.dataset import CORNERS, Dataset, ids_of_rows, load_dataset, load_truth
from pipeline.data.exchange import read_coco_results, write_coco_results
from pipeline.data.findings import Findings
from pipeline.data.formats.results import read_results_folder
from pipeline.data.formats.write import WRITERS, Part, write_folder
from pipeline.data.outputs import check_output
from pipeline.data.photos import photos_of
from pipeline.data.predictions import (
    SPLITS,
    Meta,
    Predictions,
    check_belongs,
    make_predictions,
    read_predictions,
    write_predictions,
)
from pipeline.data.profile import Profile, load_profile, with_box
from pipeline.data.split import are_whole, check_fold, read_split
from pipeline.data.text import read_table
from pipeline.errors import PipelineError
from pipeline.paths import file_digest, folds_csv, ledger_csv, shown
from pipeline.submissions.reader import read_submission
from pipeline.submissions.writer import write_submission

SUFFIXES = (".parquet", ".json", ".csv")
TRUTH = "truth"  # in place of a source file


def read_any(
    path: Path,
    profile: Profile,
    dataset: Dataset,
    split: str,
    model: str,
    view: str,
    folds: dict[int, int] | int | None,
    findings: Findings,
) -> Predictions:
    """Read a file of any format as a prediction table of the split."""
    if path.suffix == ".parquet":
        table = read_predictions(path)
        check_belongs(table, profile.name, dataset.digest, len(profile.classes))
        if table.meta.split != split:
            raise PipelineError(f"{table.name}: split '{table.meta.split}', expected '{split}'")
    else:
        table = _read_foreign(path, profile, dataset, split, model, view, folds, findings)
    if left := len(dataset.images) - len(table.meta.image_ids):
        findings.notes.append(f"{left} of {len(dataset.images)} images are not in it: not predicted")
    return table


def _read_foreign(
    path: Path,
    profile: Profile,
    dataset: Dataset,
    split: str,
    model: str,
    view: str,
    folds: dict[int, int] | int | None,
    findings: Findings,
) -> Predictions:
    """Read a submission CSV, a COCO results json or a folder, which do not say what they were made for."""
    if path.is_dir():
        boxes = read_results_folder(path, profile, dataset, findings)
    elif path.suffix == ".csv":
        boxes = read_submission(path, profile, dataset, findings)
    else:
        boxes = read_coco_results(path, dataset, findings)
    ids = np.unique(boxes.named_ids)
    if path.suffix == ".json" and split == "test":
        ids = dataset.images["image_id"].to_numpy(np.int64)
    if isinstance(folds, dict):
        ids = np.union1d(ids, np.array(list(folds), np.int64))
        fold = np.array([folds.get(i, -1) for i in ids.tolist()], np.int32)
        if (fold < 0).any():
            raise PipelineError(
                f"{shown(path)}: {(fold < 0).sum()} of its images have no fold in --folds, the first is "
                f"image id {ids[fold < 0][0]}"
            )
    else:
        ids = _with_own_fold(ids, profile, dataset, folds, findings)
        fold = np.full(len(ids), -1 if folds is None else folds, np.int32)
    made = {"converted_from": path.name}
    made |= {} if path.is_dir() else {"source_digest": file_digest(path)}
    meta = Meta(profile.name, split, dataset.digest, ids.astype(np.int32), fold, model, view, dict(made))
    table, counts = make_predictions(
        boxes.image_id, boxes.label, boxes.score, boxes.boxes_xyxy, meta, dataset.images
    )
    if counts["clipped"]:
        findings.notes.append(f"{counts['clipped']} boxes that reach outside their photo clipped")
    return table


def _with_own_fold(
    ids: NDArray[np.int64], profile: Profile, dataset: Dataset, fold: int | None, findings: Findings
) -> NDArray[np.int64]:
    """The ids and, where all of them are in fold `fold` of our own split, the others of that fold."""
    if fold is None or dataset.split != "train" or not folds_csv(profile.name).is_file():
        return ids
    split = read_split(profile.name, dataset)
    held = split.image_id[split.fold == fold]
    if not np.isin(ids, held).all() or len(ids) == len(held):
        return ids
    findings.notes.append(
        f"the {len(held) - len(ids)} other images of fold {fold} of {shown(split.path)} count as predicted: "
        "nothing was found on them"
    )
    return np.union1d(ids, held)


def read_folds(path: Path, dataset: Dataset) -> dict[int, int]:
    """Image id -> fold from a CSV with file_name or image_id (the annotation file's own) and fold."""
    table = read_table(path)
    if "fold" not in table:
        raise PipelineError(f"{shown(path)}: expected columns image_id (or file_name) and fold")
    ids = ids_of_rows(table, dataset, path)
    fold = pd.to_numeric(table["fold"], errors="coerce").to_numpy(np.float64)
    if (bad := np.flatnonzero(~are_whole(fold, len(dataset.images)))).size:
        values = ",".join(map(str, table.iloc[bad[0]]))
        raise PipelineError(
            f"{shown(path)}: row {bad[0] + 2}: expected a fold that is a whole number from 0 to "
            f"{len(dataset.images) - 1}; {values}"
        )
    return dict(zip(ids.tolist(), fold.astype(int).tolist(), strict=True))


def boxes_of_table(table: Predictions) -> pd.DataFrame:
    """The boxes of a table as the writers of formats take them."""
    corners = {name: table.boxes_xyxy[:, i].astype(np.float64) for i, name in enumerate(CORNERS)}
    columns = {"image_id": table.image_id, "label": table.labels, **corners, "iscrowd": 0}
    return pd.DataFrame(columns | {"score": table.scores.astype(np.float64)})


def write_as(
    options: Namespace,
    profile: Profile,
    dataset: Dataset,
    images: dict[str, pd.DataFrame],
    boxes: pd.DataFrame,
) -> None:
    """Write the images of each part and their boxes into the folder that the options name."""
    parts, photos = {}, {}
    for name, rows in images.items():
        own = boxes[boxes["image_id"].isin(rows["image_id"])]
        parts[name] = Part(rows, own, profile.classes, dataset.category_ids)
        photos[name] = photos_of(profile, dataset.split, rows)
    write_folder(options.target, options.to, parts, photos).show()


def write_truth(options: Namespace) -> None:
    """Write the competition's own boxes; with a fold, those of the other folds and of the fold apart."""
    if not options.to:
        raise PipelineError(f"truth: expected the format, --to {'|'.join(WRITERS)}")
    given = [options.model, options.view, options.box, options.folds]
    if any(value is not None for value in given) or (options.fold is not None and options.split == "test"):
        raise PipelineError("truth has no --model, --view, --box, --folds, and in the test split no --fold")
    profile = load_profile(options.competition, options.root)
    dataset = load_truth(profile, "train" if options.split == "oof" else "test")
    if dataset is None:
        raise PipelineError(f"competition '{profile.name}': the boxes of its test set are not known")
    dataset.findings.show()
    images = {dataset.split: dataset.images}
    if options.fold is not None:
        split = read_split(profile.name, dataset)
        check_fold(split, options.fold)
        held = split.fold == options.fold
        images = {"train": dataset.images[~held], "val": dataset.images[held]}
    write_as(options, profile, dataset, images, dataset.annotations)
    print(f"wrote {shown(options.target)}: {len(dataset.annotations)} boxes, {len(dataset.images)} images")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("source", type=Path)
    arguments.add_argument("target", type=Path)
    arguments.add_argument("--split", choices=SPLITS, required=True)
    arguments.add_argument("--model", default=None, help="default: the source's file name")
    arguments.add_argument("--view", default=None, help="default: identity")
    arguments.add_argument("--box", default=None, help="the source's box string, where not the profile's")
    arguments.add_argument(
        "--allow-losses", action="store_true", help="go on where more than a tenth of the boxes are dropped"
    )
    arguments.add_argument("--to", choices=list(WRITERS), help="write a folder in this format")
    group = arguments.add_mutually_exclusive_group()
    cli.add_whole(group, "--fold", least=0)
    group.add_argument("--folds", type=Path, default=None, metavar="CSV")
    options = arguments.parse_args(argv)
    if str(options.source) == TRUTH:
        write_truth(options)
        return
    files = [options.source] * (not options.source.is_dir()) + [options.target] * (not options.to)
    for path in files:
        if path.suffix not in SUFFIXES:
            raise PipelineError(
                f"{path}: suffix '{path.suffix}', expected {', '.join(SUFFIXES)}; --to "
                f"{'|'.join(WRITERS)} writes a folder"
            )
    given = [options.model, options.view, options.box, options.fold, options.folds]
    if options.source.suffix == ".parquet" and any(value is not None for value in given):
        raise PipelineError(
            f"{shown(options.source)}: a prediction table says itself what it is; leave out --model, "
            "--view, --box, --fold and --folds"
        )
    profile = load_profile(options.competition, options.root)
    if not options.to:
        inputs = [options.source, *filter(None, [options.folds]), folds_csv(profile.name), ledger_csv()]
        check_output(options.target, [*inputs, *profile.files], profile.root)
    dataset = load_dataset(profile, "train" if options.split == "oof" else "test")
    findings = Findings(shown(options.source))
    folds = read_folds(options.folds, dataset) if options.folds else options.fold
    model = options.model or options.source.stem
    view = options.view or "identity"
    source_profile = with_box(profile, options.box) if options.box else profile
    table = read_any(options.source, source_profile, dataset, options.split, model, view, folds, findings)
    if findings.refusals and not options.allow_losses:
        findings.refusals[0] += "; ALLOW_LOSSES=1 (--allow-losses) takes the file as it is"
        findings.check()
    findings.show()
    images, written = dataset.images, len(table)
    if options.to:
        images = images[images["image_id"].isin(table.meta.image_ids)]
        split = "train" if options.split == "oof" else "test"
        write_as(options, profile, dataset, {split: images}, boxes_of_table(table))
    elif options.target.suffix == ".parquet":
        write_predictions(options.target, table)
    elif options.target.suffix == ".json":
        write_coco_results(options.target, table, dataset)
    else:
        if options.split == "oof":  # a CSV of the images that were predicted
            images = images[images["image_id"].isin(table.meta.image_ids)]
        written = write_submission(options.target, profile, table, images)
    lost = f" ({len(table) - written} more vanish by rounding)" if written < len(table) else ""
    print(
        f"wrote {shown(options.target)}: {written} boxes{lost}, {len(table.meta.image_ids)} images predicted"
    )


if __name__ == "__main__":
    cli.run(main)
