"""Pretrain further weights on a GPU: many adapting lanes at once, in native floats.

    python scripts/pretrain_lanes.py --data FOLDER --channels 3 --start RUN.pt --out RUN2 ...

As `pretrain.py --adapt`, with all lanes side by side: each has weights of its own, and one batched
matrix product serves them. Operands are rounded as the exact form rounds them (9 bits of weights, 8
of activations), gradients are torch's own. What memory says does not depend on the weights, so
worker processes prepare collections while others are trained on; few-coloured ones are left out,
as native floats have no part for the colours seen. Several runs (pairs of --start and --out) share
the material. Close with some minutes of `pretrain.py --adapt`, which also measures the activation
maxima in exact form.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from itertools import count as counting
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pretrain import (
    MEMORY_BITS,
    STEP_SIZES,
    add_material,
    batches_of,
    images_of,
    materials,
    write_run,
)
from torch import Tensor

from osoa_pl.arith import quantize
from osoa_pl.models.eigenbasis import UNIT_BITS
from osoa_pl.models.features import FEATURE_STEP
from osoa_pl.models.memory import MemoryState
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig
from osoa_pl.models.memory_ar_density import negative_log_likelihood
from osoa_pl.models.memory_head_eager import proposals
from osoa_pl.models.network import ACTIVATION_BITS, WEIGHT_BITS, next_activation_max

BATCH = 512  # pixels of a lane's step
FIELDS = ("features", "pixels", "predictors", "hits", "offsets")


def prepared(images: list[np.ndarray], channels: int) -> dict[str, np.ndarray] | None:
    """Every pixel of a collection as the network sees it; None where colours stayed few.

    offsets of proposals that are not there: NaN.
    """
    config = MemoryConfig(channels, 4, 0, 1)
    reader = MemoryAutoregressive(
        config, torch.zeros(config.parameter_count()), torch.ones(config.maxima_count()), threads=1
    )
    reader.memory = MemoryState(channels, MEMORY_BITS, reader.memory.pool)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for batch in batches_of(images, channels):
        work = reader.look(batch)
        found = proposals(work, torch.arange(batch.pixels), channels)
        pixels = reader.pixels(batch)
        hits = (found.values == torch.from_numpy(pixels).long().unsqueeze(1)).all(2)
        offsets = found.offsets.masked_fill(~found.valid, math.nan)
        parts["features"].append(work.features.astype(np.int16))
        parts["pixels"].append(pixels)
        parts["predictors"].append(work.predictors.astype(np.uint8))
        parts["hits"].append((hits & found.valid).numpy())
        parts["offsets"].append(offsets.half().numpy())
        reader.remember(batch)
    if reader.memory.colours.on:
        return None
    return {name: np.concatenate(part) for name, part in parts.items()}


def prepare(args: argparse.Namespace, folder: Path, seed: int) -> None:
    """Write collections to `folder`, one file each, until the process is ended."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    material, _ = materials(args)
    for number in counting():
        while len(list(folder.glob("*.npz"))) > 64:
            time.sleep(0.2)
        pixels = int(math.exp(rng.uniform(math.log(20_000), math.log(args.largest))))
        found = prepared(images_of(rng, material, args.channels, pixels), args.channels)
        if found is not None:
            name = folder / f"{seed}-{number}"
            np.savez(name.with_suffix(".tmp.npz"), **found)
            os.replace(name.with_suffix(".tmp.npz"), name.with_suffix(".npz"))


