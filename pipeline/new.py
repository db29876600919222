"""Look at a folder of data and write the profile of a new competition: configs/competitions/<name>.yaml.

    python -m pipeline.new --competition mycomp [--root FOLDER]

Finds the annotations and their format, classes, test images, photos and sample submission, prints
them and writes a profile with comments, ready for check_data and folds. Asks nothing and changes no
data. What no file states (metric, header, share held out) is a default that says `assumed`.
"""

import re

from pipeline import cli
from pipeline.data.discover.choose import Discovery, discover
from pipeline.data.discover.write import write_profile
from pipeline.data.profile import data_folder, profile_path
from pipeline.errors import PipelineError
from pipeline.paths import shown


def show(made: Discovery) -> None:
    """Print what was found."""
    print(f"annotations: {made.chosen.what}")
    for text in made.others:
        print(f"  not taken: {text}")
    for split, dataset in (("train", made.train), ("test", made.test)):
        if dataset is None:
            continue
        print(f"{split}: {made.summary(split)}")
        for line in dataset.findings.lines()[len(dataset.findings.refusals) :]:  # those are warnings below
            print(f"  note: {line}")
    for name, count in made.counts().items():
        print(f"  {count:7d} {name}")
    for text in made.warnings:
        print(f"  WARNING: {text}")


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("--competition", "--comp", metavar="C", help="name of the profile to write")
    arguments.add_argument("--root", default=None, metavar="DIR", help="folder of the data (data/<name>)")
    options = arguments.parse_args(argv)
    name = options.competition
    if not name or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}", name):
        raise PipelineError(
            f"COMP={name or ''} (--competition): expected a name of letters and digits, as mycomp"
        )
    path = profile_path(name)
    if path.exists():
        raise PipelineError(
            f"{shown(path)} is there already and is not overwritten; choose another COMP=, or remove it first"
        )
    root = data_folder(name, options.root)
    made = discover(root, name)
    show(made)
    write_profile(path, made, name, root)
    print(f"wrote {shown(path)}; read it, then: make data COMP={name}; make folds COMP={name}")


if __name__ == "__main__":
    cli.run(main)
