"""Parts coded or decoded side by side: worker processes that speak over their standard streams.

A worker is the program `osoa_pl.api.worker`. It reads tasks from standard input and answers on
standard output, in pickles that only ever come from the process that started it. It ends when that
process does, whatever ended it; what it has written by then is sound, and until then it holds the
lock on the folder in which the archive gathers.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import numpy as np

from osoa_pl.errors import OsoaError, UsageError
from osoa_pl.format.atomic import reporting
from osoa_pl.types import STREAM

if TYPE_CHECKING:
    from osoa_pl.api.job import CompressionJob
    from osoa_pl.api.options import CodingOptions
    from osoa_pl.api.pieces import Piece

_WAITING = 16
"""Answers that may wait for each worker: pictures that have been decoded, for the most part."""
_EARLY_BYTES = 16 << 20
"""Of answers that wait for their turn, in memory for each task; more go to the disk."""
_LENGTH = 8
"""Bytes before each task, that tell its size."""
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop()); "
    "from osoa_pl.api.worker import main; main()"
)
"""With the path of this process: ``-m`` would take modules from the current folder."""


@dataclass(frozen=True)
class CodePart:
    """Task: code a part; answers with progress and a PartResult."""

    number: int
    pieces: Sequence[Piece]
    options: CodingOptions
    folder: str

    def __getstate__(self) -> dict[str, Any]:
        """Of an array in memory only the pictures of this part travel."""
        arrays = [_own_pictures(piece) for piece in self.pieces]
        pieces = [
            piece if own is None else replace(piece, entry=replace(piece.entry, origin=None))
            for piece, own in zip(self.pieces, arrays, strict=True)
        ]
        return {**vars(self), "pieces": pieces, "arrays": arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for index, own in enumerate(state.pop("arrays")):
            if own is not None:
                piece = state["pieces"][index]
                # memory that nobody has written to takes no room
                whole = np.zeros((piece.entry.item.count, *own.shape[1:]), own.dtype)
                whole[piece.begin : piece.begin + piece.count] = own
                state["pieces"][index] = replace(piece, entry=replace(piece.entry, origin=whole))
        vars(self).update(state)


@dataclass(frozen=True)
class DecodePart:
    """Task: decode a part; answers with progress and its planes' pictures in order."""

    archive: str
    number: int
    wanted: Sequence[int] | None
    options: dict[str, Any]

    def __post_init__(self) -> None:
        if self.archive == STREAM:  # standard input of a worker are its tasks
            raise UsageError("jobs: an archive that is no file is decoded by one process")


def code_in_processes(
    job: CompressionJob,
    jobs: int,
    watch: Callable[[int, int], None],
    done: Callable[[int], None],
) -> None:
    """Code all parts of a job in `jobs` processes. Raises what the first one to fail raised.

    watch: called with the number of a part and samples coded; done: with that of a finished part.
    """
    tasks = [
        CodePart(number, pieces, _shared_threads(job.options, jobs), str(job.folder.path))
        for number, pieces in enumerate(job.parts)
    ]
    with closing(run(tasks, jobs, job.lock)) as answers:
        for number, kind, value in answers:
            if kind == "progress":
                watch(number, value)
            else:
                job.take(value)
                done(number)


def _own_pictures(piece: Piece) -> np.ndarray | None:
    """The pictures of a piece of an array in memory; None for all others."""
    origin, item = piece.entry.origin, piece.entry.item
    if not isinstance(origin, np.ndarray):
        return None
    pictures = origin.reshape(item.count, item.height, item.width, -1)
    return np.ascontiguousarray(pictures[piece.begin : piece.begin + piece.count])


def _shared_threads(options: CodingOptions, jobs: int) -> CodingOptions:
    return replace(options, threads=options.threads or threads_each(jobs))


