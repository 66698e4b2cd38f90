"""The folder of unfinished members: names, failures in one line, several processes."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from osoa_pl.errors import OsoaError
from osoa_pl.format.container import ArchiveReader, ArchiveWriter
from osoa_pl.format.partial import PartialFolder

NAMES = ("shards/0000/000001.seg", "shards/0000/000010.seg", "items.json.z", "files/Ünï.txt", "a~b")


def test_round_trip(tmp_path: Path) -> None:
    folder = PartialFolder(tmp_path)
    for name in NAMES:
        assert folder.read(name) is None
        assert not folder.has(name)
        folder.write(name, name.encode())
        folder.write(name, name.encode() * 2)
    for name in NAMES:
        assert folder.has(name)
        assert folder.read(name) == name.encode() * 2
        assert folder.size(name) == 2 * len(name.encode())
        with folder.open(name) as file:
            assert file.read() == name.encode() * 2
    assert folder.names("shards/") == sorted(NAMES[:2])
    assert folder.names() == sorted(NAMES[:3])
    assert all(entry.is_file() for entry in tmp_path.iterdir())
    folder.rename(NAMES[0], NAMES[1])
    assert folder.read(NAMES[1]) == NAMES[0].encode() * 2
    assert not folder.has(NAMES[0])
    folder.remove(NAMES[1])
    folder.remove(NAMES[1])
    assert folder.names("shards/") == []


def test_failures_are_one_line(tmp_path: Path) -> None:
    folder = PartialFolder(tmp_path / "a.partial")
    folder.path.mkdir()
    for call in (folder.size, folder.open, lambda name: folder.rename(name, "other")):
        with pytest.raises(OsoaError, match=r"a\.partial: 'x' has vanished"):
            call("x")
    with pytest.raises(OsoaError, match="folder .* has vanished"), folder.create("x") as file:
        file.write(b"1")
        shutil.rmtree(folder.path)
    for call in (folder.size, folder.open, folder.names, lambda name: folder.write(name, b"")):
        with pytest.raises(OsoaError, match="folder .* has vanished"):
            call("x")
    assert folder.read("x") is None


def _full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = PartialFolder(tmp_path)
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OsoaError, match="cannot write: No space left on device"):
        folder.write("x", b"1")
    assert os.listdir(tmp_path) == []


def _work(path: Path, number: int) -> None:
    PartialFolder(path).write(f"shards/{number:04d}", bytes([number]) * 1000)


def test_processes_fill_it_together(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            list(pool.map(_work, [writer.folder.path] * 6, range(6)))
        names = writer.folder.names("shards/")
        assert len(names) == 6
        assert all(writer.adopt(name) for name in names)
        assert not writer.adopt("shards/0006")
        assert writer.read(names[3]) == bytes([3]) * 1000
        writer.commit({})
    with ArchiveReader(tmp_path / "a.osoa") as archive:
        assert archive.names()[2:] == names
        assert archive.read(names[5]) == bytes([5]) * 1000
