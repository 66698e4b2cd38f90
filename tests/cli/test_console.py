"""What is printed where, and how."""

from __future__ import annotations

import io
import json
import os
from importlib import import_module

import pytest
from numba import njit

from osoa_pl.cli import console as consoles
from osoa_pl.cli.console import Console, duration, grouped, printable, size


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_units() -> None:
    counts = (0, 999, 1000, 999_499, 999_500, 2_949_120, 10**12, 2 * 10**15)
    assert [size(n) for n in counts] == [
        "0 B", "999 B", "1 kB", "999 kB", "1 MB", "2.95 MB", "1 TB", "2e+03 TB",
    ]  # fmt: skip
    assert [duration(s) for s in (0, 9.94, 42.4, 99.6, 200, 7500)] == [
        "0.0 s", "9.9 s", "42 s", "1 min 40 s", "3 min 20 s", "2 h 5 min",
    ]  # fmt: skip


def test_reasons_are_grouped_and_bounded() -> None:
    pairs = [(f"{i}.txt", "not an image") for i in range(5)]
    pairs += [(f"{i}.png", f"reason {i}") for i in range(9)]
    lines = grouped(pairs)
    assert lines[0] == "not an image: 0.txt, 1.txt, 2.txt and 2 more"
    assert len(lines) == consoles.MAX_LINES + 1
    assert lines[-1] == "and 5 more files (all of them with --json)"


def test_names_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\n") == "a\\x1b[31mb\\n"
    assert printable("ə 日") == "ə 日"


def test_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(color: consoles.Color, stream: io.StringIO) -> bool:
        Console(color=color, stdout=io.StringIO(), stderr=stream).warning("x")
        return "\x1b" in stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert shown("auto", Terminal()) and not shown("auto", io.StringIO())
    assert not shown("never", Terminal()) and shown("always", io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not shown("auto", Terminal()) and shown("always", Terminal())


def test_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(consoles.time, "monotonic", lambda: now)
    out, err = io.StringIO(), io.StringIO()
    with Console(stdout=out, stderr=err).progress("compressing") as watch:
        for now in (1.0, 29.0, 31.0, 40.0, 62.0):
            watch(int(now * 1e6), 100_000_000)
    assert err.getvalue().splitlines() == [
        "compressing: 31 %, 1.00 MB/s, 69 s left",
        "compressing: 62 %, 1.00 MB/s, 38 s left",
    ]
    now = 0.0
    with Console(use_json=True, stdout=out, stderr=err).progress("compressing") as watch:
        for now in (0.5, 1.5, 1.7):  # noqa: B007 the clock reads it
            watch(1, 2)
    told = json.loads(out.getvalue())
    assert told == {
        "type": "status", "action": "compressing", "unit": "samples", "done": 1, "total": 2,
        "seconds": 1.5,
    }  # fmt: skip


def test_speed_leaves_out_what_came_before_the_first_samples(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(consoles.time, "monotonic", lambda: now)
    err = io.StringIO()
    with Console(stdout=io.StringIO(), stderr=err).progress("compressing") as watch:
        for now, done in ((100.0, 1), (101.0, 4)):  # noqa: B007 the clock reads it
            watch(done * 1_000_000, 10_000_000)
    assert err.getvalue() == "compressing: 40 %, 3.00 MB/s, 2.0 s left\n"


@pytest.mark.parametrize("terminal", [True, False])
def test_compilation_is_told_once(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    import_module("osoa_pl.arith.native")
    monkeypatch.setenv("TERM", "xterm")
    err = Terminal() if terminal else io.StringIO()
    with Console(stdout=io.StringIO(), stderr=err).progress("compressing"):
        for add in (1, 2):
            njit(lambda x, add=add: x + add)(1)
    assert err.getvalue().count("compiling kernels") == int(not os.environ.get("NUMBA_DISABLE_JIT"))


@pytest.mark.parametrize("quiet", [True, False])
def test_a_bar_is_gone_when_done(monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out, err = io.StringIO(), Terminal()
    with Console(quiet=quiet, stdout=out, stderr=err).progress("verifying") as watch:
        watch(1, 2)
        watch(2, 2)
    assert out.getvalue() == ""
    assert ("verifying" in err.getvalue()) is not quiet
    assert quiet or err.getvalue().rstrip().endswith("\x1b[2K")


def test_tables() -> None:
    out = io.StringIO()
    Console(stdout=out, stderr=io.StringIO()).table(
        ("a", "count", "name"), [("x", "10", "long"), ("yy", "9", "n")], last_left=True
    )
    assert out.getvalue() == "a   count  name\nx      10  long\nyy      9  n\n"
