"""What a model costs in parameters and FLOPs, counted alike for every backend.

`complexity` counts one forward pass of one square photo of the run's input size, from pixels to
boxes, two operations for a multiply-add. Counted are convolutions (deformable ones too), matrix
products and attention. Not counted is what is small beside them: biases, norms, activations, other
elementwise work, resizing, the interpolation inside RoI pooling and deformable sampling, NMS. The count
depends on config and size alone: it is made on a CPU in float32, and a two-stage detector gets as many
proposals as its config allows (NMS would leave a number that changes with weights and photo).

The counter is torch's, which alone would say 0 for attention on a CPU, for the fused paths of
nn.MultiheadAttention, for in-place products and for deformable convolutions: `FORMULAS` adds them, and
an operation that looks like a product and has no formula is named in the result instead of left out.
The frameworks' own counters disagree: ultralytics counts two for a multiply-add, and norms;
mmengine counts one.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipeline.inference.detector import Detector

Shape = Sequence[int]
aten = torch.ops.aten


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """(b, h, q, d) by (b, h, k, d), then (b, h, q, k) by (b, h, k, d_v)."""
    return 2 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _product(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """(..., m, k) by (..., k, n); a vector b is (k,), and two vectors are (k,) and (k,)."""
    return 2 * prod(a) * (b[-1] if len(b) > 1 else 1)


def _added_product(_sum: Shape, a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    return _product(a, b)


def _deform_conv(_features: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """weight (c_out, c_in / groups, kh, kw), out (n, c_out, h, w)."""
    return 2 * prod(weight) * out_shape[0] * prod(out_shape[2:])


FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten.mv: _product,
    aten.dot: _product,
    aten.addmv: _added_product,
    aten.addmv_: _added_product,
    aten.addmm_: _added_product,
    aten.baddbmm_: _added_product,
    aten.addbmm: _added_product,
    aten.addbmm_: _added_product,
    torch.ops.torchvision.deform_conv2d: _deform_conv,
}
PRODUCTS = re.compile(
    r"(mm|bmm|mv|dot|matmul|linear|conv\dd|convolution|attention|attn|transformer|rnn|lstm|gru|trilinear)"
)
SAMPLING = {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool"}  # torchvision's, not counted


class _Seen(TorchDispatchMode):
    """Collects the operations that the counter, inside it, could not take apart any further."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[Any] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations.add(func._overloadpacket)
        return func(*args, **(kwargs or {}))


class _NoTracker(contextlib.nullcontext[None]):
    """In place of the counter's own, which tells modules apart and fails when one is given a parameter,
    as DETRs' queries are, while no gradients are kept."""

    parents = ("Global",)


def _is_product(operation: Any) -> bool:
    """Whether an operation's name says that it multiplies and adds; unknown libraries' all do."""
    space, _, name = operation._qualified_op_name.partition("::")
    if space in ("aten", "prim", "prims", "profiler"):
        return any(PRODUCTS.fullmatch(word) for word in name.split("_"))
    return not (space == "torchvision" and name in SAMPLING)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """nn.MultiheadAttention as the operations it is made of, not as one that nothing can count."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def count_flops(call: Callable[[], Any]) -> tuple[int, list[str]]:
    """FLOPs of a call, two for a multiply-add, and the names of products it has no formula for."""
    seen = _Seen()
    counter: Any = FlopCounterMode(display=False, custom_mapping=FORMULAS)
    counter.mod_tracker = _NoTracker()
    with torch.inference_mode(), _plain_attention(), seen, counter:
        call()
    left_out = {
        op._qualified_op_name for op in seen.operations - set(counter.flop_registry) if _is_product(op)
    }
    return counter.get_total_flops(), sorted(left_out)


def noise(side: int, count: int = 1) -> Tensor:
    """(count, 3, side, side) uint8, the same on every call."""
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, side, side), np.uint8))


def complexity(detector: Detector) -> dict[str, Any]:
    """Parameters and FLOPs of a detector on the CPU, for one square photo of its input size.

    "not_counted" is there only when an operation without a formula was met.
    """
    pixels = noise(detector.image_size)
    detector.detect(pixels)  # what a framework builds on first use is not the model's work
    with detector.constant_work():
        flops, left_out = count_flops(lambda: detector.detect(pixels))
    found = {"parameters": detector.parameters, "flops": flops, "input_size": detector.image_size}
    return found | ({"not_counted": left_out} if left_out else {})
