"""The program of a worker process; see `osoa_pl.api.workers`."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Serve on the standard streams."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # no file takes a closed stream's place
        pass
    os.close(number)
    # what libraries print must not get among the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    from osoa_pl.api.workers import serve

    serve(sys.stdin.buffer, answers)
