# Cascade R-CNN over Swin-B. MMDetection publishes no COCO checkpoint of it, only the backbone's weights.
_base_ = "./cascade_swin.py"
batch = 2
model = dict(
    backbone=dict(
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        drop_path_rate=0.3,
        init_cfg=dict(
            checkpoint="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
