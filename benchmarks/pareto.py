"""Rate against speed of the shipped checkpoints and efforts: table and plot of docs/models.md.

    python benchmarks/pareto.py DATA --out pareto.json [SET ...]
    python benchmarks/pareto.py DATA --out pareto.json --print --plot docs/images

DATA holds `targets/*.npz`. Every point is the same few collections as real archives, decoded back
and compared, in processes of their own; rivals are the codecs of `osoa bench`, each image by itself
or tiled, whichever is smaller. Rates are geometric means over the sets; speeds all bytes over all
seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from osoa_pl.data.collection import scan
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.report import measurement, rivals
from osoa_pl.report.bench import compare

SETS = ("satellite_64", "trafficsigns_32", "freedoom_flats_64", "nuclei_96")
POINTS = (
    ("local", "none", 5), ("local", "auto", 5), ("tiny", "auto", 1), ("tiny", "auto", 2),
    ("base", "auto", 1), ("base", "auto", 2), ("base", "auto", 5), ("base", "auto", 7),
    ("large", "auto", 5),
)  # fmt: skip
RIVALS = ("png", "webp", "jxl-e7", "jxl-e9", "xz")


def own(path: Path, checkpoint: str, adaptation: str, effort: int) -> dict[str, Any]:
    """One set at one point, compressed, restored and compared."""
    collection = scan([path])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "restored")
        job = measurement.Job(
            (str(path.resolve()),), str(Path(place, "a.osoa")), str(folder), adaptation,
            checkpoint, effort=effort,
        )  # fmt: skip
        found = measurement.measure(job)
        compare(collection, folder)
    raw = sum(item.raw_bytes for item in collection.items)
    return {**asdict(found), "raw": raw, "bits_per_dim": 8 * found.coded_bytes / raw}


def rival(path: Path, name: str) -> dict[str, Any]:
    """The better arrangement of a rival on one set, in the form of `own`."""
    collection = scan([path])
    groups = [list(collection.images(mode)) for mode in ("rgb8", "grey8", "rgba8")]
    best = min(rivals.measure(name, groups, threads=1), key=lambda row: row.encoded_bytes)
    return {
        "raw": best.raw_bytes, "bits_per_dim": best.bits_per_dim,
        "compress_seconds": best.encode_seconds, "decompress_seconds": best.decode_seconds,
    }  # fmt: skip


def rows(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a point: rate, speeds, bytes of the checkpoint, peak memory."""
    lines = []
    for point, by_set in found.items():
        sets = list(by_set.values())
        raw = sum(s["raw"] for s in sets)
        lines.append({
            "point": point,
            "rate": math.exp(sum(math.log(s["bits_per_dim"]) for s in sets) / len(sets)),
            "encode": raw / sum(s["compress_seconds"] for s in sets) / 1e6,
            "decode": raw / sum(s["decompress_seconds"] for s in sets) / 1e6,
            "peak": max(s.get("peak_bytes", 0) for s in sets),
        })  # fmt: skip
    return sorted(lines, key=lambda line: line["rate"])


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| | bits/dim (geometric mean) | encode MB/s | decode MB/s | checkpoint kB | peak MB |",
        "|---|---|---|---|---|---|",
    ]
    for line in rows(found):
        name = line["point"].split()[0]
        known = name in checkpoints.available()
        size = f"{len(checkpoints.read(name).data) / 1e3:.0f}" if known else ""
        peak = f"{line['peak'] / 1e6:.0f}" if line["peak"] else ""
        lines.append(
            f"| {line['point']} | {line['rate']:.3f} | {line['encode']:.2f} "
            f"| {line['decode']:.2f} | {size} | {peak} |"
        )
    return "\n".join(lines)


def plot(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Rate over decoding speed as a PNG, drawn with Pillow alone."""
    from PIL import Image, ImageDraw

    shown = rows(found)
    image = Image.new("RGB", (820, 420), "white")
    draw = ImageDraw.Draw(image)
    rates = [line["rate"] for line in shown]
    low, high = min(rates) - 0.1, max(rates) + 0.1
    slow, fast = -1.0, 3.0  # decades of MB/s

    def place(speed: float, rate: float) -> tuple[float, float]:
        across = 60 + 720 * (math.log10(speed) - slow) / (fast - slow)
        return across, 380 - 340 * (rate - low) / (high - low)

    for decade in range(-1, 4):
        x = place(10.0**decade, low)[0]
        draw.line([(x, 40), (x, 380)], "#dddddd")
        draw.text((x - 10, 388), f"{10.0**decade:g}", "#444444")
    for tenth in range(math.ceil(low * 5), math.floor(high * 5) + 1):
        y = place(1.0, tenth / 5)[1]
        draw.line([(60, y), (780, y)], "#eeeeee")
        draw.text((25, y - 6), f"{tenth / 5:.1f}", "#444444")
    for line in shown:
        ours = line["point"].split()[0] in checkpoints.available()
        x, y = place(line["decode"], line["rate"])
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), "#1f6f8b" if ours else "#b04a3a")
        draw.text((x + 8, y - 6), line["point"], "#1f6f8b" if ours else "#b04a3a")
    draw.text((60, 12), "bits/dim, geometric mean, over decoding speed in MB/s", "#444444")
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / "pareto.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--print", action="store_true", dest="show")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_intermixed_args()
    found: dict[str, dict[str, Any]] = {}
    if args.out.exists():
        found = json.loads(args.out.read_text())
    for name in () if args.show else args.sets:
        path = args.data / "targets" / f"{name}.npz"
        for checkpoint, adaptation, effort in POINTS:
            what = adaptation if adaptation != "auto" else f"effort {effort}"
            point = found.setdefault(f"{checkpoint} {what}", {})
            point[name] = own(path, checkpoint, adaptation, effort)
        for codec in RIVALS:
            found.setdefault(codec, {})[name] = rival(path, codec)
        print(name, flush=True)
        args.out.write_text(json.dumps(found, indent=1))
    print(table(found))
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
