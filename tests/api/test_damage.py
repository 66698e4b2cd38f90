"""Damage to every class of bytes: told with its place, or harmless; never a wrong pixel."""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from damage import KINDS, build_collection, byte_classes, files_below, harm, restore
from PIL import Image

import osoa_pl
from osoa_pl.api import archive as archive_module
from osoa_pl.cli.main import main
from osoa_pl.format.container import ArchiveReader
from osoa_pl.online.plan import BatchSettings

SMALL = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=1, streams=2)
MEMBERS = (
    "segment headers", "segment lengths", "segment words", "planes", "packed", "files",
    "checkpoint",
)  # fmt: skip
CLASSES = (
    "local headers", "mimetype", "manifest", "table", *MEMBERS, "central directory", "end record",
)  # fmt: skip


@dataclass(frozen=True)
class Sound:
    """An archive, what it restores to, and the checkpoint it needs beside it."""

    data: bytes
    expected: dict[str, bytes]
    checkpoint: str | None
    classes: dict[str, list[tuple[int, int]]]

    def file(self) -> io.BytesIO:
        """The archive, opened."""
        return io.BytesIO(self.data)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_collection(tmp_path_factory.mktemp("damage") / "in")


@pytest.fixture(scope="module", params=["none", "online"])
def sound(request, collection, checkpoint_path, tmp_path_factory) -> Sound:
    """Several parts of segments, blocks and files; the first has its checkpoint within."""
    folder = tmp_path_factory.mktemp(request.param)
    embed = request.param == "none"
    osoa_pl.compress(
        collection, folder / "a.osoa", checkpoint=checkpoint_path, adaptation=request.param,
        embed_checkpoint=embed, settings=SMALL, shard=6,
    )  # fmt: skip
    checkpoint = None if embed else checkpoint_path
    osoa_pl.decompress(folder / "a.osoa", folder / "out", checkpoint=checkpoint)
    for path in collection.rglob("*.png"):
        ours = Image.open(folder / "out" / path.relative_to(collection))
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(Image.open(path)))
    data = (folder / "a.osoa").read_bytes()
    return Sound(data, files_below(folder / "out"), checkpoint, byte_classes(data))


def test_the_archives_have_all_classes_of_bytes(sound):
    assert set(CLASSES) - set(sound.classes) <= {"checkpoint"}
    ranges = sorted(r for found in sound.classes.values() for r in found)
    assert ranges[0][0] == 0 and ranges[-1][1] == len(sound.data)
    assert all(a[1] == b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    with osoa_pl.open_archive(sound.file(), checkpoint=sound.checkpoint) as archive:
        letters = "".join(item.coded for item in archive.items)
        assert "d" in letters and "p" in letters
        assert any(item.same != -1 for item in archive.items)
        assert archive.info.parts > 2 and len(archive.info.shards) > 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", CLASSES)
def test_damage_is_told_or_harmless(sound, place, kind, tmp_path):
    if place not in sound.classes:
        pytest.skip("the archive has no such bytes")
    rng = np.random.default_rng([CLASSES.index(place), list(KINDS).index(kind)])
    for _ in range(2):
        data, at = harm(sound.data, sound.classes[place], kind, rng)
        strict = restore(data, sound.expected, tmp_path / "out", sound.checkpoint)
        assert not strict.wrong, (at, strict)
        if kind == "flip" and place.startswith("segment"):
            assert re.search(r"shard \d+, segment \d+", strict.text), strict
            assert re.search(r"at byte \d+; (segments? .*intact|none before it)", strict.text)
        if kind == "flip" and place in MEMBERS:
            begin, end = re.search(r"bytes (\d+) to (\d+)", strict.text).groups()
            assert int(begin) <= at <= int(end)
        going = restore(
            data, sound.expected, tmp_path / "out", sound.checkpoint, keep_going=True
        )  # fmt: skip
        assert not going.wrong, (at, going)
        assert (strict.kind == "harmless") <= (going.kind == "harmless" or bool(going.problems))
        if place in MEMBERS and kind != "swap":  # the other half may lie in the manifest
            assert going.code != 5 and going.written, (at, going)
        if place in MEMBERS and kind == "flip":
            assert going.lost, (at, going)


def test_the_command_tells_what_is_lost(sound, tmp_path, capsys):
    begin, end = sound.classes["segment words"][1]
    harmed = bytearray(sound.data)
    harmed[(begin + end) // 2] ^= 16
    path = tmp_path / "a.osoa"
    path.write_bytes(harmed)
    words = ["decompress", str(path), "-o", str(tmp_path / "out"), "--threads", "1"]
    words += ["--checkpoint", sound.checkpoint] if sound.checkpoint else []
    assert main(words) == 4
    told = capsys.readouterr().err
    assert "osoa: error: " in told and "`--keep-going -f` writes what is intact" in told
    assert main([*words, "--keep-going", "-f"]) == 4
    told = capsys.readouterr().err
    assert "Traceback" not in told and "segment" in told and "lost" in told
    found = files_below(tmp_path / "out")
    missing = set(sound.expected) - set(found)
    assert missing and all(f"{name}" in told for name in missing)
    assert all(sound.expected[name] == content for name, content in found.items())


def test_what_stands_before_a_cut_comes_back(sound, tmp_path):
    """At every fortieth: files whose bytes all precede the cut, by the sound archive's order."""
    needs = bytes_needed(sound)
    restored = 0
    for step in range(40):
        size = len(sound.data) * step // 40
        going = restore(
            sound.data[:size], sound.expected, tmp_path / "out", sound.checkpoint, keep_going=True
        )  # fmt: skip
        assert not going.wrong, (size, going)
        assert going.code == 4
        head = max(end for name in ("manifest", "table") for _, end in sound.classes[name])
        if size >= head:
            expected = {name for name, end in needs.items() if end <= size}
            assert expected <= set(going.written), (size, expected - set(going.written), going)
        restored += len(going.written)
    assert restored > 100


def bytes_needed(sound: Sound) -> dict[str, int]:
    """For each file of the archive: the byte behind all that restoring it reads."""
    with zipfile.ZipFile(sound.file()) as directory:
        ends = {
            info.filename: info.header_offset + 30 + len(info.filename.encode()) + info.file_size
            for info in directory.infolist()
        }
    asked: list[str] = []

    class Watched(ArchiveReader):
        def read(self, name: str) -> bytes:
            asked.append(name)
            return super().read(name)

        def open(self, name: str) -> BinaryIO:
            asked.append(name)
            return super().open(name)

    needed: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive_module, "ArchiveReader", Watched)
        for name in sound.expected:
            with (
                osoa_pl.open_archive(sound.file(), checkpoint=sound.checkpoint) as archive,
                tempfile.TemporaryDirectory() as folder,
            ):
                archive.extract(folder, only=name)
            needed[name] = max(ends[member] for member in asked)
            asked.clear()
    return needed
