"""What every stage's command line shares: its arguments' names and how it ends."""

import argparse
import errno
import os
import sys
from collections.abc import Callable

from pipeline.errors import PipelineError


def parser(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser that is described by the stage's docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_competition(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--competition", default="recycle", metavar="C", help="profile in configs/competitions"
    )
    arguments.add_argument(
        "--root", default=None, metavar="DIR", help="folder of the data (default: the profile's)"
    )


def add_fold(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--model", required=True, help="name of a config in configs/<backend>")
    arguments.add_argument("--fold", type=int, required=True)
    arguments.add_argument("--device", default=None, help="cpu, cuda:0 ... (default: a GPU if any)")


def add_settings(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--epochs", type=int, default=None)
    arguments.add_argument("--image-size", type=int, default=None, help="pixels, the longer side")
    arguments.add_argument("--batch", type=int, default=None, help="photos a step")
    arguments.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of the framework's own"
    )


# What a disk can have against being written to; other errors of the system are ours and keep their traceback.
DISK = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "larger than a file may be here",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission to write there",
}


def run(main: Callable[[], int | None]) -> None:
    """Run a stage and end with the status that it returns, if any.

    A user's mistake or a full disk is one line on stderr and status 1, Ctrl-C is status 130.
    """
    try:
        if status := main():
            sys.exit(status)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in DISK:
            raise
        print(
            f"error: {error.filename or 'a file'}: {DISK[error.errno]}; mend that and run the same command "
            "again: what was written whole is kept",
            file=sys.stderr,
        )
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
