"""Packing and fusing in one call, for the tests of fusion."""

from pipeline.fusion import fuse, pack

OF_PACKING = ("n_sources", "n_labels", "present", "sizes", "threads")


def fuse_arrays(*rows, method="wbf", skip=0.001, **options):
    """The rows (arguments of `pack`) that reach `skip`, fused; `options` of both functions."""
    packing = {name: options[name] for name in OF_PACKING if name in options}
    fusing = {name: value for name, value in options.items() if name == "threads" or name not in packing}
    return fuse(pack(*rows, floor=skip, **packing), method, skip=skip, **fusing)
