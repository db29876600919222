"""A k-fold object-detection competition pipeline: photos and boxes in, a submission out."""

import sys

__version__ = "0.1.0"

if sys.argv[:1] == ["-m"]:  # `python -m pipeline.<stage>` looks for the stage, and has imported none of it
    import _signal  # built in: Ctrl-C is quiet before anything is read from the disk

    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    from pipeline.startup import begin

    begin()
