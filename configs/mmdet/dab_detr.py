_base_ = "mmdet::dab_detr/dab-detr_r50_8xb2-50e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/dab_detr/dab-detr_r50_8xb2-50e_coco/"
    "dab-detr_r50_8xb2-50e_coco_20221122_120837-c1035c8c.pth"
)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