def threads_each(jobs: int) -> int:
    """Threads of each of `jobs` workers, where nobody said otherwise."""
    return max(1, (os.cpu_count() or 1) // jobs)


def run(
    tasks: Sequence[Any], jobs: int, inherited: Sequence[int] = ()
) -> Generator[tuple[int, str, Any], None, None]:
    """(task number, kind, value) of all that the workers answer; each task ends with ``done``.

    Answers come in the order of the tasks, as from one process, ``progress`` apart. inherited: open
    files that the workers hold as long as they live. Raises the error of the first task that fails.
    Leaving the iterator early ends the workers.
    """
    answers: queue.Queue[tuple[_Worker, str, Any]] = queue.Queue(_WAITING * jobs)
    workers: list[_Worker] = []
    waiting = list(enumerate(tasks))[::-1]
    turns = _Turns()
    try:
        for _ in range(min(jobs, len(tasks))):
            workers.append(_Worker(answers, inherited))
        for worker in workers:
            worker.give(*waiting.pop())
        left = len(tasks)
        while left:
            worker, kind, value = answers.get()
            if kind == "error":
                raise value
            if kind == "gone":
                raise OsoaError(f"a worker process {worker.fate()} before it was done")
            number = worker.task
            if kind == "done":
                left -= 1
                if waiting:
                    worker.give(*waiting.pop())
            if kind == "progress":
                yield number, kind, value
            else:
                yield from turns.take(number, kind, value)
    finally:
        turns.close()
        for worker in workers:
            worker.end()


class _Turns:
    """Puts answers in the order of their tasks: those that come too early wait on the disk."""

    def __init__(self) -> None:
        self._turn = 0
        self._early: dict[int, IO[bytes]] = {}

    def take(self, number: int, kind: str, value: Any) -> Iterator[tuple[int, str, Any]]:
        """The answers whose turn has come with this one."""
        if number != self._turn:
            with reporting(Path(tempfile.gettempdir())):
                if number not in self._early:
                    self._early[number] = tempfile.SpooledTemporaryFile(_EARLY_BYTES)  # noqa: SIM115
                pickle.dump((kind, value), self._early[number])
            return
        yield number, kind, value
        while kind == "done":
            self._turn += 1
            kind = ""
            if self._turn in self._early:
                with self._early.pop(self._turn) as kept:
                    end = kept.tell()
                    kept.seek(0)
                    while kept.tell() < end:
                        kind, value = pickle.load(kept)
                        yield self._turn, kind, value

    def close(self) -> None:
        """Forget what waits."""
        for kept in self._early.values():
            kept.close()


class _Worker:
    """One process, and the thread that reads its answers."""

    def __init__(
        self, answers: queue.Queue[tuple[_Worker, str, Any]], inherited: Sequence[int]
    ) -> None:
        self.task = -1
        self._answers, self._ended = answers, False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps([str(p) for p in sys.path])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=inherited,
            start_new_session=True,  # Ctrl-C is for the process that started it
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def give(self, number: int, task: Any) -> None:
        """Send a task."""
        self.task = number
        with suppress(OSError):  # a worker that is gone says so by its silence
            data = pickle.dumps(task)
            stream = cast(IO[bytes], self._process.stdin)
            stream.write(len(data).to_bytes(_LENGTH, "little"))
            stream.write(data)
            stream.flush()

    def fate(self) -> str:
        """How the process ended."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # it lives, but what it says cannot be understood
            return "failed"
        if code >= 0:
            return f"ended with exit code {code}"
        with suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    def end(self) -> None:
        """End it now."""
        self._ended = True
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                cast(IO[bytes], stream).close()

    def _read(self) -> None:
        stream = cast(IO[bytes], self._process.stdout)
        while True:
            try:
                kind, value = pickle.load(stream)
            except Exception:  # the stream ended, perhaps within an answer
                kind, value = "gone", None
            while not self._ended:
                with suppress(queue.Full):
                    self._answers.put((self, kind, value), timeout=0.1)
                    break
            if kind == "gone" or self._ended:
                return


def serve(tasks: IO[bytes], answers: IO[bytes]) -> NoReturn:
    """Do tasks; the process ends when the one that gives them does, or lets go."""

    def answer(kind: str, value: Any) -> None:
        data = pickle.dumps((kind, value))
        try:
            answers.write(data)
            answers.flush()
        except OSError:
            os._exit(0)

    waiting: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def receive() -> None:
        while True:
            length = tasks.read(_LENGTH)
            if len(length) < _LENGTH:
                os._exit(0)  # the other end is gone: whatever is being done, nobody wants it
            waiting.put(tasks.read(int.from_bytes(length, "little")))

    threading.Thread(target=receive, daemon=True).start()
    while True:
        data = waiting.get()
        try:
            answer("done", _do(pickle.loads(data), answer))
        except BaseException as error:
            answer("error", _portable(error))


def _portable(error: BaseException) -> BaseException:
    """The error if it survives the journey, else one that tells of it."""
    text = traceback.format_exc().strip()
    error.add_note(f"in a worker process:\n{text}")
    with suppress(Exception):
        if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    failure = OsoaError(f"a worker process failed: {text.splitlines()[-1]}")
    failure.add_note(text)
    return failure


def _do(task: Any, answer: Callable[[str, Any], None]) -> Any:
    import torch

    if isinstance(task, CodePart):
        from osoa_pl.api.part import code_part
        from osoa_pl.format.partial import PartialFolder

        torch.set_num_threads(task.options.threads or 1)
        return code_part(
            task.number, task.pieces, task.options, PartialFolder(task.folder),
            lambda samples: answer("progress", samples),
        )  # fmt: skip
    from osoa_pl.api.archive import Archive

    assert isinstance(task, DecodePart)
    torch.set_num_threads(task.options["threads"] or 1)
    with Archive(task.archive, **task.options) as archive:
        last = 0

        def watch(done: int, total: int) -> None:
            nonlocal last
            answer("progress", done - last)
            last = done

        archive.watch = watch
        for place, planes in archive.decode_part(task.number, task.wanted):
            answer("picture", (place, planes))
        return archive.problems
