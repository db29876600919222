"""Ways to split the train images into folds: a function each, in one table."""

from pipeline.splits.strategies import STRATEGIES, Strategy

__all__ = ["STRATEGIES", "Strategy"]
