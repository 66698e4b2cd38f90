"""The policy `auto`: code the shard with and without adaptation, keep the smaller one.

The family's step sizes race over the first segment, by coded bytes; the best one and `none` are
then coded to the end. So the result is never larger than `none` itself, whatever the collection
does, and the choice depends on coded sizes alone: the same input and options give the same bytes.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any, Self

from osoa_pl.format import segment as segment_format
from osoa_pl.format.atomic import reporting
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import Segment

Encode = Callable[[Policy], Iterator[Segment]]


@dataclass
class ShardRecord:
    """What the manifest will say of a shard: its policy, and its segments in coding order."""

    policy: Policy
    sizes: list[int] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    code_bytes: int = 0
    ideal_bits: float = 0.0
    initial_bits: float = 0.0

    def note(self, segment: Segment, size: int) -> None:
        """Count a segment whose packed form has `size` bytes."""
        self.sizes.append(size)
        self.pixels.append(segment.pixels)
        self.batches.append(segment.header.batch_count)
        self.code_bytes += segment.code_bytes
        self.ideal_bits += segment.ideal_bits
        self.initial_bits += segment.initial_bits

    def to_dict(self) -> dict[str, Any]:
        """All but the policy, for `restore`."""
        return {name: value for name, value in vars(self).items() if name in _RECORDED}

    @classmethod
    def restore(cls, policy: Policy, kept: Mapping[str, Any]) -> Self:
        """A record from its `to_dict`."""
        return cls(policy, **kept)


_RECORDED = [f.name for f in fields(ShardRecord) if f.name != "policy"]


@dataclass
class CodedShard(ShardRecord):
    """A shard's segments, spooled to a temporary file in coding order."""

    def __post_init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)

    @property
    def total(self) -> int:
        """Bytes of all segments."""
        return sum(self.sizes)

    @property
    def cost(self) -> int:
        """Bytes of all segments and of the policy's entry in the manifest."""
        return self.total + len(json.dumps(self.policy.to_dict(), separators=(",", ":")))

    def add(self, segment: Segment) -> None:
        """Append one segment."""
        data = segment_format.pack(segment.header, segment.streams)
        with reporting(Path(tempfile.gettempdir())):
            self._file.write(data)
            self._file.flush()
        self.note(segment, len(data))

    def members(self) -> Iterator[bytes]:
        """The segments' bytes in order; may be asked for again."""
        self._file.seek(0)
        for size in self.sizes:
            yield self._file.read(size)

    def close(self) -> None:
        """Drop the temporary file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def code(encode: Encode, policy: Policy) -> CodedShard:
    """The whole shard under one policy."""
    with ExitStack() as unfinished:
        shard = unfinished.enter_context(CodedShard(policy))
        for segment in encode(policy):
            shard.add(segment)
        unfinished.pop_all()
    return shard


def choose(encode: Encode, step_sizes: Sequence[float]) -> CodedShard:
    """The smaller of `none` and the best step size; `none` wins a tie."""
    with ExitStack() as unfinished:
        runners = []
        for policy in (OnlineAdaptation(step_size=size) for size in step_sizes):
            shard = unfinished.enter_context(CodedShard(policy))
            run = encode(policy)
            for segment in itertools.islice(run, 1):
                shard.add(segment)
            runners.append((shard, run))
        best, run = min(runners, key=lambda runner: runner[0].cost)
        for segment in run:
            best.add(segment)
        plain = unfinished.enter_context(code(encode, NoAdaptation()))
        winner = best if best.cost < plain.cost else plain
        unfinished.pop_all()
    for shard in (plain, *(shard for shard, _ in runners)):
        if shard is not winner:
            shard.close()
    return winner
