"""One part of an archive being made: which trajectories are run, and what is kept of them.

A part is a stretch of pictures with everything that decodes them: at most one shard for RGB and
one for grey planes, and blocks of plain ones. Parts know nothing of each other, so any number of
processes may code them, and any may be read alone.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from osoa_pl.api.members import block_member, segment_member
from osoa_pl.api.options import CodingOptions
from osoa_pl.api.pieces import Choice, Piece, check_unchanged
from osoa_pl.api.survey import alternatives, settle
from osoa_pl.arith.threads import Together
from osoa_pl.data.planes import Planes, interleave
from osoa_pl.errors import InputError
from osoa_pl.format.blocks import PLANE_SETTINGS, BlockWriter
from osoa_pl.format.partial import PartialFolder
from osoa_pl.models import zoo
from osoa_pl.models.base import LatentModel, Model
from osoa_pl.models.checkpoint import metadata
from osoa_pl.online import auto
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import spread
from osoa_pl.online.policy import Policy, from_manifest
from osoa_pl.online.prices import UNIT
from osoa_pl.online.session import Session
from osoa_pl.online.trajectory import Move, Trajectory

_LEAST_GAIN = 64
"""Bytes that another round has to promise, beside its share of the part."""
_PROBE_BYTES = 8 << 20
_ROUNDS = 4
"""Rounds that begin with one set of choices, at most."""


@dataclass
class PartResult:
    """What a part came to; plain enough for JSON."""

    number: int
    choices: list[tuple[str, int, str, bool]]
    """(letters, reference, transform, kept) of each piece."""
    shards: list[dict[str, Any]] = field(default_factory=list)
    """Manifest entries."""
    blocks: list[tuple[int, int]] = field(default_factory=list)
    """(raw, coded) bytes."""
    members: list[tuple[str, str]] = field(default_factory=list)
    """(archive member, file in the folder)."""


@dataclass
class _Round:
    """One way to code the part, carried out."""

    choices: list[Choice]
    shards: dict[int, Trajectory]
    blocks: list[tuple[int, int]]
    block_files: list[str]
    total: int
    """Bytes of segments, blocks and files kept as they are."""


class PartCoder:
    """Codes one part: make its `moves` one after the other, then ask for the `result`.

    watch: called with samples as they are coded, in whatever way is being tried.
    """

    def __init__(
        self,
        number: int,
        pieces: Sequence[Piece],
        options: CodingOptions,
        folder: PartialFolder,
        watch: Callable[[int], None] | None = None,
    ) -> None:
        self.number, self.pieces, self.options = number, pieces, options
        self._folder, self._watch = folder, watch
        self._place = f"part-{number:04d}"
        about = metadata(options.checkpoint)
        self._kinds = frozenset(c for c, kind in zoo.KINDS.items() if kind in about["models"])
        self._telling = threading.Lock()
        self._final: _Round | None = None
        self._made: list[Trajectory] = []

    @cached_property
    def key(self) -> str:
        """Digest of all that decides the part's bytes."""
        digest = hashlib.sha256(json.dumps([self.number, self.options.identity()]).encode())
        for piece in self.pieces:
            entry = piece.entry
            facts = (piece.number, piece.begin, piece.count, entry.size, entry.stamp, entry.item)
            digest.update(repr(facts).encode())
        return digest.hexdigest()

    def moves(self) -> Generator[tuple[Move, ...], None, None]:
        """Trajectories to be run, as far as their moves say before the next are asked for.

        Those of one tuple may be run side by side, a thread each.
        """
        direct = self._direct()
        if self.options.model_only:
            letters = ["m" * len(p.mode.planes) for p in self.pieces]
            self._final = yield from self._round(0, [Choice(each) for each in letters], {})
            return
        ways = alternatives(self.pieces, self._kinds, not direct)
        best = yield from self._settled(0, ways[0], {}, direct)
        if self.options.adaptation == "auto":
            for choices in ways[1:]:
                policies = _policies(best)
                other = yield from self._settled(_ROUNDS, choices, policies, direct)
                best = min(best, other, key=_total)
        self._final = best

    def _settled(
        self, version: int, choices: list[Choice], policies: dict[int, dict[str, Any]], direct: bool
    ) -> Generator[tuple[Move, ...], None, _Round]:
        """The best round that begins with these choices; versions up to `_ROUNDS` further on."""
        best = yield from self._round(version, choices, policies)
        if direct:
            settled, saved = settle(self.pieces, choices, self._bytes_of(best))
            if saved > max(_LEAST_GAIN, best.total // 2000):
                other = yield from self._round(version + 1, settled, _policies(best))
                best = min(best, other, key=_total)
        if self.options.adaptation == "auto":
            for number, channels in enumerate((3, 1), version + 2):
                if channels in best.shards and self._may_be_plain(best, channels):
                    best = min(best, self._plain_round(number, best, channels), key=_total)
        return best

    def result(self) -> PartResult:
        """After the last move."""
        final = self._final
        assert final is not None
        made = PartResult(
            self.number,
            [(c.letters, c.reference, c.transform, c.kept) for c in final.choices],
            blocks=final.blocks,
        )  # fmt: skip
        for channels, trajectory in sorted(final.shards.items(), reverse=True):
            number = self._shard_number(channels)
            images = sum(1 for _ in self._shapes(final.choices, channels))
            made.shards.append(_shard_entry(number, channels, trajectory, images))
            made.members += [
                (segment_member(number, index), trajectory.file(index))
                for index in range(len(trajectory.record.sizes))
            ]
        made.members += [
            (block_member(self.number, index), name) for index, name in enumerate(final.block_files)
        ]
        return made

    def kept_result(self) -> PartResult | None:
        """The result of an equal part that an earlier run has finished in this folder."""
        try:
            kept = json.loads(self._folder.read(f"{self._place}/result") or b"{}")
            if kept.pop("key", None) != self.key:
                return None
            made = PartResult(**kept)
            sizes = [e["bytes"] for s in made.shards for e in s["segments"]]
            sizes += [coded for _, coded in made.blocks]
            found = [self._folder.size(name) for _, name in made.members]
        except (ValueError, TypeError, KeyError):
            return None
        return made if found == sizes else None

    def keep_result(self) -> PartResult:
        """The result after the last move, noted in the folder; what was not taken is removed.

        Raises InputError where an input has changed meanwhile.
        """
        try:
            check_unchanged(piece.entry for piece in self.pieces)
        except InputError:
            self._clean_up(nothing=True)  # should the old file come back, this is not of it
            raise
        made = self.result()
        text = json.dumps({"key": self.key, **vars(made)})
        self._folder.write(f"{self._place}/result", text.encode())
        self._clean_up()
        return made

    def _clean_up(self, *, nothing: bool = False) -> None:
        """Remove what is not in the result, or all of it."""
        final = None if nothing else self._final
        kept = set() if final is None else {t.name for t in final.shards.values()}
        for trajectory in self._made:
            if trajectory.name not in kept:
                trajectory.drop()
        used = set() if final is None else set(final.block_files)
        for name in self._folder.names(f"{self._place}/blocks"):
            if name not in used:
                self._folder.remove(name)

    def sample_cost(self) -> int:
        """Price of a sample of the planes that the model would code, at the best of its weights."""
        choices = alternatives(self.pieces, self._kinds, not self._direct())[0]
        planes = {channels: list(self._shapes(choices, channels)) for channels in (3, 1)}
        return sum(self._sampled(choices, c, shapes)[1] for c, shapes in planes.items() if shapes)

    def model(self, channels: int, weights: str = "") -> Model:
        """A new model at theta_0, of these weights, for planes of so many channels."""
        return self._built(channels, weights)[0]

    def _built(self, channels: int, weights: str) -> tuple[Model, Tensor]:
        options = self.options
        return zoo.build(
            options.checkpoint, channels, device=options.device, threads=options.threads,
            weights=weights,
        )  # fmt: skip

    def _direct(self) -> bool:
        """Whether the model takes planes of any size, and tells what each costs."""
        return not isinstance(self.model(max(self._kinds)), LatentModel)

    def _shard_number(self, channels: int) -> int:
        return 2 * self.number + (channels == 1)

    def _round(
        self, version: int, choices: list[Choice], policies: dict[int, dict[str, Any]]
    ) -> Generator[tuple[Move, ...], None, _Round]:
        shards: dict[int, Trajectory] = {}
        for channels in (3, 1):
            shapes = list(self._shapes(choices, channels))
            if not shapes:
                continue
            zoo.check_sizes(self.options.checkpoint, channels, shapes)
            begin = self._starter(version, choices, channels, shapes)
            if channels in policies:
                runs = auto.fixed(begin, from_manifest(policies[channels]))
            else:
                weights = ""
                if len(zoo.weights_of(self.options.checkpoint, channels)) > 1:
                    weights, _ = self._sampled(choices, channels, shapes)
                if self.options.adaptation == "auto":
                    runs = auto.choose(begin, self.options.search, weights)
                else:
                    runs = auto.fixed(begin, self._policy(weights))
            shards[channels] = yield from runs
        return self._made_round(version, choices, shards)

    def _plain_round(self, version: int, best: _Round, channels: int) -> _Round:
        choices = [
            replace(c, letters=_letters_without(p, c, channels))
            for p, c in zip(self.pieces, best.choices, strict=True)
        ]
        shards = {c: t for c, t in best.shards.items() if c != channels}
        return self._made_round(version, choices, shards)

    def _made_round(
        self, version: int, choices: list[Choice], shards: dict[int, Trajectory]
    ) -> _Round:
        blocks, names = self._pack_blocks(f"{version}", choices)
        mixed = [_interleaved(p, c) for p, c in zip(self.pieces, choices, strict=True)]
        if mixed != choices:
            other, other_names = self._pack_blocks(f"{version}-mixed", mixed)
            if sum(coded for _, coded in other) < sum(coded for _, coded in blocks):
                choices, blocks, names = mixed, other, other_names
        total = sum(t.record.cost for t in shards.values()) + sum(coded for _, coded in blocks)
        total += sum((c.original or 0) - c.metadata for c in choices if c.kept)
        return _Round(choices, shards, blocks, names, total)

    def _policy(self, weights: str) -> Policy:
        """What is asked for; the first that `auto` tries."""
        adaptation, ways = self.options.adaptation, self.options.search.ways
        if adaptation == "none" or (adaptation == "auto" and not ways):
            return NoAdaptation(weights=weights)
        size = self.options.step_size if adaptation == "online" else ways[0][0]
        return OnlineAdaptation(step_size=size, weights=weights)

    def _sampled(
        self, choices: list[Choice], channels: int, shapes: list[tuple[int, int]]
    ) -> tuple[str, int]:
        """(which of the checkpoint's weights suit such planes best, what a sample costs)."""
        names = zoo.weights_of(self.options.checkpoint, channels)
        taken = {n: slice(row, row + rows) for n, row, rows in spread(shapes, auto.SAMPLE_PIXELS)}
        planes = enumerate(self._planes(choices, channels))
        sample = [plane[taken[n]].copy() for n, plane in planes if n in taken]

        def begin(weights: str) -> Session:
            model, moment = self._built(channels, weights)
            session = Session(
                model, self._policy(weights), moment, [plane.shape[:2] for plane in sample],
                self.options.settings, seed=self.options.seed,
            )  # fmt: skip
            session.begin(sample)
            return session

        return auto.best_weights(names, begin, self.options.threads_at_hand)

    def _starter(
        self, version: int, choices: list[Choice], channels: int, shapes: list[tuple[int, int]]
    ) -> Callable[[Policy], Trajectory]:
        options = self.options
        letters = repr([(c.letters, c.transform, c.kept) for c in choices])
        key = hashlib.sha256((self.key + letters).encode()).hexdigest()

        def begin(policy: Policy) -> Session:
            model, moment = self._built(channels, policy.weights)
            session = Session(
                model, policy, moment, shapes, options.settings, seed=options.seed,
                shard=self._shard_number(channels), measure=options.measure,
                watch=lambda pixels: self._watched(pixels * channels),
            )  # fmt: skip
            session.begin(self._planes(choices, channels))
            return session

        def start(policy: Policy) -> Trajectory:
            about = policy.to_dict()
            name = about["name"]
            if "step_size" in about:
                name += f"-{about['step_size']:g}-{about['updates']}"
            place = f"{self._place}/{zoo.KINDS[channels]}-{version}-{name}"
            made = Trajectory(self._folder, place, key, policy, begin)
            self._made.append(made)
            return made

        return start

    def _watched(self, samples: int) -> None:
        if self._watch is not None:
            with self._telling:
                self._watch(samples)

    def _coded(self, choices: Sequence[Choice], wanted: str) -> Iterator[tuple[Piece, Choice]]:
        for piece, choice in zip(self.pieces, choices, strict=True):
            if not choice.kept and any(letter in wanted for letter in choice.letters):
                yield piece, choice

    def _shapes(self, choices: Sequence[Choice], channels: int) -> Iterator[tuple[int, int]]:
        for piece, choice in self._coded(choices, "m"):
            item = piece.entry.item
            shapes = piece.form(choice.transform).shapes(item.height, item.width)
            found = zip(shapes, choice.letters, strict=True)
            wanted = [s[:2] for s, letter in found if s[2] == channels and letter == "m"]
            for _ in range(piece.count):
                yield from wanted

    def _planes(self, choices: Sequence[Choice], channels: int) -> Iterator[NDArray[np.uint8]]:
        """The planes of so many channels that the model codes, in order."""
        for piece, choice in self._coded(choices, "m"):
            kinds = piece.form(choice.transform).channels
            wanted = [
                i for i, letter in enumerate(choice.letters)
                if letter == "m" and kinds[i] == channels
            ]  # fmt: skip
            if wanted:
                for planes in piece.pictures(choice.transform):
                    for index in wanted:
                        yield planes[index]

    def _bytes_of(self, made: _Round) -> list[list[int]]:
        """For each piece what the model took for each plane; -1 where it took none."""
        prices = {channels: iter(t.prices) for channels, t in made.shards.items()}
        found = []
        for piece, choice in zip(self.pieces, made.choices, strict=True):
            costs = [-1] * len(choice.letters)
            kinds = piece.form(choice.transform).channels
            for _ in range(piece.count):
                for index, letter in enumerate(choice.letters):
                    if letter == "m":
                        costs[index] = max(costs[index], 0) + next(prices[kinds[index]])
            found.append([cost if cost < 0 else cost // (8 * UNIT) for cost in costs])
        return found

    def _pack_blocks(
        self, version: str, choices: Sequence[Choice]
    ) -> tuple[list[tuple[int, int]], list[str]]:
        names: list[str] = []

        def sink(index: int, data: bytes) -> None:
            names.append(f"{self._place}/blocks-{version}/{index:04d}")
            self._folder.write(names[-1], data)

        writer = BlockWriter(sink, settings=PLANE_SETTINGS)
        for plane in self._plain_planes(choices):
            writer.add(plane.tobytes())
        writer.finish()
        return [(info.raw_bytes, info.coded_bytes) for info in writer.infos], names

    def _plain_planes(self, choices: Sequence[Choice]) -> Iterator[NDArray[np.uint8]]:
        last_use = {c.reference: p.number for p, c in zip(self.pieces, choices, strict=True)}
        held: dict[int, Planes] = {}
        for piece, choice in zip(self.pieces, choices, strict=True):
            plain = not choice.kept and any(letter != "m" for letter in choice.letters)
            referred = piece.number in last_use
            if not plain and not referred:
                continue
            for planes in piece.pictures(choice.transform):
                if referred:
                    held[piece.number] = planes
                if "i" in choice.letters:
                    yield interleave(planes)
                elif plain:
                    base = held.get(choice.reference, planes)
                    for index, letter in enumerate(choice.letters):
                        if letter != "m":
                            yield planes[index] - base[index] if letter == "d" else planes[index]
            if last_use.get(choice.reference) == piece.number:
                held.pop(choice.reference, None)

    def _may_be_plain(self, made: _Round, channels: int) -> bool:
        """Whether a fast look at the first planes says that xz might do better than the model."""
        if any(not piece.whole for piece in self.pieces):
            return False
        held = bytearray()
        for plane in self._planes(made.choices, channels):
            held += plane.tobytes()
            if len(held) >= _PROBE_BYTES:
                break
        trajectory = made.shards[channels]
        samples = channels * sum(trajectory.record.pixels)
        found = len(lzma.compress(bytes(held), preset=1)) / len(held)
        return found < 1.5 * trajectory.record.cost / samples


def _total(made: _Round) -> int:
    return made.total


def _policies(made: _Round) -> dict[int, dict[str, Any]]:
    return {channels: t.record.policy for channels, t in made.shards.items()}


def _interleaved(piece: Piece, choice: Choice) -> Choice:
    """The choice with planes side by side, where all are plain and of one size."""
    letters, form = choice.letters, piece.form(choice.transform)
    fits = set(letters) == {"p"} and len(letters) > 1 and not form.halved and not choice.kept
    return replace(choice, letters="i" * len(letters)) if fits else choice


def _letters_without(piece: Piece, choice: Choice, channels: int) -> str:
    kinds = piece.form(choice.transform).channels
    return "".join(
        "p" if letter == "m" and kind == channels else letter
        for letter, kind in zip(choice.letters, kinds, strict=True)
    )


def _shard_entry(number: int, channels: int, trajectory: Trajectory, images: int) -> dict[str, Any]:
    record = trajectory.record
    entry = {
        "number": number,
        "channels": channels,
        "images": images,
        "pixels": sum(record.pixels),
        "policy": record.policy,
        "code_bytes": record.code_bytes,
        "segments": [
            {"batches": b, "pixels": p, "bytes": s}
            for b, p, s in zip(record.batches, record.pixels, record.sizes, strict=True)
        ],
    }
    if record.initial_bits:
        entry["initial_bits"] = int(record.initial_bits)
    return entry


def code_part(
    number: int,
    pieces: Sequence[Piece],
    options: CodingOptions,
    folder: PartialFolder,
    watch: Callable[[int], None] | None = None,
) -> PartResult:
    """Code one part, or take over what an earlier run has finished of it."""
    coder = PartCoder(number, pieces, options, folder, watch)
    kept = coder.kept_result()
    if kept is not None:
        return kept
    for moves in coder.moves():
        Together().run([move.run for move in moves], options.threads_at_hand)
    return coder.keep_result()
