"""Fuse predictions: an ensemble's folds and views, or any tables.

    python -m pipeline.ensemble --ensemble final --competition C
    python -m pipeline.ensemble A.parquet B.parquet ... --method wbf --iou 0.55 -o OUT.parquet

An ensemble (configs/ensembles/<name>.yaml) fuses, within each fold, all members and views, on the
held-out photos and on the test photos alike. Out-of-fold joins the folds; test fuses the K folds'
results once more, the same way always. So the out-of-fold score is that of one fold's ensemble, of
which the submission holds K; what the last step adds is not measured. Any tables: those with the
same images are fused, those with disjoint images joined, anything between is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline import cli
from pipeline.data.dataset import load_dataset, load_truth
from pipeline.data.predictions import (
    Predictions,
    check_belongs,
    join_predictions,
    read_predictions,
    write_predictions,
)
from pipeline.data.profile import Profile, load_profile
from pipeline.data.runs import Run, find_runs, need_runs
from pipeline.data.split import read_split
from pipeline.errors import PipelineError
from pipeline.fusion.tables import (
    ACROSS_FOLDS,
    FUSION_KEYS,
    Fusion,
    describe,
    fuse_and_join,
    fuse_same_images,
)
from pipeline.fusion.wbf import CONF_TYPES
from pipeline.paths import CONFIGS, ensemble_dir, shown, write_json
from pipeline.scoring import evaluate

LAST_STEP = (
    "oof is the score of one fold's ensemble on its held-out photos; the submission fuses the K folds' "
    "ensembles once more, and what that adds is not measured on oof"
)


@dataclass(frozen=True)
class Member:
    """One trained fold of a model, the views it takes part with, and the weight of each."""

    run: Run
    views: tuple[str, ...]
    weight: float


def read_ensemble(name: str) -> tuple[Any, Fusion]:
    """The members as the YAML names them ("all" or a list), and how to fuse."""
    path = CONFIGS / "ensembles" / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise PipelineError(f"no ensemble '{name}'; there are: {known}")
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if unknown := set(values) - {"members", *FUSION_KEYS}:
        raise PipelineError(
            f"{shown(path)}: unknown key '{sorted(unknown)[0]}'; known: members, {', '.join(FUSION_KEYS)}"
        )
    return values.pop("members", "all"), Fusion(**values)


def choose_members(competition: str, members: Any) -> list[Member]:
    """The trained runs that an ensemble's `members` names; every one must be there."""
    if members == "all":
        runs = find_runs(competition)
        if not runs:
            raise PipelineError(
                f"no trained model of '{competition}'; make train COMP={competition} MODEL=... FOLD=0"
            )
        entries = [{"model": model} for model in dict.fromkeys(run.model for run in runs)]
    else:
        entries = members
    chosen = []
    for entry in entries:
        if not isinstance(entry, dict) or not {"model"} <= set(entry) <= {"model", "views", "weight"}:
            raise PipelineError(f"ensemble member {entry}: expected model, and views and weight if wanted")
        for run in need_runs(competition, entry["model"]):
            views = tuple(entry.get("views") or run.views("oof"))
            for view in views or ("identity",):
                for split in ("oof", "test"):
                    if view not in run.views(split):
                        raise PipelineError(
                            f"{shown(run.folder)}: view '{view}' is not predicted on {split}; make predict "
                            f"COMP={competition} MODEL={run.model} FOLD={run.fold} SPLIT={split} VIEWS={view}"
                        )
            chosen.append(Member(run, views, float(entry.get("weight", 1))))
    return chosen


def fuse_fold(
    members: Sequence[Member], split: str, fusion: Fusion, name: str, folds_digest: str
) -> Predictions:
    """Fuse all members and views of one fold on one split."""
    tables, weights = [], []
    for member in members:
        for view in member.views:
            table = member.run.table(split, view)
            if table.meta.made.get("folds_digest") not in (None, folds_digest):
                raise PipelineError(
                    f"{table.name}: made with another split than the fold file holds now; restore that "
                    "split, or train and predict again"
                )
            tables.append(table)
            weights.append(member.weight)
    return fuse_same_images(tables, fusion, weights, name)


