"""What damage does: flips, cuts, swaps and insertions in every class of an archive's bytes.

    python benchmarks/damage.py [FOLDER] [--cases 1200] [--pictures 6] [--side 20] [--memory]

Crops of FOLDER's pictures (default: demo/images), a near-duplicate of one, a copy, an array and
stored files are compressed with the default checkpoint, once without adaptation and the checkpoint
embedded, once with adaptation, as the model likes it and with xz. Each case harms one place of
one of the archives and restores it, in turn with and without --keep-going. All that is written is
compared with what the sound archive gives. A case is `harmless`: nothing is missing; `reported`:
exit code 4, 5 or 6 and one line; else `wrong`, and the program ends with exit code 1.
Seconds (of the processor) and memory (of Python and numpy) are the most that one case took.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from damage import KINDS, byte_classes, files_below, harm, measured, restore  # noqa: E402

import osoa_pl  # noqa: E402

SETTINGS = {"batch_pixels": 512, "first_pixels": 256, "segment_batches": 1, "streams": 2}


@dataclass(frozen=True)
class Sound:
    """An archive and what it restores to."""

    data: bytes
    expected: dict[str, bytes]
    classes: dict[str, list[tuple[int, int]]]


def build(source: Path, root: Path, count: int, side: int) -> None:
    """Crops of the pictures below `source`, and what else makes classes of bytes."""
    root.mkdir()
    rng = np.random.default_rng(0)
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in (".png", ".tif", ".bmp"))
    step = max(1, len(paths) // count)
    crops = [np.asarray(Image.open(p).convert("RGB"))[:side, :side] for p in paths[::step][:count]]
    for number, crop in enumerate(crops):
        Image.fromarray(crop).save(root / f"crop{number}.bmp")
    (root / "again.bmp").write_bytes((root / "crop1.bmp").read_bytes())
    scan = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for number in range(2):
        scan[number, 4:9] += 1
        Image.fromarray(scan).save(root / f"scan{number}.bmp")
    alpha = rng.integers(0, 65536, (9, 11), dtype=np.uint16)
    Image.fromarray(alpha).save(root / "wide.png")
    Image.fromarray(crops[0]).quantize(16).save(root / "palette.png")
    Image.fromarray(np.concatenate([crops[2], crops[3][..., :1]], axis=2)).save(root / "alpha.png")
    np.save(root / "grey.npy", np.stack([crop[:12, :12, 1] for crop in crops]))
    (root / "notes.txt").write_text("a text that is kept\n" * 40)
    (root / "noise.bin").write_bytes(rng.bytes(6000))
    (root / "long.txt").write_text("".join(f"line {i * i}\n" for i in range(6000)))


def archives(folder: Path, place: Path) -> list[Sound]:
    """The four archives."""
    made = []
    for adaptation in ("none", "online"):
        for model_only in (False, True):
            path, out = place / f"{adaptation}-{model_only}.osoa", place / f"{len(made)}"
            osoa_pl.compress(
                folder, path, adaptation=adaptation, model_only=model_only, settings=SETTINGS,
                embed_checkpoint=adaptation == "none", shard=6, threads=1,
            )  # fmt: skip
            osoa_pl.decompress(path, out, threads=1)
            data = path.read_bytes()
            made.append(Sound(data, files_below(out), byte_classes(data)))
    return made


def main() -> int:
    """Run all cases, print the table; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo/images"))
    parser.add_argument("--cases", type=int, default=1200)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--side", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory", action="store_true", help="trace memory too: slower")
    arguments = parser.parse_args()
    found: dict[tuple[str, str], Counter[str]] = {}
    worst = {"seconds": 0.0, "memory": 0.0}
    losses = Counter[str]()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="osoa-damage-") as name:
        place = Path(name)
        build(arguments.folder, place / "in", arguments.pictures, arguments.side)
        sound = archives(place / "in", place)
        classes = list(dict.fromkeys(c for archive in sound for c in archive.classes))
        for archive in sound:
            with measured(memory=arguments.memory) as cost:
                restore(archive.data, archive.expected, place / "out", None, threads=1)
            about = f"{cost.seconds:.2f} s, {cost.memory / 2**20:.1f} MiB"
            print(f"undamaged, {len(archive.data)} bytes: {about}", file=sys.stderr)
        plan = [(c, kind) for c in classes for kind in KINDS]
        for case in range(arguments.cases):
            byte_class, kind = plan[case % len(plan)]
            turn = case // len(plan)
            holders = [archive for archive in sound if byte_class in archive.classes]
            archive = holders[turn // 2 % len(holders)]
            rng = np.random.default_rng([arguments.seed, case])
            data, at = harm(archive.data, archive.classes[byte_class], kind, rng)
            with measured(memory=arguments.memory) as cost:
                outcome = restore(
                    data, archive.expected, place / "out", None, keep_going=turn % 2 == 1, threads=1
                )
            worst["seconds"] = max(worst["seconds"], cost.seconds)
            worst["memory"] = max(worst["memory"], cost.memory)
            row = found.setdefault((byte_class, kind), Counter())
            row["wrong" if outcome.wrong else outcome.kind] += 1
            if turn % 2:
                losses["written"] += len(outcome.written)
                losses["in all"] += len(archive.expected)
            if outcome.wrong:
                print(f"case {case}, byte {at}: {outcome}", file=sys.stderr)
    print_table(classes, found)
    memory = f", the largest {worst['memory'] / 2**20:.0f} MiB" if arguments.memory else ""
    rows = Counter[str]()
    for row in found.values():
        rows += row
    print(
        f"\n{sum(rows.values())} cases, seed {arguments.seed}: {rows['reported']} reported, "
        f"{rows['harmless']} harmless, {rows['wrong']} wrong. The longest took "
        f"{worst['seconds']:.1f} s of processor time{memory}; "
        f"--keep-going wrote {losses['written']} of {losses['in all']} files. "
        f"{time.monotonic() - began:.0f} s in all, {os.cpu_count()} cores, osoa_pl "
        f"{osoa_pl.__version__}"
    )
    return 1 if rows["wrong"] else 0


def print_table(classes: list[str], found: dict[tuple[str, str], Counter[str]]) -> None:
    """Markdown: reported / harmless / wrong."""
    print(f"| bytes | {' | '.join(KINDS)} |")
    print(f"| --- |{' --- |' * len(KINDS)}")
    for byte_class in classes:
        cells = []
        for kind in KINDS:
            row = found.get((byte_class, kind), Counter())
            cells.append(f"{row['reported']} / {row['harmless']} / {row['wrong']}")
        print(f"| {byte_class} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.exit(main())
