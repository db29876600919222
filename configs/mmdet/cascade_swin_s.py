# Cascade R-CNN over Swin-S. MMDetection publishes no COCO checkpoint of it, only the backbone's weights.
_base_ = "./cascade_swin.py"
model = dict(
    backbone=dict(
        depths=[2, 2, 18, 2],
        init_cfg=dict(
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth"
        ),
    ),
)
