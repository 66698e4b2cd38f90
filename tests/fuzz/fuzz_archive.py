"""Fuzzing the reader of archives: whatever the bytes, an error of ours or nothing at all.

    pip install atheris
    python tests/fuzz/fuzz_archive.py [-max_total_time=300] [-max_len=200] [FOLDER]

FOLDER takes the inputs that reach something new. An input is an archive, or choices: which archive
of the corpus to take, and how to forge it. Forged are the values of the manifest, the entries of
the table, blocks, segments, members and single bytes, with checksums put right so that the forgery
is looked at. `test_fuzz.py` runs the inputs in `corpus/` (``*.osoa``: archives to start from;
``*.bin``: choices, each with an outcome of its own) and some more at random.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
if str(HERE.parent) not in sys.path:
    sys.path.insert(0, str(HERE.parent))

_INSTRUMENTED = ("format", "api", "data.writer", "data.png", "data.arrays", "data.files")


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _instrumenting() -> Any:
    if __name__ != "__main__":
        return _nothing()
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris (or run pytest tests/fuzz)")
    import numpy  # noqa: F401 (kernels are compiled by numba, which takes plain bytecode only)

    return atheris.instrument_imports(include=[f"osoa_pl.{name}" for name in _INSTRUMENTED])


with _instrumenting():
    import osoa_pl
    import osoa_pl.api.archive
    import osoa_pl.data.writer
    from osoa_pl.errors import OsoaError
    from osoa_pl.format import blocks as block_format
    from osoa_pl.format import segment as segment_format

from fakes import small_model  # noqa: E402
from forge import Members, join, manifest_of, table_of, take_apart, with_manifest, with_table  # noqa: E402

from osoa_pl.models.zoo import pack  # noqa: E402

SECONDS = 10.0
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 255, 256, 65535, 1 << 16, 1 << 31, 1 << 32, 1 << 40,
    1 << 63, 10**400, 0.5, float("nan"), float("inf"), "", "x", "a/b", "../x", "m", "p", "d",
    "mm", "none", "online", "grey8", "rgb8", "rgba8", "palette4", "grey16", "image", "array",
    "file", "folder", "raw", "xz", "block", "npz", "npy", "idx", "png", "Li4=", [], [1], [1, 1],
    {}, {"x": 1},
)  # fmt: skip
FIELDS = (
    "name", "kind", "source", "mode", "height", "width", "shape", "key", "deflated", "before",
    "after", "coded", "reference", "same", "size", "codec", "mtime", "given",
)  # fmt: skip


class Choices:
    """Numbers read from bytes; zeros where these have ended."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> bool:
        """Whether there are bytes left."""
        return self._at < len(self._data)

    def number(self, limit: int) -> int:
        """A number below `limit` (at most 65536)."""
        size = 1 if limit <= 256 else 2
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "little") % max(1, limit)

    def pick(self, among: Any) -> Any:
        """One of a sequence."""
        return among[self.number(len(among))]

    def bytes(self, size: int) -> bytes:
        """Bytes as they are, fewer at the end."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken


def bases() -> list[bytes]:
    """The archives that forgeries start from."""
    return [path.read_bytes() for path in sorted(CORPUS.glob("*.osoa"))]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to all values within a JSON value."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        entries = enumerate(value)
    for key, inner in entries:
        found += places(inner, (*path, key))
    return found


def other_value(before: Any, choices: Choices) -> Any:
    """Something else in place of a JSON value: near it, or of another kind."""
    how = choices.number(4)
    if type(before) is int and how < 3:
        return (before + 1, before - 1, before * 2 + choices.number(65536))[how]
    if type(before) is str and how < 2:
        cut = choices.number(len(before) + 1)
        return (
            before[:cut] if how else before[:cut] + choices.pick(("~", "/", "..", "\0", "é", "A"))
        )
    return choices.pick(VALUES)


def forge_manifest(members: Members, choices: Choices) -> Members:
    """One value of the manifest."""
    manifest = manifest_of(members)
    path = choices.pick(places(manifest))
    at = manifest
    for key in path[:-1]:
        at = at[key]
    how, last = choices.number(8), path[-1]
    if how == 0:
        del at[last]
    elif how == 1 and isinstance(at, list):
        at.insert(last, at[choices.number(len(at))])
    elif how == 2 and isinstance(at, list):
        other = choices.number(len(at))
        at[last], at[other] = at[other], at[last]
    else:
        at[last] = other_value(at[last], choices)
    return with_manifest(members, manifest)


def forge_table(members: Members, choices: Choices) -> Members:
    """One entry of the table, or its order."""
    entries = table_of(members)
    if not entries:
        return members
    at, other = choices.number(len(entries)), choices.number(len(entries))
    how, field = choices.number(8), choices.pick(FIELDS)
    if how == 0:
        del entries[at]
    elif how == 1:
        entries.insert(at, dict(entries[other]))
    elif how == 2:
        entries[at], entries[other] = entries[other], entries[at]
    elif not isinstance(entries[at], dict) or not isinstance(entries[other], dict):
        pass
    elif how == 3 and field in entries[other]:
        entries[at][field] = entries[other][field]
    elif how == 4:
        entries[at].pop(field, None)
    else:
        entries[at][field] = other_value(entries[at].get(field), choices)
    return with_table(members, entries)


def forge_block(members: Members, choices: Choices) -> Members:
    """The bytes of a block, coded again, the manifest telling the sizes."""
    manifest = manifest_of(members)
    infos: list[tuple[str, list[Any], int]] = []
    for index in range(len(manifest.get("packed", ()))):
        infos.append((f"packed/{index:04d}", manifest["packed"], index))
    for number, part in enumerate(manifest.get("parts", ())):
        for index in range(len(part["planes"])):
            infos.append((f"planes/{number:04d}/{index:04d}", part["planes"], index))
    if not infos:
        return members
    name, sizes, index = choices.pick(infos)
    raw = bytearray(block_format.decode(members[name], block_format.BlockInfo(*sizes[index]), name))
    place, how = choices.number(len(raw)), choices.number(4)
    if how == 0:
        raw[place : place + choices.number(256)] = b""
    elif how == 1:
        raw[place:place] = choices.bytes(choices.number(64))
    else:
        raw[place] ^= 1 + choices.number(255)
    coded = block_format.encode(bytes(raw)) if raw else b""
    if how < 3:
        sizes[index] = [len(raw), len(coded)]
    return {**with_manifest(members, manifest), name: coded}


def forge_segment(members: Members, choices: Choices) -> Members:
    """A segment's header or words, its own checksums right."""
    names = [name for name in members if name.endswith(".seg")]
    if not names:
        return members
    name = choices.pick(names)
    header, streams = segment_format.unpack(members[name], name)
    fields = {**vars(header), "stream_words": ()}
    streams = [words.copy() for words in streams]
    how, stream = choices.number(6), choices.number(len(streams) or 1)
    if how == 0:
        key = choices.pick(("shard", "segment", "first_batch", "batch_count"))
        fields[key] = choices.pick((0, 1, 2, 3, 1 << 16, 0xFFFFFFFF))
    elif how == 1:
        streams = streams[: choices.number(len(streams) + 1)]
    elif how == 2:
        streams += streams[:1] * choices.pick((1, 8, 300))
    elif streams and len(streams[stream]):
        place = choices.number(len(streams[stream]))
        if how == 3:
            streams[stream] = streams[stream][:place]
        else:
            streams[stream][place] ^= 1 << choices.number(32)
    if not streams:
        return {**members, name: members[name][:64]}
    data = segment_format.pack(segment_format.SegmentHeader(**fields), streams)
    manifest = manifest_of(members)
    with suppress(LookupError, TypeError):
        for shard in manifest["shards"]:
            if shard.get("number", 0) == int(name[7:11]):
                shard["segments"][int(name[12:18])]["bytes"] = len(data)
    return {**with_manifest(members, manifest), name: data}


