"""`lightning`: our training verbs under Lightning's name; other words go to another owner of it.

lightning itself has installed no such command since 2.5.1, but lightning-sdk and litserve do.
Where one of them is installed too, whichever was installed last has the script; ours finds the
other by the metadata of the installed distributions.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata

from osoa_pl.cli.arguments import near
from osoa_pl.cli.console import Console, reopen_streams
from osoa_pl.cli.training import LOOP, VERBS

NAME = "lightning"
OWN = "osoa-pl"

_ABOUT = """\
usage: lightning fit|validate|test|predict -c CONFIG [OPTIONS]
       lightning run osoa [OPTIONS]

These verbs are osoa's and the same as `osoa VERB`: `osoa fit --help` shows their options.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one of our verbs, or another distribution's `lightning`; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    first = next((word for word in words if not word.startswith("-")), "")
    ours = first in VERBS and (first != "run" or LOOP in words or len(words) == 1)
    if ours:
        from osoa_pl.cli.main import main as osoa

        return osoa(words)
    reopen_streams()
    others = [entry for entry in scripts() if _owner(entry) != OWN]
    if not words or words[0] in ("-h", "--help"):
        told = ", ".join(_owner(entry) for entry in others)
        sys.stdout.write(_ABOUT)
        sys.stdout.write(f"Other words are handed on to {told}.\n" if told else "")
        return 0 if words else 2
    if not others:
        known = [f"run {LOOP}", *(verb for verb in VERBS if verb != "run")]
        message = f"lightning: unknown command {words[0]!r}{near(words[0], known)}"
        Console().error(f"{message} (expected {', '.join(known)})", None, 2)
        return 2
    code = others[0].load()()
    return code if isinstance(code, int) else 0


def scripts() -> list[metadata.EntryPoint]:
    """The installed console scripts called `lightning`, ours among them; one a distribution."""
    found = metadata.entry_points(group="console_scripts", name=NAME)
    return list({_owner(entry): entry for entry in found}.values())


def owners() -> list[str]:
    """Names of the distributions that have such a script, in alphabetical order."""
    return sorted(_owner(entry) for entry in scripts())


def _owner(entry: metadata.EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
