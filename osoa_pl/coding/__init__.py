"""Lane-parallel rANS: messages, codecs and their composition; integers only, no torch.

`rans` holds the message and its verbs, `codecs` the `(push, pop)` pairs, `rans_numba` the compiled
engine and the scalar primitives for other compiled kernels, `craystack` the adapters. The last two
are imported only on request.
"""

from osoa_pl.coding.codecs import (
    Bernoulli,
    Categorical,
    Codec,
    Cumulative,
    Intervals,
    LogisticMixture,
    Mixture,
    Uniform,
    repeat,
    serial,
    substack,
    tabulate,
)
from osoa_pl.coding.rans import (
    Message,
    advance,
    base_message,
    content_bits,
    copy_message,
    flatten,
    is_empty,
    pop_slots,
    push_intervals,
    unflatten,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "Codec",
    "Cumulative",
    "Intervals",
    "LogisticMixture",
    "Message",
    "Mixture",
    "Uniform",
    "advance",
    "base_message",
    "content_bits",
    "copy_message",
    "flatten",
    "is_empty",
    "pop_slots",
    "push_intervals",
    "repeat",
    "serial",
    "substack",
    "tabulate",
    "unflatten",
]
