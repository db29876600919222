"""Tuning an ensemble, and what it is honestly worth."""
