"""A folder as people really have it: every file comes back, compared by independent readers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zoo

import osoa_pl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo."""
    place = tmp_path_factory.mktemp("zoo") / "in"
    place.mkdir()
    assert len(zoo.build(place)) > 400
    return place


@pytest.mark.parametrize("options", [{"adaptation": "none"}, {"adaptation": "auto", "shard": 90}])
def test_everything_comes_back(options, folder, tmp_path, checkpoint_path):
    checkpoint = checkpoint_path if "shard" in options else "default"
    archive, out = tmp_path / "zoo.osoa", tmp_path / "out"
    result = osoa_pl.compress(folder, archive, checkpoint=checkpoint, **options)
    assert result.skipped == ()
    back = osoa_pl.decompress(archive, out, checkpoint=checkpoint)
    given = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
    assert len(back.files) == len(given)
    for path in given:
        restored = place_of(out, path.relative_to(folder))
        assert differences(path, restored) == []
        assert restored.stat().st_mtime_ns == path.stat().st_mtime_ns
    for root, names, _ in os.walk(folder):
        for name in names:
            place = Path(root, name)
            again = out / place.relative_to(folder)
            assert again.is_dir() and again.stat().st_mtime_ns == place.stat().st_mtime_ns


def place_of(out: Path, name: Path) -> Path:
    """Where a file was restored: pictures as PNG, IDX without its .gz."""
    places = [out / name, Path(f"{out / name}.png"), (out / name).with_suffix("")]
    return next(place for place in places if place.is_file())


def differences(path: Path, restored: Path) -> list[str]:
    """What differs, but for how an npz is packed."""
    found = zoo.differences(path, restored)
    if found and path.suffix == ".npz":
        ours, theirs = np.load(restored), np.load(path)
        same = ours.files == theirs.files
        return [] if same and all((ours[k] == theirs[k]).all() for k in ours.files) else found
    return found
