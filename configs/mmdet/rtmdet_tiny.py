_base_ = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
image_size = 640
image_size_divisor = 32
batch = 16
model = dict(data_preprocessor=dict(pad_size_divisor=32))  # its neck joins maps of strides up to 32
