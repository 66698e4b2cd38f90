"""What was restored is compared with what was given."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from osoa_pl.data.collection import scan
from osoa_pl.errors import OsoaError
from osoa_pl.report.bench import compare
from osoa_pl.report.measurement import Job, measure, peak_memory


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "in"
    place.mkdir()
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    Image.fromarray(pixels[0]).save(place / "a.png")
    np.savez(place / "b.npz", one=pixels, two=pixels[..., 0])
    (place / "c.txt").write_text("text")
    return place


def test_equal_copies_pass_and_others_are_named(folder: Path, tmp_path: Path) -> None:
    collection = scan([folder])
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    compare(collection, copy)
    changes = {
        "a.png": lambda path: Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(path),
        "b.npz": lambda path: np.savez(path, one=np.zeros((2, 4, 5, 3), np.uint8)),
        "c.txt": lambda path: path.write_text("another"),
    }
    for name, change in changes.items():
        change(copy / name)
        with pytest.raises(OsoaError, match=name):
            compare(collection, copy)
        shutil.copy(folder / name, copy / name)
        compare(collection, copy)
    (copy / "c.txt").unlink()
    with pytest.raises(OsoaError, match="not restored"):
        compare(collection, copy)


def test_a_failing_run_tells_its_error_and_code(tmp_path: Path) -> None:
    job = Job(("none",), str(tmp_path / "a"), str(tmp_path / "b"), "none", "no-such-checkpoint")
    with pytest.raises(OsoaError, match="unknown checkpoint") as caught:
        measure(job)
    assert caught.value.exit_code == 5


def test_peak_memory_is_told() -> None:
    assert peak_memory() > 1 << 20
