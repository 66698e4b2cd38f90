"""The one place that prints: results to stdout, everything else to stderr.

With ``--json`` stdout holds one JSON object a line, each with a `type` (`status`, `summary`,
`error`, or the name of a short command); fields are added in later versions, never renamed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal, TextIO

from osoa_pl.compilation import telling

Color = Literal["auto", "always", "never"]
Watch = Callable[[int, int], None]

PLAIN_INTERVAL = 30.0
"""Seconds between lines of progress where stderr is not a terminal."""
JSON_INTERVAL = 1.0
"""Seconds between `status` objects."""
MAX_LINES = 5
"""Groups of inputs that a note or warning names before it counts the rest."""

_STYLES = {"red": "31;1", "yellow": "33;1", "bold": "1"}


class Console:
    """Streams, verbosity and colour of one run of a command."""

    def __init__(
        self,
        *,
        quiet: bool = False,
        color: Color = "auto",
        use_json: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self._out, self._err = stdout or sys.stdout, stderr or sys.stderr
        self.quiet, self.color, self.json = quiet, color, use_json
        self._live: Callable[[str], None] | None = None
        for stream in (self._out, self._err):
            # a name that this terminal's encoding lacks must not end the command
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")

    def result(self, text: str) -> None:
        """One line or table of the result."""
        self._out.write(text + "\n")

    def emit(self, kind: str, **fields: Any) -> None:
        """One JSON object on stdout."""
        self._out.write(json.dumps({"type": kind, **fields}, default=str) + "\n")
        self._out.flush()

    def note(self, text: str) -> None:
        """One line for people, on stderr; none when quiet."""
        if self._live is not None:  # above the bar
            self._live(printable(text))
        elif not self.quiet:
            self._err.write(printable(text) + "\n")
            self._err.flush()

    def warning(self, text: str) -> None:
        """One line that quiet does not silence."""
        self._err.write(f"osoa: {self._paint('warning:', 'yellow', self._err)} {printable(text)}\n")

    def error(self, message: str, hint: str | None, exit_code: int) -> None:
        """The line that a failed command ends with; with ``--json`` also an object on stdout."""
        try:
            if self.json:
                self.emit("error", message=message, hint=hint, exit_code=exit_code)
            self._out.flush()
        finally:  # stdout may be full or gone: that is often what there is to say
            painted = self._paint("error:", "red", self._err)
            self._err.write(f"osoa: {painted} {printable(message)}\n")
            if hint:
                self._err.write(f"hint: {printable(hint)}\n")
            self._err.flush()

    def raw_error(self, text: str) -> None:
        """Text as it is on stderr (tracebacks)."""
        self._err.write(text)

    def flush(self) -> None:
        """Push out what is buffered, so that a full disk or closed pipe shows here."""
        self._out.flush()
        self._err.flush()

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[str]], *,
        left: int = 1, last_left: bool = False, bold: Sequence[int] = (),
    ) -> None:  # fmt: skip
        """Aligned columns on stdout: the first `left`, and maybe the last, flush left, the others
        flush right; rows `bold` stand out.
        """
        cells = [list(header), *([printable(cell) for cell in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        flush = {*range(left), *([len(header) - 1] if last_left else [])}
        for index, row in enumerate(cells):
            line = "  ".join(
                cell.ljust(width) if i in flush else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            self.result(self._paint(line, "bold", self._out) if index - 1 in bold else line)

    @contextmanager
    def progress(self, label: str, unit: str = "samples") -> Iterator[Watch]:
        """Callback (done, total) that shows a bar, rate and time left while the block runs.

        `unit`: ``samples`` (one byte each, shown as MB/s) or ``steps``.
        """
        if self.json:
            yield self._status_lines(label, unit)
        elif self.quiet:
            yield _ignore
        elif self._err.isatty() and os.environ.get("TERM") != "dumb":
            with self._bar(label, unit) as watch, telling(self._tell_of_compilation):
                yield watch
        else:
            with telling(self._tell_of_compilation):
                yield self._plain_lines(label, unit)

    def _tell_of_compilation(self) -> None:
        self.note("compiling kernels: once, one to two minutes")

    def _status_lines(self, label: str, unit: str) -> Watch:
        began = last = time.monotonic()

        def watch(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= JSON_INTERVAL:
                last = now
                self.emit(
                    "status", action=label, unit=unit, done=done, total=total,
                    seconds=round(now - began, 3),
                )  # fmt: skip

        return watch

    def _plain_lines(self, label: str, unit: str) -> Watch:
        last = time.monotonic()
        first: tuple[float, int] | None = None

        def watch(done: int, total: int) -> None:
            nonlocal last, first
            now = time.monotonic()
            if first is None:  # kernels may have been compiled before
                first = now, done
            if now - last < PLAIN_INTERVAL or 50 * done < total:  # too early to tell
                return
            began, before = first
            if done == before or now == began:
                return
            last = now
            rate = (done - before) / (now - began)
            speed = f", {rate / 1e6:.2f} MB/s" if unit == "samples" else ""
            left = duration((total - done) / rate)
            self.note(f"{label}: {100 * done // max(total, 1)} %{speed}, {left} left")
            self._err.flush()

        return watch

    @contextmanager
    def _bar(self, label: str, unit: str) -> Iterator[Watch]:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, ProgressColumn, Task
        from rich.progress import TaskProgressColumn as Share
        from rich.progress import TextColumn as Words
        from rich.progress import TimeRemainingColumn as Left
        from rich.text import Text

        class Speed(ProgressColumn):
            """MB/s of samples."""

            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text("" if speed is None else f"{speed / 1e6:.2f} MB/s")

        painted = self._colored(self._err)
        terminal = RichConsole(file=self._err, no_color=not painted, highlight=False)
        rate = [Speed()] if unit == "samples" else []
        columns = (Words("{task.description}", markup=False), BarColumn(), Share(), *rate, Left())
        with Progress(*columns, console=terminal, transient=True) as progress:
            task = progress.add_task(printable(label), total=None)
            self._live = lambda text: terminal.print(text, markup=False)
            try:
                yield lambda done, total: progress.update(task, completed=done, total=total)
            finally:
                self._live = None

    def _colored(self, stream: TextIO) -> bool:
        if self.color != "auto":
            return self.color == "always"
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return stream.isatty() and not plain

    def _paint(self, text: str, style: str, stream: TextIO) -> str:
        return f"\x1b[{_STYLES[style]}m{text}\x1b[0m" if self._colored(stream) else text


def reopen_streams() -> None:
    """Give standard streams that were closed at the start a place to go.

    Otherwise the next file that is opened, an archive perhaps, takes the number of stdout or
    stderr, and what a library writes there ends up in it.
    """
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(number)
        sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
        sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def drop_output() -> None:
    """Point stdout nowhere after its reader has gone, so that exit does not complain again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: str) -> str:
    """`text` without what would steer a terminal or break a line: names come from others."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int) -> str:
    """Bytes for people: ``512 B``, ``1.53 kB``, ``2.95 MB`` (powers of 1000)."""
    if count < 1000:
        return f"{count} B"
    value, power = count / 1000, 0
    while value >= 999.5 and power < 3:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {('kB', 'MB', 'GB', 'TB')[power]}"


def duration(seconds: float) -> str:
    """Seconds for people: ``0.8 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def counted(count: int, noun: str) -> str:
    """``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def grouped(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Lines for (name, reason) pairs, one a reason, at most `MAX_LINES` and a count of the rest.

    >>> grouped([("a.txt", "not an image"), ("b.txt", "not an image")])
    ['not an image: a.txt, b.txt']
    """
    groups: dict[str, list[str]] = {}
    for name, reason in pairs:
        groups.setdefault(reason, []).append(name)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    lines = []
    for reason, names in ordered[:MAX_LINES]:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{reason}: {', '.join(names[:3])}{more}")
    rest = sum(len(names) for _, names in ordered[MAX_LINES:])
    if rest:
        lines.append(f"and {counted(rest, 'more file')} (all of them with --json)")
    return lines


def _ignore(done: int, total: int) -> None:
    pass
