"""Archives that lost their directory, bytes or headers: what is intact is found, nothing else."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from osoa_pl.errors import ArchiveError, DamagedArchiveError, OsoaError
from osoa_pl.format.container import MIMETYPE, ArchiveReader, ArchiveWriter
from osoa_pl.format.salvage import scan

GENERATOR = random.Random(5)


def pack(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with ArchiveWriter(out) as writer:
        for name, data in members.items():
            writer.add(name, data)
        writer.commit({"of": sorted(members), "padding": "x" * 1000})
    return out.getvalue()


INNER = {f"shards/0000/00000{i}.seg": GENERATOR.randbytes(300 + i) for i in range(3)}
MEMBERS = {
    "files/inner.osoa": pack({"files/secret": b"of another archive", **INNER}),
    "files/ünï cödé.txt": b"PK\3\4 and PK\5\6 and PK\1\2, in a text",
    "empty": b"",
    **{f"shards/0000/00000{i}.seg": GENERATOR.randbytes(500 + 31 * i) for i in range(6)},
}
DATA = pack(MEMBERS)
with ArchiveReader(io.BytesIO(DATA)) as _archive:
    SOUND = [_archive.read(name) for name in _archive.names()]


def recovered(data: bytes) -> tuple[dict[str, bytes], str | None] | None:
    """Members that can be read and the damage, each member checked; None where refused."""
    try:
        archive = ArchiveReader(io.BytesIO(data), recover=True)
    except ArchiveError as error:
        assert "\n" not in str(error)
        return None
    found = {}
    with archive:
        assert archive.manifest["of"] == sorted(MEMBERS)
        for name in archive.names():
            try:
                found[name] = archive.read(name)
            except DamagedArchiveError:
                continue
            offset = archive.offset(name)
            assert data[offset : offset + archive.size(name)] == found[name]
            with archive.open(name) as stream:
                assert stream.read() == found[name]
    return found, archive.damage


def check_right(found: dict[str, bytes], *others: bytes) -> None:
    for name, data in found.items():
        if name in MEMBERS:
            assert MEMBERS[name] == data, name
        else:  # the checksum does not cover the name
            assert data in (*SOUND, *others), name


def test_a_sound_archive_has_no_damage() -> None:
    found = recovered(DATA)
    assert found is not None
    assert found[1] is None
    assert len(found[0]) == len(MEMBERS) + 2
    check_right(found[0])


def test_truncation_gives_what_lies_before() -> None:
    ends = {}
    with ArchiveReader(io.BytesIO(DATA)) as archive:
        for name in archive.names():
            ends[name] = archive.offset(name) + archive.size(name)
    for length in (*range(0, len(DATA), 97), len(DATA) - 1):
        found = recovered(DATA[:length])
        if length < ends["manifest.json"]:
            assert found is None
            continue
        assert found is not None, length
        check_right(found[0])
        assert set(found[0]) == {name for name, end in ends.items() if end <= length}
        assert found[1] is not None
        assert found[1].startswith("the directory at the end is missing")
        assert found[1].endswith(f" {len(found[0])} members found by scanning")


def test_strict_reading_names_the_way_out() -> None:
    with pytest.raises(DamagedArchiveError, match="truncated after") as caught:
        ArchiveReader(io.BytesIO(DATA[:-30]))
    assert caught.value.hint == "`osoa decompress --keep-going` writes what is intact"


@pytest.mark.parametrize("kind", ["noise", "flip", "insert", "delete", "zeros", "swap"])
def test_mutations(kind: str) -> None:
    generator = random.Random(kind)
    opened = 0
    for _ in range(100):
        data = bytearray(DATA)
        for _ in range(generator.randrange(1, 3)):
            at, size = generator.randrange(len(data)), generator.randrange(1, 400)
            if kind == "noise":
                data[at : at + size] = generator.randbytes(min(size, len(data) - at))
            elif kind == "flip":
                data[at] ^= 1 << generator.randrange(8)
            elif kind == "insert":
                data[at:at] = generator.randbytes(size)
            elif kind == "delete":
                del data[at : at + size]
            elif kind == "zeros":
                data[at : at + size] = bytes(min(size, len(data) - at))
            else:
                other = generator.randrange(len(data))
                data[at : at + size], data[other : other + size] = (
                    data[other : other + size],
                    data[at : at + size],
                )
        found = recovered(bytes(data))
        if found is not None:
            opened += 1
            # a swap may take a member out of the inner archive
            check_right(found[0], *[b"of another archive"] * (kind == "swap"))
    assert opened > 60


def test_one_damaged_place_costs_one_member() -> None:
    with ArchiveReader(io.BytesIO(DATA)) as archive:
        at = archive.offset("shards/0000/000002.seg")
    for data in (
        DATA[: at + 50] + b"some bytes too many" + DATA[at + 50 :],
        DATA[: at + 50] + b"some bytes too many" * 500 + DATA[at + 50 :],
        DATA[: at + 50] + DATA[at + 70 :],
        DATA[: at + 50] + DATA[at + 50 + len(MEMBERS["shards/0000/000002.seg"]) - 60 :],
    ):
        found = recovered(data)
        assert found is not None
        assert set(MEMBERS) - set(found[0]) == {"shards/0000/000002.seg"}
        assert found[1] is not None
    data = bytearray(DATA)
    data[at + 50] ^= 1
    found = recovered(bytes(data))
    assert found is not None
    assert set(MEMBERS) - set(found[0]) == {"shards/0000/000002.seg"}
    assert found[1] is None
    size = len(MEMBERS["shards/0000/000002.seg"])
    with (
        ArchiveReader(io.BytesIO(bytes(data))) as archive,
        pytest.raises(DamagedArchiveError, match=rf"\(bytes {at} to {at + size - 1}\) fails its"),
    ):
        archive.read("shards/0000/000002.seg")


def test_a_damaged_header_costs_nothing() -> None:
    with ArchiveReader(io.BytesIO(DATA)) as archive:
        for name in MEMBERS:
            start = archive.offset(name) - 30 - len(name.encode())
            data = bytearray(DATA)
            data[start : start + 20] = bytes(20)
            found = recovered(bytes(data))
            assert found is not None
            assert set(MEMBERS) <= set(found[0])
            check_right(found[0])
            with (
                ArchiveReader(io.BytesIO(bytes(data))) as strict,
                pytest.raises(DamagedArchiveError, match=f"its header at byte {start} is damaged"),
            ):
                strict.read(name)


def test_a_damaged_head() -> None:
    with ArchiveReader(io.BytesIO(DATA)) as archive:
        manifest = archive.offset("manifest.json")
    data = bytes(manifest) + DATA[manifest:]  # both headers at the start are gone
    with pytest.raises(ArchiveError, match="not an osoa archive"):
        ArchiveReader(io.BytesIO(data))
    found = recovered(data)
    assert found is not None
    assert set(MEMBERS) <= set(found[0])
    assert found[1] is not None
    assert found[1].startswith("its first bytes are damaged; ")
    assert recovered(b"a line before\n" + DATA) is not None
    with pytest.raises(ArchiveError, match="not an osoa archive"):
        ArchiveReader(io.BytesIO(bytes(manifest)), recover=True)
    gone = DATA[: manifest + 2] + b"~" + DATA[manifest + 3 : -9]
    with pytest.raises(DamagedArchiveError, match=r"'manifest\.json' is missing or damaged"):
        ArchiveReader(io.BytesIO(gone), recover=True)


def test_a_newer_archive_stays_newer() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("mimetype"), MIMETYPE)
        archive.writestr(zipfile.ZipInfo("manifest.json"), b'{"format":9}')
    for data in (out.getvalue(), out.getvalue()[:-5]):
        with pytest.raises(ArchiveError, match="newer version"):
            ArchiveReader(io.BytesIO(data), recover=True)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    for data in (b"", b"PK\3\4", b"PK\5\6" + bytes(18), bytes(100_000), GENERATOR.randbytes(5000)):
        with pytest.raises(ArchiveError, match="not an osoa archive"):
            ArchiveReader(io.BytesIO(data), recover=True)


def header(name: bytes, size: int, crc: int = 0, extra: bytes = b"") -> bytes:
    fields = (b"PK\3\4", 20, 0, 0, 0, 0x21, crc, size, size, len(name), len(extra))
    return struct.pack("<4sHHHHHIIIHH", *fields) + name + extra


def test_large_members_by_their_zip64_field() -> None:
    content = b"zip64"
    extra = struct.pack("<HHQQ", 1, 16, len(content), len(content))
    data = header(b"x", 0xFFFFFFFF, zlib.crc32(content), extra) + content
    found = scan(io.BytesIO(data), len(data))
    assert found["x"].start == len(data) - 5
    huge = header(b"x", 0xFFFFFFFF, 0, struct.pack("<HHQQ", 1, 16, 1 << 63, 1 << 63))
    assert scan(io.BytesIO(huge), len(huge)) == {}


@pytest.mark.parametrize(
    "unit",
    [header(b"a", 3 << 20), header(b"a" * 4000, 9), b"PK\3\4", b"PK\5\6", header(b"mimetype", 23)],
)
def test_hostile_bytes_take_linear_time(unit: bytes) -> None:
    data = unit * ((2 << 20) // len(unit))
    began = time.perf_counter()
    assert scan(io.BytesIO(data), len(data)) == {}
    assert time.perf_counter() - began < 30
    tracemalloc.start()
    try:
        assert scan(io.BytesIO(data[: 1 << 20]), 1 << 20) == {}
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_noise_raises_nothing_else() -> None:
    generator = random.Random(6)
    for _ in range(200):
        data = b"".join(
            generator.choice((b"PK\3\4", b"PK\5\6", b"PK\1\2", generator.randbytes(30), DATA[:150]))
            for _ in range(20)
        )
        with suppress(OsoaError):
            ArchiveReader(io.BytesIO(data), recover=True).close()