class Pool:
    """Prepared pixels on the device, one array a field, and where each collection lies."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._capacity, self._device, self._used = capacity, device, 0
        self._fields: dict[str, Tensor] = {}
        self.spans: list[tuple[int, int]] = []

    def add(self, found: dict[str, np.ndarray]) -> bool:
        """Take a collection; False when there is no room."""
        count = len(found["pixels"])
        if self._used + count > self._capacity:
            return False
        for name in FIELDS:
            values = torch.from_numpy(found[name])
            if name not in self._fields:
                shape = (self._capacity, values.shape[1])
                self._fields[name] = torch.empty(shape, dtype=values.dtype, device=self._device)
            self._fields[name][self._used : self._used + count] = values.to(self._device)
        self.spans.append((self._used, count))
        self._used += count
        return True

    def batch(self, begins: list[int]) -> dict[str, Tensor]:
        """BATCH pixels from each of these places, [lanes * BATCH, ...]."""
        first = torch.tensor(begins, device=self._device).unsqueeze(1)
        rows = (first + torch.arange(BATCH, device=self._device)).view(-1)
        return {name: self._fields[name][rows] for name in FIELDS}


class RoundWeights(torch.autograd.Function):
    """Weights [lanes, out, in] on the grid of each lane's maximum; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor) -> Tensor:
        largest = weights.abs().amax((1, 2), keepdim=True)
        step = quantize.power_of_two_step(largest, WEIGHT_BITS)
        return quantize.quantize_nearest(weights, step, WEIGHT_BITS) * step

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Rectify(torch.autograd.Function):
    """max(h, 0) on the grid of `steps`, [lanes, 1, 1]; the gradient passes where it is not 0."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, steps: Tensor) -> Tensor:
        rounded = quantize.quantize_nearest(h.clamp(min=0), steps, ACTIVATION_BITS) * steps
        ctx.save_for_backward(rounded)
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * (ctx.saved_tensors[0] > 0), None


@dataclass
class LaneState:
    """What a set of lanes has moved from the first weights [lanes, n], with Adam's state."""

    moved: Tensor
    first_moment: Tensor
    second_moment: Tensor
    maxima: Tensor
    rate: Tensor  # [lanes, 1], as `correction`: of Adam's first moment
    correction: Tensor


