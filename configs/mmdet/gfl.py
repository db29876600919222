_base_ = "mmdet::gfl/gfl_r50_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r50_fpn_1x_coco/"
    "gfl_r50_fpn_1x_coco_20200629_121244-25944287.pth"
)
