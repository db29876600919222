"""Every kernel that pipeline/backends/mmcv_ext.py maps, called through mmcv's public operators.

The references are written here from the papers' definitions, as loops or by `grid_sample`, and
share no code with torchvision's kernels. Gradients are compared with autograd's through the
reference, or with finite differences, in double precision.
"""

import itertools
import math
import re
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("mmcv")

from pipeline.backends import mmcv_ext
from pipeline.data.models import Overrides, find_model
from pipeline.training.backend import load_backend

IN_USE = mmcv_ext.install()
torchvision_only = pytest.mark.skipif(IN_USE == "compiled", reason="mmcv has kernels of its own")

from mmcv import ops
from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def uniform(random, *shape, low=0.0, high=1.0, dtype=torch.float64):
    return torch.rand(shape, generator=random, dtype=dtype) * (high - low) + low


def some_boxes(random, count, size=60.0, dtype=torch.float32):
    """Boxes (count, 4) in groups of four that overlap."""
    groups = math.ceil(count / 4)
    start = uniform(random, groups, 2, high=size * 0.7, dtype=dtype)
    boxes = torch.cat([start, start + uniform(random, groups, 2, low=3, high=25, dtype=dtype)], 1)
    return boxes.repeat(4, 1)[:count] + uniform(random, count, 4, low=-1, dtype=dtype)


def assert_same_gradients(outputs, references, inputs, random):
    """d(sum of the outputs, randomly weighted) / d(each input), by the kernel and the reference."""
    weights = uniform(random, *outputs.shape).to(outputs)
    grads = torch.autograd.grad((outputs * weights).sum(), inputs)
    expected = torch.autograd.grad((references * weights).sum(), inputs, retain_graph=True)
    for name, (grad, wanted) in enumerate(zip(grads, expected, strict=True)):
        assert wanted.abs().max() > 0, f"input {name}: the reference's gradient is nothing"
        torch.testing.assert_close(grad, wanted, msg=lambda text, name=name: f"{name}: {text}")


# --- boxes -----------------------------------------------------------------------------------


def iou(a, b, offset=0):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area = [(x[2] - x[0] + offset) * (x[3] - x[1] + offset) for x in (a, b)]
    return width * height / (area[0] + area[1] - width * height)


def slow_nms(boxes, scores, threshold, offset=0):
    kept = []
    for index in np.argsort(-np.asarray(scores), kind="stable"):
        if all(iou(boxes[index], boxes[other], offset) <= threshold for other in kept):
            kept.append(int(index))
    return kept


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms(random, threshold, offset):
    boxes, scores = some_boxes(random, 80), uniform(random, 80, dtype=torch.float32)
    dets, kept = ops.nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == slow_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert 5 < len(kept) < 80
    torch.testing.assert_close(dets, torch.cat([boxes[kept], scores[kept, None]], 1))


def test_nms_offset_counts_whole_pixels():
    """Pixels 0..8 and 0..9: 9*9 / 10*10 = 0.81 with offset 1, 64/81 = 0.79 without."""
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 8, 8]])
    scores = torch.tensor([0.9, 0.8])
    assert len(ops.nms(boxes, scores, 0.80, offset=1)[1]) == 1
    assert len(ops.nms(boxes, scores, 0.80, offset=0)[1]) == 2


