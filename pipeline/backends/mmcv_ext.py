"""mmcv's compiled kernels, taken from torchvision where mmcv was installed without a compiler.

`install()` puts a module `mmcv._ext` in place before `mmcv.ops` is imported. `KERNELS` maps the
names that mmdet's detectors call to torchvision's compiled kernels, which run on a CPU and on a
GPU, forward and backward; a few that torchvision lacks are written in PyTorch. Any other name can
be imported, and raises when it is called. A compiled `mmcv._ext` is always preferred.

The calling conventions are those of `mmcv/ops/*.py` (2.3): outputs and gradients are allocated by
the caller and filled in place, tensors come by position and settings by keyword.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import math
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torchvision  # importing it registers torch.ops.torchvision
from torch import Tensor
from torch.nn import functional

NAME = "mmcv._ext"
tv = torch.ops.torchvision


def install() -> str:
    """Make `mmcv.ops` importable: call before anything imports `mmcv.ops` or mmdet's models.

    Returns "compiled" where mmcv has kernels of its own (nothing is changed), else "torchvision".
    May be called again. Raises ModuleNotFoundError without mmcv, RuntimeError when too late.
    """
    if NAME in sys.modules:
        return "torchvision" if isinstance(sys.modules[NAME], _Extension) else "compiled"
    mmcv = importlib.util.find_spec("mmcv")
    if mmcv is None:
        raise ModuleNotFoundError("mmcv is not installed: run `make setup`", name="mmcv")
    if PathFinder.find_spec(NAME, mmcv.submodule_search_locations) is not None:
        return "compiled"
    if "mmdet.structures" in sys.modules:
        # Without kernels mmdet replaces what it wants of mmcv.ops by stubs, once and for all.
        raise RuntimeError("mmdet was imported before pipeline.backends.mmcv_ext.install()")
    sys.modules[NAME] = _Extension(NAME)
    return "torchvision"


class _Extension(ModuleType):
    """Stands in for the compiled module; answers for every name, as mmcv asserts on import."""

    def __init__(self, name: str) -> None:
        super().__init__(name, __doc__)
        # importlib.util.find_spec, by which mmengine looks for kernels, fails on a missing spec.
        self.__spec__ = ModuleSpec(name, loader=None, origin="torchvision")
        vars(self).update(KERNELS)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(_missing, name)


def _missing(name: str, *_args: Any, **_settings: Any) -> Any:
    from mmcv import __version__

    raise NotImplementedError(
        f"{name}: mmcv was installed without compiled kernels, and torchvision has none for this "
        "one. Build mmcv with a C++ compiler (and nvcc for a GPU), about 20 minutes of CPU: "
        "pip install --no-build-isolation --no-deps --force-reinstall --no-cache-dir "
        f"onedl-mmcv=={__version__}"
    )


def _full(*tensors: Tensor) -> list[Tensor]:
    """One common dtype, half precision as float32: torchvision refuses mixed types and bfloat16."""
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
    dtype = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    return [tensor.to(dtype) for tensor in tensors]


def _gradients(function: Callable[..., Tensor], grad: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
    """Gradients of `function` at `inputs` by autograd, which is off inside mmcv's Functions."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        return torch.autograd.grad(function(*leaves), leaves, grad)


