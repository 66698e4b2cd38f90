"""All collections of a data folder: none, online and auto against JPEG XL e9, WebP and xz.

    python benchmarks/real_sets.py DATA [SET ...] --out results.json [--part ours|rivals]
        [--effort N] [--checkpoint NAME] [--first IMAGES]
    python benchmarks/real_sets.py DATA --out results.json --print

DATA holds `targets/*.npz`, `video/*/`, `cifar10.npz`, `pretrain/val/`, `whole/`, and the test
images of MNIST and Fashion-MNIST (the first 1,000 are taken). Each of ours is a real archive,
decoded back and compared; every rival is decoded and compared too, each image by itself and tiled
(xz: concatenated). Results are kept after each set, so that a run can be continued.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from osoa_pl.errors import UsageError
from osoa_pl.models.checkpoint import DEFAULT
from osoa_pl.report.bench import ADAPTATIONS, bench

RIVALS = ("jxl-e9", "webp", "xz")


def thousand(idx: Path, folder: Path) -> Path:
    """The first 1,000 images of a gzipped IDX file, as an npy in `folder`."""
    path = folder / f"{idx.parent.name}_1000.npy"
    if not path.exists():
        data = gzip.decompress(idx.read_bytes())
        pixels = np.frombuffer(data[16:], np.uint8).reshape(-1, 28, 28)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, pixels[:1000])
    return path


def sets(data: Path, folder: Path) -> dict[str, list[Path]]:
    """Name -> inputs of every collection; what has to be cut out goes to `folder`."""
    found = {path.stem: [path] for path in sorted((data / "targets").glob("*.npz"))}
    found |= {path.name: [path] for path in sorted((data / "video").iterdir())}
    found["cifar10"] = [data / "cifar10.npz"]
    found["pretrain_val"] = [data / "pretrain" / "val"]
    found["whole"] = [data / "whole"]
    for name in ("mnist", "fashion"):
        found[f"{name}_1000"] = [thousand(data / name / "t10k-images-idx3-ubyte.gz", folder)]
    return found


def first(inputs: list[Path], count: int, folder: Path) -> list[Path]:
    """The first `count` images of one input, in `folder`."""
    (source,) = inputs
    if source.is_dir():
        return sorted(path for path in source.iterdir() if path.suffix != ".csv")[:count]
    images = np.load(source)
    images = images["images"] if source.suffix == ".npz" else images
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{source.stem}_first_{count}.npy"
    np.save(path, images[:count])
    return [path]


Results = dict[str, list[dict[str, Any]]]


def measure(
    inputs: list[Path],
    part: str | None,
    adaptations: list[str],
    effort: int | None,
    threads: int | None,
    checkpoint: str,
) -> list[dict[str, Any]]:
    """The rows of one set; empty where it has no pixels that a model takes."""
    try:
        result = bench(
            [str(path) for path in inputs],
            adaptations=() if part == "rivals" else adaptations,
            rival_names=() if part == "ours" else RIVALS,
            effort=effort,
            threads=threads,
            checkpoint=checkpoint,
        )
    except UsageError as error:
        print(f"  {error}", flush=True)
        return []
    return [asdict(row) | {"raw_bytes": result.raw_bytes} for row in result.rows]


def table(results: Results, beside: Results) -> str:
    """Markdown: rates, seconds and peak memory, a line per set. beside: `auto` with more effort."""
    lines = [
        "| collection | MB | auto | more effort | best rival | auto / rival | more / rival "
        "| compress, decompress s (auto) | peak MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios: list[tuple[float, float]] = []
    for name, rows in results.items():
        auto, others = _auto(rows), [row for row in rows if not row["codec"].startswith("osoa")]
        if auto is None or not others:
            continue
        more = _auto(beside.get(name, []))
        rival = min(others, key=lambda row: row["bits_per_dim"])
        ratio, best = (row["bits_per_dim"] / rival["bits_per_dim"] for row in (auto, more or auto))
        more_rate = f"**{more['bits_per_dim']:.3f}**" if more else ""
        lines.append(
            f"| {name} | {auto['raw_bytes'] / 1e6:.2f} | **{auto['bits_per_dim']:.3f}** "
            f"| {more_rate} "
            f"| {rival['bits_per_dim']:.3f} {rival['codec']} ({rival['arrangement']}) "
            f"| {ratio:.3f} | {f'{best:.3f}' if more else ''} "
            f"| {auto['encode_seconds']:.1f}, {auto['decode_seconds']:.1f} "
            f"| {auto['peak_bytes'] / 1e6:.0f} |"
        )
        ratios.append((ratio, best))
    if ratios:
        means = [math.exp(sum(map(math.log, each)) / len(each)) for each in zip(*ratios)]
        lines.append(
            f"\nGeometric means of the ratios over {len(ratios)} sets: {means[0]:.3f}; "
            f"with more effort in the rows that have it, {means[1]:.3f}"
        )
    return "\n".join(lines)


def _auto(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((row for row in rows if row["codec"] == "osoa auto"), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("ours", "rivals"))
    parser.add_argument("--adaptations", nargs="+", choices=ADAPTATIONS, default=ADAPTATIONS)
    parser.add_argument("--effort", type=int)
    parser.add_argument("--checkpoint", default=DEFAULT)
    parser.add_argument("--first", type=int, help="take only so many images of each set")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--beside", type=Path, help="results of more effort, for the table")
    parser.add_argument("--print", action="store_true", dest="show")
    args = parser.parse_args()
    results: Results = json.loads(args.out.read_text()) if args.out.exists() else {}
    beside: Results = json.loads(args.beside.read_text()) if args.beside else {}
    folder = args.out.with_suffix(".sets")
    for name, inputs in sets(args.data, folder).items():
        if args.show or (args.sets and name not in args.sets):
            continue
        rows = results.setdefault(name, [])
        print(name, flush=True)
        taken = first(inputs, args.first, folder) if args.first else inputs
        found = measure(
            taken, args.part, args.adaptations, args.effort, args.threads, args.checkpoint
        )
        for row in found:
            key = (row["codec"], row["arrangement"])
            rows[:] = [r for r in rows if (r["codec"], r["arrangement"]) != key]
            rows.append(row)
        args.out.write_text(json.dumps(results, indent=1))
    print(table(results, beside))


if __name__ == "__main__":
    main()
