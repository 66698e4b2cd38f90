"""Where the time of an adapting step goes, encoding and decoding.

    python benchmarks/step_profile.py SET.npz [--batch 1024] [--pixels 200000] [--threads 1]

Codes the first images of a set by the default checkpoint and the policy `online`, all in memory,
and decodes them. Prints milliseconds for each 4,096 pixels and shares, each part without the parts
inside it. Compare runs of one machine and one day.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osoa_pl.arith.optim import Adam
from osoa_pl.models import network
from osoa_pl.models.checkpoint import DEFAULT, read
from osoa_pl.models.eigenbasis import Eigenbasis
from osoa_pl.models.memory_ar import MemoryAutoregressive
from osoa_pl.models.zoo import build, family_of
from osoa_pl.online import direct, online
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.session import Session

COUNTED = 4096


class Stopwatch:
    """Seconds spent in functions, each less what the ones inside it took."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self._inside: list[float] = []

    def watch(self, holder: Any, name: str, label: str) -> None:
        """Count what this function takes, wherever it is called."""
        function: Callable[..., Any] = getattr(holder, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            self._inside.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self.spent[label] += took - self._inside.pop()
                if self._inside:
                    self._inside[-1] += took

        setattr(holder, name, timed)

    def table(self, title: str, pixels: int, seconds: float, samples: int) -> None:
        """Print what was counted since the last table."""
        print(f"{title}: {samples / seconds / 1e6:.2f} MB/s, ms for each {COUNTED} pixels")
        self.spent["the rest (Python, coder, digests)"] = seconds - self.spent.total()
        for label, took in self.spent.most_common():
            print(f"  {1e3 * took / pixels * COUNTED:7.2f}  {took / seconds:5.0%}  {label}")
        self.spent.clear()


def watch_all(stopwatch: Stopwatch, model: MemoryAutoregressive) -> None:
    """Count the parts of a step."""
    net, own = type(model._network), MemoryAutoregressive
    for holder, name, label in (
        (own, "look", "features and memory, looked up"),
        (own, "remember", "memory, written"),
        (net, "forward", "network, forward"),
        (net, "backward", "network, backward"),
        (own, "intervals", "head, intervals"),
        (own, "sampled_gradient", "head, gradient"),
        (own, "decode", "wavefront: features, memory, network, head, coder"),
        (own, "_wavefront_weights", "weights, laid out for the wavefront"),
        (Eigenbasis, "weights", "eigenbasis, weights"),
        (Eigenbasis, "gradient", "eigenbasis, gradient"),
        (network, "quantise_layers", "weights, rounded"),
        (Adam, "step", "Adam"),
        (online, "clip_by_exact_norm", "clipping"),
        (direct.DirectEncoder, "finish", "coder"),
    ):
        stopwatch.watch(holder, name, label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--stride", type=int)
    parser.add_argument("--pixels", type=int, default=200_000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = np.load(args.set)
    stack = loaded[loaded.files[0]]
    stack = stack.reshape(*stack.shape[:3], -1)
    images = list(stack[: max(1, args.pixels // (stack.shape[1] * stack.shape[2]))])
    shapes = [image.shape[:2] for image in images]
    checkpoint = read(DEFAULT)
    sizes = {**family_of(checkpoint).settings, "first_batches": 1}
    if args.batch:
        sizes |= {"batch_pixels": args.batch, "first_pixels": args.batch}
    if args.stride:
        sizes["gradient_stride"] = args.stride
    settings = BatchSettings(**sizes)

    def session() -> Session:
        model, moment = build(checkpoint, stack.shape[3], threads=args.threads)
        return Session(model, OnlineAdaptation(step_size=8e-4), moment, shapes, settings)

    coded = list(session().encode(images))  # and everything is compiled
    first = session()
    stopwatch = Stopwatch()
    watch_all(stopwatch, first.model)
    began = time.perf_counter()
    list(first.encode(images))
    pixels, samples = sum(h * w for h, w in shapes), sum(image.size for image in images)
    stopwatch.table("encoding", pixels, time.perf_counter() - began, samples)
    second = session()
    began = time.perf_counter()
    found = list(second.decode([(s.header, s.streams) for s in coded]))
    took = time.perf_counter() - began
    assert all(np.array_equal(a, b) for a, b in zip(found, images, strict=True))
    stopwatch.table("decoding", pixels, took, samples)


if __name__ == "__main__":
    main()
