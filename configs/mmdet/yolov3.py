_base_ = "mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/yolo/yolov3_d53_mstrain-608_273e_coco/"
    "yolov3_d53_mstrain-608_273e_coco_20210518_115020-a2c3acb8.pth"
)
image_size = 608
batch = 8
