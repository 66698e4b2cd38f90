"""One policy's way through a shard, its segments kept in the folder of an unfinished archive.

What a trajectory has finished outlives the process: a run that is repeated takes the segments over
and continues from the state that was kept with the last one. Nothing in the folder is trusted:
what fails a checksum is made again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from osoa_pl.arith.threads import Together
from osoa_pl.errors import DamagedArchiveError, UsageError
from osoa_pl.format import segment as segment_format
from osoa_pl.format.partial import PartialFolder
from osoa_pl.online import snapshots
from osoa_pl.online.policy import Policy
from osoa_pl.online.session import CodedBatch, Segment, Session

_STATE = "state"


@dataclass
class ShardRecord:
    """What the manifest will say of a shard: its policy, and its segments in coding order."""

    policy: dict[str, Any]
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

    @property
    def cost(self) -> int:
        """Bytes of all segments and of the policy's entry in the manifest."""
        return sum(self.sizes) + self._entry

    def cost_of(self, segments: int | None) -> int:
        """As `cost`, of so many segments."""
        return sum(self.sizes[:segments]) + self._entry

    @property
    def _entry(self) -> int:
        return len(json.dumps(self.policy, separators=(",", ":")))

    @classmethod
    def restore(cls, kept: Mapping[str, Any]) -> Self:
        """A record from its `vars`. Raises ValueError where it is none."""
        if set(kept) != {each.name for each in fields(cls)}:
            raise ValueError("record")
        return cls(**kept)


class Trajectory:
    """A session with its record; `run` encodes, or the caller makes each move itself.

    begin: makes a new session that has begun to encode. name: of its files in the folder.
    key: all that decides its bytes; files of a run with another key are made again.
    """

    def __init__(
        self, folder: PartialFolder, name: str, key: str, policy: Policy,
        begin: Callable[[Policy], Session],
    ) -> None:  # fmt: skip
        self._folder, self.name, self._key = folder, name, key
        self.policy = policy
        self.record = ShardRecord(policy.to_dict())
        self.session = begin(policy)
        self.done = False
        self._prices: list[int] | None = None
        kept = self._kept()
        if kept is not None:
            self.session.restore(kept["snapshot"])
            self.record = ShardRecord.restore(kept["record"])
            self.done = bool(kept["done"])
            self._watch_adopted()

    def _kept(self) -> dict[str, Any] | None:
        data = self._folder.read(f"{self.name}/{_STATE}")
        if data is None:
            return None
        try:
            kept = snapshots.unpack(data)
            if kept["key"] != self._key:
                return None
            for index, size in enumerate(kept["record"]["sizes"]):
                packed = self._folder.read(self.file(index)) or b""
                if len(packed) != size:
                    return None
                segment_format.unpack(packed, self.name)
            ShardRecord.restore(kept["record"])
        except (ValueError, KeyError, TypeError, DamagedArchiveError):
            return None
        return kept

    def _watch_adopted(self) -> None:
        for pixels in self.record.pixels:
            self.session.watched(pixels)

    def file(self, index: int) -> str:
        """Name in the folder of a segment's file."""
        return f"{self.name}/{index:06d}.seg"

    @property
    def prices(self) -> list[int]:
        """Of the images, see `Session.image_prices`."""
        return self.session.image_prices if self._prices is None else self._prices

    def code(self) -> CodedBatch | None:
        """`Session.code`."""
        return self.session.code()

    def step(self) -> Segment | None:
        """`Session.step`; a segment that it ends is kept, and then the state."""
        segment = self.session.step()
        if segment is None:
            return None
        data = segment_format.pack(segment.header, segment.streams)
        self._folder.write(self.file(segment.header.segment), data)
        self.record.note(segment, len(data))
        self.done = self.session.exhausted
        state = {
            "key": self._key,
            "done": self.done,
            "snapshot": self.session.snapshot(),
            "record": vars(self.record),
        }
        self._folder.write(f"{self.name}/{_STATE}", snapshots.pack(state))
        return segment

    def run(self, segments: int | None = None) -> None:
        """Encode until there are this many segments, or to the end."""
        while (
            not self.done
            and (segments is None or len(self.record.sizes) < segments)
            and not Together.in_vain()
        ):
            if self.code() is None:
                raise UsageError(f"{self.name}: nothing to encode")
            self.step()

    def release(self) -> None:
        """Give the model's memory back; the record, the prices and the files stay."""
        self._prices = self.session.image_prices
        del self.session

    def drop(self) -> None:
        """Remove its files."""
        for index in range(len(self.record.sizes)):
            self._folder.remove(self.file(index))
        self._folder.remove(f"{self.name}/{_STATE}")


@dataclass(frozen=True)
class Move:
    """Run this trajectory, to its end or until it has so many segments.

    Moves that stand in one tuple may be made side by side.
    """

    trajectory: Trajectory
    segments: int | None = None

    def run(self) -> None:
        """Do so."""
        self.trajectory.run(self.segments)
