# Its 900 queries are chosen among the cells of four maps: 208 x 208 pixels have 910, 200 x 200 have 859.
_base_ = "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/dino/dino-4scale_r50_8xb2-12e_coco/"
    "dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth"
)
custom_imports = dict(imports=["pipeline.models.preprocessor"])
batch = 2
model = dict(data_preprocessor=dict(type="LeastSizePreprocessor", least_side=208))
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
