"""Rivals restore pixels; mosaics hold every picture."""

from __future__ import annotations

import lzma

import numpy as np
import pytest

from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.report import rivals

GENERATOR = np.random.default_rng(3)


def stack(count: int, height: int, width: int, channels: int) -> list[np.ndarray]:
    return list(GENERATOR.integers(0, 9, (count, height, width, channels), dtype=np.uint8))


@pytest.mark.parametrize("name", rivals.RIVALS)
def test_every_codec_restores_grey_and_rgb(name: str) -> None:
    groups = [stack(5, 6, 4, 3), stack(3, 5, 5, 1)]
    each, whole = rivals.measure(name, groups)
    assert each.arrangement == "each" and each.raw_bytes == 5 * 72 + 3 * 25
    assert whole.arrangement == ("concatenated" if name in ("xz", "bz2", "gzip") else "mosaic")
    # black places of a mosaic are coded but are no samples
    assert whole.raw_bytes == each.raw_bytes
    assert 0 < whole.encoded_bytes < each.encoded_bytes
    assert whole.bits_per_dim == 8 * whole.encoded_bytes / each.raw_bytes


def test_mixed_sizes_are_not_tiled() -> None:
    groups = [stack(1, 6, 4, 3) + stack(1, 4, 6, 3), []]
    assert [r.arrangement for r in rivals.measure("png", groups)] == ["each"]
    assert [r.arrangement for r in rivals.measure("xz", groups)] == ["each", "concatenated"]


@pytest.mark.parametrize(
    ("count", "height", "width", "limit"),
    [(1, 3, 4, 99), (7, 3, 4, 99), (240, 8, 8, 999), (99, 1, 50, 60), (50, 9, 2, 20), (3, 9, 9, 5)],
)
def test_mosaics_hold_every_picture(count: int, height: int, width: int, limit: int) -> None:
    images = stack(count, height, width, 3)
    tiles = []
    for mosaic in rivals.mosaics(images, max_side=limit):
        assert max(mosaic.shape[:2]) <= max(limit, height, width)
        rows, columns = mosaic.shape[0] // height, mosaic.shape[1] // width
        grid = mosaic.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
        tiles += list(grid.reshape(-1, height, width, 3))
    wanted = {image.tobytes() for image in images}
    assert wanted <= {tile.tobytes() for tile in tiles}
    assert len(tiles) >= count


def test_a_mosaic_is_nearly_square() -> None:
    (mosaic,) = rivals.mosaics(stack(240, 8, 8, 3))
    assert mosaic.shape == (128, 120, 3)


def test_xz_is_that_of_preset_9e() -> None:
    pixels = GENERATOR.integers(0, 9, 30_000, dtype=np.uint8)
    plain = lzma.compress(pixels, check=lzma.CHECK_CRC32, preset=9 | lzma.PRESET_EXTREME)
    assert len(rivals._encode_xz(pixels, 1)) == len(plain)


def test_wrong_pixels_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = rivals._Codec(rivals._encode_png, lambda data, shape: np.zeros(shape, np.uint8))
    monkeypatch.setitem(rivals._CODECS, "png", broken)
    with pytest.raises(OsoaError, match="did not restore"):
        list(rivals.measure("png", [stack(1, 4, 4, 3)]))
    with pytest.raises(UsageError, match="unknown codec"):
        list(rivals.measure("gif", []))
