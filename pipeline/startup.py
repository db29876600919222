"""What a stage does before its imports, which take a second: a quiet Ctrl-C, text in UTF-8, three streams.

Only the standard library's small modules are imported here.
"""

import errno
import os
import signal
import sys
from types import TracebackType

STOPPED = "stopped; the same command goes on from here"
TOO_MANY_FILES = {errno.EMFILE: "too many open files (ulimit -n)", errno.ENFILE: "too many open files"}


def begin() -> None:
    """Called by the package itself where Python was started with `-m pipeline.<stage>`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, _stop)
    sys.excepthook = _show
    _open_streams()
    # A photo's name in Korean can be neither opened nor printed in ASCII.
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1" and os.name == "posix":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _stop(*_: object) -> None:
    """Ctrl-C during the imports; a KeyboardInterrupt there would be a traceback, or get lost in a library."""
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One line for what the machine refuses during the imports; a traceback for all else."""
    text = str(error)
    if isinstance(error, MemoryError) or "Cannot allocate memory" in text or "failed to map" in text:
        print("error: not enough memory to start", file=sys.stderr)
    elif getattr(error, "errno", None) in TOO_MANY_FILES or "Too many open files" in text:
        print(f"error: {TOO_MANY_FILES[errno.EMFILE]}; allow more of them", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def _open_streams() -> None:
    """Point closed standard streams at nothing: the first file that is opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            stream = open(number, "w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)
