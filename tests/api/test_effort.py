"""`auto` and its effort: what is tried, and that the smallest of it is kept."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from fakes import picture

import osoa_pl
from osoa_pl.errors import UsageError
from osoa_pl.models.family import find
from osoa_pl.online.auto import EFFORTS, search


def stack(count: int = 12) -> np.ndarray:
    return np.stack([picture(24, 32, 3, n) for n in range(count)])


def archive_bytes(images: np.ndarray, path: Path, **options: object) -> int:
    made = osoa_pl.compress(images, path, overwrite=True, threads=1, times=False, **options)
    found = osoa_pl.decompress(path, checkpoint=options.get("checkpoint"))
    np.testing.assert_array_equal(np.stack(found), images)
    return made.archive_bytes


def test_more_effort_tries_more() -> None:
    found = [search(effort, (5e-4, 1e-3)) for effort in EFFORTS]
    work = [len(f.ways) * (f.segments or 100) + f.plain for f in found]
    assert [len(f.ways) for f in found] == [0, 1, 1, 2, 2, 2, 2, 4, 8]
    assert work == sorted(work)
    assert all(size > 0 for f in found for size, _ in f.ways)


@pytest.mark.parametrize("effort", [1, 2, 3, 4, 6, 8, 9])
def test_every_effort_comes_back(effort: int, checkpoint_path: str, tmp_path: Path) -> None:
    settings = {"batch_pixels": 512, "first_pixels": 128, "segment_batches": 3}
    options = {"effort": effort, "checkpoint": checkpoint_path, "settings": settings}
    first = archive_bytes(stack(), tmp_path / "a.osoa", **options)
    assert first == archive_bytes(stack(), tmp_path / "b.osoa", **options)
    assert (tmp_path / "a.osoa").read_bytes() == (tmp_path / "b.osoa").read_bytes()


def test_more_effort_takes_smaller_batches() -> None:
    family = find("memory_ar")
    sizes = [family.suited(effort)["batch_pixels"] for effort in EFFORTS]
    assert sizes == [4096, 2048, 2048, 1024, 1024, 512, 256, 256, 256]
    strides = [family.suited(effort).get("gradient_stride", 1) for effort in EFFORTS]
    assert strides == [1, 2, 2, 1, 1, 1, 1, 1, 1]
    assert family.suited(None)["batch_pixels"] == 1024
    assert find("local_ar").suited(9) == {}


@pytest.mark.parametrize("effort", [0, 10, 5.0, True])
def test_effort_is_a_digit(effort: object, checkpoint_path: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="effort"):
        osoa_pl.compress(stack(2), tmp_path / "a.osoa", checkpoint=checkpoint_path, effort=effort)


def sets() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    glyphs = rng.integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    pages = glyphs[rng.integers(0, 6, (10, 4, 4))].transpose(0, 1, 3, 2, 4, 5)
    return {
        "noise": rng.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8),
        "constant": np.full((10, 32, 32, 3), 77, np.uint8),
        "ten": stack(10),
        "repeats": pages.reshape(10, 32, 32, 3),
        "change": np.concatenate([stack(6)[:, :, :24], pages.reshape(10, 32, 32, 3)[:, :24, :24]]),
    }


@pytest.mark.parametrize("name", list(sets()))
def test_auto_is_never_much_above_any_candidate(name: str, tmp_path: Path) -> None:
    """Within 0.2 % + 2 kB of each policy and within 2 kB of plain xz, with the default model."""
    images = sets()[name]
    auto = archive_bytes(images, tmp_path / "auto.osoa")
    others = [
        archive_bytes(images, tmp_path / f"{how}.osoa", adaptation=how)
        for how in ("none", "online")
    ]
    assert auto <= min(others) * 1.002 + 2048
    assert auto <= len(lzma.compress(images.tobytes(), preset=9 | lzma.PRESET_EXTREME)) + 2048
