"""Products of unsigned activations with limbs of weights by the processor's own instruction.

x86-64 processors with AVX-512 VNNI multiply and add 64 pairs of 8 bits at once (`vpdpbusd`: exact,
sums of four products added to int32), which numba does not find by itself. `layer_product` is that
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

LANES = 16  # int32 in a vector
_FEW = 6  # vectors of outputs for which two rows fit into the registers


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
def pack_limbs(weights, out):  # type: ignore[no-untyped-def]
    """Integer weights f32 [depth, width], magnitudes below 2^9, as int8 [depth/4, 2, lanes, 4].

    lanes: `width` rounded up to a multiple of 16. w = 4 * high + low, low in 0..3: first the four
    highs of each output, then the lows. depth: a multiple of 4.
    """
    depth, width = weights.shape
    for k in range(depth):
        for j in range(width):
            whole = np.int32(weights[k, j])
            high = whole >> 2
            out[k >> 2, 0, j, k & 3] = np.int8(high)
            out[k >> 2, 1, j, k & 3] = np.int8(whole - 4 * high)


def _product(
    builder: ir.IRBuilder, rows: int, vectors: int, x: Any, x_stride: Any, weights: Any,
    groups: Any, out: Any, out_stride: Any,
) -> None:  # fmt: skip
    """IR of out[r, 0:16*vectors] = 4 * (x . highs) + x . lows for `rows` rows."""
    int32 = ir.IntType(32)
    vector = ir.VectorType(int32, LANES)
    intp = x.type
    dot = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector, vector, vector]),
        "llvm.x86.avx512.vpdpbusd.512",
    )
    zero = ir.Constant(vector, None)
    sums = [[cgutils.alloca_once(builder, vector) for _ in range(2 * vectors)] for _ in range(rows)]
    for place in (place for row in sums for place in row):
        builder.store(zero, place)
    with cgutils.for_range(builder, groups, intp=intp) as loop:
        inputs = []
        for r in range(rows):
            at = builder.add(x, builder.mul(x_stride, ir.Constant(intp, r)))
            at = builder.add(at, builder.mul(loop.index, ir.Constant(intp, 4)))
            four = builder.load(builder.inttoptr(at, int32.as_pointer()), align=1)
            lane = builder.insert_element(ir.Constant(vector, ir.Undefined), four, int32(0))
            mask = ir.Constant(vector, [0] * LANES)
            inputs.append(builder.shuffle_vector(lane, lane, mask))
        begin = builder.mul(loop.index, ir.Constant(intp, 2 * vectors * 4 * LANES))
        begin = builder.add(weights, begin)
        for v in range(2 * vectors):
            at = builder.add(begin, ir.Constant(intp, v * 4 * LANES))
            limbs = builder.load(builder.inttoptr(at, vector.as_pointer()), align=1)
            for r in range(rows):
                before = builder.load(sums[r][v])
                builder.store(builder.call(dot, [before, inputs[r], limbs]), sums[r][v])
    two = ir.Constant(vector, [2] * LANES)
    for r in range(rows):
        for v in range(vectors):
            high = builder.shl(builder.load(sums[r][v]), two)
            total = builder.add(high, builder.load(sums[r][vectors + v]))
            at = builder.add(out, builder.mul(out_stride, ir.Constant(intp, r)))
            at = builder.add(at, ir.Constant(intp, v * 4 * LANES))
            builder.store(total, builder.inttoptr(at, vector.as_pointer()), align=1)


def _rows_of(vectors: int) -> Any:
    """The intrinsic (count, x, x_stride, weights, groups, out, out_stride): addresses and bytes.

    Two rows at a time share the loads of weights, as far as registers go.
    """
    together = 2 if vectors <= _FEW else 1

    @intrinsic
    def rows(typingctx, count, x, x_stride, weights, groups, out, out_stride):  # type: ignore[no-untyped-def]
        def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            count, x, x_stride, weights, groups, out, out_stride = arguments

            def products(number: int, first: Any) -> None:
                _product(
                    builder, number, vectors, builder.add(x, builder.mul(x_stride, first)),
                    x_stride, weights, groups, builder.add(out, builder.mul(out_stride, first)),
                    out_stride,
                )  # fmt: skip

            size = ir.Constant(count.type, together)
            whole = builder.sdiv(count, size)
            with cgutils.for_range(builder, whole, intp=count.type) as loop:
                products(together, builder.mul(loop.index, size))
            done = builder.mul(whole, size)
            if together > 1:
                with builder.if_then(builder.icmp_signed("<", done, count)):
                    products(1, done)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), code

    return rows


_rows1, _rows2, _rows3, _rows4 = _rows_of(1), _rows_of(2), _rows_of(3), _rows_of(4)
_rows5, _rows6, _rows7, _rows8 = _rows_of(5), _rows_of(6), _rows_of(7), _rows_of(8)


@njit(cache=True, nogil=True)
def layer_product(count, x, limbs, out):  # type: ignore[no-untyped-def]
    """out[:count] = x[:count] @ weights, exact: x uint8 [n, depth], out int32 [n, lanes].

    limbs int8 [depth/4, 2, lanes, 4], see `pack_limbs`; all in C order; at most 128 lanes.
    """
    groups, vectors = limbs.shape[0], limbs.shape[2] // LANES
    step, ahead = x.strides[0], out.strides[0]
    a, w, o = x.ctypes.data, limbs.ctypes.data, out.ctypes.data
    if vectors == 1:
        _rows1(count, a, step, w, groups, o, ahead)
    elif vectors == 2:
        _rows2(count, a, step, w, groups, o, ahead)
    elif vectors == 3:
        _rows3(count, a, step, w, groups, o, ahead)
    elif vectors == 4:
        _rows4(count, a, step, w, groups, o, ahead)
    elif vectors == 5:
        _rows5(count, a, step, w, groups, o, ahead)
    elif vectors == 6:
        _rows6(count, a, step, w, groups, o, ahead)
    elif vectors == 7:
        _rows7(count, a, step, w, groups, o, ahead)
    else:
        _rows8(count, a, step, w, groups, o, ahead)
