"""Archives that go to and come from URLs, standard streams and binary files."""

from __future__ import annotations

import contextlib
import errno
import http.server
import io
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from osoa_pl.errors import ArchiveError, OsoaError, OutputExistsError, UsageError
from osoa_pl.format import places
from osoa_pl.format.container import ArchiveReader, ArchiveWriter
from osoa_pl.format.places import is_url


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No test leaves anything among the temporary files, so that one that does is noticed."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert os.listdir(folder) == []


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def write(target: Any, **options: Any) -> None:
    with ArchiveWriter(target, **options) as writer:
        writer.add("x", b"1" * 100_000)
        writer.commit({})


def content(source: Any) -> bytes:
    with ArchiveReader(source) as archive:
        return archive.read("x")


def test_is_url() -> None:
    yes = ("s3://b/a", "memory://a", "simplecache::https://h/a", "zip://x::file:///a", "a+b://c")
    assert all(is_url(text) for text in yes)
    assert not any(is_url(x) for x in ("a", "-", "C://a", "c:\\a", "/a://b", "", Path("s3://b/a")))


def test_memory_round_trip(memory: Any) -> None:
    write("memory://folder/a.osoa")
    assert list(memory.store) == ["/folder/a.osoa"]
    assert content("memory://folder/a.osoa") == b"1" * 100_000
    with ArchiveReader("memory://folder/a.osoa") as archive:
        assert archive.label == "memory://folder/a.osoa"
    with pytest.raises(OutputExistsError, match="exists already"):
        write("memory://folder/a.osoa")
    write("memory://folder/a.osoa", overwrite=True)
    with pytest.raises(UsageError, match="is a folder"):
        write("memory://folder", overwrite=True)
    with pytest.raises(UsageError, match="memory://b: no such file"):
        content("memory://b")


def test_resuming_an_upload(memory: Any, own_temporary_folder: Path) -> None:
    with ArchiveWriter("memory://a.osoa") as writer:
        writer.add("x", b"1" * 100_000)
        writer.keep = True
    assert [name[:5] for name in os.listdir(own_temporary_folder)] == ["osoa-"]
    if os.name == "posix":
        assert writer.partial.stat().st_mode & 0o077 == 0
    with ArchiveWriter("memory://a.osoa", resume=True) as writer:
        assert writer.adopt("x")
        assert not memory.store
        writer.commit({})
    assert content("memory://a.osoa") == b"1" * 100_000


