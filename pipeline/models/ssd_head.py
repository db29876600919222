"""SSD's head of MMDetection, able to predict."""

from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS


@MODELS.register_module()
class SSDHeadThatPredicts(SSDHead):  # type: ignore[misc]
    """MMDetection 3.5.1 asks every dense head for its `loss_cls` when it predicts; SSD's head has none."""

    loss_cls = None
