"""The writer: leftovers kept and continued, the order of members, a last check, failures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from osoa_pl.errors import OsoaError, OutputExistsError, UsageError
from osoa_pl.format.container import FORMAT_VERSION, ArchiveReader, ArchiveWriter


def test_keep_and_resume(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    with pytest.raises(RuntimeError), ArchiveWriter(path) as writer:
        writer.add("x", b"1")
        writer.write_note("state", b"noted")
        writer.keep = True
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a.osoa.partial"]
    (tmp_path / "a.osoa.partial" / ".osoa-left").write_bytes(b"of a killed writer")
    with ArchiveWriter(path, resume=True) as writer:
        assert not (writer.partial / ".osoa-left").exists()
        assert writer.read_note("state") == b"noted"
        assert writer.adopt("x")
        assert not writer.adopt("y")
        writer.add("y", b"2")
        writer.commit({})
    assert os.listdir(tmp_path) == ["a.osoa"]
    with ArchiveReader(path) as archive:
        assert archive.names() == ["mimetype", "manifest.json", "x", "y"]
        assert archive.version == FORMAT_VERSION


def test_a_new_run_replaces_a_leftover(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        writer.add("x", b"1")
        writer.keep = True
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        assert not writer.adopt("x")
    assert os.listdir(tmp_path) == []
    with ArchiveWriter(tmp_path / "a.osoa", resume=True) as writer:  # nothing to continue
        writer.commit({})
    assert os.listdir(tmp_path) == ["a.osoa"]


def test_adopting_under_another_name(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        writer.folder.write("part-0/x", b"12")
        assert writer.adopt("shards/x", "part-0/x")
        assert not writer.adopt("shards/y", "part-0/y")
        assert writer.read("shards/x") == b"12"
        total = writer.commit({}, order=["shards/x"])
    assert total == (tmp_path / "a.osoa").stat().st_size
    with ArchiveReader(tmp_path / "a.osoa") as archive:
        assert archive.names()[2:] == ["shards/x"]


def test_order(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        for name in "abcd":
            writer.add(name, name.encode())
        for order in (["x"], ["a", "a"]):
            with pytest.raises(UsageError, match="order"):
                writer.commit({}, order=order)
        writer.commit({}, order=["d", "b"])
    with ArchiveReader(tmp_path / "a.osoa") as archive:
        assert archive.names()[2:] == ["d", "b", "a", "c"]


def test_check_sees_the_packed_file_and_may_refuse(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    seen = []

    def check(packed: Path) -> None:
        with ArchiveReader(packed) as archive:
            seen.append(archive.read("x"))
        assert not path.exists()
        if len(seen) == 1:
            raise OsoaError("wrong")

    with ArchiveWriter(path) as writer:
        writer.add("x", b"1")
        with pytest.raises(OsoaError, match="wrong"):
            writer.commit({}, check=check)
        assert os.listdir(tmp_path) == ["a.osoa.partial"]
        writer.commit({}, check=check)
    assert seen == [b"1", b"1"]
    assert os.listdir(tmp_path) == ["a.osoa"]


def test_names_that_are_taken(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        for name in ("mimetype", "manifest.json", "notes/x", "", "a\0b"):
            with pytest.raises(UsageError):
                writer.add(name, b"")
            with pytest.raises(UsageError):
                writer.adopt(name)
    with pytest.raises(UsageError, match="not open"):
        writer.add("x", b"")
    with pytest.raises(UsageError, match="not open"):
        writer.commit({})


def test_the_folder_vanishes(tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    for name in ("one", "all"):
        with ArchiveWriter(path) as writer:
            writer.add("x", b"1")
            if name == "one":
                writer.folder.remove("x")
            else:
                shutil.rmtree(writer.partial)
            with pytest.raises(OsoaError, match=r"a\.osoa\.partial: .* vanished"):
                writer.commit({})
        assert os.listdir(tmp_path) == []


def test_the_disk_is_full_while_packing(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.osoa"
    path.write_bytes(b"before")
    with ArchiveWriter(path, overwrite=True) as writer:
        for name in "abc":
            writer.add(name, bytes(40_000))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(OsoaError, match=r"a\.osoa: cannot write: ") as caught:
                writer.commit({})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == b"before"
        writer.commit({})  # there is room again
    assert os.listdir(tmp_path) == ["a.osoa"]


def test_output_appears_meanwhile(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a.osoa") as writer:
        (tmp_path / "a.osoa").write_bytes(b"theirs")
        with pytest.raises(OutputExistsError):
            writer.commit({})
    assert (tmp_path / "a.osoa").read_bytes() == b"theirs"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_devices_and_bad_names_are_no_destinations(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="a device or a pipe"):
        ArchiveWriter(tmp_path / "pipe", overwrite=True)
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UsageError):
            ArchiveWriter(tmp_path / name)
