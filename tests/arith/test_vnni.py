"""The processor's products of small integers against int64, with the largest operands."""

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
    weights = rng.integers(-511, 512, (width, depth)).astype(np.float32)
    x = rng.integers(-255, 512, (7, depth)).astype(np.int16)
    if kind == "extreme":
        weights = np.where(weights > 0, 511, -511).astype(np.float32)
        weights[::3], weights[1::3] = 511, -511
        x[::2], x[1::4] = 511, -512
    pairs = vnni.pack_pairs(weights)
    lanes = -(-width // vnni.LANES) * vnni.LANES
    assert pairs.shape == (depth // 2, lanes, 2) and pairs.dtype == np.int16
    expected = x.astype(np.int64) @ weights.T.astype(np.int64)
    for count in range(8):
        out = np.full((8, lanes + 16), 77, np.int32)
        vnni.layer_product(count, x, pairs, out)
        np.testing.assert_array_equal(out[:count, :width], expected[:count])
        assert not out[:count, width:lanes].any()
        assert (out[count:] == 77).all() and (out[:, lanes:] == 77).all()
