"""The policy `auto`: code the shard in several ways, keep the smallest.

Where the checkpoint has several starting weights, those that a sample of the shard adapts from best
are taken first (`best_weights`; so they are for other policies); high efforts choose between
checkpoints alike. Candidates then race over the shard's first segments, by coded bytes; the winner,
and `none` beside it, are coded to the end. How many race and how far is the effort. The choice
depends on coded sizes alone: the same input and options give the same bytes, however many threads
there are, and where `none` takes part the result is never larger than `none` itself, whatever the
collection does.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial

from osoa_pl.arith.threads import Together
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import MAX_STEP_SIZE, OnlineAdaptation
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import Session
from osoa_pl.online.trajectory import Move, Trajectory

Start = Callable[[Policy], Trajectory]

EFFORTS = range(1, 10)
DEFAULT_EFFORT = 5
SAMPLE_PIXELS = 1 << 15
"""Pixels of a shard by which its starting weights are chosen."""


@dataclass(frozen=True)
class Search:
    """Which ways are tried, and how far.

    ways: (step size, updates a batch) of each adapting candidate; at least one, or plain.
    segments: how many they race over; None: to the end. plain: whether `none` takes part. tiers:
    whether larger checkpoints do, where none is named.
    """

    ways: tuple[tuple[float, int], ...]
    segments: int | None = 1
    plain: bool = True
    tiers: bool = False


def search(effort: int, step_sizes: Sequence[float]) -> Search:
    """The search of effort 1 (does not adapt) to 9; step_sizes: those that suit the model.

    2: the one that suits most; 3: and `none`; 4: all race over a segment; 5: and `none`; 6, 7: the
    same, with smaller batches (`Family.by_effort` has their sizes); 8: twice the largest and half
    the smallest too, over four segments, and larger checkpoints; 9: and two updates a batch, all
    of these to the end.
    """
    single = (step_sizes[len(step_sizes) // 2],)
    wide = (step_sizes[0] / 2, *step_sizes, min(2 * step_sizes[-1], MAX_STEP_SIZE))
    sizes = () if effort == 1 else single if effort <= 3 else step_sizes if effort <= 7 else wide
    ways = tuple((size, 1) for size in sizes)
    if effort == 9:
        ways += tuple((size, 2) for size in sizes)
    segments = None if effort == 9 else 4 if effort == 8 else 1
    return Search(ways, segments, plain=effort not in (2, 4), tiers=effort >= 8)


def best_weights(
    names: Sequence[str], sample: Callable[[str], Session], threads: int
) -> tuple[str, int]:
    """The name of the weights that code a sample with the fewest bits; the first in a tie.

    The other number is what the sample costs, in `prices.UNIT`s of a bit.

    sample: makes a session that starts from these weights and has begun to encode it. threads: how
    many run side by side.
    """
    costs: dict[str, int] = {}

    def code(name: str) -> None:
        session = sample(name)
        while session.code() is not None and not Together.in_vain():
            session.step()
        costs[name] = sum(session.image_prices)

    Together().run([partial(code, name) for name in names], threads)
    best = min(names, key=costs.__getitem__)
    return best, costs[best]


def choose(
    start: Start, tried: Search, weights: str = ""
) -> Generator[tuple[Move, ...], None, Trajectory]:
    """Moves to be made, each tuple after the one before; returns the smallest trajectory.

    weights: those that all start with. `none` wins a tie.
    """
    runners = [
        start(OnlineAdaptation(step_size=size, updates=updates, weights=weights))
        for size, updates in tried.ways
    ]
    if len(runners) > 1:
        yield tuple(Move(runner, tried.segments) for runner in runners)
    finalists = [start(NoAdaptation(weights=weights))] if tried.plain or not runners else []
    if runners:
        best = min(runners, key=lambda runner: runner.record.cost_of(tried.segments))
        for runner in runners:
            if runner is not best:
                runner.release()
        finalists.append(best)
    yield tuple(Move(trajectory) for trajectory in reversed(finalists))
    for trajectory in finalists:
        trajectory.release()
    return min(finalists, key=lambda trajectory: trajectory.record.cost)


def fixed(start: Start, policy: Policy) -> Generator[tuple[Move, ...], None, Trajectory]:
    """The whole shard under one policy."""
    trajectory = start(policy)
    yield (Move(trajectory),)
    return trajectory
