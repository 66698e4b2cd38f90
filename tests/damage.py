"""Damage to archives: a collection of all sorts, the classes of bytes, four kinds of harm."""

from __future__ import annotations

import io
import shutil
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fakes import picture
from PIL import Image

from osoa_pl.errors import OsoaError
from osoa_pl.format.layout import LOCAL_HEADER_BYTES

SEGMENT_HEADER_BYTES = 64
EXIT_CODES = (4, 5, 6)


def build_collection(root: Path) -> Path:
    """Small pictures of many modes, twins, near-duplicates, arrays, files packed or not."""
    (root / "deep er").mkdir(parents=True)
    rng = np.random.default_rng(5)
    for index in range(4):
        Image.fromarray(picture(13, 15, 3, index)).save(root / f"tile{index}.png")
    (root / "twin.png").write_bytes((root / "tile1.png").read_bytes())
    alpha = np.concatenate([picture(11, 10, 3, 7), picture(11, 10, 1, 8)], axis=2)
    Image.fromarray(alpha).save(root / "deep er" / "alpha.png")
    Image.fromarray(picture(9, 8, 3, 5)).quantize(16).save(root / "palette.png")
    wide = rng.integers(0, 65536, (8, 9), dtype=np.uint16)
    Image.fromarray(wide).save(root / "wide ü.png")
    close = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    for index in range(2):
        close[index * 3, 4:9] += 1
        Image.fromarray(close).save(root / f"scan{index}.bmp")
    grey = np.stack([picture(12, 11, 1, i)[..., 0] for i in range(5)])
    np.save(root / "stack.npy", grey)
    np.savez(root / "both.npz", a=picture(8, 8, 3, 1)[None], b=picture(6, 5, 1, 2)[None])
    (root / "notes.txt").write_text("kept as it is\n" * 40)
    (root / "more.txt").write_text("and this one too\n" * 30)
    (root / "noise.bin").write_bytes(rng.bytes(5000))
    (root / "long.txt").write_text("".join(f"line {i * i}\n" for i in range(6000)))
    return root


def files_below(folder: Path) -> dict[str, bytes]:
    """Name and bytes of every file below a folder."""
    found = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in sorted(found.items())}


def byte_classes(data: bytes) -> dict[str, list[tuple[int, int]]]:
    """Ranges of bytes (begin, end) of a sound archive, by what they are."""
    found: dict[str, list[tuple[int, int]]] = {}

    def add(name: str, begin: int, end: int) -> None:
        if begin < end:
            found.setdefault(name, []).append((begin, end))

    with zipfile.ZipFile(io.BytesIO(data)) as directory:
        end = directory.start_dir
        for info in sorted(directory.infolist(), key=lambda info: info.header_offset):
            start = info.header_offset
            sizes = np.frombuffer(data, "<u2", 2, start + LOCAL_HEADER_BYTES - 4)
            begin = start + LOCAL_HEADER_BYTES + int(sizes.sum())
            add("local headers", start, begin)
            name, stop = info.filename, begin + info.file_size
            if not name.startswith("shards/"):
                add(_class_of(name), begin, stop)
                continue
            lengths = begin + SEGMENT_HEADER_BYTES
            words = lengths + 4 * int.from_bytes(data[begin + 6 : begin + 8], "little")
            add("segment headers", begin, lengths)
            add("segment lengths", lengths, words)
            add("segment words", words, stop)
    tail = data.rindex(b"PK\5\6")
    add("central directory", end, tail)
    add("end record", tail, len(data))
    return found


def _class_of(member: str) -> str:
    folder = member.split("/")[0]
    names = {"manifest.json": "manifest", "items.jsonl.z": "table", "xz": "files"}
    return names.get(folder, "checkpoint" if folder.startswith("checkpoint") else folder)


def flip(data: bytes, at: int, limit: int, rng: np.random.Generator) -> bytes:
    """One to four bits behind `at` turned over, below `limit`."""
    harmed = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        place = min(at + int(rng.integers(0, 3)), limit - 1)
        harmed[place] ^= 1 << int(rng.integers(8))
    return bytes(harmed)


def cut(data: bytes, at: int, limit: int, rng: np.random.Generator) -> bytes:
    """Bytes from `at` on missing: a few, or all."""
    if rng.integers(4) == 0:
        return data[:at]
    return data[:at] + data[at + _length(rng) :]


