"""Fuse predictions: an ensemble's folds and views, or any tables.

    python -m pipeline.ensemble --ensemble final --competition C
    python -m pipeline.ensemble A.parquet B.parquet ... --method wbf --iou 0.55 -o OUT.parquet

An ensemble (configs/ensembles/<name>.yaml) fuses, within each fold, all members and views, on the
held-out photos and on the test photos alike. Out-of-fold joins the folds; test fuses the K folds'
results once more, the same way always. So the out-of-fold score is that of one fold's ensemble, of
which the submission holds K; what the last step adds is not measured. Where each member also has its
model on all photos (FOLD=full), these are one more fold on test, and in no score. Any tables: those with the
same images are fused, those with disjoint images joined, anything between is refused.
"""

from collections import Counter
from pathlib import Path

from pipeline import cli
from pipeline.data.outputs import check_output
from pipeline.data.predictions import write_predictions
from pipeline.data.records import as_record
from pipeline.data.runs import read_table
from pipeline.ensembles.tables import FUSION_KEYS, Fusion, fuse_and_join
from pipeline.errors import PipelineError
from pipeline.fusion.wbf import CONF_TYPES
from pipeline.paths import ensemble_dir, shown


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("tables", nargs="*", type=Path, metavar="TABLE.parquet")
    arguments.add_argument("--ensemble", default="", help="name of a file in configs/ensembles (final)")
    default = Fusion()
    arguments.add_argument("--method", default=default.method, help="wbf, nms, soft_nms or nmw")
    arguments.add_argument("--conf-type", default=default.conf_type, help=", ".join(CONF_TYPES))
    cli.add_number(arguments, "--iou", default=default.iou)
    cli.add_number(arguments, "--skip", default=default.skip, help="score floor")
    arguments.add_argument(
        "--allows-overflow", action="store_true", help="avg: count every box of a cluster, not one a source"
    )
    arguments.add_argument("--soft", default=default.soft, help="soft_nms: linear or gaussian")
    cli.add_number(arguments, "--sigma", default=default.sigma, help="soft_nms, gaussian")
    cli.add_number(arguments, "--weights", nargs="+")
    arguments.add_argument("-o", "--output", type=Path, default=None)
    options = arguments.parse_args(argv)
    if options.tables and options.ensemble:
        raise PipelineError("expected prediction tables, or --ensemble, one of them")
    if not options.tables:
        # Imported here: any tables are fused without pandas, in half the time and memory to start.
        from pipeline.data.profile import load_profile
        from pipeline.ensembles.make_ensemble import make_ensemble

        profile = load_profile(options.competition, options.root)
        name = options.ensemble or "final"
        card = make_ensemble(profile, name)
        folder = ensemble_dir(profile.name, name)
        full = " and, on test, full (not measured)" if card.unmeasured else ""
        print(
            f"wrote {shown(folder)}/oof.parquet and test.parquet: {', '.join(card.models)} over folds "
            f"{list(card.folds)}{full}, oof mAP50 {card.oof.map50:.4f}"
        )
        return
    if options.output is None:
        raise PipelineError("expected -o OUT.parquet, where the fused table goes")
    if options.output.suffix != ".parquet":
        raise PipelineError(f"{options.output}: expected a name that ends in .parquet")
    for path, count in Counter(file.resolve() for file in options.tables).items():
        if count > 1:
            raise PipelineError(f"{shown(path)}: is there twice; give it a weight instead")
    check_output(options.output, options.tables)
    if options.weights is not None and len(options.weights) != len(options.tables):
        raise PipelineError(
            f"{len(options.weights)} weights for {len(options.tables)} tables; expected one each"
        )
    values = {name: getattr(options, name) for name in FUSION_KEYS}
    fusion = as_record(values, Fusion, "options", "correct it")
    tables = [read_table(path) for path in options.tables]
    result = fuse_and_join(tables, fusion, options.weights, options.output.stem, release=True)
    write_predictions(options.output, result)
    for line in result.meta.made.get("repairs", []):
        print(f"  note: {line}")
    print(f"wrote {shown(options.output)}: {len(result)} boxes on {len(result.meta.image_ids)} images")


if __name__ == "__main__":
    cli.run(main)
