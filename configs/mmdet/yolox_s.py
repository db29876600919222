_base_ = "mmdet::yolox/yolox_s_8xb8-300e_coco.py"
image_size = 640
image_size_divisor = 32
batch = 16
model = dict(data_preprocessor=dict(batch_augments=None))  # sizes vary from photo to photo already
