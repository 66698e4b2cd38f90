"""Pretrain the default model in exact form on endless random collections, memory included.

    python scripts/pretrain.py --data FOLDER --channels 3 --minutes 90 --out RUN

FOLDER holds photographs and, beside it, `index.csv` with a licence column; rows under CC-BY-SA are
left out. A step averages the gradients of several lanes; each lane is in the middle of a
collection of its own (`synthetic_collections`), with a memory of its own that is empty at the
collection's start, and cuts it into batches as `osoa compress` does. With `--adapt`, a lane also
takes the optimizer steps that `osoa compress` takes, and its gradients are those of the weights it
has come to: what falls is the length of one pass with updates, not that of the first weights alone
(first-order MAML, Finn et al. 2017, arXiv:1703.03400). The run resumes from RUN.pt when it exists;
`scripts/export_checkpoint.py` makes a checkpoint of it.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from synthetic_collections import KINDS, collection

from osoa_pl.arith.optim import Adam, clip_by_exact_norm, exact_norm
from osoa_pl.datamodules.mnist import MNIST
from osoa_pl.models.eigenbasis import Eigenbasis
from osoa_pl.models.features import RADIUS, TileBatch, fill_tile, make_batch
from osoa_pl.models.memory import MemoryState
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig, initial_parameters
from osoa_pl.online.plan import BatchSettings, batches

SETTINGS = BatchSettings(batch_pixels=1024, first_pixels=512, first_batches=64)
STEP_SIZES = (3e-4, 6e-4, 1e-3, 0.0, 0.0)
MEMORY_BITS = 16


def photographs(folder: Path) -> list[np.ndarray]:
    """RGB photographs whose licence lets weights trained on them ship freely."""
    with open(folder.parent / "index.csv", newline="", encoding="utf-8") as table:
        rows = {Path(row["file"]).name: row["licence"] for row in csv.DictReader(table)}
    names = sorted(p for p in folder.iterdir() if p.suffix == ".webp")
    free = [p for p in names if p.name in rows and "SA" not in rows[p.name].upper().split("-")]
    return [np.asarray(Image.open(p).convert("RGB")) for p in free]


def digit_images(rng: np.random.Generator, digits: np.ndarray, pixels: int) -> list[np.ndarray]:
    """Handwritten digits, as they are, on a wider ground or resized; dark on light or not."""
    count = max(2, pixels // digits[0].size)
    chosen = digits[rng.integers(0, len(digits), count)]
    if rng.random() < 0.3:
        chosen = np.pad(chosen, ((0, 0), (2, 2), (2, 2), (0, 0)))
    if rng.random() < 0.2:
        size = (int(rng.integers(14, 40)), int(rng.integers(14, 40)))
        chosen = np.stack([np.asarray(Image.fromarray(d[..., 0]).resize(size)) for d in chosen])
        chosen = chosen[..., None]
    chosen = 255 - chosen if rng.random() < 0.2 else chosen
    return list(np.repeat(chosen, 3, -1))


@dataclass(frozen=True)
class Material:
    """What collections are made of: photographs, kinds, and a share of handwritten digits."""

    photos: list[np.ndarray]
    kinds: Sequence[str] = tuple(KINDS)
    digits: np.ndarray = field(default_factory=lambda: np.zeros((1, 28, 28, 1), np.uint8))
    share: float = 0.0


def add_material(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `materials`."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--digits", type=Path, help="folder of MNIST, whose training part joins")
    parser.add_argument("--digits-share", type=float, default=0.6, help="of the collections")
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS], default=[*KINDS])
    parser.add_argument("--channels", type=int, default=3)


def materials(args: argparse.Namespace) -> tuple[Material, Material]:
    """What is trained on, and what is held out."""
    material = Material(photographs(args.data), args.kinds)
    held_out = Material(photographs(args.data.parent / "val"), args.kinds)
    if args.digits is not None:
        digits = MNIST(root=args.digits).train_images()
        material = replace(material, digits=digits[:-5000], share=args.digits_share)
        held_out = replace(held_out, digits=digits[-5000:], share=args.digits_share)
    return material, held_out


def images_of(
    rng: np.random.Generator, material: Material, channels: int, pixels: int
) -> list[np.ndarray]:
    """One collection, flipped or with its channels exchanged as a whole; grey from RGB."""
    if rng.random() < material.share:
        images = digit_images(rng, material.digits, pixels)
    else:
        images = collection(rng, material.photos, pixels, material.kinds)
        if rng.random() < 0.5:
            images = [image[:, ::-1] for image in images]
    if channels == 1:
        kind = int(rng.integers(4))
        if kind < 3:
            images = [image[..., kind : kind + 1] for image in images]
        else:
            luma = np.array([0.299, 0.587, 0.114])
            images = [(image @ luma).round().astype(np.uint8)[..., None] for image in images]
    elif rng.random() < 0.15:
        order = rng.permutation(3)
        images = [image[..., order] for image in images]
    return [np.ascontiguousarray(image) for image in images]


def batches_of(images: list[np.ndarray], channels: int) -> Iterator[TileBatch]:
    """The batches of a collection as `online.session` cuts them."""
    context = None
    for tiles in batches([image.shape[:2] for image in images], SETTINGS):
        batch = make_batch(
            [(t.height, t.width) for t in tiles], channels,
            [context if t.row else None for t in tiles], [t.row for t in tiles],
        )  # fmt: skip
        for index, t in enumerate(tiles):
            fill_tile(batch, index, images[t.image][t.row : t.row + t.height])
        context = batch.padded(len(tiles) - 1)[-RADIUS:].copy()
        yield batch


class Lane:
    """Endless collections, one after the other, each with an empty memory to begin with."""

    def __init__(
        self, model: MemoryAutoregressive, material: Material, seed: int, largest: int,
        second_moment: torch.Tensor | None = None,
    ) -> None:  # fmt: skip
        """second_moment: the lane adapts, with Adam from here."""
        self._model, self._material, self._largest = model, material, largest
        self._second_moment = second_moment
        self._rng = np.random.default_rng(seed)
        self._source: Iterator[TileBatch] = iter(())

    def _begin(self) -> None:
        channels = self._model.channels
        pixels = int(math.exp(self._rng.uniform(math.log(20_000), math.log(self._largest))))
        images = images_of(self._rng, self._material, channels, pixels)
        self._source = batches_of(images, channels)
        self._memory = MemoryState(channels, MEMORY_BITS, self._model.memory.pool)
        self._maxima = self._model.activation_max.clone()
        if self._second_moment is not None:
            self._moved = torch.zeros_like(self._model.parameters)
            self._adam = online_adam(
                self._moved, float(self._rng.choice(STEP_SIZES)), self._second_moment
            )

    def gradient(self, counter: int) -> tuple[torch.Tensor, int, torch.Tensor]:
        """(gradient at the lane's own weights, pixels, activation maxima) of its next batch.

        The lane then learns the batch. The model's own maxima, with which lanes begin, follow the
        median of what all lanes see.
        """
        model = self._model
        batch = next(self._source, None)
        if batch is None:
            self._begin()
            batch = next(self._source)
        model.memory, first_maxima = self._memory, model.activation_max
        model.activation_max = self._maxima
        model.stepped()
        if self._second_moment is None:
            gradient = model.gradient(batch, 0, counter)
        else:
            first = model.parameters.clone()
            model.parameters.add_(self._moved)
            model.stepped()
            gradient = model.gradient(batch, 0, counter)
            model.parameters.copy_(first)
            self._adam.step(clip_by_exact_norm(gradient, 1.0))
            if exact_norm(gradient) > 30.0:
                self._source = iter(())
        seen = model.seen_max()
        model.advance()
        self._maxima = model.activation_max
        model.activation_max = first_maxima * torch.where(seen > first_maxima, 1.002, 1 / 1.002)
        model.stepped()
        return gradient, batch.pixels, seen


def online_adam(parameters: torch.Tensor, rate: float, second_moment: torch.Tensor) -> Adam:
    """The optimizer of the policy `online`."""
    return Adam(
        parameters, lr=rate, betas=(0.8, 0.99), eps=1e-8, second_moment=second_moment,
        bias_correct_second=False,
    )  # fmt: skip


def bits_per_dim(
    model: MemoryAutoregressive, collections: list[list[np.ndarray]],
    second_moment: torch.Tensor | None = None,
) -> list[float]:  # fmt: skip
    """Ideal code length of each collection with memory, adapting where moments are given."""
    found = []
    kept, first = model.activation_max.clone(), model.parameters.clone()
    for images in collections:
        model.memory = MemoryState(model.channels, MEMORY_BITS, model.memory.pool)
        if second_moment is not None:
            adam = online_adam(model.parameters, STEP_SIZES[1], second_moment)
        bits = samples = 0.0
        for number, batch in enumerate(batches_of(images, model.channels)):
            bits += model.bits(batch, 0, 0)
            samples += batch.pixels * model.channels
            if second_moment is not None:
                adam.step(clip_by_exact_norm(model.gradient(batch, 0, number), 1.0))
            model.advance()
            if second_moment is None:
                model.activation_max = kept.clone()
        found.append(bits / samples)
        model.parameters.copy_(first)
        model.activation_max = kept.clone()
        model.stepped()
    return found


def gradients(
    model: MemoryAutoregressive, lanes: list[Lane], count: int
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """(clipped gradients of `count` batches, medians of the activation maxima).

    Medians, as an outlier costs a bit. The model's own maxima stay as they are.
    """
    found, maxima = [], []
    for number in range(count):
        kept = model.activation_max.clone()
        gradient, _, seen = lanes[number % len(lanes)].gradient(number)
        found.append(clip_by_exact_norm(gradient, 1.0))
        maxima.append(seen)
        model.activation_max = kept
    return found, torch.stack(maxima).median(0).values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--mixtures", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--lanes", type=int, default=24)
    parser.add_argument("--batches", type=int, default=6, help="lanes whose gradients make a step")
    parser.add_argument("--largest", type=int, default=500_000, help="pixels of a collection")
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--adapt", action="store_true", help="lanes adapt, see above")
    parser.add_argument("--start", type=Path, help="a run whose weights to begin with")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    begin = torch.load(args.start, weights_only=True) if args.start else {}
    config = MemoryConfig(args.channels, args.width, args.depth, args.mixtures)
    if begin:
        config = MemoryConfig(**begin["config"])
    basis = begin.get("basis")
    model = MemoryAutoregressive(
        config,
        begin.get("parameters", initial_parameters(config, 0)),
        begin.get("activation_max", torch.full((config.maxima_count(),), 2.0)),
        threads=args.threads,
        basis=None
        if basis is None
        else Eigenbasis(config.network().layers(), basis, compiled=True),
    )
    moment = begin["second_moment"] if args.adapt else None
    optimizer = Adam(model.parameters, lr=args.rate, betas=(0.9, 0.995), eps=1e-8)
    average = model.parameters.clone()
    step, spent = 0, 0.0
    file = args.out.with_suffix(".pt")
    if file.exists():
        saved = torch.load(file, weights_only=True)
        model.parameters.copy_(saved["parameters"])
        model.activation_max = saved["activation_max"]
        optimizer.load(saved["moments"], saved["counters"])
        average = saved["average"]
        step, spent = saved["step"], saved["spent"]
    material, held_out = materials(args)
    lanes = [
        Lane(model, material, args.seed + 1000 * step + lane, args.largest, moment)
        for lane in range(args.lanes)
    ]
    rng = np.random.default_rng(7)
    validation = [images_of(rng, held_out, args.channels, 40_000) for _ in range(16)]
    print(
        f"{config} {model.parameters.numel()} parameters, {len(material.photos)} photos", flush=True
    )
    best = math.inf
    budget, last, began = args.minutes * 60, time.process_time(), time.process_time() - spent
    while (fraction := (time.process_time() - began) / budget) < 1.0:
        optimizer.lr = (
            args.rate
            * min(1.0, step / 100 + 0.02)
            * (0.5 * (1 + math.cos(math.pi * fraction)) + 0.005)
        )
        total, pixels = torch.zeros_like(model.parameters), 0
        for number in range(args.batches):
            counter = step * args.batches + number
            gradient, weight, _ = lanes[counter % len(lanes)].gradient(counter)
            # a lane that has come off must not take the others with it
            total += clip_by_exact_norm(gradient, 4.0) * weight
            pixels += weight
        optimizer.step(clip_by_exact_norm(total / pixels, 1.0))
        model.stepped()
        step += 1
        average.lerp_(model.parameters, 1 - min(1 - 0.012 / 24 * args.batches, step / (step + 20)))
        if time.process_time() - last > 300:
            now, kept = time.process_time(), model.parameters.clone()
            model.parameters.copy_(average)
            model.stepped()
            value = bits_per_dim(model, validation, moment)
            model.parameters.copy_(kept)
            model.stepped()
            text = " ".join(f"{v:.2f}" for v in value)
            print(
                f"{(now - began) / 60:.1f} min step {step} val {np.mean(value):.4f}: {text}",
                flush=True,
            )
            last = time.process_time()
            if np.mean(value) > 1.03 * best:
                print("worse: back to what was saved", flush=True)
                saved = torch.load(file, weights_only=True)
                model.parameters.copy_(saved["parameters"])
                average.copy_(saved["average"])
                optimizer.load(saved["moments"], saved["counters"])
                model.stepped()
                continue
            best = min(best, float(np.mean(value)))
            save(file, model, optimizer, average, step, last - began, moment, basis)
    save(file, model, optimizer, average, step, budget, moment, basis)
    model.parameters.copy_(average)
    model.stepped()
    plain = [
        Lane(model, material, args.seed + 77 + lane, args.largest) for lane in range(args.lanes)
    ]
    found, model.activation_max = gradients(model, plain, 480)
    moment = torch.stack(found).square().mean(0)
    model.stepped()
    value = bits_per_dim(model, validation, moment)
    print(f"done: step {step} val, adapting {np.mean(value):.4f}", flush=True)
    save(file, model, optimizer, average, step, budget, moment, basis)


def save(
    file: Path, model: MemoryAutoregressive, optimizer: Adam, average: torch.Tensor, step: int,
    spent: float, second_moment: torch.Tensor | None = None, basis: torch.Tensor | None = None,
) -> None:  # fmt: skip
    """Write the run's state; a finished run has its `second_moment`."""
    state = {
        "config": model.config.to_dict(),
        "parameters": model.parameters,
        "activation_max": model.activation_max,
        "average": average,
        "moments": list(optimizer.state_tensors()),
        "counters": optimizer.counters(),
        "step": step,
        "spent": spent,
    }
    if second_moment is not None:
        state["second_moment"] = second_moment
    if basis is not None:
        state["basis"] = basis
    write_run(file, state)


def write_run(file: Path, state: dict[str, Any]) -> None:
    """Write a run whole or not at all."""
    temporary = file.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, file)


if __name__ == "__main__":
    main()
