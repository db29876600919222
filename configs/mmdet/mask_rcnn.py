# Learns from the outlines of objects besides their boxes, and predicts boxes.
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_1x_coco/"
    "mask_rcnn_r50_fpn_1x_coco_20200205-d4b0c5d6.pth"
)
