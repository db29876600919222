# Photos are stretched to a square. The last of its maps has one cell at 300 pixels and none below 257.
_base_ = "mmdet::ssd/ssd300_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/ssd/ssd300_coco/ssd300_coco_20210803_015428-d231a06e.pth"
)
custom_imports = dict(imports=["pipeline.models.ssd_head", "pipeline.models.preprocessor"])
image_size = 300
batch = 16
model = dict(
    data_preprocessor=dict(type="LeastSizePreprocessor", least_side=257),
    bbox_head=dict(type="SSDHeadThatPredicts"),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Expand", mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 4)),
    dict(type="MinIoURandomCrop", min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=False),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1024, 1024), keep_ratio=False),
    dict(type="PackDetInputs"),
]
