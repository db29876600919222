"""DDQ DETR of MMDetection (Zhang et al., 2023): whole from the start, and predicting with few queries."""

import copy
from typing import Any

from mmdet.models.dense_heads.ddq_detr_head import DDQDETRHead
from mmdet.models.detectors.ddq_detr import DDQDETR
from mmdet.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class WholeDDQDETR(DDQDETR):  # type: ignore[misc]
    """MMDetection gives the decoder its auxiliary branches in the first training step: a trained network's
    weights then have names that a new network lacks."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.decoder.aux_reg_branches = self.bbox_head.aux_reg_branches

    def init_weights(self) -> None:
        """As MMDetection does: what is the head's keeps the head's initial weights."""
        del self.decoder.aux_reg_branches
        super().init_weights()
        self.decoder.aux_reg_branches = self.bbox_head.aux_reg_branches


@MODELS.register_module()
class DDQDETRHeadOfFewQueries(DDQDETRHead):  # type: ignore[misc]
    """Gives no more boxes than distinct queries times classes, where MMDetection's fails."""

    def _predict_by_feat_single(self, cls_score: Tensor, *values: Any, **options: Any) -> Any:
        head = copy.copy(self)
        head.test_cfg = self.test_cfg | {"max_per_img": min(self.test_cfg["max_per_img"], cls_score.numel())}
        return super(DDQDETRHeadOfFewQueries, head)._predict_by_feat_single(cls_score, *values, **options)
