"""Run the benchmarks named, or all of them but the trainings, each in a process of its own."""

import subprocess
import sys

from pipeline import cli

PARTS = ("folds", "fusion", "scoring", "submissions")


def main(argv: list[str] | None = None) -> int:
    arguments = cli.parser(__doc__)
    cli.add_list(arguments, "--bench", allowed=PARTS, default=list(PARTS))
    for part in arguments.parse_args(argv).bench:
        print(f"== {part}", flush=True)
        if status := subprocess.run([sys.executable, "-m", f"benchmarks.{part}"], check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    cli.run(main)
