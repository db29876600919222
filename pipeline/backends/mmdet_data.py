"""What MMDetection reads and how it is scored during a training: the config's own wishes, over our files."""

from typing import Any

from mmengine.config import Config

from pipeline.backends import mmdet_config
from pipeline.errors import PipelineError
from pipeline.training.job import TrainJob
from pipeline.training.staging import data_folder

# Set for a dataset that is read from our files, whatever a config says of it.
DATASET_OURS = ("ann_file", "data_root", "data_prefix", "metainfo", "filter_cfg", "test_mode", "backend_args")


def _files(job: TrainJob, part: str) -> dict[str, Any]:
    """What a dataset that reads our files is told, whatever the config says."""
    data = data_folder(job)
    return dict(
        ann_file=str(data / f"{part}.json"),
        data_prefix=dict(img=f"{data / 'images' / part}/"),
        metainfo=dict(classes=job.classes),
    )


def train_loader(cfg: Config, job: TrainJob, source: str) -> dict[str, Any]:
    """The config's own loader over our files; its dataset, samplers and wrappers stay."""
    loader: dict[str, Any] = dict(cfg.get("train_dataloader") or {})
    outer = loader.setdefault("dataset", dict(type="CocoDataset", pipeline=cfg.train_pipeline))
    dataset = mmdet_config.innermost(outer)
    if (kind := dataset.get("type", "").rpartition(".")[2]) != "CocoDataset":
        raise PipelineError(f"{source}: train_dataloader: dataset '{kind}': expected CocoDataset")
    for key in DATASET_OURS:
        dataset.pop(key, None)
    # Photos without boxes teach what is background; the boxes were checked by the reader.
    dataset.update(_files(job, "train"), filter_cfg=dict(filter_empty_gt=False, min_size=0))
    loader.setdefault("sampler", dict(type="DefaultSampler", shuffle=True))
    loader.setdefault("batch_sampler", dict(type="AspectRatioBatchSampler", drop_last=False))
    # Readers that start anew with each epoch draw what its random state says, see `training.seeds`.
    ours = dict(batch_size=cfg.batch, num_workers=job.workers, persistent_workers=False)
    return loader | ours | dict(worker_init_fn=dict(type="pipeline_seed_reader"))


def evaluators(cfg: Config, job: TrainJob, source: str) -> list[dict[str, Any]]:
    """The config's own evaluators of boxes, the first of which finds mAP50 as pycocotools does."""
    stated = cfg.get("val_evaluator") or dict(type="CocoMetric")
    evaluators = [dict(one) for one in (stated if isinstance(stated, (list, tuple)) else [stated])]
    for evaluator in evaluators:
        kind = evaluator.get("type", "").rpartition(".")[2]
        metrics = evaluator.get("metric", "bbox")
        if kind != "CocoMetric" or "bbox" not in ([metrics] if isinstance(metrics, str) else metrics):
            raise PipelineError(f"{source}: val_evaluator {kind} {metrics}: expected CocoMetric of bbox")
        evaluator["ann_file"] = str(data_folder(job) / "val.json")
    evaluators[0] |= dict(metric="bbox", proposal_nums=(1, 10, 100))  # COCO's own limits
    return evaluators


def val_loader(cfg: Config, job: TrainJob) -> dict[str, Any]:
    """The held-out photos by the test pipeline."""
    return dict(
        batch_size=max(cfg.batch // 2, 1),
        num_workers=job.workers,
        persistent_workers=job.workers > 0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=_files(job, "val") | dict(type="CocoDataset", pipeline=cfg.test_pipeline, test_mode=True),
    )
