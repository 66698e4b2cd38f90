"""Runs that are killed, interrupted, or lose their disk or inputs: one line, no broken file under
the final name, and `--resume` ends with the same bytes.
"""

from __future__ import annotations

import io
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_runs import Ran, picture, run_command
from PIL import Image
from processes import PROC, alive, started_by

import osoa_pl
from osoa_pl.api.job import CompressionJob
from osoa_pl.data.writer import ImageWriter
from osoa_pl.errors import OutputExistsError
from osoa_pl.online import trajectory
from osoa_pl.online.trajectory import Trajectory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and mounts of POSIX")

OPTIONS = ("--adaptation", "online", "--segment", "1", "--shard", "3", "--model-only", "-q")
HINT = "the same command with --resume goes on"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough to be interrupted in."""
    root = tmp_path_factory.mktemp("in") / "pictures"
    root.mkdir()
    for i in range(12):
        Image.fromarray(picture(90, 100 + i, 3, i)).save(root / f"{i}.png")
    Image.fromarray(picture(40, 30, 1)).save(root / "grey.png")
    (root / "notes.txt").write_text("kept as it is\n" * 40)
    return root


@pytest.fixture(scope="module")
def words(folder: Path, checkpoint_path: str) -> tuple[Any, ...]:
    return ("compress", folder, "--checkpoint", checkpoint_path, *OPTIONS, "--jobs", 1)


@pytest.fixture(scope="module")
def whole(words: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The archive of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "a.osoa"
    assert run_command(*words, "-o", path).code == 0
    return path.read_bytes()


@pytest.fixture(scope="module")
def archive(whole: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "a.osoa"
    path.write_bytes(whole)
    return path


def one_error(ran: Ran, code: int, *parts: str) -> None:
    """The run failed with this code and one line, perhaps with a hint, that says all `parts`."""
    assert ran.code == code, ran.err
    lines = ran.err.splitlines()
    assert lines[0].startswith("osoa: error: ") and len(lines) <= 2, ran.err
    assert len(lines) == 1 or lines[1].startswith("hint: ")
    for part in parts:
        assert part in ran.err, ran.err


def wait_until(met: Callable[[], Any], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not met():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def segments_in(partial: Path) -> int:
    return len(list(partial.glob("m~*.seg"))) if partial.is_dir() else 0


def heed_ctrl_c() -> None:
    """What runs in the background of a script inherits that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def struck(words: tuple[Any, ...], out: Path, number: int, after: int) -> tuple[Ran, list[int]]:
    """A run in its own process that gets a signal after so many segments; and its workers.

    One that is done before the signal comes is run again, and struck earlier.
    """
    command = [sys.executable, "-m", "osoa_pl", *map(str, words), "-o", str(out)]
    partial = out.with_name(out.name + ".partial")
    for attempt in range(10):
        run = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=heed_ctrl_c,
        )  # fmt: skip
        wanted = max(1, after - attempt)
        assert wait_until(
            lambda run=run, wanted=wanted: segments_in(partial) >= wanted or run.poll() is not None
        )
        workers = started_by(run.pid)
        run.send_signal(number)
        printed, told = run.communicate(timeout=60)
        if run.returncode != 0:
            break
        out.unlink()
    return Ran(run.returncode, printed, told), workers


@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_resumed(jobs, words, whole, tmp_path):
    """At four moments; what resumes has another number of jobs than what was killed."""
    moments = random.Random(jobs)
    out = tmp_path / "a.osoa"
    for _ in range(2):
        after = moments.randint(1, 12)
        ran, workers = struck((*words, "--jobs", jobs), out, signal.SIGKILL, after)
        assert ran.code == -signal.SIGKILL and not out.exists()
        assert len(workers) == (jobs if jobs > 1 and PROC.exists() else 0)
        assert wait_until(lambda workers=workers: not any(map(alive, workers)), 10)
        assert segments_in(tmp_path / "a.osoa.partial") >= 1
        resumed = run_command(*words, "-o", out, "--resume")
        assert resumed.code == 0, resumed.err
        assert out.read_bytes() == whole
        assert [path.name for path in tmp_path.iterdir()] == ["a.osoa"]
        out.unlink()


