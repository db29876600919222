_base_ = "mmdet::rtmdet/rtmdet_x_8xb32-300e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v3.0/rtmdet/rtmdet_x_8xb32-300e_coco/"
    "rtmdet_x_8xb32-300e_coco_20220715_230555-cc79b9ae.pth"
)
image_size = 640
image_size_divisor = 32
batch = 8
model = dict(data_preprocessor=dict(pad_size_divisor=32))  # its neck joins maps of strides up to 32
