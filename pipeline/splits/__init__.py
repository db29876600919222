"""Splitting the train images into folds: strategies, groups, balance, the card and the fold file."""

from pipeline.splits.content import Content, content_of, split_images
from pipeline.splits.strategies import STRATEGIES, Strategy

__all__ = ["STRATEGIES", "Content", "Strategy", "content_of", "split_images"]
