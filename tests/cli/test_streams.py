"""Standard streams that are closed or full: the exit code and the archive stay right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import osoa_pl

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="closes streams in a POSIX shell")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "notes.txt").write_text("no pixels, no checkpoint needed to read it\n")
    osoa_pl.compress(tmp_path / "notes.txt", tmp_path / "a.osoa")
    return tmp_path / "a.osoa"


def shell(redirection: str, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "osoa_pl", *map(str, words)]
    line = 'exec "$@" ' + redirection
    return subprocess.run(
        ["sh", "-c", line, "sh", *command], capture_output=True, text=True, check=False
    )


def test_closed_streams(archive):
    assert shell(">&-", "list", archive).returncode == 0
    assert shell("2>&-", "list", "missing.osoa").returncode == 2
    out = archive.parent / "out"
    assert shell("<&- >&- 2>&-", "decompress", archive, "-o", out).returncode == 0
    assert (out / "notes.txt").read_text() == (archive.parent / "notes.txt").read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_output_is_told_on_stderr(archive):
    for words in (("list", archive), ("list", archive, "--json")):
        ran = shell("> /dev/full", *words)
        assert ran.returncode == 1
        assert ran.stderr == "osoa: error: no space left on device\n"