def test_nms_edges(random):
    boxes, scores = some_boxes(random, 40), uniform(random, 40, dtype=torch.float32)
    _, kept = ops.nms(boxes.numpy(), scores.numpy(), 0.5, score_threshold=0.4, max_num=7)
    high = [i for i in slow_nms(boxes.tolist(), scores.tolist(), 0.5) if scores[i] > 0.4]
    assert kept.tolist() == high[:7]
    dets, kept = ops.nms(boxes[:0], scores[:0], 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    _, kept = ops.nms(boxes, scores.half(), 0.5)  # mixed precision training gives such a pair
    assert kept.tolist() == slow_nms(boxes.tolist(), scores.half().tolist(), 0.5)


@pytest.mark.parametrize("split", [10000, 10])
def test_batched_nms(random, split):
    boxes, scores = some_boxes(random, 60), uniform(random, 60, dtype=torch.float32)
    labels = torch.arange(60) % 3
    config = {"type": "nms", "iou_threshold": 0.4, "split_thr": split}
    dets, kept = ops.batched_nms(boxes, scores, labels, config)
    wanted = []
    for label in range(3):
        index = (labels == label).nonzero()[:, 0]
        wanted += index[slow_nms(boxes[index].tolist(), scores[index].tolist(), 0.4)].tolist()
    assert kept.tolist() == sorted(wanted, key=lambda i: -scores[i])
    torch.testing.assert_close(dets[:, :4], boxes[kept])
    _, kept = ops.batched_nms(boxes, scores, labels, config, class_agnostic=True)
    if split > 60:
        assert kept.tolist() == slow_nms(boxes.tolist(), scores.tolist(), 0.4)


def slow_soft_nms(boxes, scores, threshold, sigma, floor, method, offset):
    left, result = {i: (box, s) for i, (box, s) in enumerate(zip(boxes, scores, strict=True))}, []
    while left:
        best = max(left, key=lambda i: left[i][1])
        box, score = left.pop(best)
        result.append((best, score))
        for i, (other, s) in list(left.items()):
            overlap = iou(box, other, offset)
            if method == "naive" and overlap >= threshold:
                s = 0.0
            if method == "linear" and overlap >= threshold:
                s *= 1 - overlap
            if method == "gaussian":
                s *= math.exp(-(overlap**2) / sigma)
            left[i] = (other, s)
            if s < floor:
                del left[i]
    return result


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms(random, method, offset):
    boxes, scores = some_boxes(random, 50), uniform(random, 50, dtype=torch.float32)
    settings = (0.3, 0.5, 0.05, method, offset)
    before = scores.clone()
    dets, kept = ops.soft_nms(boxes, scores, *settings)
    wanted = slow_soft_nms(boxes.tolist(), scores.tolist(), *settings)
    assert kept.tolist() == [index for index, _ in wanted]
    assert 5 < len(kept) < 50
    torch.testing.assert_close(dets[:, :4], boxes[kept])
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in wanted]))
    torch.testing.assert_close(scores, before)
    assert ops.soft_nms(boxes[:0], scores[:0])[0].shape == (0, 5)


@pytest.mark.parametrize("threshold", [0.3, 0.4, 0.5, 0.6])
def test_nms_match(random, threshold):
    boxes, scores = some_boxes(random, 100, dtype=torch.float64), uniform(random, 100)
    groups = [g.tolist() for g in ops.nms_match(torch.cat([boxes, scores[:, None]], 1), threshold)]
    assert sorted(itertools.chain(*groups)) == list(range(100))
    assert [g[0] for g in groups] == slow_nms(boxes.tolist(), scores.tolist(), threshold)
    assert max(map(len, groups)) > 1
    for place, group in enumerate(groups):
        assert group == sorted(group, key=lambda i: -scores[i])
        for index in group[1:]:  # suppressed by its own group's first box, and by none before
            hits = [iou(boxes[g[0]], boxes[index]) >= threshold for g in groups[: place + 1]]
            assert hits == [False] * place + [True]


# --- regions ---------------------------------------------------------------------------------


def bilinear(image, y, x):
    """The value of image (C, H, W) at y, x: zero beyond one cell outside, edges repeated."""
    height, width = image.shape[1:]
    if y < -1 or y > height or x < -1 or x > width:
        return torch.zeros(len(image), dtype=image.dtype)
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = image[:, top, left] * (1 - dx) + image[:, top, right] * dx
    lower = image[:, down, left] * (1 - dx) + image[:, down, right] * dx
    return upper * (1 - dy) + lower * dy


def slow_roi_align(features, rois, size, scale, sampling, aligned):
    """He et al. 2017: the mean of regularly spaced samples in each bin."""
    result = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - (0.5 if aligned else 0.0) for value in box)
        height, width = y2 - y1, x2 - x1
        if not aligned:
            height, width = max(height, 1.0), max(width, 1.0)
        bin_h, bin_w = height / size[0], width / size[1]
        count_h, count_w = sampling or math.ceil(bin_h), sampling or math.ceil(bin_w)
        for row, column in itertools.product(range(size[0]), range(size[1])):
            samples = [
                bilinear(
                    features[int(image)],
                    y1 + bin_h * (row + (i + 0.5) / count_h),
                    x1 + bin_w * (column + (j + 0.5) / count_w),
                )
                for i, j in itertools.product(range(count_h), range(count_w))
            ]
            result.append(torch.stack(samples).mean(0))
    stacked = torch.stack(result).reshape(len(rois), *size, -1)
    return stacked.permute(0, 3, 1, 2)


