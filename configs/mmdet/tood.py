_base_ = "mmdet::tood/tood_r50_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/tood/tood_r50_fpn_1x_coco/"
    "tood_r50_fpn_1x_coco_20211210_103425-20e20746.pth"
)
