_base_ = "mmdet::hrnet/faster-rcnn_hrnetv2p-w32-1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/hrnet/faster_rcnn_hrnetv2p_w32_1x_coco/"
    "faster_rcnn_hrnetv2p_w32_1x_coco_20200130-6e286425.pth"
)
