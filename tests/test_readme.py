"""The blocks of README.md do what they show: the first screen's commands and the Python example."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from osoa_pl.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_first_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    first, *_ = [block for block in blocks("sh") if "osoa compress" in block]
    commands = [part for line in first.splitlines() for part in line.split("&&") if "osoa" in part]
    assert len(commands) >= 3
    for command in commands:
        assert main(shlex.split(command, comments=True)[1:]) == 0
    assert "sound" in capsys.readouterr().err
    originals = sorted((ROOT / "demo" / "images").iterdir())
    assert sorted(p.name for p in (tmp_path / "restored").iterdir()) == [p.name for p in originals]


def test_python_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    exec(compile(example, "README.md", "exec"), {})  # noqa: S102


@pytest.mark.parametrize(
    "page", sorted(ROOT.glob("docs/*.md")) + [ROOT / "README.md"], ids=lambda p: p.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
