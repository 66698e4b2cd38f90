"""`osoa doctor`: does this machine repeat the arithmetic that archives need?"""

from __future__ import annotations

import argparse
import platform
from dataclasses import asdict
from typing import Any

from osoa_pl.cli.arguments import add_json
from osoa_pl.cli.console import Console
from osoa_pl.cli.info import installed_checkpoints
from osoa_pl.cli.lightning_command import owners
from osoa_pl.errors import CheckpointError, PortabilityError

SUMMARY = "check this machine's arithmetic, kernels and checkpoints"
USAGE = "osoa doctor [OPTIONS]"
DESCRIPTION = """\
Check what archives depend on: the engines' known answers, the compiled kernels
against the eager reference on a small adapting model, the installed checkpoints.

examples:
  osoa doctor
  osoa doctor --json
  osoa doctor > doctor.txt

Exit code 6 says that something that decides bits fails here, 5 that no checkpoint
is installed or one is broken. The first run compiles kernels, which takes a while.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_json(parser.add_argument_group("output"))


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Check; 0. Raises PortabilityError or CheckpointError for what fails."""
    from osoa_pl.report import health

    with console.progress("checking", unit="steps") as watch:
        checks = []
        steps = (
            health.check_engines,
            lambda: [health.check_trajectory(3)],
            lambda: [health.check_trajectory(1)],
            lambda: [health.check_cuda()],
        )
        for number, step in enumerate(steps):
            watch(number, len(steps))
            checks += step()
    import torch

    about: dict[str, Any] = {
        "versions": health.versions(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "lightning_command": owners(),
        "checks": [asdict(check) for check in checks],
        "checkpoints": installed_checkpoints(),
    }
    if console.json:
        console.emit("doctor", **about)
    else:
        _tell(about, console)
    failed = [check.name for check in checks if check.decides_bits and not check.passed]
    if failed:
        raise PortabilityError(f"this machine cannot repeat the arithmetic: {', '.join(failed)}")
    broken = [c["problem"] for c in about["checkpoints"] if c["problem"]]
    if broken or not about["checkpoints"]:
        raise CheckpointError(broken[0] if broken else "no checkpoint is installed")
    console.note("all that decides bits is sound")
    return 0


def _tell(about: dict[str, Any], console: Console) -> None:
    rows = [(name, found or "missing") for name, found in about["versions"].items()]
    rows.append(("system", about["system"]))
    rows.append(("threads", str(about["threads"])))
    rows.append(("cuda", "yes" if about["cuda"] else "no"))
    rows.append(("command lightning", ", ".join(about["lightning_command"]) or "not installed"))
    console.table(("version", ""), rows, left=2)
    console.result("")
    console.table(
        ("check", "", "detail"),
        [(c["name"], "ok" if c["passed"] else "FAILED", c["detail"]) for c in about["checks"]],
        left=3,
    )
    console.result("")
    console.table(
        ("checkpoint", "bytes", "SHA-256"),
        [(c["name"], str(c["bytes"]), c["problem"] or c["sha256"]) for c in about["checkpoints"]],
        last_left=True,
    )
