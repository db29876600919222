_base_ = "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/deformable_detr/deformable-detr_r50_16xb2-50e_coco/"
    "deformable-detr_r50_16xb2-50e_coco_20221029_210934-6bc7d21b.pth"
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=0.1),
            sampling_offsets=dict(lr_mult=0.1),
            reference_points=dict(lr_mult=0.1),
        )
    ),
)
