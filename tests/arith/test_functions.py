"""Elementary functions: stated accuracy, stored bits, monotone distribution functions."""

from __future__ import annotations

import zlib

import mpmath
import numpy as np
import pytest
import torch

from osoa_pl.arith import functions
from osoa_pl.errors import UsageError

# largest error in units in the last place, float32 and float64
BOUNDS = {
    "exp": (3.0, 1.5),
    "log": (1.0, 1.5),
    "sigmoid": (4.0, 2.5),
    "softplus": (3.5, 2.5),
    "tanh": (4.0, 3.0),
    "normal_cdf": (0.51, 8.0),
    "inverse_normal_cdf": (0.51, 12.0),
}
TRUTH = {
    "exp": mpmath.exp,
    "log": mpmath.log,
    "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)),
    "softplus": lambda v: mpmath.log1p(mpmath.exp(v)),
    "tanh": mpmath.tanh,
    "normal_cdf": lambda v: mpmath.erfc(-v / mpmath.sqrt(2)) / 2,
    "inverse_normal_cdf": lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1),
}


def sample(name: str, double: bool) -> np.ndarray:
    rng = np.random.default_rng(11)
    reach = 700 if double else 85
    if name == "log":
        return np.concatenate([np.exp(rng.uniform(-reach, reach, 200)), rng.uniform(0.5, 2, 400)])
    if name == "normal_cdf":
        return rng.uniform(-36 if double else -12, 8, 500)
    if name == "inverse_normal_cdf":
        return rng.uniform(0.0001, 0.9999, 300)
    return np.concatenate([rng.uniform(-reach, reach, 200), rng.normal(size=500) * 2])


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_errors_stay_below_the_stated_bound(name, double):
    dtype, kind = (torch.float64, np.float64) if double else (torch.float32, np.float32)
    x = torch.from_numpy(sample(name, double)).to(dtype)
    y = functions.FUNCTIONS[name](x)
    assert y.dtype == dtype and y.shape == x.shape
    worst = 0.0
    with mpmath.workdps(40):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            true = TRUTH[name](mpmath.mpf(a))
            unit = float(np.spacing(kind(abs(float(true)))))
            worst = max(worst, float(abs(mpmath.mpf(b) - true) / mpmath.mpf(unit)))
    assert worst <= BOUNDS[name][double]


