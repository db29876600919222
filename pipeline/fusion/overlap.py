"""Which boxes of a list overlap a given one: the inner loop of every fuser.

The list is kept as blocks of 16 boxes, float32 array `blocks` of shape (n, 5, 16) with the rows
x1, y1, x2, y2 and area. One step tests 16 boxes against the given one with vector instructions
(whichever the processor has: LLVM splits the vectors) and without a division: IoU > t is
inter > t / (1 + t) * (area_a + area_b). That test is loose by 4 parts in a million, and the few
boxes that pass it are measured again in float64, so that every decision is that of float64
arithmetic on the float32 corners.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

from pipeline.kernels.jit import inlined

LANES = 16
LANE_BITS = 4
_LOOSE = 1.0 - 4e-6


@intrinsic
def lanes_over(
    typing_context: Any,
    blocks: Any,
    block: Any,
    x1: Any,
    y1: Any,
    x2: Any,
    y2: Any,
    area: Any,
    part: Any,
) -> Any:
    """Bit mask of the boxes of `block` with inter > part * (area + its area)."""
    f32 = types.float32
    signature = types.uint32(blocks, types.intp, f32, f32, f32, f32, f32, f32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), LANES)
        array = context.make_array(sig.args[0])(context, builder, args[0])
        data = builder.bitcast(array.data, vector.as_pointer())
        first = builder.mul(args[1], ir.Constant(args[1].type, 5))

        def row(number: int) -> Any:
            at = builder.add(first, ir.Constant(first.type, number))
            return builder.load(builder.gep(data, [at]), align=4)

        def splat(scalar: Any) -> Any:
            lane = ir.Constant(ir.IntType(32), 0)
            one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, lane)
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", a, b), a, b)

        def smaller(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered("<", a, b), a, b)

        bx1, by1, bx2, by2, barea, bpart = (splat(value) for value in args[2:])
        none = ir.Constant(vector, [0.0] * LANES)
        width = builder.fsub(smaller(row(2), bx2), larger(row(0), bx1))
        height = builder.fsub(smaller(row(3), by2), larger(row(1), by1))
        inter = builder.fmul(larger(width, none), height)
        least = builder.fmul(bpart, builder.fadd(row(4), barea))
        hits = builder.fcmp_ordered(">", inter, least)
        return builder.zext(builder.bitcast(hits, ir.IntType(LANES)), ir.IntType(32))

    return signature, codegen


@intrinsic
def lowest_bit(typing_context: Any, mask: Any) -> Any:
    """Position of the lowest set bit of a mask that is not 0."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.zext(builder.cttz(args[0], ir.Constant(ir.IntType(1), 1)), ir.IntType(64))

    return types.int64(types.uint32), codegen


@inlined
def new_blocks(capacity):
    """Blocks for up to `capacity` boxes."""
    count = (capacity + LANES - 1) // LANES + 1
    memory = np.empty(count * 5 * LANES + LANES, np.float32)
    skip = (-memory.ctypes.data // 4) & (LANES - 1)  # vectors that straddle cache lines are slow
    return memory[skip : skip + count * 5 * LANES].reshape((count, 5, LANES))


@inlined
def put(blocks, at, x1, y1, x2, y2):
    """Write a box to place `at`; the first one of a block empties the rest of the block."""
    block = at >> LANE_BITS
    lane = at & (LANES - 1)
    if lane == 0:
        for other in range(LANES):
            blocks[block, 0, other] = np.inf
            blocks[block, 1, other] = np.inf
            blocks[block, 2, other] = -np.inf
            blocks[block, 3, other] = -np.inf
            blocks[block, 4, other] = np.inf
    move(blocks, at, x1, y1, x2, y2)


@inlined
def move(blocks, at, x1, y1, x2, y2):
    """Give the box at place `at` new corners."""
    block = at >> LANE_BITS
    lane = at & (LANES - 1)
    blocks[block, 0, lane] = x1
    blocks[block, 1, lane] = y1
    blocks[block, 2, lane] = x2
    blocks[block, 3, lane] = y2
    blocks[block, 4, lane] = (x2 - x1) * (y2 - y1)


def part_of(iou: float) -> np.float32:
    """The `part` of the vector test for an IoU threshold; called from Python."""
    return np.float32(_LOOSE * iou / (1.0 + iou))


@inlined
def exact_iou(blocks, at, x1, y1, x2, y2):
    """IoU in float64 of the box at place `at` and the given one."""
    block = at >> LANE_BITS
    lane = at & (LANES - 1)
    ax1 = np.float64(blocks[block, 0, lane])
    ay1 = np.float64(blocks[block, 1, lane])
    ax2 = np.float64(blocks[block, 2, lane])
    ay2 = np.float64(blocks[block, 3, lane])
    bx1 = np.float64(x1)
    by1 = np.float64(y1)
    bx2 = np.float64(x2)
    by2 = np.float64(y2)
    width = min(ax2, bx2) - max(ax1, bx1)
    height = min(ay2, by2) - max(ay1, by1)
    if width <= 0.0 or height <= 0.0:
        return 0.0
    inter = width * height
    return inter / ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter)


@inlined
def best_match(blocks, n, x1, y1, x2, y2, iou, part):
    """Place and IoU of the box with the highest IoU above `iou`, the first of equals; else -1."""
    best = -1
    best_iou = iou
    area = (x2 - x1) * (y2 - y1)
    for block in range((n + LANES - 1) >> LANE_BITS):
        mask = lanes_over(blocks, block, x1, y1, x2, y2, area, part)
        while mask != 0:
            at = (block << LANE_BITS) + lowest_bit(mask)
            mask &= mask - np.uint32(1)
            value = exact_iou(blocks, at, x1, y1, x2, y2)
            if value > best_iou:
                best_iou = value
                best = at
    return best, best_iou


@inlined
def any_match(blocks, n, x1, y1, x2, y2, iou, part):
    """Whether one of the first `n` boxes has an IoU above `iou` with the given box."""
    area = (x2 - x1) * (y2 - y1)
    for block in range((n + LANES - 1) >> LANE_BITS):
        mask = lanes_over(blocks, block, x1, y1, x2, y2, area, part)
        while mask != 0:
            at = (block << LANE_BITS) + lowest_bit(mask)
            mask &= mask - np.uint32(1)
            if exact_iou(blocks, at, x1, y1, x2, y2) > iou:
                return True
    return False
