"""What every stage's command line shares: its arguments' names, lists, make's variables, and how it ends."""

import argparse
import contextlib
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from pipeline.errors import PipelineError, one_line
from pipeline.names import number, whole_number
from pipeline.startup import STOPPED, TOO_MANY_FILES

FROM_MAKE = "--from-make"  # the first argument in every recipe of the Makefile
YES, NO = ("1", "yes", "true"), ("0", "no", "false")


class Arguments(argparse.ArgumentParser):
    """Takes a stage's options from its command line and, after `--from-make`, from make's variables.

    make hands FOLD= on as PIPE_FOLD, exactly as it was typed. It stands for `--fold`, or for an option with
    that among its names. What the command line says wins. Without `--from-make` nothing named PIPE_ is read:
    neither a stage that another one starts nor a user's environment is disturbed by it.
    """

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def, override]
        given = list(sys.argv[1:] if args is None else args)
        if FROM_MAKE in given:
            given = [*self._make_options(), *(value for value in given if value != FROM_MAKE)]
        options, unknown = super().parse_known_args(given, namespace)
        for action in self._actions:
            if isinstance(action, _ListAction) and action.needed and not getattr(options, action.dest):
                flag = action.option_strings[0]
                name = flag.strip("-").upper()
                raise PipelineError(f"{name}= ({flag}) is missing, as in {name}={action.needed}")
        return options, unknown

    def error(self, message: str) -> Any:
        """End with one line and status 2."""
        self.exit(2, one_line(f"error: {' '.join(message.split())}; --help lists all options") + "\n")

    def _make_options(self) -> list[str]:
        """make's variables as options; those of positional arguments become their defaults."""
        options = []
        for action in self._actions:
            flags = [flag for flag in action.option_strings if flag.startswith("--")]
            names = [flag.strip("-").replace("-", "_").upper() for flag in flags] or [action.dest.upper()]
            given = [(name, os.environ.get(f"PIPE_{name}", "")) for name in names]
            given = [(name, value) for name, value in given if value.strip()]
            if len(given) > 1:
                self.error(" and ".join(f"{name}={value}" for name, value in given) + ": give one of the two")
            for name, value in given:
                if not flags:
                    files = [action.type(file) for file in split_list(value)] if callable(action.type) else []
                    action.default = files if action.nargs == "*" else value
                elif action.nargs != 0:
                    options.append(f"{flags[0]}={value}")
                elif value in YES:
                    options.append(flags[0])
                elif value not in NO:
                    self.error(f"{name}={value}: expected 1 or 0")
        return options