# --- boxes -----------------------------------------------------------------------------------


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices kept, by falling score. `offset` 1: sides are x2 - x1 + 1, as in pixel indices."""
    boxes, scores = _full(boxes, scores)
    boxes = boxes + boxes.new_tensor([0, 0, offset, offset]) if offset else boxes
    return tv.nms(boxes, scores, iou_threshold)


def _iou(box: np.ndarray, others: np.ndarray, offset: int = 0) -> np.ndarray:
    sides = np.minimum(box[2:4], others[:, 2:4]) - np.maximum(box[:2], others[:, :2]) + offset
    overlap = sides.clip(min=0).prod(axis=1)
    area, areas = (x[..., 2:4] - x[..., :2] + offset for x in (box, others))
    with np.errstate(invalid="ignore"):  # two boxes without area: NaN, which suppresses nothing
        return overlap / (area.prod() + areas.prod(axis=1) - overlap)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, **s: Any) -> Tensor:
    """Soft-NMS on the CPU, where mmcv has it too; `dets` (N, 5) is filled, indices are returned.

    `method` 0 hard, 1 linear, 2 gaussian. Of equal scores the first box is taken first, where
    mmcv's order depends on what was swapped before; otherwise the result is the same.
    """
    rest = np.column_stack([tensor.detach().numpy() for tensor in _full(boxes, scores)])
    index = np.arange(len(rest))
    kept: list[int] = []
    while len(rest):
        best = rest[:, 4].argmax()
        dets[len(kept)] = torch.from_numpy(rest[best])
        kept.append(index[best])
        box, rest, index = rest[best], np.delete(rest, best, 0), np.delete(index, best)
        iou = _iou(box, rest, s["offset"])
        hit = iou >= s["iou_threshold"]
        decays = (~hit, np.where(hit, 1 - iou, 1), np.exp(-(iou**2) / s["sigma"]))
        rest[:, 4] *= decays[s["method"]]
        alive = ~(rest[:, 4] < s["min_score"])
        rest, index = rest[alive], index[alive]
    return torch.as_tensor(kept, dtype=torch.long)


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices: each box that NMS keeps, then those it suppresses. `dets` is (N, 5)."""
    boxes = dets.numpy()
    order, groups = dets[:, 4].argsort(descending=True, stable=True).numpy(), []
    while len(order):
        hit = _iou(boxes[order[0]], boxes[order]) >= iou_threshold
        hit[0] = True
        groups.append(order[hit].tolist())
        order = order[~hit]
    return groups


# --- regions ---------------------------------------------------------------------------------


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **s: Any
) -> None:
    if s["pool_mode"] != 1:
        _missing("roi_align_forward with pool_mode='max'")
    size = (s["spatial_scale"], s["aligned_height"], s["aligned_width"])
    output.copy_(tv.roi_align(*_full(features, rois), *size, s["sampling_ratio"], s["aligned"]))


def roi_align_backward(
    grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_features: Tensor, **s: Any
) -> None:
    size = (s["spatial_scale"], s["aligned_height"], s["aligned_width"], *grad_features.shape)
    grads = tv._roi_align_backward(*_full(grad, rois), *size, s["sampling_ratio"], s["aligned"])
    grad_features.copy_(grads)


def roi_pool_forward(features: Tensor, rois: Tensor, output: Tensor, argmax: Tensor, **s: Any) -> None:
    """Max over each bin, `argmax` its index in the H x W map, -1 for an empty bin (output 0).

    Not torchvision's roi_pool: that rounds a region to whole cells, mmcv rounds the bins outwards.
    """
    size, scale = (s["pooled_height"], s["pooled_width"]), s["spatial_scale"]
    (rois,) = _full(rois)
    starts = rois[:, 1:3] * scale
    sides = (rois[:, 3:5] + 1) * scale - starts
    steps = torch.arange(max(size) + 1, device=rois.device)[:, None, None]
    edges = steps * (sides / sides.new_tensor(size[::-1])) + starts  # (edge, region, x or y)
    edges = torch.where((sides > 0).all(dim=1, keepdim=True), edges, 0)
    lower, upper = (x.long().clamp(min=0).tolist() for x in (edges.floor(), edges.ceil()))
    images = rois[:, 0].long().tolist()
    argmax.fill_(-1)
    for n, row, column in itertools.product(range(len(rois)), *map(range, size)):
        y, x = lower[row][n][1], lower[column][n][0]
        window = features[images[n], :, y : upper[row + 1][n][1], x : upper[column + 1][n][0]]
        if window.numel():
            output[n, :, row, column], best = window.flatten(1).max(dim=1)
            y, x = y + best // window.shape[2], x + best % window.shape[2]
            argmax[n, :, row, column] = y * features.shape[3] + x


