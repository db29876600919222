# Cascade R-CNN over Swin-L. MMDetection publishes no COCO checkpoint of it, only the backbone's weights.
_base_ = "./cascade_swin.py"
batch = 2
model = dict(
    backbone=dict(
        embed_dims=192,
        depths=[2, 2, 18, 2],
        num_heads=[6, 12, 24, 48],
        init_cfg=dict(
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_large_patch4_window7_224_22k.pth"
        ),
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