class Run:
    """One set of weights in training."""

    def __init__(self, file: Path, out: Path, lanes: int, device: torch.device) -> None:
        self.saved = torch.load(file, weights_only=True)
        self.out = out.with_suffix(".pt")
        self.config = MemoryConfig(**self.saved["config"])
        self.shape = self.config.network()
        self.first = self.saved.get("average", self.saved["parameters"]).to(device)
        self.maxima = self.saved["activation_max"].to(device)
        self.moment = self.saved["second_moment"].to(device)
        self.average = self.first.clone()
        self.best = math.inf
        self.step = 0
        self._adam = torch.optim.Adam([self.first], betas=(0.9, 0.995), eps=1e-8)
        self._sides = []
        at, flat = 0, self.saved["basis"].to(device).float() * 2.0**-UNIT_BITS
        for o, i in self.shape.layers():
            left = flat[at : at + o * o].view(o, o)
            self._sides.append((left, flat[at + o * o : at + o * o + i * i].view(i, i)))
            at += o * o + i * i
        self.state = self.fresh(lanes)

    def fresh(self, lanes: int) -> LaneState:
        """Lanes at the first weights."""
        zero = torch.zeros(lanes, len(self.first), device=self.first.device)
        one = torch.ones(lanes, 1, device=self.first.device)
        return LaneState(
            zero, zero.clone(), self.moment.repeat(lanes, 1), self.maxima.repeat(lanes, 1),
            torch.full_like(one, STEP_SIZES[1]), one,
        )  # fmt: skip

    def begin(self, lanes: list[int], rates: list[float]) -> None:
        """Let these lanes start again."""
        s, device = self.state, self.first.device
        index = torch.tensor(lanes, device=device)
        s.moved[index] = 0.0
        s.first_moment[index] = 0.0
        s.second_moment[index] = self.moment
        s.maxima[index] = self.maxima
        s.rate[index] = torch.tensor(rates, device=device).unsqueeze(1)
        s.correction[index] = 1.0

    def loss(self, stored: Tensor, maxima: Tensor, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """(nats a sample [lanes], activation maxima seen [lanes, layers]) of weights [lanes, n]."""
        lanes, at = len(stored), 0
        steps = quantize.power_of_two_step(maxima, ACTIVATION_BITS)
        layers = []
        for (o, i), (left, right) in zip(self.shape.layers(), self._sides, strict=True):
            theta = stored[:, at : at + o * i].view(lanes, o, i)
            weight = RoundWeights.apply(left @ (theta @ right.mT))
            layers.append((weight.mT, stored[:, at + o * i : at + o * i + o].unsqueeze(1)))
            at += o * i + o
        seen: list[Tensor] = []

        def rectified(h: Tensor) -> Tensor:
            seen.append(h.detach().amax((1, 2)))
            return Rectify.apply(h, steps[:, len(seen) - 1, None, None])

        def linear(x: Tensor, layer: int) -> Tensor:
            weight, bias = layers[layer]
            return torch.baddbmm(bias, x, weight)

        h = linear(batch["features"].view(lanes, BATCH, -1).float() * FEATURE_STEP, 0)
        x = rectified(h)
        for block in range(self.shape.depth):
            h = h + linear(rectified(linear(x, 2 * block + 1)), 2 * block + 2)
            x = rectified(h)
        outputs = linear(x, 2 * self.shape.depth + 1).view(lanes * BATCH, -1)
        offsets = batch["offsets"].float()
        nats = negative_log_likelihood(
            outputs, batch["pixels"].long(), batch["predictors"].long(), batch["hits"],
            ~offsets.isnan(), offsets.nan_to_num(), self.config.mixtures,
        )  # fmt: skip
        return nats.view(lanes, BATCH).mean(1) / self.config.channels, torch.stack(seen, 1)

    def learn(
        self, state: LaneState, batch: dict[str, Tensor], first: Tensor
    ) -> tuple[Tensor, ...]:
        """(loss, gradients [lanes, n], their norms, maxima seen); the lanes take their step."""
        stored = (first + state.moved).requires_grad_()
        losses, seen = self.loss(stored, state.maxima, batch)
        (gradient,) = torch.autograd.grad(losses.sum(), stored)
        norm = gradient.norm(dim=1, keepdim=True)
        clipped = gradient / norm.clamp(min=1.0)
        state.correction.mul_(0.8)
        state.first_moment.mul_(0.8).add_(clipped, alpha=0.2)
        state.second_moment.mul_(0.99).addcmul_(clipped, clipped, value=0.01)
        rate = state.rate / (1.0 - state.correction)
        state.moved.sub_(rate * state.first_moment / (state.second_moment.sqrt() + 1e-8))
        state.maxima = next_activation_max(state.maxima, seen)
        return losses.detach(), gradient, norm, seen

    def update(self, batch: dict[str, Tensor], rate: float) -> Tensor:
        """One step of the first weights; which lanes have come off, bool [lanes]."""
        _, gradient, norm, seen = self.learn(self.state, batch, self.first)
        off = ~(norm[:, 0] < 30.0)
        # a lane that has come off must not take the others with it
        total = (gradient * (4.0 / norm).clamp(max=1.0))[~off].mean(0)
        self.first.grad = total / total.norm().clamp(min=1.0)
        self._adam.param_groups[0]["lr"] = rate
        self._adam.step()
        self.step += 1
        self.average.lerp_(self.first, 1.0 - min(0.998, self.step / (self.step + 20.0)))
        above = (seen > self.maxima).float().mean(0)
        self.maxima.mul_(torch.exp(0.01 * (2.0 * above - 1.0)))
        return off

    def validate(self, pool: Pool, steps: int) -> float:
        """Bits a sample of the averaged weights over the beginnings of the pool's collections."""
        state, total = self.fresh(len(pool.spans)), 0.0
        for number in range(steps):
            batch = pool.batch([begin + number * BATCH for begin, _ in pool.spans])
            total += float(self.learn(state, batch, self.average)[0].mean())
        return total / steps / math.log(2.0)

    def save(self) -> None:
        """Write the run as `pretrain.py` does, the averaged weights in both places."""
        weights = self.average.cpu()
        write_run(self.out, {
            "config": self.config.to_dict(), "parameters": weights, "average": weights,
            "activation_max": self.maxima.cpu(), "second_moment": self.saved["second_moment"],
            "basis": self.saved["basis"], "step": self.step,
        })  # fmt: skip


def feed(folder: Path, pool: Pool, ended: threading.Event) -> None:
    """Move prepared collections into the pool until it is full."""
    while not ended.is_set():
        files = [f for f in sorted(folder.glob("*.npz")) if not f.stem.endswith(".tmp")]
        for file in files:
            if ended.is_set():
                return
            with np.load(file) as found:
                room = pool.add(dict(found))
            file.unlink()
            if not room:
                return
        time.sleep(0.02 if files else 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_material(parser)
    parser.add_argument("--start", type=Path, nargs="+", required=True, help="finished runs")
    parser.add_argument("--out", type=Path, nargs="+", required=True)
    parser.add_argument("--rate", type=float, nargs="+", required=True)
    parser.add_argument("--minutes", type=float, default=8.0, help="of the clock")
    parser.add_argument("--lanes", type=int, default=128)
    parser.add_argument("--largest", type=int, default=400_000, help="pixels of a collection")
    parser.add_argument("--capacity", type=int, default=50_000_000, help="pixels on the device")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    began = time.monotonic()
    torch.set_float32_matmul_precision("high")  # exact for operands of 11 bits and less
    device = torch.device(args.device)
    runs = [Run(s, o, args.lanes, device) for s, o in zip(args.start, args.out, strict=True)]
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        workers = [
            multiprocessing.get_context("spawn").Process(
                target=prepare, args=(args, Path(folder), args.seed * 1000 + number), daemon=True
            )
            for number in range(args.workers)
        ]
        for worker in workers:
            worker.start()
        _, held_out = materials(args)
        rng, validation = np.random.default_rng(7), Pool(4_000_000, device)
        while len(validation.spans) < 24:
            found = prepared(images_of(rng, held_out, args.channels, 50_000), args.channels)
            if found is not None and len(found["pixels"]) >= 64 * BATCH:
                validation.add(found)
        pool = Pool(args.capacity, device)
        feeder = threading.Thread(target=feed, args=(Path(folder), pool, ended))
        feeder.start()
        while len(pool.spans) < min(args.lanes, 48):
            time.sleep(0.1)
        print(f"{time.monotonic() - began:.0f} s: first material", flush=True)
        try:
            train(args, runs, pool, validation, began)
        finally:
            ended.set()
            feeder.join()
            for worker in workers:
                worker.terminate()
                worker.join()


def train(
    args: argparse.Namespace, runs: list[Run], pool: Pool, validation: Pool, began: float
) -> None:
    """All runs in turn on each batch, until the time is over."""
    rng = np.random.default_rng(args.seed)
    start, end = time.monotonic(), began + 60.0 * args.minutes
    places, ends = [0] * args.lanes, [0] * args.lanes
    last, step = -math.inf, 0
    while (now := time.monotonic()) < end:
        if now - last > 40.0:
            for run in runs:
                value = run.validate(validation, 64)
                print(f"{now - began:.0f} s, step {step}, {len(pool.spans)} collections, "
                      f"{run.out.name}: {value:.4f}", flush=True)  # fmt: skip
                if value < run.best:
                    run.best = value
                    run.save()
            last = time.monotonic()
        done = [lane for lane in range(args.lanes) if places[lane] + BATCH > ends[lane]]
        if done:
            rates = [float(rng.choice(STEP_SIZES)) for _ in done]
            for lane in done:
                begin, count = pool.spans[int(rng.integers(len(pool.spans)))]
                places[lane], ends[lane] = begin, begin + count
            for run in runs:
                run.begin(done, rates)
        batch = pool.batch(places)
        places = [place + BATCH for place in places]
        fraction = (now - start) / (end - start)
        schedule = min(1.0, step / 200 + 0.02) * (0.5 * (1 + math.cos(math.pi * fraction)) + 0.005)
        off = [
            run.update(batch, rate * schedule) for run, rate in zip(runs, args.rate, strict=True)
        ]
        step += 1
        if step % 10 == 0:
            for lane in torch.stack(off).any(0).nonzero().flatten().tolist():
                ends[lane] = 0
    for run in runs:
        value = run.validate(validation, 64)
        print(f"done, step {step}, {run.out.name}: {value:.4f} (best {run.best:.4f})", flush=True)
        if value < run.best:
            run.save()


if __name__ == "__main__":
    main()
