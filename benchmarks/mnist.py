"""MNIST and Fashion-MNIST with the VAEs: rates, initial bits, speed, curves, and hand-made codecs.

    python benchmarks/mnist.py DATA --out mnist.json [--part vaes|rivals|curves]
    python benchmarks/mnist.py DATA --out mnist.json --print
    python benchmarks/mnist.py DATA --out mnist.json --plot docs/images

DATA holds `mnist/` and `fashion/` with the IDX files. Every archive is decoded and compared. One
thread throughout; speeds are of whole runs in a warm process (reading, coding, writing). The
binarised set is drawn once, each pixel 1 with probability x / 255, by the project's counter-based
noise; rivals see it as 0 and 255.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import osoa_pl
from osoa_pl.datamodules import MNIST, FashionMNIST
from osoa_pl.datamodules.mnist import binarise
from osoa_pl.models import checkpoint as checkpoints
from osoa_pl.models import zoo
from osoa_pl.models.density import tiles
from osoa_pl.report import rivals

RIVALS = ("bz2", "gzip", "xz", "png", "webp", "jxl-e9", "jxl-e10")
STEP_SIZES = (1e-5, 3e-5, 1e-4, 5e-4, 1e-3, 2e-3)
BINARY_KEY = 1


def read(data: Path, name: str) -> np.ndarray:
    """uint8 (10000, 28, 28): the test images of `mnist` or `fashion`."""
    module = (MNIST if name == "mnist" else FashionMNIST)(root=data / name)
    return np.ascontiguousarray(module.test_images())[..., 0]


def collections(data: Path) -> dict[str, tuple[str, np.ndarray]]:
    """Name -> (checkpoint, images)."""
    mnist = read(data, "mnist")
    return {
        "binarised": ("mnist-binary", np.asarray(binarise(mnist, BINARY_KEY))),
        "mnist": ("mnist", mnist),
        "fashion": ("mnist", read(data, "fashion")),
    }


def negative_elbo(checkpoint: str, images: np.ndarray, draws: int = 4) -> float:
    """Bits a pixel of the model that codes, without adaptation, the mean over draws of noise."""
    model, _ = zoo.build(checkpoints.read(checkpoint), 1, threads=1)
    total = 0.0
    for first in range(0, len(images), 200):
        batch = tiles(torch.from_numpy(images[first : first + 200, ..., None].copy()))
        total += sum(model.bits(batch, 7, first * draws + draw) for draw in range(draws))
    return total / draws / images.size


def code(images: np.ndarray, checkpoint: str, **options: Any) -> dict[str, Any]:
    """One archive: rates in bits a pixel, shares in bits, images a second."""
    with tempfile.TemporaryDirectory() as place:
        archive = Path(place, "a.osoa")
        result = osoa_pl.compress(images, archive, checkpoint=checkpoint, threads=1, **options)
        began = time.perf_counter()
        restored = osoa_pl.decompress(archive, threads=1)
        seconds = time.perf_counter() - began
        assert len(restored) == len(images)
        assert all(np.array_equal(a[..., 0], b) for a, b in zip(restored, images))
        with osoa_pl.open_archive(archive) as opened:
            info = opened.info
    return {
        "gross": result.bits_per_dim,
        "message": 8 * sum(s.code_bytes for s in info.shards) / images.size,
        "initial_bits": result.initial_bits,
        "container_bytes": info.archive_bytes - sum(s.code_bytes for s in info.shards),
        "bytes": info.archive_bytes,
        "segments": sum(len(s.segment_bytes) for s in info.shards),
        "encode_per_second": len(images) / result.seconds,
        "decode_per_second": len(images) / seconds,
        "policy": result.policies[0],
    }


def measure_vaes(data: Path, found: dict[str, Any]) -> None:
    """Archives of each collection: none, auto, and each step size."""
    for name, (checkpoint, images) in collections(data).items():
        rows = found.setdefault(name, {})
        code(images[:200], checkpoint, adaptation="online")  # warm: compiled, paged in
        rows["elbo"] = negative_elbo(checkpoint, images)
        rows["elbo_1000"] = negative_elbo(checkpoint, images[:1000])
        rows["none"] = code(images, checkpoint, adaptation="none")
        rows["none_1000"] = code(images[:1000], checkpoint, adaptation="none")
        rows["auto"] = code(images, checkpoint, adaptation="auto")
        for size in STEP_SIZES:
            key = f"online {size:g}"
            rows[key] = code(images, checkpoint, adaptation="online", step_size=size)
            print(name, key, f"{rows[key]['gross']:.4f}", flush=True)


def measure_rivals(data: Path, found: dict[str, Any]) -> None:
    """Every rival on all images and on the first 1,000, each image and as one."""
    for name, (_, images) in collections(data).items():
        shown = images * 255 if name == "binarised" else images
        for count in (1000, len(images)):
            rows = found.setdefault(name, {}).setdefault(f"rivals_{count}", {})
            groups = [[], list(shown[:count, ..., None])]
            for codec in RIVALS:
                for result in rivals.measure(codec, groups, threads=1):
                    kind = "each" if result.arrangement == "each" else "whole"
                    rows[f"{codec} {kind}"] = result.bits_per_dim
                    print(name, count, codec, kind, f"{result.bits_per_dim:.4f}", flush=True)


def measure_curves(data: Path, found: dict[str, Any], folder: Path) -> None:
    """OSOA from `mnist` to Fashion-MNIST and back to MNIST, batch by batch, on the Trainer."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.loggers import CSVLogger

    from osoa_pl.train.osoa import OSOAOptions, compress_with_trainer

    fashion, mnist = read(data, "fashion")[:5000], read(data, "mnist")[:5000]
    np.save(folder / "there-and-back.npy", np.concatenate([fashion, mnist]))
    logger = CSVLogger(folder, "logs", "0")
    trainer = Trainer(
        logger=logger, default_root_dir=folder, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    options = OSOAOptions(
        inputs=[str(folder / "there-and-back.npy")], output=str(folder / "a.osoa"),
        checkpoint="mnist", compare_none=True, overwrite=True, threads=1,
    )  # fmt: skip
    result = compress_with_trainer(options, trainer)
    logger.save()
    rows = np.genfromtxt(
        Path(logger.log_dir, "metrics.csv"), delimiter=",", names=True, deletechars=""
    )
    curves = {}
    for kind in ("theoretical", "actual", "none"):
        values = {
            int(r["step"]): float(r[f"grey/bits_per_dim/{kind}"])
            for r in rows
            if np.isfinite(r[f"grey/bits_per_dim/{kind}"])
        }
        curves[kind] = [values[step] for step in sorted(values)]
    found["curve"] = {**curves, "gross": result.bits_per_dim, "images": 10000}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "| 10,000 test images | -ELBO | message, none | gross, none | gross, auto | policy of auto "
        "| initial bits | container bytes | images/s none: encode, decode | images/s adapting |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in ("binarised", "mnist", "fashion"):
        rows = found.get(name, {})
        if "none" not in rows:
            continue
        none, auto, online = rows["none"], rows["auto"], rows["online 0.001"]
        lines.append(
            f"| {name} | {rows['elbo']:.4f} | {none['message']:.4f} | **{none['gross']:.4f}** "
            f"| **{auto['gross']:.4f}** | {auto['policy'].split(': ')[1]} "
            f"| {none['initial_bits']:.0f} | {none['container_bytes']} "
            f"| {none['encode_per_second']:.0f}, {none['decode_per_second']:.0f} "
            f"| {online['encode_per_second']:.0f}, {online['decode_per_second']:.0f} |"
        )
    lines += ["", "| step size, gross | " + " | ".join(f"{s:g}" for s in STEP_SIZES) + " | none |",
              "|---|" + "---|" * (len(STEP_SIZES) + 1)]  # fmt: skip
    for name in ("binarised", "mnist", "fashion"):
        rows = found.get(name, {})
        if "none" in rows:
            cells = [f"{rows[f'online {s:g}']['gross']:.4f}" for s in STEP_SIZES]
            lines.append(f"| {name} | {' | '.join(cells)} | {rows['none']['gross']:.4f} |")
    for count in (1000, 10000):
        titles = " | ".join(rivals.TITLES[c] for c in RIVALS)
        lines += ["", f"| first {count}, each / as one | ours, none | {titles} |",
                  "|---|---|" + "---|" * len(RIVALS)]  # fmt: skip
        for name in ("binarised", "mnist", "fashion"):
            rows = found.get(name, {})
            if f"rivals_{count}" not in rows or "none" not in rows:
                continue
            ours = rows["none_1000" if count == 1000 else "none"]["gross"]
            shown = rows[f"rivals_{count}"]
            cells = [f"{shown[f'{c} each']:.3f} / {shown[f'{c} whole']:.3f}" for c in RIVALS]
            lines.append(f"| {name} | {ours:.4f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: dict[str, Any], folder: Path) -> None:
    """The curve there and back as a PNG, drawn with Pillow alone."""
    from PIL import Image, ImageDraw

    curve = found["curve"]
    width, height, left, bottom, top = 900, 380, 60, 340, 50
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    count, highest = len(curve["none"]), 8.0

    def place(index: int, value: float) -> tuple[float, float]:
        across = left + (width - left - 20) * index / (count - 1)
        return across, bottom - (bottom - top) * min(value, highest) / highest

    for value in range(0, 9, 2):
        draw.line([place(0, value), place(count - 1, value)], "#dddddd")
        draw.text((30, place(0, value)[1] - 6), str(value), "#444444")
    for kind, colour in (("none", "#b04a3a"), ("actual", "#1f6f8b")):
        means = np.convolve(curve[kind], np.ones(5) / 5, "valid")  # of five batches
        points = [place(i + 2, v) for i, v in enumerate(means)]
        draw.line(points, colour, 2)
    middle = place(count // 2, 0)[0]
    draw.line([(middle, top), (middle, bottom)], "#888888")
    draw.text((left + 10, 25), "Fashion-MNIST, 5,000 images", "#444444")
    draw.text((middle + 10, 25), "MNIST, 5,000 images", "#444444")
    draw.text((left + 10, 8), "bits/pixel, mean of five batches: without adaptation", "#b04a3a")
    draw.text((left + 330, 8), "adapting (step size 0.001)", "#1f6f8b")
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / "osoa-there-and-back.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--part", choices=("vaes", "rivals", "curves"))
    parser.add_argument("--print", action="store_true", dest="show")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(args.out.read_text()) if args.out.exists() else {}
    if not (args.show or args.plot):
        if args.part in (None, "vaes"):
            measure_vaes(args.data, found)
        if args.part in (None, "curves"):
            with tempfile.TemporaryDirectory() as place:
                measure_curves(args.data, found, Path(place))
        if args.part in (None, "rivals"):
            measure_rivals(args.data, found)
        args.out.write_text(json.dumps(found, indent=1))
    if args.plot:
        plot(found, args.plot)
    print(table(found))


if __name__ == "__main__":
    main()
