"""Imports point down only, and only the rooms marked for it import torch or lightning."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import osoa_pl

PACKAGE = Path(osoa_pl.__file__).parent
LAYERS = {
    "errors": 0, "types": 0, "arith": 1, "coding": 2, "format": 2, "models": 3, "data": 3,
    "online": 4, "datamodules": 4, "api": 5, "train": 6, "report": 6, "cli": 7, "__main__": 8,
}  # fmt: skip
WITHOUT_TORCH = {"errors", "types", "coding", "format", "data"}


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield path, parts[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_point_down():
    wrong = []
    for path, room in rooms():
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "osoa_pl" and len(parts) > 1 and parts[1] in LAYERS:
                if LAYERS[parts[1]] > LAYERS[room]:
                    wrong.append(f"{path.name}: {name}")
                if parts[1] != room and LAYERS[parts[1]] == LAYERS[room] and LAYERS[room]:
                    wrong.append(f"{path.name}: {name} (same layer)")
    assert not wrong


def test_coding_and_format_know_no_tensor():
    wrong = [
        f"{path.name}: {name}"
        for path, room in rooms()
        if room in WITHOUT_TORCH
        for name in imported(path)
        if name.split(".")[0] in ("torch", "lightning")
    ]
    assert not wrong


def test_files_are_one_sitting():
    long = [path.name for path, _ in rooms() if len(path.read_text().splitlines()) > 500]
    assert not long


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, osoa_pl; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
