_base_ = "mmdet::yolox/yolox_l_8xb8-300e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/yolox/yolox_l_8x8_300e_coco/"
    "yolox_l_8x8_300e_coco_20211126_140236-d3bd2b23.pth"
)
image_size = 640
image_size_divisor = 32
batch = 8
model = dict(data_preprocessor=dict(batch_augments=None))  # sizes vary from photo to photo already
