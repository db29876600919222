_base_ = "mmdet::faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_x101_32x4d_fpn_1x_coco/"
    "faster_rcnn_x101_32x4d_fpn_1x_coco_20200203-cff10310.pth"
)
