"""Batches padded to a least size, for networks that need so many cells of their maps."""

from typing import Any

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.registry import MODELS
from torch.nn import functional


@MODELS.register_module()
class LeastSizePreprocessor(DetDataPreprocessor):  # type: ignore[misc]
    """Pads a batch on the right and below to `least_side` pixels, in training and prediction alike.

    An image size below that is refused (`backends.mmdet_config`); what is left are narrow photos.
    """

    def __init__(self, least_side: int, **options: Any) -> None:
        super().__init__(**options)
        self.least_side = least_side

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        batch: dict[str, Any] = super().forward(data, training)
        height, width = batch["inputs"].shape[-2:]
        border = (0, max(self.least_side - width, 0), 0, max(self.least_side - height, 0))
        if any(border):
            batch["inputs"] = functional.pad(batch["inputs"], border, value=self.pad_value)
            size = tuple(batch["inputs"].shape[-2:])
            for sample in batch["data_samples"] or ():
                sample.set_metainfo({"batch_input_shape": size, "pad_shape": size})
        return batch
