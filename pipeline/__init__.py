"""A k-fold object-detection competition pipeline: photos and boxes in, a submission out."""

__version__ = "0.1.0"