def test_the_bits_of_exp_are_those_of_the_scalar_definition():
    x = np.concatenate([np.linspace(-720, 720, 997), np.random.default_rng(0).normal(size=500)])
    expected = []
    coefficients = [1.0]
    for i in range(1, 14):
        coefficients.append(coefficients[-1] * i)
    for v in x.tolist():
        v = min(max(v, -708.0), 709.0)
        k = (v * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0
        r = (v - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
        y = 1.0 / coefficients[13]
        for i in range(12, -1, -1):
            y = y * r + 1.0 / coefficients[i]
        expected.append(y * 2.0**k)
    assert functions.exp(torch.from_numpy(x)).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_square_roots_are_correctly_rounded(dtype):
    rng = np.random.default_rng(2)
    x = torch.from_numpy(np.exp(rng.uniform(-80, 80, 20_000))).to(dtype)
    kind = np.float32 if dtype == torch.float32 else np.float64
    with mpmath.workdps(60):
        for value, root in zip(x[:400].tolist(), functions.sqrt(x)[:400].tolist(), strict=True):
            unit = mpmath.mpf(float(np.spacing(kind(root))))
            assert abs(mpmath.sqrt(mpmath.mpf(value)) - root) <= unit / 2
    if dtype == torch.float32:
        assert torch.equal(functions.sqrt(x), functions.sqrt(x.double()).float())
    assert functions.sqrt(x[0]).shape == () and bool(functions.sqrt(-x[:1]).isnan())
    assert torch.equal(functions.sqrt(x.view(4, 5000).t()), functions.sqrt(x).view(4, 5000).t())


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_primitives_are_those_of_ieee_754(kind):
    rng = np.random.default_rng(3)
    reach = 80 if kind == np.float32 else 700
    a = (rng.normal(size=4099) * np.exp(rng.uniform(-reach, reach, 4099))).astype(kind)
    b = np.roll(a, 5)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    with np.errstate(all="ignore"):
        pairs = {
            "add": (x + y, a + b),
            "sub": (x - y, a - b),
            "mul": (x * y, a * b),
            "div": (x / y, a / b),
            "add scalar": (x + float(kind(0.1)), a + kind(0.1)),
            "mul scalar": (x * float(kind(0.1)), a * kind(0.1)),
            "round": ((x * 0.5).round(), np.rint(a * kind(0.5))),
            "floor": (x.floor(), np.floor(a)),
            "trunc": (x.trunc(), np.trunc(a)),
            "narrow": (x.to(torch.float32), a.astype(np.float32)),
            "widen": (x.to(torch.float64), a.astype(np.float64)),
        }
    for name, (found, expected) in pairs.items():
        assert np.array_equal(found.numpy(), expected, equal_nan=True), name


def crc(x: torch.Tensor) -> int:
    return zlib.crc32(np.ascontiguousarray(x.numpy()).astype(x.numpy().dtype.newbyteorder("<")))


# made by `crc` of the values on the grid below, float32 and float64
STORED = {
    "exp": (2179196989, 1774942151),
    "inverse_normal_cdf": (2575214045, 490901068),
    "log": (1860202756, 488244536),
    "normal_cdf": (62068479, 3494523846),
    "sigmoid": (1483776574, 3570219331),
    "softplus": (1385462531, 2437691105),
    "tanh": (4088720046, 2494654408),
    "sigmoid_table": 3172578368,
    "normal_table": 482368884,
}


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_the_bits_never_change(name):
    grid = torch.arange(1, 4096, dtype=torch.float64) / torch.full((4095,), 4096.0)
    x = grid if name in ("log", "inverse_normal_cdf") else (grid - 0.5) * 60.0
    y = functions.FUNCTIONS[name]
    assert (crc(y(x.float()) + 0.0), crc(y(x) + 0.0)) == STORED[name]


def test_sigmoid_table():
    table = functions.sigmoid_table()
    assert table.shape == (1601,) and table.dtype == torch.int64
    assert crc(table) == STORED["sigmoid_table"]
    assert table[0] == 1 and table[800] == 1 << 17 and table[-1] == (1 << 18) - 1
    assert bool((table[1:] >= table[:-1]).all())
    assert bool((table + table.flip(0) == 1 << 18).all())


@pytest.mark.parametrize("name", ["sigmoid", "normal_cdf", "tanh"])
def test_distribution_functions_do_not_decrease(name):
    function = functions.FUNCTIONS[name]
    x = torch.arange(-(1 << 17), 1 << 17, dtype=torch.float32) * 2.0**-13
    y = function(x.double())
    # non-decreasing on the grid of probabilities that tables are made of
    rounded = (y * 2.0**32).round()
    assert bool((rounded[1:] >= rounded[:-1]).all())


def test_fixed_normal_cdf_does_not_decrease_and_is_near():
    x = torch.arange(-(9 << 16), 9 << 16, 7)
    y = functions.fixed_normal_cdf(x)
    assert bool((y[1:] >= y[:-1]).all())
    exact = functions.normal_cdf(x.double() * 2.0**-16)
    assert float((y.double() * 2.0**-30 - exact).abs().max()) < 2.0**-20
    assert crc(functions.normal_table()) == STORED["normal_table"]


def test_edges():
    for dtype in (torch.float32, torch.float64):
        edge = torch.tensor([float("-inf"), -1e30, 0.0, 1e30, float("inf")], dtype=dtype)
        assert functions.sigmoid(edge)[2] == 0.5 and functions.sigmoid(edge)[-1] == 1
        assert functions.normal_cdf(edge)[2] == 0.5 and functions.normal_cdf(edge)[-1] == 1
        assert functions.tanh(edge).tolist() == [-1, -1, 0, 1, 1]
        assert bool(torch.isfinite(functions.log(edge[1:4])).all())
        for function in functions.FUNCTIONS.values():
            assert bool(torch.isnan(function(torch.full((1,), float("nan"), dtype=dtype))).all())
            assert function(torch.zeros(0, 3, dtype=dtype)).shape == (0, 3)
    with pytest.raises(UsageError, match="int64"):
        functions.exp(torch.arange(3))
