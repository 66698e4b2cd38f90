"""Portable arithmetic: every number that decides a bit of an archive comes from here.

Encoder and decoder replay the same training, so each operation has one value, whatever the
machine, the library version or the number of threads:

* `contract`, `convolve`: sums of products of few-bit integers, defined by their exact value;
* `quantize`: the rounding of operands to such integers; `noise`: counter-based randomness;
* `functions`: exp, log and their kin from IEEE-754 operations alone;
* `layers`: linear and convolution layers built on these; `optim`: Adam, SGD, clipping, digests;
* `engines`: which kernels this machine may use, `diagnosis` reports it;
* `checker`: the guard that tests run under;
* `compiled`: compiled twins of the inner loops (imported on request); `threads` runs them.
"""

from osoa_pl.arith.checker import OperationChecker, OperationRefused
from osoa_pl.arith.convolve import Window
from osoa_pl.arith.diagnosis import engine_report
from osoa_pl.arith.engines import use_engine
from osoa_pl.arith.layers import (
    Conv2d,
    Linear,
    Precision,
    activation_maxima,
    calibrate_scales,
    gradient_keys,
    set_form,
    update_scales,
)
from osoa_pl.arith.noise import derive_key
from osoa_pl.arith.optim import (
    SGD,
    Adam,
    clip_by_exact_norm,
    exact_norm,
    flat_gradient,
    flatten_parameters,
    state_digest,
)

__all__ = [
    "SGD",
    "Adam",
    "Conv2d",
    "Linear",
    "OperationChecker",
    "OperationRefused",
    "Precision",
    "Window",
    "activation_maxima",
    "calibrate_scales",
    "clip_by_exact_norm",
    "derive_key",
    "engine_report",
    "exact_norm",
    "flat_gradient",
    "flatten_parameters",
    "gradient_keys",
    "set_form",
    "state_digest",
    "update_scales",
    "use_engine",
]