def test_a_failed_upload_leaves_nothing(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("the line\nis cut")

    monkeypatch.setattr(type(memory), "mv", fails)
    with pytest.raises(OsoaError, match="memory://a.osoa: cannot be written: the line is cut"):
        write("memory://a.osoa")
    assert not memory.store

    def refuse(packed: Path) -> None:
        raise OsoaError("wrong")

    with pytest.raises(OsoaError, match="wrong"), ArchiveWriter("memory://a.osoa") as writer:
        writer.commit({}, check=refuse)
    assert not memory.store


def test_only_what_is_read_is_fetched(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            fetched.append(len(data))
            return data

    out = io.BytesIO()
    with ArchiveWriter(out) as writer:
        for name in "abc":
            writer.add(name, os.urandom(1 << 20))
        writer.commit({})
    monkeypatch.setattr(type(memory), "open", lambda *_, **__: Counting(out.getvalue()))
    with ArchiveReader("memory://a.osoa") as archive:
        assert len(archive.read("b")) == 1 << 20
    assert sum(fetched) < (1 << 20) + (1 << 18)


def test_reading_fails_midway(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write("memory://a.osoa")
    with ArchiveReader("memory://a.osoa") as archive:
        monkeypatch.setattr(archive._file._file, "read", lambda _: 1 / 0, raising=False)
        with pytest.raises(OsoaError, match="memory://a.osoa: cannot be read: division") as caught:
            archive.read("x")
    assert not isinstance(caught.value, ArchiveError)


def test_local_urls_are_paths(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    url = f"file://{(tmp_path / 'a.osoa').as_posix()}"
    with ArchiveWriter(url) as writer:
        assert writer.partial == tmp_path / "a.osoa.partial"
        writer.add("x", b"1")
        writer.commit({})
    assert content(url) == content(tmp_path / "a.osoa") == b"1"
    with pytest.raises(OutputExistsError):
        ArchiveWriter(url)


def test_urls_that_cannot_be_served(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(UsageError, match="nothing://a: Protocol not known"):
        ArchiveReader("nothing://a")
    with pytest.raises(UsageError, match="nothing://a: Protocol not known"):
        ArchiveWriter("nothing://a")
    for module in ("s3fs", "fsspec.implementations.sftp"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match="s3://b/a: a package is missing") as caught:
        ArchiveReader("s3://b/a")
    assert caught.value.hint == "`pip install s3fs`"
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UsageError, match="s3://.*need the package fsspec") as caught:
        ArchiveWriter("s3://user:secret@b/a")
    assert caught.value.hint == "`pip install fsspec`"
    assert "secret" not in str(caught.value)


class Handler(http.server.BaseHTTPRequestHandler):
    data = b""
    ranges = True
    sent = 0

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        asked = self.headers.get("Range", "") if self.ranges else ""
        first, last = 0, len(self.data) - 1
        if self.path != "/a.osoa":
            self.send_error(404)
            return
        if asked:
            texts = asked.removeprefix("bytes=").split("-")
            first, last = int(texts[0]), min(last, int(texts[1]))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.data)}")
        else:
            self.send_response(200)
        if self.ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        if with_body:
            type(self).sent += last + 1 - first
            with contextlib.suppress(OSError):
                self.wfile.write(self.data[first : last + 1])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_http(ranges: bool) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("fsspec")
    out = io.BytesIO()
    with ArchiveWriter(out) as writer:
        for name in "abcdefgh":
            writer.add(name, os.urandom(1 << 20))
        writer.commit({})
    handler = type("Given", (Handler,), {"data": out.getvalue(), "ranges": ranges, "sent": 0})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address = f"http://127.0.0.1:{server.server_address[1]}"
            with ArchiveReader(f"{address}/a.osoa") as archive:
                assert archive.read("c") == ArchiveReader(out).read("c")
            if ranges:
                assert handler.sent < len(out.getvalue()) // 2  # type: ignore[attr-defined]
            with pytest.raises(UsageError, match="no such file"):
                ArchiveReader(f"{address}/b.osoa")
            with pytest.raises(UsageError, match="can be read but not written"):
                ArchiveWriter(f"{address}/b.osoa")
        finally:
            server.shutdown()
            thread.join()


def test_binary_files(tmp_path: Path) -> None:
    out = io.BytesIO()
    write(out)
    assert content(out) == b"1" * 100_000
    assert not out.closed
    write(tmp_path / "a.osoa")
    assert (tmp_path / "a.osoa").read_bytes() == out.getvalue()
    with pytest.raises(UsageError, match="cannot be resumed"):
        ArchiveWriter(out, resume=True)
    with ArchiveWriter(out) as writer:
        writer.keep = True  # nobody could find it again
    with (
        open(tmp_path / "a.osoa", encoding="latin-1") as text,
        pytest.raises(ArchiveError, match="not opened as binary"),
    ):
        ArchiveReader(text)  # type: ignore[arg-type]


class Pipe(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: Any) -> int:
        raise OSError(errno.ESPIPE, "Illegal seek")

    def isatty(self) -> bool:
        return False

    @property
    def buffer(self) -> Pipe:
        return self


def test_what_cannot_seek_is_spooled() -> None:
    out = io.BytesIO()
    write(out)
    assert content(Pipe(out.getvalue())) == b"1" * 100_000


def test_standard_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Pipe()
    monkeypatch.setattr(sys, "stdout", out)
    write("-")
    monkeypatch.setattr(sys, "stdin", Pipe(out.getvalue()))
    with ArchiveReader("-") as archive:
        assert archive.label == "standard input"
        assert archive.read("x") == b"1" * 100_000

    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(out, "write", full)
    with pytest.raises(OsoaError, match="standard output: cannot write: No space left"):
        write("-")

    def gone(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr(out, "write", gone)
    with pytest.raises(BrokenPipeError):
        write("-")


def test_terminals_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Pipe()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(UsageError, match="refusing to write an archive to a terminal"):
        ArchiveWriter("-")
    with pytest.raises(UsageError, match="refusing to read an archive from a terminal"):
        ArchiveReader("-")


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs owners")
def test_a_temporary_folder_of_somebody_else(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ArchiveWriter("memory://a.osoa")
    writer.partial.mkdir()
    (writer.partial / "osoa-partial").write_bytes(b"")
    monkeypatch.setattr("osoa_pl.format.writing.temporary_is_foreign", lambda _: True)
    with pytest.raises(UsageError, match="in the way"), writer:
        pass
    assert not places.temporary_is_foreign(writer.partial)
    (writer.partial / "osoa-partial").unlink()
    writer.partial.rmdir()
