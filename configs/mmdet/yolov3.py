_base_ = "mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py"
image_size = 608
batch = 8
