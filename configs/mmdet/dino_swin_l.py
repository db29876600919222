# Its 900 queries are chosen among the cells of five maps: 101 x 101 pixels have 914, 100 x 100 have 863.
# The checkpoint of 36 epochs is in a repository that states no licence.
_base_ = "mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/dino/dino-5scale_swin-l_8xb2-12e_coco/"
    "dino-5scale_swin-l_8xb2-12e_coco_20230228_072924-a654145f.pth"
)
custom_imports = dict(imports=["pipeline.models.preprocessor"])
batch = 1
model = dict(data_preprocessor=dict(type="LeastSizePreprocessor", least_side=101))
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
