"""Tune an ensemble on out-of-fold boxes, and compute its nested score.

    python -m pipeline.tune --ensemble final --competition C            its members' trained folds
    python -m pipeline.tune A.parquet B.parquet ... --competition C -o DIR      any out-of-fold tables

What is chosen: members, their floors, NMS, weights and calibration, the method and its parameters, whether
fused boxes are rescored by boosted trees, and the cut of scores where the metric counts every box. Each
part of the images is scored with what was chosen without it: that is the nested score. Writes
DIR/tuned.json (the tuned ensemble, fitted on everything), oof.parquet (the nested boxes) and report.json.
Ctrl-C ends the search with the best so far, unless DIR holds what a whole search of the same boxes
found; the same command goes on from there. With --trials, and a budget that is not used up, the same
seed gives the same result.
"""

import signal
import time
from pathlib import Path
from typing import Any

from pipeline import cli
from pipeline.data.profile import load_profile
from pipeline.data.runs import read_table
from pipeline.errors import PipelineError
from pipeline.paths import ensemble_dir, shown
from pipeline.tuning.print_report import show_report
from pipeline.tuning.run import TuneOptions, members_of_ensemble, tune


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    cli.add_competition(arguments)
    arguments.add_argument("files", nargs="*", type=Path, metavar="FILE.parquet")
    arguments.add_argument("--ensemble", default="", help="default, where no file is named: final")
    cli.add_number(arguments, "--budget", default=300, help="seconds for all of it (300)")
    cli.add_whole(arguments, "--trials", help="candidates a set of images (no limit)")
    cli.add_whole(arguments, "--partitions", default=5, help="partitions where folds are not parts (5)")
    cli.add_seed(arguments)
    arguments.add_argument("-o", "--output", "--out", type=Path, default=None, metavar="DIR")
    options = arguments.parse_args(argv)
    profile = load_profile(options.competition, options.root)
    if options.files and options.ensemble:
        raise PipelineError("expected out-of-fold prediction tables, or --ensemble, one of them")
    if options.files and options.output is None:
        raise PipelineError("expected OUT=DIR (-o DIR), the folder for tuned.json and oof.parquet")
    if options.budget <= 0:
        raise PipelineError(f"--budget {options.budget}: expected seconds above 0")
    tuning = TuneOptions(options.budget, options.trials, options.partitions, options.seed)
    if options.files:
        tables = [read_table(path) for path in options.files]
        folder = options.output
    else:
        name = options.ensemble or "final"
        tables = members_of_ensemble(profile, name)
        folder = options.output or ensemble_dir(profile.name, name) / "tuned"
    began = time.monotonic()

    def stop(number: int, frame: Any) -> None:
        tuning.budget.stop = True
        print("\nstopping with the best so far; once more to give up at once", flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, stop)
    try:
        report = tune(profile, tables, folder, tuning)
    finally:
        signal.signal(signal.SIGINT, before)
    show_report(report)
    if report["kept"]:
        print(f"kept {shown(folder)}/tuned.json of an earlier run of the same boxes, which was not stopped")
        return
    print(f"wrote {shown(folder)}/: tuned.json, oof.parquet, report.json ({time.monotonic() - began:.0f} s)")


if __name__ == "__main__":
    cli.run(main)
