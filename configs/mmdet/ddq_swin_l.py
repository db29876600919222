_base_ = "mmdet::ddq/ddq-detr-4scale_swinl_8xb2-30e_coco.py"
load_from = "https://download.openmmlab.com/mmdetection/v3.0/ddq/ddq_detr_swinl_30e.pth"
custom_imports = dict(imports=["pipeline.models.ddq"])
batch = 1
model = dict(type="WholeDDQDETR", bbox_head=dict(type="DDQDETRHeadOfFewQueries"))
optim_wrapper = dict(
    optimizer=dict(lr=2e-4, weight_decay=0.05),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.05))),
)
