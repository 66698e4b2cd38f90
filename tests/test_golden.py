"""Archives of every format so far: decoded for ever, to the same pixels, bytes and names."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import osoa_pl

GOLDEN = Path(__file__).parent / "golden"
CONTENTS = GOLDEN / "contents.json"
KNOWN: dict[str, dict[str, Any]] = json.loads(CONTENTS.read_text())


def described(folder: Path) -> dict[str, Any]:
    """What a restored folder holds, by readers other than ours."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            continue
        if path.suffix.lower() == ".png":
            with Image.open(path) as image:
                pixels = np.asarray(image)
                found[name] = {"pixels": _digest(pixels.tobytes()), "shape": list(pixels.shape)}
                if image.mode == "P":
                    found[name]["palette"] = _digest(bytes(image.getpalette() or ()))
        elif path.suffix == ".npz":
            arrays = np.load(path)
            found[name] = {"arrays": {key: _digest(arrays[key].tobytes()) for key in arrays}}
        else:
            found[name] = {"bytes": _digest(path.read_bytes())}
        if path.stat().st_mtime_ns < 1_750_000_000_000_000_000:  # a time of its own
            found[name]["mtime"] = path.stat().st_mtime_ns
    return found


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_golden_archives_decode(name: str, tmp_path: Path) -> None:
    with osoa_pl.open_archive(GOLDEN / name) as archive:
        assert archive.verify() == len(archive)
        archive.extract(tmp_path / "out")
    assert described(tmp_path / "out") == KNOWN[name]


def test_none_is_forgotten() -> None:
    assert sorted(path.name for path in GOLDEN.glob("*.osoa")) == sorted(KNOWN)
