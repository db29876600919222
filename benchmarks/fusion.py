"""Fusion beside its peers: `python -m benchmarks.fusion [--images N | --full] [--rounds R]`.

One run, alternating, warm kernels. Every round times each contestant once; the best round counts.
Peers go through single photos, so they are timed on N photos spread over the workload and scaled
to all of them; ours always runs on all. Peers get their arrays ready made (normalised, split by
model, filtered by score for NMS), so their time is fusing alone. Ours is timed with packing reused
and as a single call from flat arrays with everything in it. One thread is measured in processor
time, all threads by the clock. `same result`: the photos on which every box and score agrees to
1e-6; an IoU that float32 rounds across the threshold makes one differ.
"""

import argparse
import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.workload import N_SOURCES, SIDE, Workload, fusion_workload
from pipeline.fusion import Fused, fuse, pack
from pipeline.kernels.threads import thread_count

IOU = 0.55
SKIPS = (0.001, 0.01, 0.05)
Result = tuple[NDArray[Any], NDArray[Any] | None, NDArray[Any]]  # boxes in pixels, scores, labels


@dataclass(frozen=True)
class Photo:
    """One photo's boxes as the peers want them; `shifted` keeps labels apart by position."""

    by_model: tuple[list[Any], list[Any], list[Any]]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    shifted: NDArray[np.float32]
    tensors: tuple[Any, Any, Any] | None


@dataclass(frozen=True)
class Contest:
    """A method of ours, with its options, and the peers that have it: name, module, call."""

    method: str
    options: dict[str, Any]
    peers: tuple[tuple[str, str, Callable[[Any, Photo, float], Result]], ...]


def _eb(name: str, **options: Any) -> Callable[[Any, Photo, float], Result]:
    """A clustering fuser of ensemble-boxes (or nextcv), which takes lists and a floor."""

    def call(library: Any, photo: Photo, skip: float) -> Result:
        boxes, scores, labels = getattr(library, name)(
            *photo.by_model, iou_thr=IOU, skip_box_thr=skip, **options
        )
        return boxes * SIDE, scores, labels

    return call


def _eb_nms(name: str, **options: Any) -> Callable[[Any, Photo, float], Result]:
    """An NMS of ensemble-boxes, on filtered boxes; its soft one returns undecayed scores."""

    def call(library: Any, photo: Photo, skip: float) -> Result:
        unit = photo.boxes / np.float32(SIDE)
        if "soft" in name:
            options["thresh"] = skip
        boxes, scores, labels = getattr(library, name)(
            [unit], [photo.scores], [photo.labels], iou_thr=IOU, **options
        )
        return boxes * SIDE, None if "soft" in name else scores, labels

    return call


def _torchvision(library: Any, photo: Photo, skip: float) -> Result:
    keep = library.batched_nms(*photo.tensors, IOU).numpy()  # type: ignore[misc]
    return photo.boxes[keep], photo.scores[keep], photo.labels[keep]


def _powerboxes(library: Any, photo: Photo, skip: float) -> Result:
    keep = library.nms(photo.shifted, photo.scores.astype(np.float64), IOU, 0.0)
    return photo.boxes[keep], photo.scores[keep], photo.labels[keep]


def _nextcv_nms(library: Any, photo: Photo, skip: float) -> Result:
    keep = library.nms_cpp(photo.shifted, photo.scores, IOU)
    return photo.boxes[keep], photo.scores[keep], photo.labels[keep]


_NEXTCV = "nextcv.postprocessing.boxes"
CONTESTS = (
    Contest(
        "wbf",
        {"conf_type": "avg"},
        (
            ("ensemble-boxes", "ensemble_boxes", _eb("weighted_boxes_fusion")),
            ("nextcv", _NEXTCV, _eb("wbf_cpp")),
        ),
    ),
    Contest("wbf", {"conf_type": "votes"}, ()),
    Contest(
        "nms",
        {},
        (
            ("ensemble-boxes", "ensemble_boxes", _eb_nms("nms")),
            ("torchvision", "torchvision.ops", _torchvision),
            ("powerboxes", "powerboxes", _powerboxes),
            ("nextcv", _NEXTCV, _nextcv_nms),
        ),
    ),
    Contest(
        "soft_nms",
        {"soft": "linear"},
        (("ensemble-boxes", "ensemble_boxes", _eb_nms("soft_nms", method=1)),),
    ),
    Contest(
        "soft_nms",
        {"soft": "gaussian"},
        (("ensemble-boxes", "ensemble_boxes", _eb_nms("soft_nms", method=2)),),
    ),
    Contest("nmw", {}, (("ensemble-boxes", "ensemble_boxes", _eb("non_maximum_weighted")),)),
)


def _photo(work: Workload, image: int, skip: float, torch: Any) -> Photo:
    span = slice(work.offsets[image], work.offsets[image + 1])
    keep = np.flatnonzero(work.scores[span] >= np.float32(skip)) + span.start
    boxes, scores, source = work.boxes_xyxy[keep], work.scores[keep], work.source[keep]
    labels = work.labels[keep].astype(np.int64)
    unit = boxes / np.float32(SIDE)
    models = [source == s for s in range(N_SOURCES)]
    by_model = tuple([column[m] for m in models] for column in (unit, scores, labels.astype(np.int32)))
    tensors = None
    if torch is not None:
        tensors = tuple(torch.from_numpy(column) for column in (boxes, scores, labels))
    shifted = boxes + (labels * SIDE * 2).astype(np.float32)[:, None]
    return Photo(by_model, boxes, scores, labels, shifted, tensors)  # type: ignore[arg-type]


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _clocked(call: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, Any]:
    start = clock()
    result = call()
    return clock() - start, result


