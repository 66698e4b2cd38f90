"""Photographs one by one and without adaptation, against JPEG XL at effort 7.

    python benchmarks/one_by_one.py FOLDER [FOLDER ...]

Every image is an archive of its own (policy `none`, the default checkpoint), decoded back and
compared; sizes are whole files. Prints a line an image and the totals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import osoa_pl
from osoa_pl.errors import OsoaError
from osoa_pl.report import rivals


def own(pixels: np.ndarray, folder: Path, checkpoint: str) -> int:
    """Bytes of an archive of this image alone."""
    path = folder / "one.osoa"
    osoa_pl.compress([pixels], path, adaptation="none", checkpoint=checkpoint, overwrite=True)
    (restored,) = osoa_pl.decompress(path)
    if not np.array_equal(restored, pixels):
        raise OsoaError("not restored")
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--checkpoint", default="default")
    args = parser.parse_args()
    files = sorted(path for folder in args.folders for path in folder.iterdir() if path.is_file())
    ours = theirs = samples = won = count = 0
    with tempfile.TemporaryDirectory() as place:
        for path in files:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            mine = own(pixels, Path(place), args.checkpoint)
            rival = min(r.encoded_bytes for r in rivals.measure("jxl-e7", [[pixels]], threads=1))
            print(f"{path.name} {8 * mine / pixels.size:.3f} {8 * rival / pixels.size:.3f}")
            ours, theirs, samples = ours + mine, theirs + rival, samples + pixels.size
            won, count = won + (mine < rival), count + 1
    print(
        f"smaller than JPEG XL e7 on {won} of {count}; "
        f"{8 * ours / samples:.3f} against {8 * theirs / samples:.3f} bits/dim in all"
    )


if __name__ == "__main__":
    main()
