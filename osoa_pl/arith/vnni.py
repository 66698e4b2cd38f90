"""Products of small integers by the processor's own instruction.

x86-64 processors with AVX-512 VNNI multiply and add 32 pairs of 16 bits at once (`vpdpwssd`: exact,
sums of two products added to int32), which numba does not find by itself. `layer_product` is that
instruction in loops; where the processor or the settings of numba have none, `AVAILABLE` is False
and nothing of this is compiled. The known answers of `models.known_answers` cover it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from osoa_pl.arith.native import BORROWED

LANES = 16  # int32 in a vector
_SUMS = 24  # vectors of sums that fit into the registers beside the operands


def _available() -> bool:
    settings: Any = config
    if settings.DISABLE_JIT:
        return False
    if settings.CPU_NAME is not None or settings.CPU_FEATURES is not None:
        return "+avx512vnni" in (settings.CPU_FEATURES or "").split(",")
    try:
        return bool(binding.get_host_cpu_features().get("avx512vnni", False))
    except RuntimeError:
        return False


AVAILABLE = _available()


@njit(cache=True, nogil=True)
def pack_pairs(weights):  # type: ignore[no-untyped-def]
    """Integer weights f32 [width, depth], below 2^15, as int16 [depth/2, lanes, 2].

    lanes: `width` rounded up to a multiple of 16, with zeros; depth is even.
    """
    width, depth = weights.shape
    out = np.zeros((depth // 2, (width + LANES - 1) // LANES * LANES, 2), np.int16)
    for j in range(width):
        for k in range(depth):
            out[k >> 1, j, k & 1] = np.int16(weights[j, k])
    return out


def _product(
    builder: ir.IRBuilder, rows: int, vectors: int, x: Any, x_stride: Any, weights: Any,
    pairs: Any, out: Any, out_stride: Any,
) -> None:  # fmt: skip
    """IR of out[r, 0:16*vectors] = x[r] . weights for `rows` rows."""
    int32 = ir.IntType(32)
    vector = ir.VectorType(int32, LANES)
    intp = x.type
    dot = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, vector, vector]),
        "llvm.x86.avx512.vpdpwssd.512",
    )
    zero = ir.Constant(vector, None)
    sums = [[cgutils.alloca_once(builder, vector) for _ in range(vectors)] for _ in range(rows)]
    for place in (place for row in sums for place in row):
        builder.store(zero, place)
    with cgutils.for_range(builder, pairs, intp=intp) as loop:
        inputs = []
        for r in range(rows):
            at = builder.add(x, builder.mul(x_stride, ir.Constant(intp, r)))
            at = builder.add(at, builder.mul(loop.index, ir.Constant(intp, 4)))
            pair = builder.load(builder.inttoptr(at, int32.as_pointer()), align=1)
            lane = builder.insert_element(ir.Constant(vector, ir.Undefined), pair, int32(0))
            mask = ir.Constant(vector, [0] * LANES)
            inputs.append(builder.shuffle_vector(lane, lane, mask))
        begin = builder.mul(loop.index, ir.Constant(intp, vectors * 4 * LANES))
        begin = builder.add(weights, begin)
        for v in range(vectors):
            at = builder.add(begin, ir.Constant(intp, v * 4 * LANES))
            pairs_of_weights = builder.load(builder.inttoptr(at, vector.as_pointer()), align=1)
            for r in range(rows):
                before = builder.load(sums[r][v])
                builder.store(builder.call(dot, [before, inputs[r], pairs_of_weights]), sums[r][v])
    for r in range(rows):
        for v in range(vectors):
            at = builder.add(out, builder.mul(out_stride, ir.Constant(intp, r)))
            at = builder.add(at, ir.Constant(intp, v * 4 * LANES))
            builder.store(
                builder.load(sums[r][v]), builder.inttoptr(at, vector.as_pointer()), align=1
            )


def _rows_of(vectors: int) -> Any:
    """The intrinsic (count, x, x_stride, weights, pairs, out, out_stride): addresses and bytes.

    Up to four rows at a time share the loads of weights, as far as registers go.
    """

    @intrinsic
    def rows(typingctx, count, x, x_stride, weights, pairs, out, out_stride):  # type: ignore[no-untyped-def]
        def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            count, x, x_stride, weights, pairs, out, out_stride = arguments
            done = ir.Constant(count.type, 0)
            for together in (4, 2, 1):
                if together * vectors > _SUMS:
                    continue
                size = ir.Constant(count.type, together)
                end = builder.sub(count, builder.srem(builder.sub(count, done), size))
                with cgutils.for_range_slice(
                    builder, done, end, size, intp=count.type, inc=True
                ) as (first, _):
                    _product(
                        builder, together, vectors, builder.add(x, builder.mul(x_stride, first)),
                        x_stride, weights, pairs, builder.add(out, builder.mul(out_stride, first)),
                        out_stride,
                    )  # fmt: skip
                done = end
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), code

    return rows


_rows1, _rows2, _rows3, _rows4 = _rows_of(1), _rows_of(2), _rows_of(3), _rows_of(4)
_rows5, _rows6, _rows7, _rows8 = _rows_of(5), _rows_of(6), _rows_of(7), _rows_of(8)


@njit(**BORROWED)
def layer_product(count, x, weights, out):  # type: ignore[no-untyped-def]
    """out[:count, :lanes] = x[:count] @ weights, exact while sums fit: x int16 [n, depth].

    weights int16 [depth/2, lanes, 2], see `pack_pairs`: at most 128 lanes; out int32 [n, >= lanes];
    rows are contiguous.
    """
    pairs, vectors = weights.shape[0], weights.shape[1] // LANES
    step, ahead = x.strides[0], out.strides[0]
    a, w, o = x.ctypes.data, weights.ctypes.data, out.ctypes.data
    if vectors == 1:
        _rows1(count, a, step, w, pairs, o, ahead)
    elif vectors == 2:
        _rows2(count, a, step, w, pairs, o, ahead)
    elif vectors == 3:
        _rows3(count, a, step, w, pairs, o, ahead)
    elif vectors == 4:
        _rows4(count, a, step, w, pairs, o, ahead)
    elif vectors == 5:
        _rows5(count, a, step, w, pairs, o, ahead)
    elif vectors == 6:
        _rows6(count, a, step, w, pairs, o, ahead)
    elif vectors == 7:
        _rows7(count, a, step, w, pairs, o, ahead)
    else:
        _rows8(count, a, step, w, pairs, o, ahead)