def rois_of(boxes, images=2):
    return torch.cat([(torch.arange(len(boxes)) % images)[:, None].to(boxes), boxes], 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling", [0, 2])
def test_roi_align(random, sampling, aligned):
    features = uniform(random, 2, 3, 9, 11).requires_grad_()
    boxes = some_boxes(random, 5, size=36, dtype=torch.float64)
    boxes[0] -= 12.0  # reaches out of the image
    boxes[1, 2:] = boxes[1, :2] + 0.5  # smaller than a cell
    rois = rois_of(boxes)
    layer = ops.RoIAlign((2, 3), 0.25, sampling, "avg", aligned)
    output = layer(features, rois)
    reference = slow_roi_align(features, rois, (2, 3), 0.25, sampling, aligned)
    torch.testing.assert_close(output, reference)
    assert_same_gradients(output, reference, [features], random)
    assert layer(features, rois[:0]).shape == (0, 3, 2, 3)


@torchvision_only
def test_roi_align_has_no_max_mode(random):
    layer = ops.RoIAlign(2, pool_mode="max")
    with pytest.raises(NotImplementedError, match="pool_mode='max'"):
        layer(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 1, 1, 5, 5]]))


@torchvision_only
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains(random, dtype):
    """What mixed precision hands to the kernels; torchvision's own refuse most of it."""
    features = uniform(random, 1, 2, 8, 8).to(dtype).requires_grad_()
    rois = rois_of(some_boxes(random, 4, size=8), 1).to(dtype)
    output = ops.RoIAlign(2)(features, rois)
    assert output.dtype == dtype
    reference = slow_roi_align(features.double(), rois, (2, 2), 1.0, 0, True)
    torch.testing.assert_close(output.double(), reference, rtol=0.02, atol=0.02)
    output.sum().backward()
    assert features.grad.dtype == dtype
    assert features.grad.abs().sum() > 0


def slow_roi_pool(features, rois, size, scale):
    """The maximum over each bin, whose edges are rounded outwards to whole cells."""
    result = []
    for image, x1, y1, x2, y2 in rois.tolist():
        start_y, start_x = y1 * scale, x1 * scale
        bin_h, bin_w = (
            ((y2 + 1) * scale - start_y) / size[0],
            ((x2 + 1) * scale - start_x) / size[1],
        )
        for row, column in itertools.product(range(size[0]), range(size[1])):
            ys = range(math.floor(start_y + row * bin_h), math.ceil(start_y + (row + 1) * bin_h))
            xs = range(math.floor(start_x + column * bin_w), math.ceil(start_x + (column + 1) * bin_w))
            cells = [
                features[int(image), :, y, x]
                for y, x in itertools.product(ys, xs)
                if 0 <= y < features.shape[2] and 0 <= x < features.shape[3]
            ]
            zero = torch.zeros(features.shape[1], dtype=features.dtype)
            result.append(torch.stack(cells).amax(0) if cells else zero)
    return torch.stack(result).reshape(len(rois), *size, -1).permute(0, 3, 1, 2)


@torchvision_only
def test_roi_pool(random):
    features = uniform(random, 2, 3, 9, 11, low=-1).requires_grad_()
    boxes = some_boxes(random, 6, size=36, dtype=torch.float64)
    boxes[0] -= 40.0  # outside, or nearly: empty bins
    rois = rois_of(boxes)
    output = ops.RoIPool((2, 3), 0.25)(features, rois)
    reference = slow_roi_pool(features, rois, (2, 3), 0.25)
    torch.testing.assert_close(output, reference)
    assert (reference == 0).any()
    assert_same_gradients(output, reference, [features], random)
    inverted = torch.tensor([[0.0, 9, 9, 1, 1]], dtype=torch.float64)
    assert ops.RoIPool(2, 1.0)(features, inverted).abs().sum() == 0


# --- convolutions ----------------------------------------------------------------------------


