"""The processor's 8-bit products against int64, with operands that saturate narrower sums."""

from __future__ import annotations

import numpy as np
import pytest

from osoa_pl.arith import vnni

pytestmark = pytest.mark.skipif(not vnni.AVAILABLE, reason="no AVX-512 VNNI")


@pytest.mark.parametrize("width", [4, 16, 31, 46, 64, 79, 96, 100, 128])
@pytest.mark.parametrize("depth", [4, 96, 128])
@pytest.mark.parametrize("kind", ["random", "extreme"])
def test_products_are_exact(width: int, depth: int, kind: str) -> None:
    rng = np.random.default_rng(width + depth)
    weights = rng.integers(-511, 512, (depth, width)).astype(np.float32)
    x = rng.integers(0, 256, (7, depth)).astype(np.uint8)
    if kind == "extreme":
        weights = np.where(weights > 0, 511, -511).astype(np.float32)
        weights[:, ::3], weights[:, 1::3] = 511, -511
        x[::2] = 255
    lanes = -(-width // vnni.LANES) * vnni.LANES
    limbs = np.zeros((depth // 4, 2, lanes, 4), np.int8)
    vnni.pack_limbs(weights, limbs)
    expected = x.astype(np.int64) @ weights.astype(np.int64)
    for count in range(8):
        out = np.full((8, lanes), 77, np.int32)
        vnni.layer_product(count, x, limbs, out)
        np.testing.assert_array_equal(out[:count, :width], expected[:count])
        assert not out[:count, width:].any() and (out[count:] == 77).all()
