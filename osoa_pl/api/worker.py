"""The program of a worker process; see `osoa_pl.api.workers`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # what libraries print must not get among the answers
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    from osoa_pl.api.workers import serve

    with suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)