def test_what_was_finished_is_not_coded_again(words, whole, tmp_path, monkeypatch):
    out = tmp_path / "a.osoa"
    coded: list[int] = []
    code = Trajectory.code

    def counting(self: Trajectory) -> Any:
        if len(coded) == 9:
            raise KeyboardInterrupt
        coded.append(1)
        return code(self)

    monkeypatch.setattr(Trajectory, "code", code)
    everything = steps_of(words, tmp_path / "b.osoa", monkeypatch)
    monkeypatch.setattr(Trajectory, "code", counting)
    one_error(run_command(*words, "-o", out), 130, "interrupted", HINT)
    monkeypatch.setattr(Trajectory, "code", code)
    again = steps_of((*words, "--resume"), out, monkeypatch)
    assert out.read_bytes() == whole
    assert again == everything - 9


def steps_of(words: tuple[Any, ...], out: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Batches that a run codes."""
    count = 0
    step = Trajectory.step

    def counting(self: Trajectory) -> Any:
        nonlocal count
        count += 1
        return step(self)

    monkeypatch.setattr(Trajectory, "step", counting)
    assert run_command(*words, "-o", out).code == 0
    monkeypatch.setattr(Trajectory, "step", step)
    return count


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, 2), (signal.SIGTERM, 1)])
def test_interrupted_and_resumed(number, jobs, words, whole, tmp_path):
    out = tmp_path / "a.osoa"
    ran, workers = struck((*words, "--jobs", jobs), out, number, 4)
    one_error(ran, 130, "osoa: error: interrupted\n", "a.osoa.partial", HINT)
    assert not any(map(alive, workers)) and not out.exists() and ran.out == ""
    assert run_command(*words, "-o", out, "--resume").code == 0
    assert out.read_bytes() == whole


def interrupt(words: tuple[Any, ...], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves a part or two behind."""

    def commit(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CompressionJob, "commit", commit)
        one_error(run_command(*words, "-o", out), 130, "interrupted", HINT)


def test_nothing_is_said_of_resuming_where_nothing_is_kept(words, tmp_path, monkeypatch):
    def code(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CompressionJob, "code", code)
    ran = run_command(*words, "-o", tmp_path / "a.osoa")
    assert (ran.code, ran.err) == (130, "osoa: error: interrupted\n")
    assert not list(tmp_path.iterdir())


def test_other_options_are_refused(words, whole, tmp_path, monkeypatch):
    out = tmp_path / "a.osoa"
    interrupt(words, out, monkeypatch)
    kept = segments_in(tmp_path / "a.osoa.partial")
    for other, name in (
        (("--seed", 3), "seed"), (("--shard", 5), "shard"), (("--segment", 7), "settings"),
        (("--adaptation", "none"), "adaptation"), (("--step-size", 0.05), "step size"),
    ):  # fmt: skip
        ran = run_command(*words, *other, "-o", out, "--resume")
        one_error(ran, 2, "a.osoa.partial: left by a run with another", name, "begin anew with -f")
        assert HINT not in ran.err
    assert segments_in(tmp_path / "a.osoa.partial") == kept
    # without --resume nothing that is finished is thrown away, but for -f, whatever the options
    other = ("compress", words[1], "--checkpoint", words[3], "--adaptation", "none", "-q")
    one_error(run_command(*other, "-o", out), 7, "a.osoa.partial: keeps what an earlier run")
    assert segments_in(tmp_path / "a.osoa.partial") == kept
    assert run_command(*other, "-o", out, "-f").code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.osoa"]
    assert run_command(*words, "-o", out, "--resume").code == 7
    assert run_command(*words, "-o", out, "--resume", "-f").code == 0  # nothing to go on with
    assert out.read_bytes() == whole


def test_two_runs_at_once(words, tmp_path, monkeypatch):
    from osoa_pl.format import writing

    monkeypatch.setattr(writing, "_PATIENCE", 0.1)
    code = CompressionJob.code
    refused: list[Ran] = []

    def busy(self: CompressionJob, *arguments: Any) -> None:
        if not refused:
            refused.append(run_command(*words, "-o", tmp_path / "a.osoa", "--resume"))
        code(self, *arguments)

    monkeypatch.setattr(CompressionJob, "code", busy)
    assert run_command(*words, "-o", tmp_path / "a.osoa").code == 0
    one_error(refused[0], 2, "another run is writing this archive")
    assert HINT not in refused[0].err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=300k", "osoa-test", str(place)]
    try:
        made = subprocess.run(words, capture_output=True, check=False).returncode
    except OSError:
        made = 1
    if made:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(words, whole, small_disk):
    """While coding, while packing, and once there is room again."""
    out = small_disk / "a.osoa"
    assert len(whole) < 290_000 < 2 * len(whole)  # the parts fit, the archive beside them doesn't
    for filler in (280_000, 120_000, 0):
        (small_disk / "filler").write_bytes(bytes(filler))
        ran = run_command(*words, "-o", out, *(["--resume"] if filler < 280_000 else []))
        one_error(ran, 1, "No space left")
        assert not out.exists() and not list(small_disk.glob(".osoa-*"))
        assert (HINT in ran.err) == (small_disk / "a.osoa.partial").exists()
    (small_disk / "filler").unlink()
    assert segments_in(small_disk / "a.osoa.partial")
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert run_command(*words, "-o", out, "--resume").code == 0
    assert out.read_bytes() == whole
    assert [path.name for path in small_disk.iterdir()] == ["a.osoa"]


def test_full_disk_while_decompressing(words, archive, small_disk, tmp_path):
    (small_disk / "filler").write_bytes(bytes(200_000))
    for target in ("out", "out.tar"):
        decompress = ("decompress", archive, "-o", small_disk / target, "--checkpoint", words[3])
        one_error(run_command(*decompress, "-q"), 1, "No space left")
        assert not list(small_disk.rglob(".osoa-*")) and not (small_disk / "out.tar").exists()
        whole_files = list((small_disk / "out").rglob("*.png"))
        assert whole_files
        for path in whole_files:
            assert np.array_equal(np.asarray(Image.open(path)), original(words[1], path.name))
    (small_disk / "filler").unlink()
    shutil.rmtree(small_disk / "out")
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert run_command(*decompress, "-q").code == 0


def original(folder: Path, name: str) -> Any:
    return np.asarray(Image.open(folder / name))


def at_step(count: int, act: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something at the encoder's step number `count`."""
    step = Trajectory.step
    seen: list[int] = []

    def hooked(self: Trajectory) -> Any:
        seen.append(1)
        if len(seen) == count:
            act()
        return step(self)

    monkeypatch.setattr(Trajectory, "step", hooked)


def test_the_output_folder_vanishes(words, tmp_path, monkeypatch):
    for place in ("far", "far/a.osoa.partial"):
        out = tmp_path / "far" / "a.osoa"
        out.parent.mkdir(exist_ok=True)
        with monkeypatch.context() as patch:
            at_step(7, lambda place=place: shutil.rmtree(tmp_path / place), patch)
            ran = run_command(*words, "-o", out)
        one_error(ran, 1, "a.osoa.partial: this folder of unfinished members has vanished")
        assert not out.exists() and HINT not in ran.err


def test_the_output_folder_vanishes_from_workers(words, tmp_path):
    out = tmp_path / "far" / "a.osoa"
    out.parent.mkdir()

    def remove() -> None:
        wait_until(lambda: segments_in(out.with_name("a.osoa.partial")) >= 3)
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.rmtree(out.parent, ignore_errors=True)

    remover = threading.Thread(target=remove)
    remover.start()
    ran = run_command(*words, "-o", out, "--jobs", 2)
    remover.join()
    one_error(ran, 1, "far/a.osoa.partial")


def test_the_output_folder_vanishes_before_packing(words, tmp_path, monkeypatch):
    out = tmp_path / "far" / "a.osoa"
    out.parent.mkdir()
    commit = CompressionJob.commit

    def late(self: CompressionJob, *arguments: Any) -> Any:
        shutil.rmtree(out.parent)
        return commit(self, *arguments)

    monkeypatch.setattr(CompressionJob, "commit", late)
    ran = run_command(*words, "-o", out)
    assert ran.code in (1, 2) and ran.err.count("\n") == 1 and "far" in ran.err
    assert not out.exists()


@pytest.mark.parametrize("target", ["out", "far/out.tar"])
def test_the_output_folder_vanishes_while_decompressing(
    target, words, archive, tmp_path, monkeypatch
):
    """What was written is gone with it: never exit code 0."""
    out = tmp_path / target
    (tmp_path / "far").mkdir()
    put, seen = ImageWriter.put, []

    def late(self: ImageWriter, *arguments: Any) -> None:
        seen.append(1)
        if len(seen) == 5:
            shutil.rmtree(out if target == "out" else out.parent)
        put(self, *arguments)

    monkeypatch.setattr(ImageWriter, "put", late)
    ran = run_command("decompress", archive, "-o", out, "--checkpoint", words[3], "-q")
    assert ran.code in (1, 2), ran
    one_error(ran, ran.code, target.partition("/")[0])
    assert not out.is_file()


def test_an_input_goes_or_changes(words, checkpoint_path, tmp_path, monkeypatch):
    root = tmp_path / "in"
    shutil.copytree(words[1], root)
    mine = ("compress", root, *words[2:], "-o", tmp_path / "a.osoa")
    victim = root / "11.png"
    sound = victim.read_bytes()
    for spoil, message in (
        (victim.unlink, "11.png: cannot be read"),
        (lambda: (root / "notes.txt").write_text("more\n" * 900), "notes.txt: changed"),
        (lambda: Image.fromarray(picture(90, 111, 3, 99)).save(victim), "11.png: changed"),
    ):
        with monkeypatch.context() as patch:
            at_step(2, spoil, patch)
            ran = run_command(*mine, "-f")
        one_error(ran, 1, message, HINT)
        assert not (tmp_path / "a.osoa").exists()
        victim.write_bytes(sound)
    assert run_command(*mine, "--resume").code == 0
    assert run_command("verify", tmp_path / "a.osoa", "--checkpoint", checkpoint_path).code == 0


@pytest.mark.skipif(os.name == "nt" or os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(words, archive, tmp_path):
    place = tmp_path / "closed"
    place.mkdir()
    place.chmod(0o500)
    try:
        one_error(run_command(*words, "-o", place / "a.osoa"), 1, "cannot write")
        decompress = ("decompress", archive, "-o", place, "--checkpoint", words[3])
        one_error(run_command(*decompress), 1, "cannot write")
    finally:
        place.chmod(0o700)
    assert not list(place.iterdir())


def test_through_pipes(words, folder, whole, tmp_path):
    """tar c | osoa compress | osoa decompress | tar x"""
    shell = 'tar c -C "$1" . | "$2" -m osoa_pl compress - -o - --checkpoint "$3" -q $4 '
    shell += '| "$2" -m osoa_pl decompress - -o - --checkpoint "$3" -q --jobs 2 | tar x -C "$5"'
    out = tmp_path / "out"
    out.mkdir()
    command = ["sh", "-c", shell, "sh", folder, sys.executable, words[3], "--shard 3", out]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.stderr == "" and ran.returncode == 0
    assert same_pictures(folder, out)


def same_pictures(folder: Path, out: Path) -> bool:
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.*"))
    assert names == sorted(str(p.relative_to(out)) for p in out.rglob("*.*"))
    for name in names:
        if name.endswith(".png"):
            assert np.array_equal(original(out, name), original(folder, name))
        else:
            assert (out / name).read_bytes() == (folder / name).read_bytes()
    return True


def test_web_dataset_shards(checkpoint_path, tmp_path):
    """Two shards of NNN.png and NNN.json in, one tar out."""
    members: dict[str, bytes] = {}
    for shard in range(2):
        with tarfile.open(tmp_path / f"tiles-{shard}.tar", "w") as tar:
            for number in range(3):
                pixels = io.BytesIO()
                Image.fromarray(picture(20, 24, 3, 3 * shard + number)).save(pixels, "PNG")
                for suffix, data in (
                    ("png", pixels.getvalue()),
                    ("json", b'{"label": %d}' % number),
                ):
                    info = tarfile.TarInfo(f"{number:03d}.{suffix}")
                    info.size, info.mtime = len(data), 1_700_000_000
                    tar.addfile(info, io.BytesIO(data))
                    members[f"tiles-{shard}/{info.name}"] = data
    tars = sorted(tmp_path.glob("*.tar"))
    options = ("--checkpoint", checkpoint_path, "-q")
    assert run_command("compress", *tars, "-o", tmp_path / "a.osoa", *options).code == 0
    words = ("decompress", tmp_path / "a.osoa", "-o", tmp_path / "back.tar", *options)
    assert run_command(*words).code == 0
    one_error(run_command(*words), 7, "back.tar: exists already")
    with tarfile.open(tmp_path / "back.tar") as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore
        assert {m.mtime for m in tar if m.isfile()} == {1_700_000_000}
    assert found.keys() == members.keys()
    for name, data in members.items():
        if name.endswith("png"):
            ours, theirs = Image.open(io.BytesIO(found[name])), Image.open(io.BytesIO(data))
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
        else:
            assert found[name] == data


def test_what_streams_refuse(words, archive, monkeypatch):
    one_error(run_command(*words, "-o", "-", "--json"), 2, "both want standard output")
    one_error(
        run_command("decompress", archive, "-o", "-", "--json"), 2, "both want standard output"
    )
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal, monkeypatch.context() as patch:
        for command in (words, ("decompress", archive, "--checkpoint", words[3])):
            err = io.StringIO()
            patch.setattr(sys, "stdout", terminal)
            patch.setattr(sys, "stderr", err)
            from osoa_pl.cli.main import main

            code = main([*map(str, command), "-o", "-"])
            one_error(Ran(code, "", err.getvalue()), 2, "refusing to write", "terminal")
    os.close(leader)


def test_archives_at_urls(folder, checkpoint_path, whole):
    pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    options = {
        "checkpoint": checkpoint_path, "adaptation": "online", "shard": 3, "model_only": True,
        "settings": {"segment_batches": 1},
    }  # fmt: skip
    url = "memory://bucket/a.osoa"
    try:
        osoa_pl.compress(folder, url, verify=True, **options)
        assert MemoryFileSystem.store["/bucket/a.osoa"].getvalue() == whole
        assert list(MemoryFileSystem.store) == ["/bucket/a.osoa"]
        with osoa_pl.open_archive(url, checkpoint=checkpoint_path) as archive:
            assert np.array_equal(archive[0], original(folder, "0.png"))
        with pytest.raises(OutputExistsError):
            osoa_pl.compress(folder, url, **options)
    finally:
        MemoryFileSystem.store.clear()


def test_verify_keeps_what_is_wrong_from_appearing(words, whole, tmp_path, monkeypatch):
    """A writer that errs is found out, by the same checkpoint, which is not installed."""
    out = tmp_path / "a.osoa"
    verify = (*words, "-o", out, "--verify")
    assert run_command(*verify).code == 0 and out.read_bytes() == whole
    out.unlink()
    pack = trajectory.segment_format.pack

    def wrong(header: Any, streams: Any) -> bytes:
        return pack(replace(header, pixel_digest=bytes(16)), streams)

    monkeypatch.setattr(trajectory.segment_format, "pack", wrong)
    ran = run_command(*verify)
    one_error(ran, 4, "a.osoa: fails its verification: shard 0, segment 0", "checksum")
    assert not out.exists() and ".osoa-" not in ran.err
