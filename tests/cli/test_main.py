"""The tree: help, versions, misspellings, errors and their codes."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_runs import Ran, run_command, write_pictures

import osoa_pl
from osoa_pl.cli import listing
from osoa_pl.cli import main as tree
from osoa_pl.cli.main import COMMANDS

Osoa = Callable[..., Ran]


@pytest.fixture
def osoa() -> Osoa:
    return run_command


@pytest.fixture(scope="module")
def archive(checkpoint_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("main")
    write_pictures(folder / "in")
    words = ("--checkpoint", checkpoint_path, "--adaptation", "none", "-q")
    ran = run_command("compress", folder / "in", "-o", folder / "a.osoa", *words)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    return folder / "a.osoa"


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_one_screen_with_examples_first(osoa: Osoa, command: str) -> None:
    ran = osoa(*command.split(), "--help")
    lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert lines[0].startswith(f"usage: osoa {command or 'COMMAND'}")
    assert len(lines) < 60 and max(map(len, lines)) <= 100
    examples = lines.index("examples:")
    assert all(line.startswith("  osoa ") for line in lines[examples + 1 : examples + 4])
    assert examples < next(i for i, line in enumerate(lines) if "common options" in line)


def test_version(osoa: Osoa) -> None:
    assert osoa("--version").out == f"osoa {osoa_pl.__version__}\n"


def test_help_list_and_info_load_no_torch(archive: Path) -> None:
    program = (
        "import sys\n"
        "from osoa_pl.cli.main import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'torch', 'numpy', 'numba', 'rich', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert main(['list', sys.argv[1]]) == 0 == main(['info', sys.argv[1]])\n"
        "assert main(['info', '--checkpoints']) == 0\n"
        "heavy = {'torch', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program, archive], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["comress", "a"], "unknown command 'comress'; did you mean 'compress'"),
        (["compress", "a", "-o", "b", "--adaption", "none"],
         "unknown option '--adaption'; did you mean '--adaptation'"),
        (["compress", "a", "-o", "b", "--adapt", "none"], "unknown option '--adapt'"),
        (["compress", "a", "-o", "b", "--adaptation=onlin"],
         "argument --adaptation: unknown value 'onlin' (expected auto, online, none); "
         "did you mean 'online'?"),
        (["compress", "a", "-o", "b", "--seed", "-1"], "expected a whole number from 0"),
        (["compress", "a", "-o", "b", "--step-size", "0.1"], "--step-size needs"),
        (["compress", "a", "-o", "b", "--adaptation", "online", "--step-size", "0"], "above 0"),
        (["compress", "a", "-o", "b", "--shard", "0"], "expected a whole number from 1"),
        (["decompress", "a", "-o", "b.tar.gz"], "archives of this kind are not written"),
        (["compress", "a"], "required: -o/--output"),
        (["decompress", "a"], "required: -o/--output"),
        (["verify", "a", "-j", "0"], "expected a whole number from 1"),
        (["info"], "no archive given"),
        (["info", "a", "--checkpoints"], "takes no archive"),
        (["bench", "a", "--rivals", "jxl-e8"], "unknown value 'jxl-e8'"),
        (["list", "a", "b"], "unrecognized arguments: b"),
        (["--color", "sometimes", "list", "a"], "unknown value 'sometimes'"),
        ([], "no command given"),
    ],
)  # fmt: skip
def test_mistakes_cost_one_line(osoa: Osoa, words: list[str], message: str) -> None:
    ran = osoa(*words)
    lines = ran.err.splitlines()
    assert (ran.code, ran.out) == (2, "")
    assert lines[0].startswith("osoa: error: ") and message in lines[0]
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[1:])


def failing(error: BaseException) -> Callable[..., int]:
    def run(*_: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "x.osoa"), 1,
         "x.osoa: no space left on device"),
        (MemoryError(), 1, "not enough memory"),
        (KeyError("odd"), 1, "unexpected KeyError: 'odd'"),
    ],
)  # fmt: skip
def test_errors_become_one_line(
    osoa: Osoa, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    monkeypatch.setattr(listing, "run", failing(error))
    ran = osoa("list", "x")
    assert ran.code == code
    assert ran.err.splitlines()[0] == f"osoa: error: {message}"
    assert "Traceback" not in ran.err
    assert "Traceback" in osoa("list", "x", "--traceback").err
    told = osoa("list", "x", "--json")
    assert told.last["type"] == "error"
    assert (told.last["message"], told.last["exit_code"]) == (message, code)


def test_a_reader_that_leaves_is_no_error(osoa: Osoa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "run", failing(BrokenPipeError()))
    monkeypatch.setattr(tree, "drop_output", lambda: None)
    assert osoa("list", "x").err == ""


def test_streams_and_code_of_the_process(archive: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "osoa_pl"]
    done = subprocess.run([*command, "list", archive], capture_output=True, text=True)
    assert done.returncode == 0 and "img10.png" in done.stdout and "6 items" in done.stderr
    done = subprocess.run(
        [*command, "info", tmp_path / "none.osoa"], capture_output=True, text=True
    )
    assert done.returncode != 0 and done.stdout == ""
    assert done.stderr.startswith("osoa: error: ") and done.stderr.count("\n") == 1
    listed = subprocess.Popen(
        [*command, "list", archive], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert listed.stdout is not None and listed.stderr is not None
    listed.stdout.close()
    assert b"Traceback" not in listed.stderr.read() and listed.wait() in (0, 1)
    listed.stderr.close()
