_base_ = "mmdet::regnet/faster-rcnn_regnetx-3.2GF_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/regnet/faster_rcnn_regnetx-3.2GF_fpn_1x_coco/"
    "faster_rcnn_regnetx-3.2GF_fpn_1x_coco_20200517_175927-126fd9bf.pth"
)
