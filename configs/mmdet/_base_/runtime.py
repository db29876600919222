default_scope = "mmdet"
# What train-all asks for; a part of a GPU lets several trainings share one.
resources = dict(gpus=1, cpus=4, memory_gb=12)
amp = True  # mixed precision, on a GPU
val_interval = 1  # epochs between validations
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
visualizer = dict(type="DetLocalVisualizer", vis_backends=[], name="visualizer")
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
log_level = "INFO"
