_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py"
load_from = (
    "https://download.openmmlab.com/mmdetection/v2.0/sparse_rcnn/sparse_rcnn_r50_fpn_1x_coco/"
    "sparse_rcnn_r50_fpn_1x_coco_20201222_214453-dc79b137.pth"
)
optim_wrapper = dict(optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1))
