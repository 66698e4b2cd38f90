"""The container: what goes in comes out, equal input gives equal bytes, damage is always ours."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from osoa_pl.errors import (
    ArchiveError,
    DamagedArchiveError,
    OsoaError,
    OutputExistsError,
    UsageError,
)
from osoa_pl.format.container import (
    FORMAT_VERSION,
    MIMETYPE,
    ArchiveReader,
    ArchiveWriter,
    require,
)

MEMBERS = {
    "segments/0000/000000.seg": bytes(range(256)) * 9,
    "files/ünï cödé/ə b.txt": b"hello",
    "empty": b"",
}


def write(path: Path, members: dict[str, bytes] = MEMBERS, **manifest: object) -> bytes:
    with ArchiveWriter(path, overwrite=True) as writer:
        for name, data in members.items():
            writer.add(name, data)
        writer.commit({"model": "m", **manifest})
    return path.read_bytes()


def raw_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as pack:
        for name, data in members.items():
            pack.writestr(name, data, zipfile.ZIP_STORED if name == "mimetype" else method)
    return path


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    write(path)
    assert os.listdir(tmp_path) == ["a.osoa"]
    with ArchiveReader(path) as archive:
        assert archive.names() == ["mimetype", "manifest.json", *MEMBERS]
        assert archive.manifest == {"format": FORMAT_VERSION, "model": "m"}
        assert archive.total_size == path.stat().st_size
        for name, data in MEMBERS.items():
            assert archive.read(name) == data
            assert archive.size(name) == len(data)
            with archive.open(name) as stream:
                assert stream.read(5) + stream.read() == data
        with pytest.raises(DamagedArchiveError, match="'nothing' is missing"):
            archive.read("nothing")


def test_binary_file_stays_open(tmp_path: Path) -> None:
    stream = io.BytesIO(write(tmp_path / "a.osoa"))
    with ArchiveReader(stream) as archive:
        assert archive.read("empty") == b""
    assert not stream.closed


def test_any_tool_reads_it_and_bytes_are_equal(tmp_path: Path) -> None:
    first = write(tmp_path / "a.osoa")
    os.utime(tmp_path / "a.osoa", (0, 0))
    assert write(tmp_path / "b.osoa") == first
    assert first[30:61] == b"mimetype" + MIMETYPE
    with zipfile.ZipFile(tmp_path / "a.osoa") as pack:
        assert pack.testzip() is None
        assert {i.date_time for i in pack.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {i.create_system for i in pack.infolist()} == {3}
        assert {i.compress_type for i in pack.infolist()} == {zipfile.ZIP_STORED}


def test_add_file_and_stream(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(3 << 20))
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        writer.add_file("one", source)
        with writer.create("two") as file:
            file.write(b"12")
            file.write(b"34")
        with pytest.raises(UsageError):
            writer.add("one", b"")
        writer.commit({})
    with ArchiveReader(tmp_path / "a.osoa") as archive:
        assert archive.size("one") == 3 << 20
        assert archive.read("two") == b"1234"


def test_nothing_is_left_without_commit(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), ArchiveWriter(path, overwrite=True) as writer:
        writer.add("x", b"1")
        assert (tmp_path / "a.osoa.partial").is_dir()
        raise RuntimeError
    with ArchiveWriter(path, overwrite=True) as writer:
        writer.add("x", b"1")
    with pytest.raises(TypeError), ArchiveWriter(path, overwrite=True) as writer:
        writer.commit({"bad": object()})
    assert os.listdir(tmp_path) == ["a.osoa"]
    assert path.read_bytes() == b"before"


def test_output_is_checked_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    path.write_bytes(b"")
    with pytest.raises(OutputExistsError, match="exists already"):
        ArchiveWriter(path)
    with pytest.raises(UsageError, match="does not exist"):
        ArchiveWriter(tmp_path / "no" / "a.osoa")
    with pytest.raises(UsageError, match="is a folder"):
        ArchiveWriter(tmp_path, overwrite=True)


def test_leftovers_and_foreign_folders(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    partial = tmp_path / "a.osoa.partial"
    partial.mkdir()
    (partial / "mine").write_bytes(b"precious")
    with pytest.raises(UsageError, match="in the way"), ArchiveWriter(path):
        pass
    assert (partial / "mine").read_bytes() == b"precious"
    (partial / "osoa-partial").write_bytes(b"")  # the mark of a killed run
    write(path)
    assert not partial.exists()


def test_two_writers_of_one_output(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with ArchiveWriter(tmp_path / "a.osoa") as first:
        first.add("x", b"1")
        with (
            pytest.raises(UsageError, match="another run"),
            ArchiveWriter(tmp_path / "a.osoa"),
        ):
            pass
        first.commit({})
    assert os.listdir(tmp_path) == ["a.osoa"]


def test_not_an_archive_and_newer(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    for data in (b"", b"hello", bytes(1000)):
        path.write_bytes(data)
        with pytest.raises(ArchiveError, match="not an osoa archive"):
            ArchiveReader(path)
    raw_zip(path, {"a": b"1"})
    with pytest.raises(ArchiveError, match="not an osoa archive"):
        ArchiveReader(path)
    text = json.dumps({"format": FORMAT_VERSION + 2}).encode()
    raw_zip(path, {"mimetype": MIMETYPE, "manifest.json": text})
    with pytest.raises(ArchiveError, match="newer version: format 8, this version reads up to 6"):
        ArchiveReader(path)
    with pytest.raises(UsageError, match="no such file"):
        ArchiveReader(tmp_path / "missing")
    with pytest.raises(ArchiveError, match="is a folder"):
        ArchiveReader(tmp_path)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"{}", b'{"format":true}', b'{"format":"1"}', b"[" * 100000, b"\xff"]
)
def test_bad_manifest(tmp_path: Path, text: bytes) -> None:
    path = raw_zip(tmp_path / "a", {"mimetype": MIMETYPE, "manifest.json": text})
    with pytest.raises(DamagedArchiveError, match=r"manifest\.json"):
        ArchiveReader(path)


def test_compressed_and_repeated_members(tmp_path: Path) -> None:
    good = {"mimetype": MIMETYPE, "manifest.json": b'{"format":1}'}
    path = raw_zip(tmp_path / "a", {**good, "x": bytes(99)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedArchiveError, match="compressed"):
        ArchiveReader(path)
    raw_zip(path, good)
    with zipfile.ZipFile(path, "a") as pack, pytest.warns(UserWarning, match="Duplicate"):
        pack.writestr("manifest.json", b"{}")
    with pytest.raises(DamagedArchiveError, match="twice"):
        ArchiveReader(path)


def read_all(data: bytes) -> dict[str, bytes]:
    with ArchiveReader(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.names()}


def test_truncation_is_always_an_error_of_ours(tmp_path: Path) -> None:
    data = write(tmp_path / "a.osoa")
    for length in range(0, len(data), 7):
        with pytest.raises(ArchiveError):
            read_all(data[:length])
    with pytest.raises(DamagedArchiveError, match="truncated"):
        read_all(data[:-1])


def test_flips_never_change_a_member_silently(tmp_path: Path) -> None:
    data = write(tmp_path / "a.osoa")
    sound = read_all(data)
    generator = random.Random(1)
    directory = data.index(b"PK\1\2")
    places = [generator.randrange(len(data)) for _ in range(500)]
    places += [generator.randrange(directory, len(data)) for _ in range(1500)]
    for place in places:
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        try:
            found = read_all(bytes(damaged))
        except OsoaError:
            continue
        # A flip in a name moves a member; one in a date or a permission is harmless.
        assert sorted(found.values()) == sorted(sound.values())


def test_noise_after_the_head(tmp_path: Path) -> None:
    data = write(tmp_path / "a.osoa")
    generator = random.Random(2)
    for _ in range(300):
        damaged = bytearray(data)
        start = generator.randrange(len(data))
        noise = generator.randbytes(generator.randrange(1, 64))
        damaged[start : start + len(noise)] = noise
        with suppress(OsoaError):
            read_all(bytes(damaged))


def test_damage_names_the_member(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.osoa"))
    data[data.index(b"hello")] ^= 1
    with (
        ArchiveReader(io.BytesIO(bytes(data))) as archive,
        pytest.raises(DamagedArchiveError, match=r"ə b.txt' \(bytes \d+ to \d+\) fails its"),
    ):
        archive.read("files/ünï cödé/ə b.txt")
    with (
        ArchiveReader(io.BytesIO(bytes(data))) as archive,
        archive.open("files/ünï cödé/ə b.txt") as stream,
        pytest.raises(DamagedArchiveError, match="fails its checksum"),
    ):
        stream.read()


def test_require() -> None:
    assert require({"a": 1}, "a", int, "x") == 1
    for value in (None, "1", True, 1.0):
        with pytest.raises(DamagedArchiveError, match="'a': found .*, expected int"):
            require({"a": value}, "a", int, "x")
