"""Tars in and out: names are labels, times keep their fraction, damage is one line."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from osoa_pl.data.tars import TarOutput, Unpacked, is_tar, unpack
from osoa_pl.errors import InputError, OsoaError, OutputExistsError, UsageError


def tar(*members: tuple[str, bytes | None, dict[str, Any]]) -> bytes:
    """A tar of (name, content, fields of the header)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, fields in members:
            info = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(info, key, value)
            if content is not None:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return out.getvalue()


def contents(unpacked: Unpacked) -> dict[str, bytes]:
    return {name: path.read_bytes() for path, name, _ in unpacked.files}


SIMPLE = (
    ("./a.png", b"first", {"mtime": 1_700_000_000}),
    ("sub/", None, {"type": tarfile.DIRTYPE, "mtime": 5}),
    ("sub/./b.png", b"second" * 9999, {"pax_headers": {"mtime": "1700000000.123456789"}}),
    ("ünï/" + "long" * 60, b"", {"mtime": 0}),
)


def test_round_trip_of_files_folders_and_times(tmp_path: Path) -> None:
    unpacked = unpack(io.BytesIO(tar(*SIMPLE)), tmp_path)
    assert [(path.name, name, mtime) for path, name, mtime in unpacked.files] == [
        ("000001", "a.png", 1_700_000_000 * 10**9),
        ("000002", "sub/b.png", 1_700_000_000_123_456_789),
        ("000003", "ünï/" + "long" * 60, 0),
    ]
    assert unpacked.folders == [("sub", 5 * 10**9)]
    assert unpacked.skipped == []
    assert contents(unpacked)["sub/b.png"] == b"second" * 9999

    out = io.BytesIO()
    with TarOutput(out) as output:
        for name, mtime in unpacked.folders:
            output.add_folder(name, mtime)
        for path, name, mtime in unpacked.files:
            output.add_file(name, path, mtime)
    (tmp_path / "again").mkdir()
    again = unpack(io.BytesIO(out.getvalue()), tmp_path / "again")
    assert contents(again) == contents(unpacked)
    assert [file[1:] for file in again.files] == [file[1:] for file in unpacked.files]
    assert again.folders == unpacked.folders


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compression(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = compress(tar(*SIMPLE))
    (tmp_path / "x.tar").write_bytes(data)
    for source in (tmp_path / "x.tar", str(tmp_path / "x.tar"), io.BytesIO(data)):
        folder = tmp_path / f"out{len(os.listdir(tmp_path))}"
        folder.mkdir()
        assert len(unpack(source, folder).files) == 3
    if compress is not bytes:
        folder = tmp_path / "two"
        folder.mkdir()
        halves = tar(*SIMPLE)[:2000], tar(*SIMPLE)[2000:]
        joined = b"".join(map(compress, halves))  # as parallel compressors write
        assert len(unpack(io.BytesIO(joined), folder).files) == 3


def test_what_is_skipped(tmp_path: Path) -> None:
    kinds = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
    folder = tmp_path / "in"
    folder.mkdir()
    unpacked = unpack(
        io.BytesIO(
            tar(
                ("../up", b"1", {}),
                ("/absolute", b"2", {}),
                ("a/../../b", b"3", {}),
                ("link", None, kinds),
                ("link/inside", b"4", {}),
                ("pipe", None, {"type": tarfile.FIFOTYPE}),
                ("null", None, {"type": tarfile.CHRTYPE}),
                ("odd", None, {"type": b"Z"}),
                ("hard", None, {"type": tarfile.LNKTYPE, "linkname": "../up"}),
                (".", None, {"type": tarfile.DIRTYPE}),
                ("good", b"5", {}),
            )
        ),
        folder,
    )
    assert contents(unpacked) == {"link/inside": b"4", "good": b"5"}
    assert unpacked.folders == []
    assert dict(unpacked.skipped) == {
        "../up": "unsafe path",
        "/absolute": "unsafe path",
        "a/../../b": "unsafe path",
        "link": "symbolic link",
        "pipe": "pipe",
        "null": "device",
        "odd": "unknown type b'Z'",
        "hard": "hard link to nothing in the tar",
    }
    assert sorted(os.listdir(folder)) == ["000001", "000002"]
    assert os.listdir(tmp_path) == ["in"]


def test_hard_links_and_repeated_names(tmp_path: Path) -> None:
    link = {"type": tarfile.LNKTYPE, "linkname": "./a"}
    unpacked = unpack(
        io.BytesIO(
            tar(
                ("a", b"old", {"mtime": 3}),
                ("b", None, link),
                ("a", b"new", {}),
                ("a", None, link),  # named twice when it was made
                ("c", None, link),
            )
        ),
        tmp_path,
    )
    assert contents(unpacked) == {"a": b"new", "b": b"old", "c": b"new"}
    assert [name for _, name, _ in unpacked.files] == ["b", "a", "c"]
    assert unpacked.files[0][2] == 3 * 10**9
    assert unpacked.skipped == [("a", "replaced by a later member")]
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("time", ["nan", "inf", "1e999999999", "-5.25", "9" * 30, "", "x"])
def test_odd_times(tmp_path: Path, time: str) -> None:
    data = tar(("a", b"1", {"pax_headers": {"mtime": time}}))
    assert unpack(io.BytesIO(data), tmp_path).files[0][2] == (-5_250_000_000 if "5" in time else 0)


def test_sparse_members(tmp_path: Path) -> None:
    info = tarfile.TarInfo("s")
    info.size = 512
    info.pax_headers = {
        "GNU.sparse.size": "3000", "GNU.sparse.numblocks": "1", "GNU.sparse.map": "1000,512",
    }  # fmt: skip
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"x" * 512))
        archive.addfile(tarfile.TarInfo("after"))
    unpacked = unpack(io.BytesIO(out.getvalue()), tmp_path)
    assert contents(unpacked) == {"s": bytes(1000) + b"x" * 512 + bytes(1488), "after": b""}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_truncated_is_refused(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    plain = tar(*SIMPLE)
    data = compress(plain)
    end = len(plain.rstrip(b"\0")) if compress is bytes else len(data)
    end = end // 512 * 512  # behind it only the end mark and its padding
    for length in range(0, end, max(1, end // 60)):
        folder = tmp_path / f"at{length}"
        folder.mkdir()
        with pytest.raises(InputError) as caught:
            unpack(io.BytesIO(data[:length]), folder)
        assert "\n" not in str(caught.value)


def test_damage_is_refused_or_harmless(tmp_path: Path) -> None:
    generator = random.Random(1)
    plain = tar(*SIMPLE)
    for number in range(150):
        data = bytearray(gzip.compress(plain) if number % 3 == 0 else plain)
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            unpack(io.BytesIO(bytes(data)), folder)
        except InputError as error:
            assert "\n" not in str(error)
        assert all(name.isdigit() for name in os.listdir(folder))
    assert len(os.listdir(tmp_path)) == 150


def test_a_checksum_of_compressed_data_counts(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(tar(*SIMPLE)))
    data[-8] ^= 1
    with pytest.raises(InputError, match="tar: not a tar file, or a damaged one: CRC check failed"):
        unpack(io.BytesIO(bytes(data)), tmp_path)


def test_no_tars(tmp_path: Path) -> None:
    for data, reason in ((b"", "empty"), (b"P5 1 1 255 x" * 99, "not a tar file")):
        with pytest.raises(InputError, match=f"tar: {reason}"):
            unpack(io.BytesIO(data), tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        unpack(tmp_path / "missing.tar", tmp_path)
    with pytest.raises(InputError, match="is a folder"):
        unpack(tmp_path, tmp_path)
    nested = io.BytesIO()
    for _ in range(3000):  # an extended header of an extended header, and so on
        info = tarfile.TarInfo("x")
        info.type = tarfile.XHDTYPE
        nested.write(info.tobuf(tarfile.USTAR_FORMAT))
    with pytest.raises(InputError):
        unpack(io.BytesIO(nested.getvalue()), tmp_path)
    with pytest.raises(OsoaError, match="cannot write"):
        unpack(io.BytesIO(tar(*SIMPLE)), tmp_path / "no folder")


def test_is_tar(tmp_path: Path) -> None:
    files = {
        "a.tar": (tar(*SIMPLE), True),
        "B.TAR": (tar(*SIMPLE), True),
        "empty.tar": (tar(), True),
        "old.tar": (tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT), True),
        "fake.tar": (b"P5 1 1 255 x" * 99, False),
        "short.tar": (b"P5", False),
        "nothing.tar": (b"", False),
        "a.tar.gz": (b"", True),
        "a.tgz": (b"", True),
        "a.tar.xz": (b"", True),
        "a.tar.bz2": (b"", True),
        "a.png": (tar(*SIMPLE), False),
        "a.gz": (b"", False),
    }
    for name, (data, expected) in files.items():
        (tmp_path / name).write_bytes(data)
        assert is_tar(tmp_path / name) is expected, name
        assert is_tar(str(tmp_path / name)) is expected
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "folder.tgz").mkdir()
    assert not is_tar(tmp_path / "folder.tar")
    assert not is_tar(tmp_path / "folder.tgz")
    assert not is_tar(tmp_path / "missing.tar")


def fill(output: TarOutput, path: Path) -> None:
    output.add_folder("sub", 7)
    output.add_file("sub/a", path)
    output.add_file("sub/ü" + "x" * 200, path, -1_500_000_000)


def test_output_is_constant_and_atomic(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"12345" * 1000)
    stream = io.BytesIO()
    with TarOutput(stream) as output:
        fill(output, source)
    os.utime(source, (1, 1))
    with TarOutput(tmp_path / "a.tar") as output:
        fill(output, source)
        assert not (tmp_path / "a.tar").exists()
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()
    assert not stream.closed
    with tarfile.open(tmp_path / "a.tar") as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["sub", "sub/a", "sub/ü" + "x" * 200]
    assert {(m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, "", "")}
    assert [member.mode for member in members] == [0o755, 0o644, 0o644]
    assert [member.mtime for member in members] == [7e-9, 0, -1.5]
    with pytest.raises(OutputExistsError):
        TarOutput(tmp_path / "a.tar")
    with pytest.raises(RuntimeError), TarOutput(tmp_path / "a.tar", overwrite=True) as output:
        output.add_file("x", source)
        raise RuntimeError
    with pytest.raises(OsoaError, match="missing: cannot be read"), TarOutput(tmp_path / "b") as o:
        o.add_file("x", tmp_path / "missing")
    assert (tmp_path / "a.tar").read_bytes() == stream.getvalue()
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "source"]


def test_a_stream_that_fails(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"12345" * 1000)

    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    class Gone(io.BytesIO):
        def write(self, _: Any) -> int:
            raise BrokenPipeError

    with pytest.raises(OsoaError, match="tar: cannot write: No space left"), TarOutput(Full()) as o:
        fill(o, source)
    with pytest.raises(BrokenPipeError), TarOutput(Gone()) as o:
        fill(o, source)
    stream = io.BytesIO()
    with pytest.raises(RuntimeError), TarOutput(stream) as output:
        output.add_file("x", source)
        raise RuntimeError
    with pytest.raises(InputError, match="end mark"):  # so that nobody takes it for whole
        unpack(io.BytesIO(stream.getvalue()), tmp_path)


def test_output_to_a_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    (tmp_path / "source").write_bytes(b"1")
    with TarOutput("memory://a.tar") as output:
        fill(output, tmp_path / "source")
        assert not system.store
    (tmp_path / "out").mkdir()
    assert len(unpack("memory://a.tar", tmp_path / "out").files) == 2
    system.store.clear()
