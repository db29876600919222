_base_ = "mmdet::nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/nas_fpn/retinanet_r50_nasfpn_crop640_50e_coco/"
    "retinanet_r50_nasfpn_crop640_50e_coco-0ad1f644.pth"
)
image_size = 640
batch = 8
model = dict(
    data_preprocessor=dict(batch_augments=None)
)  # padded to 128 pixels, which its neck needs, already