def make_ensemble(profile: Profile, name: str) -> dict[str, Any]:
    """Write an ensemble's oof.parquet, test.parquet and card.json; returns the card."""
    entries, fusion = read_ensemble(name)
    members = choose_members(profile.name, entries)
    train, test = load_dataset(profile, "train"), load_dataset(profile, "test")
    split = read_split(profile.name, train)
    folds = sorted({member.run.fold for member in members})
    models = list(dict.fromkeys(member.run.model for member in members))
    for model in models:
        have = {m.run.fold for m in members if m.run.model == model}
        if missing := sorted(set(folds) - have):
            print(f"  note: {model} is not trained on fold {missing}; those folds are fused without it")
    if missing := sorted(set(range(split.n_folds)) - set(folds)):
        print(f"  note: no model is trained on fold {missing}; their photos have no out-of-fold boxes")
    folder = ensemble_dir(profile.name, name)
    oof_parts, test_parts = [], []
    for fold in folds:
        mine = [member for member in members if member.run.fold == fold]
        oof_parts.append(fuse_fold(mine, "oof", fusion, name, split.digest))
        test_parts.append(fuse_fold(mine, "test", fusion, name, split.digest))
    oof = join_predictions(oof_parts)
    result = fuse_same_images(test_parts, ACROSS_FOLDS, name=name)
    for table, dataset in ((oof, train), (result, test)):
        check_belongs(table, profile.name, dataset.digest, len(profile.classes))
    listed = [entry for part in oof_parts + test_parts for entry in part.meta.made["members"]]
    result.meta.made |= {"fusion": describe(fusion), "members": listed}
    oof.meta.made = {"fusion": describe(fusion), "members": listed}
    oof.meta.view = "fused"
    write_predictions(folder / "oof.parquet", oof)
    write_predictions(folder / "test.parquet", result)
    truth = load_truth(profile, "train")
    assert truth is not None  # train always has its boxes
    card = {
        "ensemble": name, "competition": profile.name, "models": models, "folds": folds,
        "fusion": describe(fusion), "across_folds": describe(ACROSS_FOLDS),
        "folds_digest": split.digest, "image_digests": {"train": train.digest, "test": test.digest},
        "oof": evaluate(oof, truth.annotations, profile.classes), "note": LAST_STEP,
        "members": [{"weight": m.weight, "model": m.run.model, "fold": m.run.fold,
                     "views": list(m.views)} for m in members],
        "tables": listed,
    }  # fmt: skip
    write_json(folder / "card.json", card)
    return card


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("files", nargs="*", type=Path, metavar="TABLE.parquet")
    arguments.add_argument("--ensemble", default=None, help="name of a file in configs/ensembles")
    default = Fusion()
    arguments.add_argument("--method", default=default.method, help="wbf, nms, soft_nms or nmw")
    arguments.add_argument("--conf-type", default=default.conf_type, help=", ".join(CONF_TYPES))
    arguments.add_argument("--iou", type=float, default=default.iou)
    arguments.add_argument("--skip", type=float, default=default.skip, help="score floor")
    arguments.add_argument("--soft", default=default.soft, help="soft_nms: linear or gaussian")
    arguments.add_argument("--sigma", type=float, default=default.sigma, help="soft_nms, gaussian")
    arguments.add_argument("--weights", type=float, nargs="+", default=None)
    arguments.add_argument("-o", "--output", type=Path, default=None)
    options = arguments.parse_args(argv)
    if bool(options.files) == bool(options.ensemble):
        raise PipelineError("expected prediction tables, or --ensemble, one of them")
    if options.ensemble:
        profile = load_profile(options.competition, options.root)
        card = make_ensemble(profile, options.ensemble)
        folder = ensemble_dir(profile.name, options.ensemble)
        print(
            f"wrote {shown(folder)}/oof.parquet and test.parquet: {', '.join(card['models'])} over folds "
            f"{card['folds']}, oof mAP50 {card['oof']['map50']:.4f}"
        )
        return
    if options.output is None:
        raise PipelineError("expected -o OUT.parquet, where the fused table goes")
    if options.weights is not None and len(options.weights) != len(options.files):
        raise PipelineError(
            f"{len(options.weights)} weights for {len(options.files)} tables; expected one each"
        )
    fusion = Fusion(options.method, options.iou, options.skip, options.conf_type, options.soft, options.sigma)
    tables = [read_predictions(path) for path in options.files]
    result = fuse_and_join(tables, fusion, options.weights, options.output.stem)
    write_predictions(options.output, result)
    for line in result.meta.made.get("repairs", []):
        print(f"  note: {line}")
    print(f"wrote {shown(options.output)}: {len(result)} boxes on {len(result.meta.image_ids)} images")


if __name__ == "__main__":
    cli.run(main)
