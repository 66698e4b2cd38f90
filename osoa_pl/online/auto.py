"""The policy `auto`: code the shard with and without adaptation, keep the smaller one.

The family's step sizes race over the first segment, by coded bytes; the best one and `none` are
then coded to the end. So the result is never larger than `none` itself, whatever the collection
does, and the choice depends on coded sizes alone: the same input and options give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.policy import Policy
from osoa_pl.online.trajectory import Move, Trajectory

Start = Callable[[Policy], Trajectory]


def choose(start: Start, step_sizes: Sequence[float]) -> Generator[Move, None, Trajectory]:
    """Moves to be made one after the other; returns the smaller of `none` and the best step size.

    `none` wins a tie.
    """
    runners = []
    for size in step_sizes:
        runners.append(start(OnlineAdaptation(step_size=size)))
        yield Move(runners[-1], 1)
    best = min(runners, key=lambda runner: runner.record.cost_of_first)
    for runner in runners:
        if runner is not best:
            runner.release()
    yield Move(best)
    plain = start(NoAdaptation())
    yield Move(plain)
    return best if best.record.cost < plain.record.cost else plain


def fixed(start: Start, policy: Policy) -> Generator[Move, None, Trajectory]:
    """The whole shard under one policy."""
    trajectory = start(policy)
    yield Move(trajectory)
    return trajectory
