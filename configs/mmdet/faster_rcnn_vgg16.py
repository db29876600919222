# As Ren et al. trained it end to end: 128 RoIs a photo, at most a quarter of them positive, RoI pooling.
_base_ = "./faster_rcnn.py"
load_from = None  # MMDetection publishes no COCO checkpoint of it
custom_imports = dict(imports=["pipeline.models.vgg16"])
model = dict(
    backbone=dict(
        _delete_=True,
        type="VGG16",
        frozen_stages=2,
        init_cfg=dict(type="Pretrained", checkpoint="torchvision://vgg16"),
    ),
    neck=None,
    rpn_head=dict(
        in_channels=512, feat_channels=512, anchor_generator=dict(scales=[8, 16, 32], strides=[16])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(_delete_=True, type="RoIPool", output_size=7),
            out_channels=512,
            featmap_strides=[16],
        ),
        bbox_head=dict(in_channels=512, fc_out_channels=4096),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=12000, max_per_img=2000),
        rcnn=dict(sampler=dict(num=128, pos_fraction=0.25)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=6000, max_per_img=300)),
)
