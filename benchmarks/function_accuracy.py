"""Print a markdown table of the largest errors of the portable functions, against mpmath.

    python benchmarks/function_accuracy.py [samples]

One error is in units in the last place of the result. Half a minute with 2,000 samples a range.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import torch

from osoa_pl.arith.functions import FUNCTIONS

TRUTH: dict[str, Callable[[Any], Any]] = {
    "sqrt": mpmath.sqrt,
    "exp": mpmath.exp,
    "log": mpmath.log,
    "sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)),
    "softplus": lambda v: mpmath.log1p(mpmath.exp(v)),
    "tanh": mpmath.tanh,
    "normal_cdf": lambda v: mpmath.erfc(-v / mpmath.sqrt(2)) / 2,
    "inverse_normal_cdf": lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * p - 1),
}


def samples(name: str, double: bool, count: int) -> np.ndarray:
    """Arguments that cover the range where the result is a normal number, denser near 0 or 1."""
    rng = np.random.default_rng(7)
    reach = 700.0 if double else 85.0
    if name in ("log", "sqrt"):
        wide = np.exp(rng.uniform(-reach, reach, count))
        return np.concatenate([wide, rng.uniform(0.5, 2.0, count)])
    if name == "normal_cdf":
        return np.concatenate(
            [rng.uniform(-37 if double else -12.5, 8, count), rng.normal(size=count)]
        )
    if name == "inverse_normal_cdf":
        return rng.uniform(1e-4, 1 - 1e-4, count)
    return np.concatenate([rng.uniform(-reach, reach, count), rng.normal(size=count) * 2])


def largest_error(name: str, double: bool, count: int) -> tuple[float, float]:
    """(largest error in units in the last place, the argument where it occurs)."""
    dtype, kind = (torch.float64, np.float64) if double else (torch.float32, np.float32)
    x = torch.from_numpy(samples(name, double, count)).to(dtype)
    y = FUNCTIONS[name](x)
    worst = (0.0, 0.0)
    with mpmath.workdps(40):
        for a, b in zip(x.tolist(), y.tolist(), strict=True):
            true = TRUTH[name](mpmath.mpf(a))
            unit = mpmath.mpf(float(np.spacing(kind(abs(float(true))))))
            worst = max(worst, (float(abs(mpmath.mpf(b) - true) / unit), a))
    return worst


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print("| function | float32 (ulp) | at | float64 (ulp) | at |")
    print("|---|---|---|---|---|")
    for name in FUNCTIONS:
        cells = []
        for double in (False, True):
            error, where = largest_error(name, double, count)
            cells.append(f"{error:.2f} | {where:.4g}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