def forge_member(members: Members, choices: Choices) -> Members:
    """A member's bytes, its name or its place; the ZIP's checksums right."""
    names = list(members)
    name, other, how = choices.pick(names), choices.pick(names), choices.number(6)
    data = bytearray(members[name])
    if how == 0:
        return {key: value for key, value in members.items() if key != name}
    if how == 1:
        return {**members, name: members[other], other: members[name]}
    if how == 2:
        return {**members, choices.pick(("x", "mimetype", "packed/0009", "../x")): bytes(data)}
    if how == 3:
        names.sort(key=lambda key: key == name)
        return {key: members[key] for key in names}
    for _ in range(how - 3):
        place = choices.number(min(len(data) or 1, 65536))
        if data:
            data[place] ^= 1 << choices.number(8)
    return {**members, name: bytes(data)}


FORGERIES: tuple[Callable[[Members, Choices], Members], ...] = (
    forge_manifest, forge_manifest, forge_table, forge_table, forge_table, forge_block,
    forge_segment, forge_member,
)  # fmt: skip


def forged(data: bytes, archives: list[bytes]) -> tuple[bytes, bool]:
    """(archive, whether to keep going) that an input stands for."""
    if data[:2] == b"PK":
        return data, False
    choices = Choices(data)
    keep_going, whole = choices.number(2) == 1, choices.pick(archives)
    members = take_apart(whole)
    for _ in range(1 + choices.number(4)):
        with suppress(Exception):  # what it wants to forge may be forged already
            members = choices.pick(FORGERIES)(members, choices)
    whole = join(members)
    harmed = bytearray(whole)
    while choices.left and choices.number(4) == 0:
        harmed[choices.number(65536) % len(harmed)] ^= 1 << choices.number(8)
    return bytes(harmed), keep_going