def slow_deform_conv(x, offset, mask, weight, bias, stride, padding, dilation, groups, parts):
    """Dai et al. 2017, Zhu et al. 2019: each tap of the kernel samples the input at its own place.

    `offset` holds (y, x) for each part and tap. `parts` is mmcv's deform_groups.
    """
    (batch, channels, height, width), (rows, columns) = x.shape, weight.shape[2:]
    out_h, out_w = offset.shape[2:]
    grid_y, grid_x = torch.meshgrid(
        torch.arange(out_h) * stride[0] - padding[0],
        torch.arange(out_w) * stride[1] - padding[1],
        indexing="ij",
    )
    offset = offset.reshape(batch, parts, rows * columns, 2, out_h, out_w)
    mask = mask.reshape(batch, parts, rows * columns, out_h, out_w)
    taps = []
    for tap, (i, j) in enumerate(itertools.product(range(rows), range(columns))):
        sampled = []
        for part, chunk in enumerate(x.chunk(parts, dim=1)):
            y = grid_y + i * dilation[0] + offset[:, part, tap, 0]
            z = grid_x + j * dilation[1] + offset[:, part, tap, 1]
            grid = torch.stack([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
            values = torch.nn.functional.grid_sample(chunk, grid, align_corners=True)
            sampled.append(values * mask[:, part, tap, None])
        taps.append(torch.cat(sampled, 1))
    patches = torch.stack(taps, 2).reshape(batch, groups, channels // groups, rows, columns, -1)
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    result = torch.einsum("bgcijl,gocij->bgol", patches, kernels)
    return result.reshape(batch, -1, out_h, out_w) + bias[:, None, None]


GEOMETRIES = [  # stride, padding, dilation, groups, parts
    ((1, 1), (1, 1), (1, 1), 1, 1),
    ((2, 1), (1, 2), (1, 2), 2, 2),
]


def deform_inputs(random, stride, padding, dilation, groups, parts):
    out = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((7, 8), padding, dilation, (3, 2), stride, strict=True)
    ]
    shapes = {
        "x": (2, 4, 7, 8),
        "offset": (2, parts * 12, *out),
        "mask": (2, parts * 6, *out),
        "weight": (6, 4 // groups, 3, 2),
        "bias": (6,),
    }
    values = {name: uniform(random, *shape, low=-1) for name, shape in shapes.items()}
    values["offset"] *= 3  # some samples lie outside the input
    return {name: value.requires_grad_() for name, value in values.items()}


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_deform_conv(random, geometry):
    x, offset, mask, weight, bias = deform_inputs(random, *geometry).values()
    output = ops.deform_conv2d(x, offset, weight, *geometry)
    ones, zeros = torch.ones_like(mask), torch.zeros_like(bias)
    reference = slow_deform_conv(x, offset, ones, weight, zeros, *geometry)
    torch.testing.assert_close(output, reference)
    assert_same_gradients(output, reference, [x, offset, weight], random)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_modulated_deform_conv(random, geometry, with_bias):
    x, offset, mask, weight, bias = deform_inputs(random, *geometry).values()
    given = bias if with_bias else None
    output = ops.modulated_deform_conv2d(x, offset, mask, weight, given, *geometry)
    used = bias if with_bias else torch.zeros_like(bias)
    reference = slow_deform_conv(x, offset, mask, weight, used, *geometry)
    torch.testing.assert_close(output, reference)
    inputs = [x, offset, mask, weight] + [bias] * with_bias
    assert_same_gradients(output, reference, inputs, random)


@torchvision_only
def test_modulated_deform_conv_reads_larger_offsets_as_mmcv_does(random):
    """DyHead's offsets are larger than the output: each image's are read as flat memory."""
    geometry = ((1, 1), (1, 1), (1, 1), 1, 1)
    x, weight = uniform(random, 2, 4, 5, 6, low=-1), uniform(random, 3, 4, 3, 3, low=-1)
    offset, mask = uniform(random, 2, 18, 10, 12, low=-2), uniform(random, 2, 9, 10, 12)
    inputs = [value.requires_grad_() for value in (x, offset, mask, weight)]
    output = ops.modulated_deform_conv2d(*inputs, None, *geometry)
    read = [v.reshape(2, -1)[:, : v.shape[1] * 30].reshape(2, -1, 5, 6) for v in (offset, mask)]
    bias = torch.zeros(3, dtype=x.dtype)
    reference = slow_deform_conv(x, *read, weight, bias, *geometry)
    torch.testing.assert_close(output, reference)
    assert_same_gradients(output, reference, inputs, random)


def test_deform_conv_survives_nan_offsets(random):
    """A diverging training should see its loss, not crash: mmcv reads nothing at NaN."""
    x, weight = uniform(random, 1, 2, 6, 6), uniform(random, 2, 2, 1, 1)
    offset = torch.zeros(1, 2, 6, 6, dtype=x.dtype)
    offset[0, 0, 2, 3], offset[0, 1, 4, 1] = math.nan, math.inf
    inputs = [value.requires_grad_() for value in (x, offset, weight)]
    output = ops.deform_conv2d(*inputs)
    expected = torch.nn.functional.conv2d(x, weight)
    expected[0, :, [2, 4], [3, 1]] = 0
    torch.testing.assert_close(output, expected)
    output.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[0, :, [2, 4], [3, 1]].abs().sum() == 0


def test_deform_conv_without_offsets_is_a_convolution(random):
    x, weight = uniform(random, 1, 3, 6, 6), uniform(random, 2, 3, 3, 3)
    output = ops.deform_conv2d(x, torch.zeros(1, 18, 4, 4, dtype=x.dtype), weight)
    torch.testing.assert_close(output, torch.nn.functional.conv2d(x, weight))


def test_masked_conv(random):
    """Guided anchoring convolves only where the mask is set."""
    layer = ops.MaskedConv2d(2, 3, (3, 1), padding=(1, 0)).double()
    x, mask = uniform(random, 1, 2, 5, 6), uniform(random, 1, 5, 6) > 0.5
    with torch.no_grad():
        expected = torch.nn.functional.conv2d(x, layer.weight, layer.bias, padding=(1, 0)) * mask
        torch.testing.assert_close(layer(x, mask), expected)
        assert layer(x, torch.zeros_like(mask)).abs().sum() == 0


# --- losses and attention --------------------------------------------------------------------


def slow_focal_loss(logits, target, gamma, alpha, weight):
    """Lin et al. 2017, eq. 5, cell by cell; the target `classes` is background."""
    rows, classes = logits.shape
    loss = torch.zeros(rows, classes, dtype=logits.dtype)
    for n, c in itertools.product(range(rows), range(classes)):
        p = 1 / (1 + torch.exp(-logits[n, c]))
        if target[n] == c:
            loss[n, c] = -alpha * (1 - p) ** gamma * torch.log(p)
        else:
            loss[n, c] = -(1 - alpha) * p**gamma * torch.log(1 - p)
        if weight is not None:
            loss[n, c] = loss[n, c] * weight[target[n]]
    return loss


@torchvision_only
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (1.5, 0.6)])
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(random, gamma, alpha, weighted):
    logits = uniform(random, 6, 3, low=-4, high=4).requires_grad_()
    # 3 is mmdet's background; with class weights mmcv allows no background
    target = torch.tensor([0, 2, 1, 0, 1, 2] if weighted else [0, 3, 1, 3, 2, 0])
    weight = uniform(random, 3, low=0.5, high=2) if weighted else None
    wanted = slow_focal_loss(logits, target, gamma, alpha, weight)
    loss = ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight, "none")
    torch.testing.assert_close(loss, wanted)
    assert_same_gradients(loss, wanted, [logits], random)
    for reduction, reference in (("sum", wanted.sum()), ("mean", wanted.sum() / 6)):
        reduced = ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight, reduction)
        torch.testing.assert_close(reduced, reference)
        assert_same_gradients(reduced, reference, [logits], random)


