"""Fusion of prediction tables: any tables, and the named ensembles of configs/ensembles."""
