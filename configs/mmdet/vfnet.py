_base_ = "mmdet::vfnet/vfnet_r50_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/vfnet/vfnet_r50_fpn_1x_coco/"
    "vfnet_r50_fpn_1x_coco_20201027-38db6f58.pth"
)