def swap(data: bytes, at: int, limit: int, rng: np.random.Generator) -> bytes:
    """Two stretches of equal length changed places; one starts at `at`."""
    size = min(_length(rng), limit - at)
    other = int(rng.integers(0, len(data) - size))
    first, second = sorted((at, other))
    size = min(size, second - first)
    return b"".join(
        (data[:first], data[second : second + size], data[first + size : second],
         data[first : first + size], data[second + size :])
    )  # fmt: skip


def insert(data: bytes, at: int, limit: int, rng: np.random.Generator) -> bytes:
    """Bytes more at `at`: noise, or a stretch of the archive again."""
    size = _length(rng)
    begin = int(rng.integers(0, max(1, len(data) - size)))
    extra = rng.bytes(size) if rng.integers(2) else data[begin : begin + size]
    return data[:at] + extra + data[at:]


def _length(rng: np.random.Generator) -> int:
    return int(2 ** rng.uniform(0, 9))


KINDS: dict[str, Callable[[bytes, int, int, np.random.Generator], bytes]] = {
    "flip": flip, "cut": cut, "swap": swap, "insertion": insert,
}  # fmt: skip


def harm(
    data: bytes, ranges: list[tuple[int, int]], kind: str, rng: np.random.Generator
) -> tuple[bytes, int]:
    """`data` with one damage of this kind within one of the ranges, and its place."""
    sizes = np.array([end - begin for begin, end in ranges])
    # small members are as interesting as large ones
    begin, end = ranges[int(rng.choice(len(ranges), p=np.sqrt(sizes) / np.sqrt(sizes).sum()))]
    at = int(rng.integers(begin, end))
    return KINDS[kind](data, at, end, rng), at


@dataclass(frozen=True)
class Outcome:
    """What restoring a damaged archive came to."""

    kind: str
    """`harmless`, `reported` or what is wrong."""
    text: str = ""
    code: int = 0
    written: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def wrong(self) -> bool:
        """Whether anything happened that never may."""
        return self.kind not in ("harmless", "reported")


def restore(
    data: bytes, expected: dict[str, bytes], folder: Path, checkpoint: str | None,
    *, keep_going: bool = False, threads: int | None = None,
) -> Outcome:  # fmt: skip
    """Restore below `folder` (emptied first), and compare all that is written with `expected`."""
    import osoa_pl

    shutil.rmtree(folder, ignore_errors=True)
    try:
        result = osoa_pl.decompress(
            io.BytesIO(data), folder, checkpoint=checkpoint, keep_going=keep_going,
            threads=threads,
        )  # fmt: skip
    except OsoaError as error:
        found = files_below(folder) if folder.exists() else {}
        if error.exit_code not in EXIT_CODES or not str(error) or "\n" in str(error):
            return Outcome(f"error {error.exit_code}", repr(error), error.exit_code)
        kind = _compared(found, expected) or "reported"
        return Outcome(kind, str(error), error.exit_code, tuple(found))
    except Exception as error:
        return Outcome(f"traceback {type(error).__name__}", repr(error), 1)
    found = files_below(folder)
    kind = _compared(found, expected)
    if kind is None and {*found, *result.lost} != set(expected):
        kind = "a file that nobody names is missing"
    if kind is None and (set(found) & set(result.lost) or set(found) != set(result.files)):
        kind = "the result tells of other files"
    if kind is None and result.lost and not (keep_going and result.problems):
        kind = "a loss without a reason"
    told = result.lost or result.problems
    return Outcome(
        kind or ("reported" if told else "harmless"), "; ".join(result.problems),
        4 if told else 0, tuple(found), tuple(result.lost), tuple(result.problems),
    )  # fmt: skip


def _compared(found: dict[str, bytes], expected: dict[str, bytes]) -> str | None:
    for name, content in found.items():
        if name not in expected:
            return f"a file that never was: {name}"
        if content != expected[name]:
            return f"wrong content: {name}"
    return None


@dataclass
class Cost:
    """What something took."""

    seconds: float = 0.0
    """Of this process, not of those beside it."""
    memory: int = 0
    """Bytes that Python and numpy had at most beyond those before."""


@contextmanager
def measured(*, memory: bool = True) -> Iterator[Cost]:
    """What the block takes, filled in at its end; two or three times slower with `memory`."""
    cost = Cost()
    if memory:
        tracemalloc.start()
    began = time.process_time()
    try:
        yield cost
    finally:
        cost.seconds = time.process_time() - began
        if memory:
            cost.memory = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
