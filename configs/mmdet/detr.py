_base_ = "mmdet::detr/detr_r50_8xb2-150e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/detr/detr_r50_8xb2-150e_coco/"
    "detr_r50_8xb2-150e_coco_20221023_153551-436d03e8.pth"
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
