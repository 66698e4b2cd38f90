"""The command `lightning`: ours, another owner's, or nobody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_runs import run_command

from osoa_pl.cli import doctor, lightning_command
from osoa_pl.cli import main as tree
from osoa_pl.report import health

FAKE = """\
import sys

def main():
    print("fake", sys.argv[1:])
    return 5

def leave():
    sys.exit("left")
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the distribution fake-sdk and its console script `lightning`."""
    (tmp_path / "fake_sdk.py").write_text(FAKE)
    info = tmp_path / "fake_sdk-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-sdk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nlightning = fake_sdk:main\n")
    return tmp_path


def lightning(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    program = "import sys; from osoa_pl.cli.lightning_command import main; sys.exit(main())"
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment
    )


def test_other_words_are_handed_on(fake: Path) -> None:
    for words in (["login"], ["run", "app", "x.py"], ["deploy", "--name", "fit"], ["-V"]):
        ran = lightning(*words, path=fake)
        assert (ran.returncode, ran.stdout, ran.stderr) == (5, f"fake {words}\n", "")
    (fake / "fake_sdk-1.0.dist-info" / "entry_points.txt").write_text(
        "[console_scripts]\nlightning = fake_sdk:leave\n"
    )
    assert lightning("login", path=fake).returncode == 1


def test_nobody_knows_the_word(fake: Path) -> None:
    for word, near in (("login", ""), ("fti", "; did you mean 'fit'?")):
        ran = lightning(word)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr == (
            f"osoa: error: lightning: unknown command {word!r}{near} "
            "(expected run osoa, fit, validate, test, predict)\n"
        )


def test_help_says_what_is_ours(fake: Path) -> None:
    alone, beside = lightning("--help"), lightning("--help", path=fake)
    for ran in (alone, beside):
        assert ran.returncode == 0 and ran.stderr == ""
        assert "lightning fit|validate|test|predict" in ran.stdout
        assert "lightning run osoa" in ran.stdout
    assert "handed on to fake-sdk" in beside.stdout and "handed on" not in alone.stdout
    assert lightning(path=fake).returncode == 2


def test_our_verbs_are_those_of_osoa(monkeypatch: pytest.MonkeyPatch, fake: Path) -> None:
    passed: list[list[str]] = []
    monkeypatch.setattr(tree, "main", lambda words: passed.append(words) or 3)
    cases = [["fit", "-c", "a.yaml"], ["test"], ["run", "osoa", "--x"], ["run"]]
    assert [lightning_command.main(words) for words in cases] == [3] * 4
    assert passed == cases
    ran = lightning("fit", "-c", "gone.yaml", path=fake)
    assert ran.returncode == 2
    assert ran.stderr == "osoa: error: gone.yaml: no such file or directory\n"


def test_doctor_names_the_owners(monkeypatch: pytest.MonkeyPatch, fake: Path) -> None:
    monkeypatch.setattr(health, "check_engines", list)
    monkeypatch.setattr(health, "check_trajectory", lambda channels: health.Check("x", True, ""))
    monkeypatch.setattr(doctor, "owners", lambda: ["fake-sdk", "osoa-pl"])
    assert run_command("doctor", "--json").last["lightning_command"] == ["fake-sdk", "osoa-pl"]
    (line,) = [x for x in run_command("doctor").out.splitlines() if "lightning " in x]
    assert line.split() == ["command", "lightning", "fake-sdk,", "osoa-pl"]
    monkeypatch.syspath_prepend(str(fake))
    assert "fake-sdk" in lightning_command.owners()
