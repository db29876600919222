# A Faster R-CNN that two cores train from scratch in minutes: half-width ResNet-18, narrow heads.
_base_ = "./faster_rcnn.py"
load_from = None  # nobody publishes weights of it
image_size = 256
epochs = 12
batch = 8
resources = dict(gpus=0.25, cpus=2, memory_gb=4)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(depth=18, base_channels=32, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
    ),
    train_cfg=dict(rpn_proposal=dict(nms_pre=600, max_per_img=150), rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=600, max_per_img=150)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
