"""Elementary functions that give the same bits everywhere.

IEEE-754 fixes + - * /, square roots, comparisons and rounding; it does not fix exp, log or their
kin, and libraries differ in them. Here each function is a short list of those fixed operations,
every one an eager call of its own, so that nothing is fused or reassociated. Measured
errors are in docs/portability.md (`benchmarks/function_accuracy.py` prints the table).

All take float32 or float64 tensors of any shape, return the same dtype and shape, pass NaN on and
raise UsageError for other dtypes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from osoa_pl.errors import UsageError

_ROUND_64 = 6755399441055744.0  # 1.5 * 2^52: adding and subtracting it rounds to nearest even
_LOG2_E = 1.4426950408889634
# ln 2 in two parts: k * high is exact for |k| <= 2^11
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_EXP_64 = tuple(1.0 / math.factorial(i) for i in range(14))
_LOG_64 = tuple(2.0 / (2 * i + 3) for i in range(11))
_SQRT_HALF = 0.7071067811865476
_SQRT_2 = 1.4142135


def _single(values: Sequence[float]) -> tuple[float, ...]:
    """Constants rounded to float32 here, so that no kernel has to round them."""
    return tuple(float(np.float32(v)) for v in values)


_LOG2_E_32, _LN2_HIGH_32, _LN2_LOW_32 = _single((_LOG2_E, 0.693145751953125, 1.42860677e-06))
_EXP_32 = _single([1.0 / math.factorial(i) for i in range(7)])
_LOG_32 = _single((0.6666666667, 0.4000097152, 0.2850781, 0.2392))
# Taylor series of tanh(a) / a in a^2
_TANH_64 = (
    1.0,
    -1 / 3,
    2 / 15,
    -17 / 315,
    62 / 2835,
    -1382 / 155925,
    21844 / 6081075,
    -929569 / 638512875,
    6404582 / 10854718875,
    -443861162 / 1856156927625,
    18888466084 / 194896477400625,
    -113927491862 / 2900518163668125,
)
_TANH_32 = _single(_TANH_64[:8])
# Chebyshev series in t = (z - 4) / (z + 4) of erfc(z) * exp(z^2) * (1 + 2 z), z >= 0
_ERFC = (
    2.3549664010748974 / 2,
    -0.007260796620301901,
    -0.081265123236185,
    0.06009212804122225,
    -0.02875393558027666,
    0.01059566336347286,
    -0.003136927294554264,
    0.0007456494372536184,
    -0.0001369696503010054,
    1.7183861600300937e-05,
    -7.158364623450346e-07,
    -2.4261399442449534e-07,
    5.5765709395703566e-08,
    -2.1057869513809494e-09,
    -1.1717889351884957e-09,
    1.9098355172456688e-10,
    1.408871764208813e-11,
    -6.901108320480815e-12,
    9.167958364111294e-14,
    2.1454508286554553e-13,
    -1.4716575027010623e-14,
    -6.668675118770408e-15,
    7.504598509880083e-16,
    2.22009300666632e-16,
    -3.1704898956330886e-17,
    -8.193570309884331e-18,
)
# Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37 (1988) 477: numerator, denominator
_CENTRE = (
    (
        3.3871328727963666080,
        133.14166789178437745,
        1971.5909503065514427,
        13731.693765509461125,
        45921.953931549871457,
        67265.770927008700853,
        33430.575583588128105,
        2509.0809287301226727,
    ),
    (
        1.0,
        42.313330701600911252,
        687.18700749205790830,
        5394.1960214247511077,
        21213.794301586595867,
        39307.895800092710610,
        28729.085735721942674,
        5226.4952788528545610,
    ),
)
_SHOULDER = (
    (
        1.42343711074968357734,
        4.63033784615654529590,
        5.76949722146069140550,
        3.64784832476320460504,
        1.27045825245236838258,
        0.241780725177450611770,
        0.0227238449892691845833,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187,
        1.67638483018380384940,
        0.689767334985100004550,
        0.148103976427480074590,
        0.0151986665636164571966,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
_TAIL = (
    (
        6.65790464350110377720,
        5.46378491116411436990,
        1.78482653991729133580,
        0.296560571828504891230,
        0.0265321895265761230930,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        0.599832206555887937690,
        0.136929880922735805310,
        0.0148753612908506148525,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)


def _horner(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """Polynomial with ascending coefficients: one rounded product, one rounded sum per degree."""
    y = torch.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        y = y.mul_(x).add_(c)
    return y


def sqrt(x: Tensor) -> Tensor:
    """Square root, correctly rounded as IEEE-754 demands; NaN below zero.

    On the CPU numpy takes it: its kernels are the processor's instruction, while torch's go through
    a vector library that is off by one unit for a sixth of all float32 values (torch 2.14, x86-64)
    and depends on that library and on the processor.
    """
    _is_double(x)
    if x.device.type != "cpu":
        return x.sqrt()
    with np.errstate(invalid="ignore"):
        # asarray: numpy turns 0-dim arrays into scalars
        return torch.from_numpy(np.asarray(np.sqrt(x.detach().numpy())))


def exp(x: Tensor) -> Tensor:
    """e^x; x is first clamped to [-708, 709] in float64 and to [-87, 88] in float32."""
    if _is_double(x):
        x = x.clamp(-708.0, 709.0)
        k = (x * _LOG2_E).add_(_ROUND_64).sub_(_ROUND_64)
        r = (x - k * _LN2_HIGH).sub_(k * _LN2_LOW)
        y = _horner(_EXP_64, r)
        scale = k.to(torch.int64).add_(1023).bitwise_left_shift_(52).view(torch.float64)
        return y.mul_(scale)
    x = x.clamp(-87.0, 88.0)
    k = (x * _LOG2_E_32).round_()
    r = (x - k * _LN2_HIGH_32).sub_(k * _LN2_LOW_32)
    y = _horner(_EXP_32, r)
    scale = k.to(torch.int32).add_(127).bitwise_left_shift_(23).view(torch.float32)
    return y.mul_(scale)


def log(x: Tensor) -> Tensor:
    """Natural logarithm; x is first raised to the smallest normal number (also where x <= 0)."""
    if _is_double(x):
        exponent, mantissa = _split(x.clamp(min=2.0**-1022), torch.int64, 52, 1023)
        series, high, low = _LOG_64, _LN2_HIGH, _LN2_LOW
    else:
        exponent, mantissa = _split(x.clamp(min=2.0**-126), torch.int32, 23, 127)
        series, high, low = _LOG_32, _LN2_HIGH_32, _LN2_LOW_32
    f = mantissa.sub_(1.0)
    s = f / (f + 2.0)
    z = s * s
    # log(1 + f) = 2 s + s * p(z) with f and not 2 s as leading term, which is exact
    y = f - s * (f - _horner(series, z).mul_(z))
    y = (exponent * low).add_(y).add_(exponent * high)
    return torch.where(x == x, y, x)


def _split(x: Tensor, word: torch.dtype, shift: int, bias: int) -> tuple[Tensor, Tensor]:
    """(exponent, mantissa) as floats with x = mantissa * 2^exponent, mantissa in 0.707..1.414."""
    pattern = x.view(word)
    exponent = pattern.bitwise_right_shift(shift).sub_(bias)
    mantissa = pattern.bitwise_and((1 << shift) - 1).bitwise_or_(bias << shift).view(x.dtype)
    large = mantissa > _SQRT_2
    mantissa = torch.where(large, mantissa * 0.5, mantissa)
    return torch.where(large, exponent + 1, exponent).to(x.dtype), mantissa


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x), in (0, 1]; the lower tail keeps its relative accuracy."""
    t = exp(x.abs().neg_())
    d = t + 1.0
    return torch.where(x >= 0, torch.ones_like(t), t).div_(d)


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) = -log(sigmoid(-x)), without overflow."""
    t = exp(x.abs().neg_())
    u = t + 1.0
    # (t - (u - 1)) / u is what the rounding of u took from the logarithm
    return x.clamp(min=0.0).add_(log(u).add_((t - (u - 1.0)).div_(u)))


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent, odd to the bit."""
    double = _is_double(x)
    a = x.abs()
    t = exp(a * -2.0)
    large = (1.0 - t).div_(t + 1.0)
    small = _horner(_TANH_64 if double else _TANH_32, a * a).mul_(a)
    y = torch.where(a < (0.15 if double else 0.35), small, large)
    return torch.where(x < 0, y.neg(), y)


