_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py"
optim_wrapper = dict(optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1))
