"""What exactness costs: one adaptation step of the model `local`, exact against native float32.

    python benchmarks/exact_step.py [--threads 1] [--steps 12] [--engine float32]

Exact: intervals for the coder, gradient, clipping, Adam: all that an encoder does per batch.
Native: forward, backward and torch.optim.Adam on the same batch in float32, eager, (a) as a whole
and (b) with the compiled head in place of the eager one, so that only the network differs.
The three alternate within one run; quote the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from osoa_pl.arith.engines import use_engine
from osoa_pl.models import compiled_head
from osoa_pl.models.checkpoint import read
from osoa_pl.models.features import TileBatch, fill_tile, make_batch
from osoa_pl.models.local_ar_density import LocalAR
from osoa_pl.models.zoo import build
from osoa_pl.online.online import OnlineAdaptation


def tiles(count: int, size: int) -> TileBatch:
    """A batch of smooth noisy pictures."""
    rng = np.random.default_rng(0)
    batch = make_batch([(size, size)] * count, 3, [None] * count)
    y, x, c = np.mgrid[0:size, 0:size, 0:3]
    for index in range(count):
        wave = 120 + 60 * np.sin(x / 9 + index + c) + 50 * np.cos(y / 7)
        fill_tile(batch, index, (wave + rng.normal(0, 5, x.shape)).clip(0, 255).astype(np.uint8))
    return batch


def exact_step(batch: TileBatch) -> Callable[[], None]:
    """One exact batch of an encoder: intervals and update."""
    model, moment = build(read("local"), 3)
    policy = OnlineAdaptation()
    policy.start(model, moment, 0)

    def step() -> None:
        model.intervals(batch)
        policy.adapt(batch)

    return step


def native_step(batch: TileBatch, compiled: bool) -> Callable[[], None]:
    """One native training step, with the eager or the compiled head."""
    exact, _ = build(read("local"), 3)
    model = LocalAR(**exact.config.to_dict())
    model.flat.data.copy_(exact.parameters)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99), foreach=True)

    def step() -> None:
        optimizer.zero_grad()
        if compiled:
            x, pixels, predictors, copies = model.read(batch)
            outputs = model.outputs(x)
            gradient = torch.empty(outputs.shape)
            compiled_head.gradient_rows(
                0, len(pixels), outputs.detach().numpy(), pixels.numpy().astype(np.uint8),
                predictors.numpy(), copies.numpy(), 3, exact.config.mixtures, gradient.numpy(),
            )  # fmt: skip
            outputs.backward(gradient / gradient.numel())
        else:
            model.tile_loss(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--engine", choices=("auto", "float32", "float64", "int8"), default="auto")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with use_engine(args.engine):
        compare(args.threads, args.steps)


def compare(threads: int, count: int) -> None:
    """Time the three in turn and print medians and ratios."""
    batch = tiles(4, 64)
    steps = {
        "exact": exact_step(batch),
        "native": native_step(batch, compiled=False),
        "native, compiled head": native_step(batch, compiled=True),
    }
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(count + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if round_ >= 2:
                spent[name].append(time.perf_counter() - began)
    exact = statistics.median(spent["exact"])
    print(f"one step on {batch.pixels} RGB pixels, {threads} thread(s), median of {count}")
    for name, seconds in spent.items():
        middle = statistics.median(seconds)
        print(f"{name:24} {1000 * middle:7.1f} ms   exact / this = {exact / middle:.2f}")


if __name__ == "__main__":
    main()