def normal_cdf(x: Tensor) -> Tensor:
    """Standard normal distribution function; |x| is clamped to 37.5.

    float32 is the rounded float64 value, and so non-decreasing wherever that is to 2^-29.
    """
    if not _is_double(x):
        return normal_cdf(x.to(torch.float64)).to(torch.float32)
    a = x.abs().clamp_(max=37.5)
    z = a * _SQRT_HALF
    t = (z - 4.0).div_(z + 4.0)
    twice = t * 2.0
    b1, b2 = torch.zeros_like(t), torch.zeros_like(t)
    for c in reversed(_ERFC[1:]):  # Clenshaw's recurrence
        b1, b2 = (twice * b1).sub_(b2).add_(c), b1
    series = (t * b1).sub_(b2).add_(_ERFC[0])
    # exp(-a^2 / 2) with a = high + low, high^2 exact: the error of the square does not grow
    high = (a * 16.0).floor_().mul_(0.0625)
    low = a - high
    density = exp(high * high * -0.5).mul_(exp((high + low * 0.5).mul_(low).neg_()))
    tail = density.mul_(series.div_(z * 2.0 + 1.0)).mul_(0.5)
    return torch.where(x > 0, 1.0 - tail, tail)


def inverse_normal_cdf(p: Tensor) -> Tensor:
    """x with normal_cdf(x) = p, for p in (0, 1); p is clamped to [2^-1000, 1 - 2^-53].

    float32 is the rounded float64 value. Source: Wichura's AS 241.
    """
    if not _is_double(p):
        return inverse_normal_cdf(p.to(torch.float64)).to(torch.float32)
    p = p.clamp(2.0**-1000, 1.0 - 2.0**-53)
    q = p - 0.5
    r = (q * q).neg_().add_(0.180625)
    centre = _horner(_CENTRE[0], r).mul_(q).div_(_horner(_CENTRE[1], r))
    r = sqrt(log(torch.minimum(p, 1.0 - p)).neg_())
    near, far = r - 1.6, r - 5.0
    shoulder = _horner(_SHOULDER[0], near).div_(_horner(_SHOULDER[1], near))
    tail = _horner(_TAIL[0], far).div_(_horner(_TAIL[1], far))
    outer = torch.where(r <= 5.0, shoulder, tail)
    outer = torch.where(q < 0, outer.neg(), outer)
    return torch.where(q.abs() <= 0.425, centre, outer)


