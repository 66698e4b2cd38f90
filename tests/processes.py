"""Processes that another has started, as /proc tells of them (Linux; elsewhere there are none)."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")


def started_by(parent: int) -> list[int]:
    """Processes whose parent is `parent`."""
    found = []
    for entry in PROC.glob("[0-9]*"):
        fields = _fields(entry.name)
        if fields and fields[1] == str(parent):
            found.append(int(entry.name))
    return found


def alive(process: int) -> bool:
    """Whether it is there, and no zombie."""
    fields = _fields(str(process))
    return bool(fields) and fields[0] != "Z"


def _fields(process: str) -> list[str]:
    """State, parent and so on; nothing where the process is gone."""
    try:
        return (PROC / process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
