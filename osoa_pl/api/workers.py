"""Parts coded or decoded side by side: worker processes that speak over their standard streams.

A worker is ``python -m osoa_pl.api.worker``. It reads tasks from standard input and answers on
standard output, in pickles that only ever come from the process that started it. It ends when that
process does, whatever ended it; what it has written by then is sound.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, cast

from osoa_pl.errors import OsoaError

if TYPE_CHECKING:
    from osoa_pl.api.job import CompressionJob
    from osoa_pl.api.part import CodingOptions
    from osoa_pl.api.survey import Piece

_WAITING = 16
"""Answers that may wait for each worker: pictures that have been decoded, for the most part."""


@dataclass(frozen=True)
class CodePart:
    """Task: code a part; answers with progress and a PartResult."""

    number: int
    pieces: Sequence[Piece]
    options: CodingOptions
    folder: str


@dataclass(frozen=True)
class DecodePart:
    """Task: decode a part; answers with progress and its planes' pictures in order."""

    archive: str
    number: int
    wanted: Sequence[int] | None
    options: dict[str, Any]


def code_in_processes(job: CompressionJob, jobs: int, watch: Callable[[int, int], None]) -> None:
    """Code all parts of a job in `jobs` processes. Raises what the first one to fail raised."""
    tasks = [
        CodePart(number, pieces, _shared_threads(job.options, jobs), str(job.folder.path))
        for number, pieces in enumerate(job.parts)
    ]
    for _, kind, value in run(tasks, jobs):
        if kind == "progress":
            watch(*value)
        else:
            job.take(value)


def _shared_threads(options: CodingOptions, jobs: int) -> CodingOptions:
    from dataclasses import replace

    return replace(options, threads=options.threads or threads_each(jobs))


def threads_each(jobs: int) -> int:
    """Threads of each of `jobs` workers, where nobody said otherwise."""
    return max(1, (os.cpu_count() or 1) // jobs)


def run(tasks: Sequence[Any], jobs: int) -> Iterator[tuple[int, str, Any]]:
    """(task number, kind, value) of all that the workers answer; each task ends with ``done``.

    Raises the error of the first task that fails. Leaving the iterator early ends the workers.
    """
    answers: queue.Queue[tuple[_Worker, str, Any]] = queue.Queue(_WAITING * jobs)
    workers = [_Worker(answers) for _ in range(min(jobs, len(tasks)))]
    waiting = list(enumerate(tasks))[::-1]
    try:
        for worker in workers:
            worker.give(*waiting.pop())
        left = len(tasks)
        while left:
            worker, kind, value = answers.get()
            if kind == "error":
                raise value
            if kind == "gone":
                raise OsoaError(f"a worker process ended (exit code {worker.wait()})")
            yield worker.task, kind, value
            if kind == "done":
                left -= 1
                if waiting:
                    worker.give(*waiting.pop())
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """One process, and the thread that reads its answers."""

    def __init__(self, answers: queue.Queue[tuple[_Worker, str, Any]]) -> None:
        self.task = -1
        self._answers, self._ended = answers, False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "osoa_pl.api.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the process that started it
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def give(self, number: int, task: Any) -> None:
        """Send a task."""
        self.task = number
        with suppress(OSError):  # a worker that is gone says so by its silence
            stream = cast(IO[bytes], self._process.stdin)
            pickle.dump(task, stream)
            stream.flush()

    def wait(self) -> int:
        """Exit code."""
        return self._process.wait()

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


def serve(tasks: IO[bytes], answers: IO[bytes]) -> None:
    """Do tasks until there are no more, or nobody is left to answer."""

    def answer(kind: str, value: Any) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    while True:
        try:
            task = pickle.load(tasks)
        except EOFError:
            return
        try:
            answer("done", _do(task, answer))
        except OsoaError as error:
            answer("error", error)
        except BrokenPipeError:
            return
        except BaseException:
            text = traceback.format_exc().strip().splitlines()
            failure = OsoaError(f"a worker process failed: {text[-1]}")
            failure.add_note("\n".join(text))
            answer("error", failure)


def _do(task: Any, answer: Callable[[str, Any], None]) -> Any:
    import torch

    if isinstance(task, CodePart):
        from osoa_pl.api.part import code_part
        from osoa_pl.format.partial import PartialFolder

        torch.set_num_threads(task.options.threads or 1)
        return code_part(
            task.number, task.pieces, task.options, PartialFolder(task.folder),
            lambda samples, begun: answer("progress", (samples, begun)),
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
