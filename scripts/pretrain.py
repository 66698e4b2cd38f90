"""Pretrain the default model in exact form, as a long adaptation with a learning-rate schedule.

    python scripts/pretrain.py --data FOLDER --channels 3 --minutes 60 --out RUN

FOLDER holds photographs and, beside it, `index.csv` with a licence column; rows under CC-BY-SA are
left out. One batch is photographs (crops at full and half size, flipped) and synthetic pictures.
The run resumes from RUN.pt when it exists; `scripts/export_checkpoint.py` makes a checkpoint of it.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from pathlib import Path

import numpy as np
import synthetic
import torch
from PIL import Image

from osoa_pl.arith.optim import Adam, clip_by_exact_norm
from osoa_pl.models.features import TileBatch, fill_tile, make_batch
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig, initial_parameters

SIZE = 64


def photographs(folder: Path) -> list[np.ndarray]:
    """RGB photographs whose licence lets weights trained on them ship freely."""
    with open(folder.parent / "index.csv", newline="", encoding="utf-8") as table:
        rows = {Path(row["file"]).name: row["licence"] for row in csv.DictReader(table)}
    names = sorted(p for p in folder.iterdir() if p.suffix == ".webp")
    free = [p for p in names if p.name in rows and "SA" not in rows[p.name].upper().split("-")]
    return [np.asarray(Image.open(p).convert("RGB")) for p in free]


def halve(image: np.ndarray) -> np.ndarray:
    """Box-downscaled by 2, uint8 [h//2, w//2, c]."""
    h, w = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    return image[:h, :w].reshape(h // 2, 2, w // 2, 2, -1).mean((1, 3)).round().astype(np.uint8)


class Batches:
    """Endless training batches; the state is one numpy generator."""

    def __init__(self, photos: list[np.ndarray], seed: int, channels: int, share: float) -> None:
        self.photos = photos + [halve(p) for p in photos if min(p.shape[:2]) >= 2 * SIZE]
        sizes = np.array([p.shape[0] * p.shape[1] for p in self.photos], float)
        self.weights = sizes / sizes.sum()
        self.rng = np.random.default_rng(seed)
        self.channels, self.share = channels, share

    def crop(self) -> np.ndarray:
        rng = self.rng
        if rng.random() < self.share:
            image = synthetic.draw(rng, SIZE)
        else:
            photo = self.photos[int(rng.choice(len(self.photos), p=self.weights))]
            y = int(rng.integers(0, photo.shape[0] - SIZE + 1))
            x = int(rng.integers(0, photo.shape[1] - SIZE + 1))
            image = photo[y : y + SIZE, x : x + SIZE]
        if rng.random() < 0.5:
            image = image[:, ::-1]
        if self.channels == 1:
            kind = int(rng.integers(4))
            luma = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
            image = luma[..., None] if kind == 3 else image[..., kind : kind + 1]
        elif rng.random() < 0.1:
            image = image[..., rng.permutation(3)]
        return np.ascontiguousarray(image)

    def batch(self, tiles: int) -> TileBatch:
        """A batch of `tiles` crops; half of the time some are cut smaller, to learn borders."""
        crops = [self.crop() for _ in range(tiles)]
        if self.rng.random() < 0.3:
            crops = [c[i : i + 32, j : j + 32] for c in crops for i in (0, 32) for j in (0, 32)]
        return pack(crops, self.channels)


def pack(crops: list[np.ndarray], channels: int) -> TileBatch:
    """A batch of whole images uint8 [h, w, c]."""
    batch = make_batch([c.shape[:2] for c in crops], channels, [None] * len(crops))
    for index, crop in enumerate(crops):
        fill_tile(batch, index, crop)
    return batch


def bits_per_dim(model: LocalAutoregressive, batches: list[TileBatch]) -> float:
    """Ideal code length of the batches under the current weights."""
    total = count = 0.0
    for batch in batches:
        _, frequency = model.intervals(batch)
        total += float((model.precision - np.log2(frequency.astype(float))).sum())
        count += frequency.size
    model.stepped()
    return total / count


def calibrate(model: LocalAutoregressive, training: Batches) -> None:
    """Set the starting activation maxima to the medians over batches: an outlier costs a bit."""
    maxima = []
    for _ in range(24):
        model.intervals(training.batch(2))
        maxima.append(model.seen_max())
        model.stepped()
    model.activation_max = torch.stack(maxima).median(0).values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--mixtures", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--tiles", type=int, default=8)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--synthetic", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = LocalConfig(args.channels, args.width, args.depth, args.mixtures)
    training = Batches(photographs(args.data), 1, args.channels, args.synthetic)
    held_out = Batches(photographs(args.data.parent / "val"), 2, args.channels, 0.0)
    validation = [pack([held_out.crop() for _ in range(8)], args.channels) for _ in range(6)]
    model = LocalAutoregressive(
        config, initial_parameters(config, 0), torch.full((2 * args.depth + 1,), 2.0)
    )
    optimizer = Adam(model.parameters, lr=args.rate, betas=(0.9, 0.99), eps=1e-8)
    step, spent = 0, 0.0
    file = args.out.with_suffix(".pt")
    if file.exists():
        saved = torch.load(file, weights_only=True)
        model.parameters.copy_(saved["parameters"])
        model.activation_max = saved["activation_max"]
        optimizer.load(saved["moments"], saved["counters"])
        step, spent = saved["step"], saved["spent"]
        training.rng = np.random.default_rng(step + 1000)
    print(
        f"{config} {model.parameters.numel()} parameters, {len(training.photos)} photos", flush=True
    )
    budget, last, began = args.minutes * 60, time.monotonic(), time.monotonic() - spent
    while (fraction := (time.monotonic() - began) / budget) < 1.0:
        optimizer.lr = (
            args.rate
            * min(1.0, step / 50 + 0.02)
            * (0.5 * (1 + math.cos(math.pi * fraction)) + 0.005)
        )
        batch = training.batch(args.tiles)
        gradient = model.gradient(batch, 0, step)
        optimizer.step(clip_by_exact_norm(gradient, 1.0))
        model.advance()
        step += 1
        if time.monotonic() - last > 60:
            last = time.monotonic()
            value = bits_per_dim(model, validation)
            print(f"{(last - began) / 60:.1f} min step {step} val {value:.4f}", flush=True)
            save(file, model, optimizer, step, last - began)
    calibrate(model, training)
    value = bits_per_dim(model, validation)
    print(f"done: step {step} val {value:.4f}", flush=True)
    save(file, model, optimizer, step, budget)


def save(file: Path, model: LocalAutoregressive, optimizer: Adam, step: int, spent: float) -> None:
    """Write the run's state whole or not at all."""
    temporary = file.with_suffix(".tmp")
    state = {
        "config": model.config.to_dict(),
        "parameters": model.parameters,
        "activation_max": model.activation_max,
        "moments": list(optimizer.state_tensors()),
        "counters": optimizer.counters(),
        "step": step,
        "spent": spent,
    }
    torch.save(state, temporary)
    os.replace(temporary, file)


if __name__ == "__main__":
    main()
