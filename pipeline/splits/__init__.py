"""Ways to split the train images into folds: a function each, in one table; groups; balance; card."""

from pipeline.splits.content import Content, content_of, split_images
from pipeline.splits.strategies import STRATEGIES, Strategy

__all__ = ["STRATEGIES", "Content", "Strategy", "content_of", "split_images"]