@torchvision_only
def test_sigmoid_focal_loss_is_finite_for_large_logits():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, "sum").backward()
    assert torch.isfinite(logits.grad).all()
    # d/dx of alpha * x and of (1 - alpha) * x, where p has saturated
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


def slow_attention(value, shapes, where, weights):
    """Zhu et al. 2021, eq. 3: sampling points in 0..1, pixel centres at half coordinates."""
    batch, queries, heads, _, points, _ = where.shape
    result = torch.zeros(batch, queries, heads, value.shape[3], dtype=value.dtype)
    start = 0
    for level, (height, width) in enumerate(shapes):
        cells = value[:, start : start + height * width].unflatten(1, (height, width))
        start += height * width
        for b, q, h, p in itertools.product(*map(range, (batch, queries, heads, points))):
            x = where[b, q, h, level, p, 0] * width - 0.5
            y = where[b, q, h, level, p, 1] * height - 0.5
            for i, j in itertools.product((0, 1), (0, 1)):
                row, column = math.floor(y.item()) + i, math.floor(x.item()) + j
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(y - row)) * (1 - abs(x - column))
                    result[b, q, h] += weights[b, q, h, level, p] * share * cells[b, row, column, h]
    return result.flatten(2)


@torchvision_only
def test_ms_deform_attn(random):
    shapes = [(4, 3), (2, 2)]
    value = uniform(random, 2, 16, 2, 3, low=-1).requires_grad_()
    where = uniform(random, 2, 3, 2, 2, 2, 2, low=-0.1, high=1.1).requires_grad_()
    weights = uniform(random, 2, 3, 2, 2, 2).requires_grad_()
    starts = torch.tensor([0, 12])
    output = MultiScaleDeformableAttnFunction.apply(value, torch.tensor(shapes), starts, where, weights, 64)
    reference = slow_attention(value, shapes, where, weights)
    torch.testing.assert_close(output, reference)
    assert_same_gradients(output, reference, [value, where, weights], random)


