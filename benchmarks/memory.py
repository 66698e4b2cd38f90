"""Peak memory and time over the number of images: it has to stay flat.

    python benchmarks/memory.py [--sizes 1000,10000,100000] [--side 16] [--jobs N]

Pictures are PNG crops of demo/images at seeded places. Each command runs in a process of its own;
peak memory is the process's VmHWM (Linux), of the parent alone where there are workers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

DEMO = Path(__file__).parents[1] / "demo" / "images"
_PROGRAM = """
import sys
from osoa_pl.cli.main import main
from osoa_pl.report.measurement import peak_memory
code = main(sys.argv[1:])
print(peak_memory())
sys.exit(code)
"""


def crops(folder: Path, count: int, side: int) -> None:
    """`count` RGB crops of side x side pixels, a thousand to a folder."""
    pictures = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(DEMO.glob("*.png"))]
    rng = np.random.default_rng(1)
    for number in range(count):
        picture = pictures[int(rng.integers(len(pictures)))]
        top, left = (int(rng.integers(size - side + 1)) for size in picture.shape[:2])
        place = folder / f"{number // 1000:03d}" / f"{number:06d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(picture[top : top + side, left : left + side]).save(place)


def measured(*words: str) -> tuple[float, int]:
    """Seconds and peak bytes of one command."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *words, "-q"], check=True, capture_output=True, text=True
    )
    return time.monotonic() - began, int(done.stdout.split()[-1])


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--jobs", default="1")
    arguments = parser.parse_args()
    print("| images | files MB | archive MB | compress s | MB | decompress s | MB | info s | MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="osoa-memory-") as place:
            folder, archive = Path(place, "in"), Path(place, "a.osoa")
            folder.mkdir()
            crops(folder, count, arguments.side)
            given = sum(p.stat().st_size for p in folder.rglob("*.png"))
            jobs = ("--jobs", arguments.jobs)
            options = ("--adaptation", "none", *jobs)
            coded = measured("compress", str(folder), "-o", str(archive), *options)
            back = measured("decompress", str(archive), "-o", str(Path(place, "out")), *jobs)
            info = measured("info", str(archive))
            cells = [f"{s:.1f} | {peak / 1e6:.0f}" for s, peak in (coded, back, info)]
            sizes = f"{given / 1e6:.1f} | {archive.stat().st_size / 1e6:.1f}"
            print(f"| {count} | {sizes} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
