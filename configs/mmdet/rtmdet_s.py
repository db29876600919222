_base_ = "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_s_8xb32-300e_coco/"
    "rtmdet_s_8xb32-300e_coco_20220905_161602-387a891e.pth"
)
image_size = 640
image_size_divisor = 32
batch = 16
model = dict(data_preprocessor=dict(pad_size_divisor=32))  # its neck joins maps of strides up to 32