# --- the module itself -----------------------------------------------------------------------


@torchvision_only
def test_table_holds_only_names_that_mmcv_calls():
    folder = Path(ops.__file__).parent
    called = set(re.findall(r"ext_module\.(\w+)", "".join(p.read_text() for p in folder.glob("*.py"))))
    assert set(mmcv_ext.KERNELS) <= called


@torchvision_only
def test_unmapped_kernel_says_which_and_what_to_install():
    with pytest.raises(NotImplementedError) as caught:
        ops.box_iou_rotated(torch.ones(1, 5), torch.ones(1, 5))
    message = str(caught.value)
    assert "box_iou_rotated" in message
    assert "--no-build-isolation" in message
    assert "onedl-mmcv==" in message
    assert "nvcc" in message


@torchvision_only
def test_install_again_changes_nothing():
    module = sys.modules["mmcv._ext"]
    assert mmcv_ext.install() == "torchvision"
    assert sys.modules["mmcv._ext"] is module
    assert not hasattr(module, "__path__")


def test_compilers_are_named():
    assert ops.get_compiler_version()
    assert re.fullmatch(r"\d+\.\d+|not available", ops.get_compiling_cuda_version())


@pytest.fixture
def fake_mmcv(tmp_path, monkeypatch):
    """An mmcv package on the path, which this process has not imported."""
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.split(".")[0] in ("mmcv", "mmdet")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "mmcv"
    sys.modules.pop("mmcv._ext", None)


def test_compiled_kernels_are_preferred(fake_mmcv):
    (fake_mmcv / f"_ext{EXTENSION_SUFFIXES[0]}").touch()
    assert mmcv_ext.install() == "compiled"
    assert "mmcv._ext" not in sys.modules


def test_torchvision_where_nothing_is_compiled(fake_mmcv):
    assert mmcv_ext.install() == "torchvision"
    assert sys.modules["mmcv._ext"].nms is mmcv_ext.KERNELS["nms"]


def test_too_late_is_said(fake_mmcv, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmdet.structures", sys)
    with pytest.raises(RuntimeError, match="before"):
        mmcv_ext.install()


def test_faster_rcnn_trains_and_predicts():
    pytest.importorskip("mmdet")
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    torch.manual_seed(0)
    detector = load_backend("mmdet").untrained(find_model("faster_rcnn_tiny"), Overrides(), 3, "cpu")
    model = detector.model.train()
    sample = DetDataSample(metainfo={"img_shape": (96, 96), "ori_shape": (96, 96)})
    sample.set_metainfo({"scale_factor": (1.0, 1.0), "pad_shape": (96, 96), "img_id": 1})
    boxes = torch.tensor([[10.0, 10, 50, 60], [40, 30, 90, 90]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 2]))
    image = torch.randint(0, 255, (3, 96, 96), dtype=torch.uint8)
    data = model.data_preprocessor({"inputs": [image], "data_samples": [sample]}, training=True)
    total, _ = model.parse_losses(model(**data, mode="loss"))
    total.backward()
    assert torch.isfinite(total)
    assert model.roi_head.bbox_head.shared_fcs[0].weight.grad.abs().sum() > 0
    model.eval()
    with torch.no_grad():
        (result,) = model.test_step({"inputs": [image], "data_samples": [sample]})
    assert result.pred_instances.bboxes.shape[1] == 4
    assert len(result.pred_instances) > 0
