"""What numba's kernels need of the processor and do not get by themselves; no result changes."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils, event
from numba.extending import intrinsic

from osoa_pl import compilation

BORROWED: dict[str, Any] = {"cache": True, "nogil": True, "_nrt": False}
"""Options of `njit` for kernels that make no arrays and return none.

numba counts the references to every view, by two atomic operations of 20 cycles; these do not.
"""

_settings: Any = config
_COMPILED = not _settings.DISABLE_JIT


class _Compilation(event.Listener):
    def on_start(self, event: event.Event) -> None:
        compilation.begun()

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Compilation())


@intrinsic
def _prefetch(typingctx, address):  # type: ignore[no-untyped-def]
    def code(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        int32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        hint = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [pointer, int32, int32, int32]),
            "llvm.prefetch.p0",
        )
        at: Any = builder.inttoptr(arguments[0], pointer)
        builder.call(hint, [at, int32(0), int32(3), int32(1)])  # to read, all caches, data
        return context.get_dummy_value()

    return types.void(types.intp), code


@njit(inline="always")
def prefetch(array, row):  # type: ignore[no-untyped-def]
    """Fetch the beginning of array[row] into the cache."""
    if _COMPILED:
        _prefetch(array.ctypes.data + np.int64(row) * array.strides[0])  # type: ignore[call-arg]
