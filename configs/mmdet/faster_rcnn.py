_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "./_base_/dataset.py",
    "./_base_/schedule.py",
    "./_base_/runtime.py",
]
image_size = 1024