def roi_pool_backward(
    grad: Tensor, rois: Tensor, argmax: Tensor, grad_features: Tensor, **_settings: Any
) -> None:
    _, channels, height, width = grad_features.shape
    image = rois[:, 0].long()[:, None, None, None]
    channel = torch.arange(channels, device=rois.device)[None, :, None, None]
    flat = (image * channels + channel) * height * width + argmax
    grad_features.view(-1).index_add_(0, flat[argmax >= 0], grad[argmax >= 0])


# --- convolutions ----------------------------------------------------------------------------


def _geometry(s: dict[str, Any]) -> tuple[int, ...]:
    """torchvision's order of the settings; mmcv's two versions name them in two ways."""
    if "kW" in s:
        names = "dH dW padH padW dilationH dilationW"
    else:
        names = "stride_h stride_w pad_h pad_w dilation_h dilation_w"
    return tuple(s[name] for name in f"{names} group deformable_group".split())


def _deform_inputs(*tensors: Tensor) -> list[Tensor]:
    """torchvision's features, weight, offset, mask, bias; without a mask or a bias placeholders."""
    features, weight, offset, mask, bias = _full(*tensors)
    # mmcv takes a sample at NaN as outside; torchvision reads beyond its memory and crashes there.
    offset = offset.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6)
    mask = mask if mask.numel() else features.new_zeros(len(features), 1)
    bias = bias if bias.numel() else features.new_zeros(len(weight))
    return [features, weight, offset, mask, bias]


def deform_conv_forward(*tensors: Tensor, **s: Any) -> None:
    features, weight, offset, output, none, _ = tensors
    inputs = _deform_inputs(features, weight, offset, none, none)
    output.copy_(tv.deform_conv2d(*inputs, *_geometry(s), False))


def deform_conv_backward_input(*tensors: Tensor, **s: Any) -> None:
    features, offset, grad, grad_features, grad_offset, weight, none = tensors
    inputs = _deform_inputs(features, weight, offset, none, none)
    grads = tv._deform_conv2d_backward(grad.to(inputs[0]), *inputs, *_geometry(s), False)
    grad_features.copy_(grads[0])
    grad_offset.copy_(grads[2])


def deform_conv_backward_parameters(*tensors: Tensor, **s: Any) -> None:
    features, offset, grad, grad_weight, none, _ = tensors
    # mmcv does not pass the weight here, and the gradient of the weight does not depend on it.
    inputs = _deform_inputs(features, torch.zeros_like(grad_weight), offset, none, none)
    grads = tv._deform_conv2d_backward(grad.to(inputs[0]), *inputs, *_geometry(s), False)
    grad_weight.add_(grads[1], alpha=s["scale"])


def _cropped(tensor: Tensor, output: Tensor) -> Tensor:
    """Offset or mask in the size of the output, as mmcv reads one that is larger: its first part.

    An accident of mmcv's memory layout, but DyHead passes such offsets, and its published weights
    were trained so.
    """
    shape = (tensor.shape[1], *output.shape[2:])
    return tensor.flatten(1)[:, : math.prod(shape)].unflatten(1, shape)


def modulated_deform_conv_forward(*tensors: Tensor, **s: Any) -> None:
    features, weight, bias, _, offset, mask, output, _ = tensors
    offset, mask = _cropped(offset, output), _cropped(mask, output)
    inputs = _deform_inputs(features, weight, offset, mask, bias)
    output.copy_(tv.deform_conv2d(*inputs, *_geometry(s), True))


