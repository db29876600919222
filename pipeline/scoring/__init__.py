"""Competition metrics over prediction tables."""

from pipeline.scoring.coco import evaluate

__all__ = ["evaluate"]