@functools.lru_cache(maxsize=1)
def sigmoid_table() -> Tensor:
    """int64 (1601,): round(2^18 * sigmoid((i - 800) / 64)), the coder's logistic CDF.

    Non-decreasing from 1 to 2^18 - 1, and T[i] + T[1600 - i] = 2^18. The tensor is shared: do not
    change it.
    """
    x = torch.arange(-800, 801, dtype=torch.float64) * (1 / 64)
    return (sigmoid(x) * 2.0**18).round_().to(torch.int64)


@functools.lru_cache(maxsize=1)
def normal_table() -> Tensor:
    """int64 (4098,): round(2^30 * normal_cdf((i - 2048) / 256)). Shared: do not change it."""
    x = torch.arange(-2048, 2050, dtype=torch.float64) * (1 / 256)
    return (normal_cdf(x) * 2.0**30).round_().to(torch.int64)


@functools.lru_cache(maxsize=1)
def logistic_table() -> Tensor:
    """int64 (8194,): round(2^30 * sigmoid((i - 4096) / 256)). Shared: do not change it."""
    x = torch.arange(-4096, 4098, dtype=torch.float64) * (1 / 256)
    return (sigmoid(x) * 2.0**30).round_().to(torch.int64)


def fixed_normal_cdf(x: Tensor) -> Tensor:
    """2^30 * normal_cdf(x / 2^16) for int64 `x` of any shape, as int64, clamped to |x| <= 8 * 2^16.

    Non-decreasing by construction (a table at steps of 1/256, integer interpolation), so that
    differences are frequencies. Within 2^-20 of the true distribution function.
    """
    if x.dtype != torch.int64:
        raise UsageError(f"fixed normal CDF: found {x.dtype} (expected torch.int64)")
    table = normal_table().to(x.device)
    shifted = x.clamp(-(8 << 16), 8 << 16).add_(8 << 16)
    cell, part = shifted.bitwise_right_shift(8), shifted.bitwise_and(255)
    left = table[cell]
    return (table[cell + 1] - left).mul_(part).bitwise_right_shift_(8).add_(left)


def _is_double(x: Tensor) -> bool:
    if x.dtype == torch.float64:
        return True
    if x.dtype != torch.float32:
        raise UsageError(f"portable function: found {x.dtype} (expected torch.float32 or float64)")
    return False


#: name -> function, for tables and tests
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sqrt": sqrt,
    "exp": exp,
    "log": log,
    "sigmoid": sigmoid,
    "softplus": softplus,
    "tanh": tanh,
    "normal_cdf": normal_cdf,
    "inverse_normal_cdf": inverse_normal_cdf,
}