def modulated_deform_conv_backward(*tensors: Tensor, **s: Any) -> None:
    features, weight, bias, _, offset, mask, _, *outputs, grad = tensors
    offset, mask = _cropped(offset, grad), _cropped(mask, grad)
    inputs = _deform_inputs(features, weight, offset, mask, bias)
    grads = tv._deform_conv2d_backward(grad.to(inputs[0]), *inputs, *_geometry(s), True)
    grad_features, grad_weight, grad_bias, grad_offset, grad_mask = outputs
    grad_features.copy_(grads[0])
    grad_weight.copy_(grads[1])
    for output, value in ((grad_offset, grads[2].flatten(1)), (grad_mask, grads[3].flatten(1))):
        unread = output[0].numel() - value.shape[1]
        output.copy_(functional.pad(value, (0, unread)).view_as(output))
    if s["with_bias"]:
        grad_bias.copy_(grads[4])


def masked_im2col_forward(*tensors: Tensor, **s: Any) -> None:
    """The patches (C * kh * kw, M) around M cells of one image, for guided anchoring."""
    features, rows, columns, patches = tensors
    width = features.shape[3] + 2 * s["pad_w"] - s["kernel_w"] + 1
    size, padding = (s["kernel_h"], s["kernel_w"]), (s["pad_h"], s["pad_w"])
    patches.copy_(functional.unfold(features, size, padding=padding)[0, :, rows * width + columns])


def masked_col2im_forward(*tensors: Tensor, **_settings: Any) -> None:
    values, rows, columns, output = tensors
    output[0, :, rows, columns] = values


# --- losses and attention --------------------------------------------------------------------


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 5) of `logits` (N, C) to `target` (N,).

    A target of C, mmdet's background, belongs to no class. `weight`: one a class, or empty.
    """
    classes = torch.arange(logits.shape[1], device=logits.device)
    onehot = (target[:, None] == classes).to(logits)
    loss = torchvision.ops.sigmoid_focal_loss(logits, onehot, alpha=alpha, gamma=gamma)
    return loss * weight[target][:, None] if weight.numel() else loss


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    output.copy_(_focal(_full(logits)[0], target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_logits: Tensor, gamma: float, alpha: float
) -> None:
    (logits,) = _full(logits)
    loss = functools.partial(_focal, target=target, weight=weight, gamma=gamma, alpha=alpha)
    grad_logits.copy_(_gradients(loss, torch.ones_like(logits), logits)[0])


def _attend(shapes: Tensor) -> Callable[..., Tensor]:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    sizes = shapes.tolist()  # one copy from the GPU instead of one a level
    return lambda value, where, weights: multi_scale_deformable_attn_pytorch(value, sizes, where, weights)


def ms_deform_attn_forward(*tensors: Tensor, **_settings: Any) -> Tensor:
    """Deformable attention (Zhu et al. 2021), by mmcv's own PyTorch version: (B, queries, C)."""
    value, shapes, _starts, where, weights = tensors
    return _attend(shapes)(*_full(value, where, weights)).to(value.dtype)


def ms_deform_attn_backward(*tensors: Tensor, **_settings: Any) -> None:
    value, shapes, _starts, where, weights, grad, *outputs = tensors
    value, where, weights, grad = _full(value, where, weights, grad)
    grads = _gradients(_attend(shapes), grad, value, where, weights)
    for output, result in zip(outputs, grads, strict=True):
        output.copy_(result)


# --- what the environment reports ask --------------------------------------------------------


def get_compiler_version() -> str:
    return f"none (torchvision {torchvision.__version__})"


def get_compiling_cuda_version() -> str:
    """CUDA version of torchvision's kernels, which are the ones in use; as mmcv words it."""
    version = tv._cuda_version()
    return f"{version // 1000}.{version // 10 % 100}" if version > 0 else "not available"


KERNELS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        nms,
        softnms,
        nms_match,
        roi_align_forward,
        roi_align_backward,
        roi_pool_forward,
        roi_pool_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
        masked_im2col_forward,
        masked_col2im_forward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        ms_deform_attn_forward,
        ms_deform_attn_backward,
        get_compiler_version,
        get_compiling_cuda_version,
    )
}
