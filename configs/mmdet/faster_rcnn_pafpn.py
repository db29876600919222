# With PANet's neck.
_base_ = "mmdet::pafpn/faster-rcnn_r50_pafpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/pafpn/faster_rcnn_r50_pafpn_1x_coco/"
    "faster_rcnn_r50_pafpn_1x_coco_bbox_mAP-0.375_20200503_105836-b7b4b9bd.pth"
)
