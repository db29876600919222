"""VGG16 as a backbone (Simonyan and Zisserman, 2015, configuration D)."""

from typing import Any

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor
from torchvision.models import vgg

POOLS = (4, 9, 16, 23)  # positions of the poolings that end a stage


@MODELS.register_module()
class VGG16(BaseModule):  # type: ignore[misc]
    """The convolutions up to conv5_3: one map of 512 channels at a sixteenth of the input's size.

    The layers have torchvision's names, so that `torchvision://vgg16` fills all of them. The first
    `frozen_stages` of the five stages do not learn.
    """

    def __init__(self, frozen_stages: int = 0, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self.features = vgg.make_layers(vgg.cfgs["D"], batch_norm=False)[:-1]
        frozen = POOLS[frozen_stages - 1] if frozen_stages > 0 else 0
        self.features[:frozen].requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        """(n, 3, h, w) -> one map (n, 512, h // 16, w // 16)."""
        return (self.features(image),)
