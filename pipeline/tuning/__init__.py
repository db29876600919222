"""Tuning an ensemble on out-of-fold boxes, and its nested score."""
