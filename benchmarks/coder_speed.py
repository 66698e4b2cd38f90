"""Speed of the coder alone: start and freq given, one core, many lanes; numpy beside numba.

    python benchmarks/coder_speed.py [--lanes 10000] [--steps 200] [--precision 16]

Prints million symbols a second, the best of several rounds, and checks that both engines made the
same words and came back to an empty message. `one lane` is `push_sequence` and the scalar pop
that other compiled kernels use.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numba import njit

from osoa_pl.coding import rans, rans_numba
from osoa_pl.coding.intervals import UInt64Array
from osoa_pl.coding.stack import Engine, UInt32Array

advance_scalar = rans_numba.advance_scalar


@njit(nogil=True, error_model="numpy")
def pop_sequence(head, tail, size, start, freq, precision):  # type: ignore[no-untyped-def]
    for index in range(start.size):
        head, size = advance_scalar(head, tail, size, start[index], freq[index], precision)
    return head, size


def lanes_rates(
    engine: Engine, start: UInt64Array, freq: UInt64Array, precision: int, rounds: int
) -> tuple[float, float, UInt32Array]:
    """Symbols a second of push and pop, and the flattened message between them."""
    steps, lanes = start.shape
    best_push = best_pop = float("inf")
    for _ in range(rounds):
        message = rans.base_message(lanes, engine)
        begin = time.perf_counter()
        for step in range(steps):
            message = rans.push_intervals(message, start[step], freq[step], precision)
        best_push = min(best_push, time.perf_counter() - begin)
        words = rans.flatten(message)
        begin = time.perf_counter()
        for step in reversed(range(steps)):
            message = rans.advance(message, start[step], freq[step], precision)
        best_pop = min(best_pop, time.perf_counter() - begin)
        if not rans.is_empty(message):
            raise SystemExit(f"{engine}: the message did not come back to its base state")
    return start.size / best_push, start.size / best_pop, words


def sequence_rates(
    start: UInt64Array, freq: UInt64Array, precision: int, rounds: int
) -> tuple[float, float]:
    best_push = best_pop = float("inf")
    starts, freqs = start.reshape(-1).astype(np.uint32), freq.reshape(-1).astype(np.uint32)
    for _ in range(rounds):
        begin = time.perf_counter()
        message = rans.base_message(1)
        rans_numba.push_sequence(message, starts, freqs, precision)
        best_push = min(best_push, time.perf_counter() - begin)
        head, tail, size = rans_numba.unflatten_lane(rans.flatten(message))
        begin = time.perf_counter()
        end, left = pop_sequence(head, tail, size, starts, freqs, precision)
        best_pop = min(best_pop, time.perf_counter() - begin)
        if left or end != rans.LOWER_BOUND:
            raise SystemExit("one lane: the message did not come back to its base state")
    return start.size / best_push, start.size / best_pop


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lanes", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--precision", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    shape, total = (options.steps, options.lanes), 1 << options.precision
    # widths from 1 to the total, most of them small, as coded pixels have them
    freq = (total ** generator.random(shape)).astype(np.uint64)
    start = generator.integers(0, total - freq.astype(np.int64) + 1).astype(np.uint64)
    print(f"{options.lanes} lanes, precision {options.precision}, million symbols/s")
    print("| engine | push | pop |\n| --- | --- | --- |")
    words = []
    engines: tuple[Engine, ...] = ("numpy", "numba")
    for engine in engines:
        push, pop, flat = lanes_rates(engine, start, freq, options.precision, options.rounds)
        words.append(flat)
        print(f"| {engine} | {push / 1e6:.0f} | {pop / 1e6:.0f} |")
    push, pop = sequence_rates(start, freq, options.precision, options.rounds)
    print(f"| numba, one lane | {push / 1e6:.0f} | {pop / 1e6:.0f} |")
    if not np.array_equal(words[0], words[1]):
        raise SystemExit("the engines made different words")


if __name__ == "__main__":
    main()