class _ListAction(argparse.Action):
    """One or several values, separated by spaces or commas, each once; `needed` is an example of one."""

    def __init__(
        self,
        *args: Any,
        split: Callable[[str], list[str]],
        allowed: Sequence[str] = (),
        needed: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.split, self.allowed, self.needed = split, tuple(allowed), needed

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        items = list(dict.fromkeys(item for value in values for item in self.split(value)))
        for item in items:
            if self.allowed and item not in self.allowed:
                raise argparse.ArgumentError(self, f"'{item}': expected {', '.join(self.allowed)}")
        setattr(namespace, self.dest, items)


def split_list(text: str) -> list[str]:
    """Split at spaces and commas: "a, b c" -> ["a", "b", "c"]."""
    return [item for item in re.split(r"[\s,]+", text) if item]


def split_pairs(text: str) -> list[str]:
    """Split outside brackets and quotes: "a=1, b=[1, 2] c='x y'" -> ["a=1", "b=[1, 2]", "c='x y'"]."""
    pairs, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth = max(0, depth + (letter in "[({") - (letter in "])}"))
        if (letter == "," or letter.isspace()) and not depth and not quote:
            pairs.append("")
        else:
            pairs[-1] += letter
    return [pair for pair in pairs if pair]


def parser(doc: str | None) -> Arguments:
    """An argument parser that is described by the stage's docstring."""
    return Arguments(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def add_list(
    arguments: argparse.ArgumentParser,
    *flags: str,
    split: Callable[[str], list[str]] = split_list,
    **options: Any,
) -> None:
    """Add an option with several values, each a string; `allowed` lists what they may be."""
    arguments.add_argument(*flags, nargs="+", action=_ListAction, split=split, **options)


def add_competition(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--competition", "--comp", default="recycle", metavar="C", help="profile in configs/competitions"
    )
    arguments.add_argument(
        "--root", default=None, metavar="DIR", help="folder of the data (default: the profile's)"
    )


def add_models(arguments: argparse.ArgumentParser, *, needed: bool = True) -> None:
    """--model: `options.model` is a list of names, empty where none is given and none is needed."""
    add_list(
        arguments,
        *("--model", "--models"),
        default=[],
        needed="cascade_swin" if needed else "",
        help="one or several names of configs in configs/<backend>",
    )


def add_folds(arguments: argparse.ArgumentParser, default: str | None = "0") -> None:
    """--fold: `options.fold` is a list for `parse_folds`; None where none is given and `default` is None."""
    add_list(
        arguments,
        *("--fold", "--folds"),
        default=default and [default],
        help="numbers from 0, or `folds` for every fold; to train and predict also `full`, the one model on "
        f"all photos (default: {default or 'all that are trained'})",
    )


def parse_folds(values: Iterable[str], n_folds: int) -> list[int]:
    """["2", "0"] -> [2, 0], ["folds"] -> every fold of `n_folds`; raises PipelineError for anything else."""
    folds: list[int] = []
    for value in values:
        if value == "folds":
            folds += range(n_folds)
        elif value == "full":
            raise PipelineError(
                "FOLD=full: the model on all photos has no held-out photos to be measured on; take FOLD=folds"
            )
        elif value == "all":
            raise PipelineError(
                "FOLD=all: half of the people mean every fold, half the one model on all photos: say "
                "FOLD=folds or FOLD=full"
            )
        elif not re.fullmatch("[0-9]+", value) or int(value) >= n_folds:
            raise PipelineError(f"fold '{value}': expected 0 to {n_folds - 1}, or FOLD=folds for all of them")
        else:
            folds.append(int(value))
    return list(dict.fromkeys(folds))


def parse_runs(values: Iterable[str], n_folds: int) -> list[int | str]:
    """As `parse_folds`, and "full" where it is among the values; it comes last, as it builds on the folds."""
    values = list(values)
    folds = parse_folds([value for value in values if value != "full"], n_folds)
    return [*folds, *(["full"] if "full" in values else [])]


def add_device(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--device", default=None, help="cpu, cuda:0 ... (default: a GPU if any)")


def add_views(arguments: argparse.ArgumentParser, default: Sequence[str] = ("identity",)) -> None:
    """--views: `options.views` is a list for `views.parse_views`."""
    example = "as identity,hflip,rot90,scale1.25,hflip+scale1.25"
    add_list(arguments, "--views", default=list(default), help=example)


def add_whole(arguments: Any, *flags: str, least: int = 1, most: int = 2**31 - 1, **options: Any) -> None:
    """Add an option that is a whole number from `least` to `most`; None where it is not given."""

    def parse(text: str) -> int:
        with contextlib.suppress(ValueError):
            if least <= (value := whole_number(text.strip())) <= most:
                return value
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from {least} to {most}")

    arguments.add_argument(*flags, type=parse, **options)


def add_number(arguments: argparse.ArgumentParser, *flags: str, **options: Any) -> None:
    """Add an option that is a finite number."""
    arguments.add_argument(*flags, type=number, **options)


def add_seed(arguments: argparse.ArgumentParser) -> None:
    add_whole(arguments, "--seed", least=0, default=0, help="of all that is random (0)")


def add_cache(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--cache", choices=("off", "ram", "disk"), default="off", help="where decoded photos are kept (off)"
    )
    arguments.add_argument(
        "--cache-full", action="store_true", help="in full size, not in that of the largest input"
    )


def add_image_size(arguments: argparse.ArgumentParser) -> None:
    add_whole(arguments, "--image-size", help="pixels, the longer side")


def add_settings(arguments: argparse.ArgumentParser) -> None:
    add_whole(arguments, "--epochs")
    add_image_size(arguments)
    add_whole(arguments, "--batch", help="photos a step")
    arguments.add_argument("--recipe", help="a file in configs/recipes, instead of the one the config names")
    add_list(
        arguments,
        "--set",
        split=split_pairs,
        default=[],
        metavar="KEY=VALUE",
        help="options of the framework's own",
    )


# What the machine can have against a stage; other errors of the system are ours and keep their traceback.
SYSTEM = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "larger than a file may be here",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission to write there",
    errno.EIO: "the disk does not answer as it should",
    errno.ESTALE: "the network's disk has lost it",
    errno.ENOMEM: "not enough memory",
    **TOO_MANY_FILES,
}


def run(main: Callable[[], int | None]) -> None:
    """Run a stage and end with the status that it returns, if any.

    A user's mistake, a full disk or output that nobody reads is one line on stderr and status 1, Ctrl-C is
    status 130; other errors of one line state their own (see `errors`).
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # the imports are done
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(errors="backslashreplace")  # a terminal that cannot show a name
    try:
        status = main()
        sys.stdout.flush()  # only now may it show that nobody reads it
    except PipelineError as error:
        _end(f"error: {error}", error.status)
    except BrokenPipeError:
        _end("stopped: what it prints is not read any more; the same command goes on from here", 1)
    except MemoryError:
        _end(f"error: {SYSTEM[errno.ENOMEM]}; the same command goes on from here", 1)
    except KeyboardInterrupt:
        _end(STOPPED, 130)
    except OSError as error:
        no_folder = "No usable temporary directory" in str(error)  # errno is that of a missing file
        if error.errno not in SYSTEM and not no_folder:
            raise
        fault = "no folder for temporary files; set TMPDIR" if no_folder else SYSTEM[error.errno or 0]
        name = "" if no_folder else f"{error.filename or 'a file, or what it prints'}: "
        _end(
            f"error: {name}{fault}; mend that and run the same command again: what was written whole is kept",
            1,
        )
    if status:
        sys.exit(status)


def _end(line: str, status: int) -> NoReturn:
    """Say why the stage ends, and drop what can no longer be printed."""
    with contextlib.suppress(OSError):
        print(one_line(line), file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