def _agrees(fused: Fused, image: int, peer: Result) -> bool:
    """Whether a photo's boxes are the same, one to one, to 1e-6 of the side and of the score."""
    span = slice(fused.offsets[image], fused.offsets[image + 1])
    boxes, scores, labels = (np.asarray(c) if c is not None else None for c in peer)
    if boxes is None or labels is None or len(boxes) != span.stop - span.start:
        return False
    for label in np.unique(labels):
        a, b = fused.labels[span] == label, labels == label
        if a.sum() != b.sum():
            return False
        gap = np.abs(fused.boxes_xyxy[span][a][:, None] - boxes[b][None]).max(2) / SIDE
        if scores is not None:
            away = np.abs(fused.scores[span][a].astype(float)[:, None] - scores[b][None])
            gap = np.maximum(gap, away)
        if gap.min(1).max() > 1e-6 or len(set(gap.argmin(1))) < len(gap):
            return False
    return True


@dataclass
class Times:
    """Best times in seconds for the whole workload."""

    reused: float = np.inf
    single: float = np.inf
    reused_all: float = np.inf
    single_all: float = np.inf


def _measure(
    contest: Contest,
    skip: float,
    work: Workload,
    packed: Any,
    images: NDArray[np.int64],
    rounds: int,
) -> None:
    """Run one contest and print its lines."""
    torch = _module("torch")
    libraries = [(name, _module(module), call) for name, module, call in contest.peers]
    photos = [_photo(work, int(i), skip, torch) for i in images] if libraries else []
    flat = (work.boxes_xyxy, work.scores, work.labels, work.source, work.offsets)
    options: dict[str, Any] = {"method": contest.method, "skip": skip, "iou": IOU} | contest.options
    clock = time.process_time
    ours = Times()

    def pack_and_fuse(threads: int | None) -> Fused:
        rows = pack(*flat, n_sources=N_SOURCES, floor=skip, threads=threads)
        return fuse(rows, threads=threads, **options)

    peers = {name: (np.inf, 0) for name, library, _ in libraries if library is not None}
    for _ in range(rounds):
        seconds, fused = _clocked(lambda: fuse(packed, threads=1, **options), clock)
        ours.reused = min(ours.reused, seconds)
        for name, library, call in libraries:
            if library is None:
                continue
            total, same = 0.0, 0
            for image, photo in zip(images, photos, strict=True):
                seconds, result = _clocked(lambda: call(library, photo, skip), clock)  # noqa: B023
                total += seconds
                same += _agrees(fused, int(image), result)
            peers[name] = (min(peers[name][0], total), same)
        once = _clocked(lambda: pack_and_fuse(threads=1), clock)
        ours.single = min(ours.single, once[0])
        wall = time.perf_counter
        ours.reused_all = min(ours.reused_all, _clocked(lambda: fuse(packed, **options), wall)[0])
        once = _clocked(lambda: pack_and_fuse(threads=None), wall)
        ours.single_all = min(ours.single_all, once[0])
    title = "-".join([contest.method, *contest.options.values()])
    print(
        f"{title:18} {skip:5g}  ours{'':12} {ours.reused:8.3f} {ours.single:8.3f} "
        f"{ours.reused_all:8.3f} {ours.single_all:8.3f}"
    )
    scale = (len(work.offsets) - 1) / len(images)
    for name, library, _ in libraries:
        if library is None:
            print(f"{'':26}{name:16} not installed, skipped")
            continue
        seconds, same = peers[name]
        total = seconds * scale
        print(
            f"{'':26}{name:16} {total:8.1f} {seconds / len(images) * 1e3:6.2f} ms a photo; ours is "
            f"{total / ours.reused:5.0f} x as fast, {total / ours.single:5.0f} x as a single call; "
            f"same result on {same} of {len(images)}"
        )


def main(argv: list[str] | None = None) -> None:
    """Print times, ratios and agreement of all contests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="photos the peers are timed on (40)")
    parser.add_argument("--full", action="store_true", help="time the peers on all photos")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the best counts (3)")
    parser.add_argument("--methods", nargs="*", help="only these methods")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore")

    work = fusion_workload()
    n_images = len(work.offsets) - 1
    n_timed = n_images if arguments.full else min(arguments.images, n_images)
    images = np.linspace(0, n_images - 1, n_timed).astype(np.int64)
    if (torch := _module("torch")) is not None:
        torch.set_num_threads(1)
    flat = (work.boxes_xyxy, work.scores, work.labels, work.source, work.offsets)
    pack(*flat, n_sources=N_SOURCES)
    one = min(
        _clocked(lambda: pack(*flat, n_sources=N_SOURCES, threads=1), time.process_time)[0] for _ in range(3)
    )
    seconds, packed = _clocked(lambda: pack(*flat, n_sources=N_SOURCES), time.perf_counter)
    fuse(packed)
    print(
        f"{len(work.scores):,} boxes, {n_images} photos, {N_SOURCES} sources, IoU {IOU}. Peers "
        f"timed on {n_timed} photos and scaled by {n_images / n_timed:.1f}.\n"
        f"Packing once: {one:.3f} s on one thread, {seconds:.3f} s on {thread_count(None)}.\n"
    )
    print(f"{'':42} one thread (cpu s)   {thread_count(None)} threads (clock s)")
    columns = " ".join(f"{name:>8}" for name in ("reused", "single") * 2)
    print(f"{'method':18} {'skip':>5}  {'who':16} {columns}")
    for contest in CONTESTS:
        if arguments.methods and contest.method not in arguments.methods:
            continue
        for skip in SKIPS:
            _measure(contest, skip, work, packed, images, arguments.rounds)


if __name__ == "__main__":
    main()