class Target:
    """Restores what an input stands for, and complains of what never may happen."""

    def __init__(self) -> None:
        self._place = Path(tempfile.mkdtemp(prefix="osoa-fuzz-"))
        self._checkpoint = self._place / "small.safetensors"
        self._checkpoint.write_bytes(pack({"grey": small_model(1), "rgb": small_model(3)}))
        self.archives = bases()

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._place, ignore_errors=True)

    def __call__(self, data: bytes) -> str:
        """Restore; the error's name, or nothing. Raises for all that is no error of ours."""
        archive, keep_going = forged(data, self.archives)
        out, began = self._place / "jail" / "out", time.process_time()
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        name = ""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                osoa_pl.decompress(
                    io.BytesIO(archive), out, checkpoint=str(self._checkpoint),
                    keep_going=keep_going, threads=1,
                )  # fmt: skip
            except OsoaError as error:
                name = type(error).__name__
                text = str(error)
                known = error.exit_code in (4, 5, 6) or "cannot write" in text
                if not known or "\n" in text or len(text) > 20_000:
                    raise AssertionError(f"exit code {error.exit_code}: {text[:500]}") from error
        if time.process_time() - began > SECONDS:
            raise AssertionError(f"took {time.process_time() - began:.0f} s")
        if sorted(os.listdir(out.parent)) not in ([], ["out"]):
            raise AssertionError(f"written outside: {os.listdir(out.parent)}")
        return name


def main() -> None:
    """Let atheris choose."""
    import atheris

    target = Target()
    with tempfile.TemporaryDirectory(prefix="osoa-fuzz-") as found:
        folders = [word for word in sys.argv[1:] if not word.startswith("-")]
        # the first folder takes what is new, the others are read
        arguments = [*sys.argv, *([] if folders else [found]), str(CORPUS)]
        atheris.Setup(arguments, lambda data: (target(data), None)[1])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
