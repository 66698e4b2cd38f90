"""The main job on the bundled pictures: compress, verify, restore, compare, and one table.

    make demo

Pictures are real and free (demo/images/LICENCE.md); the checkpoint is the embedded `default`. Every
codec of the table is decoded and compared pixel by pixel; the exit code is not 0 where anything
differs. Archives go to a temporary folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import osoa_pl
from osoa_pl.cli.console import Console, duration, size
from osoa_pl.data.collection import Collection, scan
from osoa_pl.report import bench, rivals

IMAGES = sorted(Path(__file__).parent.joinpath("images").glob("*.png"))
RIVALS = ("png", "webp", "jxl-e9", "xz")
ADAPTATIONS = {"none": "osoa, as pretrained", "auto": "osoa, adapting"}


def warm_up(folder: Path) -> None:
    """Compile what the measured runs need: a few pixels of either kind, adapting, both ways."""
    for channels in (1, 3):
        pixels = np.arange(2 * 8 * 8 * channels, dtype=np.uint8).reshape(2, 8, 8, channels)
        archive = folder / f"warm-{channels}.osoa"
        osoa_pl.compress(pixels, archive, adaptation="online")
        osoa_pl.decompress(archive)


def own_row(adaptation: str, collection: Collection, folder: Path) -> tuple[int, Sequence[str]]:
    """Compress, verify, restore and compare the pictures; archive bytes and the table's row."""
    archive, restored = folder / f"{adaptation}.osoa", folder / adaptation
    done = osoa_pl.compress(IMAGES, archive, adaptation=adaptation, times=False)  # type: ignore[arg-type]
    with osoa_pl.open_archive(archive) as opened:
        verified = opened.verify()
    if verified != len(IMAGES):
        raise osoa_pl.OsoaError(f"{verified} pictures verified, expected {len(IMAGES)}")
    began = time.monotonic()
    osoa_pl.decompress(archive, restored)
    seconds = time.monotonic() - began
    bench.compare(collection, restored)
    row = _row(ADAPTATIONS[adaptation], "archive", done.archive_bytes, done.raw_bytes,
               done.seconds, seconds)  # fmt: skip
    return done.archive_bytes, row


def rival_rows(collection: Collection) -> list[tuple[int, Sequence[str]]]:
    """The other codecs on the same pixels; each result is decoded and compared where it is made."""
    groups = [list(collection.images(mode)) for mode in ("rgb8", "grey8")]
    return [
        (r.encoded_bytes, _row(rivals.TITLES[name], r.arrangement, r.encoded_bytes, r.raw_bytes,
                               r.encode_seconds, r.decode_seconds))
        for name in RIVALS
        for r in rivals.measure(name, groups)
    ]  # fmt: skip


def _row(codec: str, how: str, count: int, samples: int, encode: float, decode: float) -> list[str]:
    rate = f"{8 * count / samples:.3f}"
    return [codec, how, str(count), rate, f"{encode:.2f}", f"{decode:.2f}"]


def main() -> int:
    """Print the table; 0 where every pixel came back."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    console = Console()
    try:
        return run(console)
    except osoa_pl.OsoaError as error:
        console.error(f"demo: {error}", error.hint, error.exit_code)
        return error.exit_code


def run(console: Console) -> int:
    """The demonstration; raises OsoaError where anything differs."""
    if not IMAGES:
        raise osoa_pl.OsoaError(f"{Path(__file__).parent / 'images'}: no pictures")
    collection = scan(IMAGES)
    samples = sum(item.raw_bytes for item in collection.items)
    rgb, grey = (len(list(collection.images(mode))) for mode in ("rgb8", "grey8"))
    console.result(f"{rgb} map tiles (RGB) and {grey} micrographs (grey), {size(samples)} raw")
    console.note("preparing kernels; the first time they are compiled, which may take a minute")
    console.flush()
    with tempfile.TemporaryDirectory(prefix="osoa-demo-") as place:
        folder, began = Path(place), time.monotonic()
        warm_up(folder)
        console.note(f"ready after {duration(time.monotonic() - began)}; measuring, a minute or so")
        rows = [own_row(adaptation, collection, folder) for adaptation in ADAPTATIONS]
    rows += rival_rows(collection)
    rows.sort(key=lambda row: -row[0])
    raw = ["raw samples", "-", str(samples), "8.000", "-", "-"]
    table = [raw, *(row for _, row in rows)]
    own = [i for i, row in enumerate(table) if row[1] == "archive"]
    console.result("")
    header = ("codec", "coded as", "bytes", "bits/dim", "encode s", "decode s")
    console.table(header, table, left=2, bold=own)
    console.result("")
    console.result(f"all {len(IMAGES)} pictures came back pixel by pixel from every codec,")
    console.result("from ours after `verify` had found each checksum of the archive right")
    console.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
