"""Each command on a small collection: results, JSON contracts, bad inputs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from command_runs import Ran, run_command, write_pictures
from fakes import picture
from PIL import Image

from osoa_pl.cli import doctor
from osoa_pl.cli.main import main
from osoa_pl.report import health

Osoa = Callable[..., Ran]


@pytest.fixture
def osoa() -> Osoa:
    return run_command


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in") / "pictures"
    write_pictures(folder)
    return folder


@pytest.fixture(scope="module")
def archive(pictures: Path, checkpoint_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "pictures.osoa"
    ran = run_command(
        "compress", pictures, "-o", path, "--checkpoint", checkpoint_path, "--embed-checkpoint",
        "--adaptation", "online", "--segment", 1, "--threads", 1, "--model-only",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.out == ""
    assert "bits/dim" in ran.err and "stored byte for byte: not an image: notes.txt" in ran.err
    return path


def test_round_trip(osoa: Osoa, archive: Path, pictures: Path, tmp_path: Path) -> None:
    ran = osoa("decompress", archive, "-o", tmp_path / "new" / "out")
    assert (ran.code, ran.out) == (0, "")
    assert "5 files" in ran.err
    for path in pictures.rglob("*.*"):
        copy = tmp_path / "new" / "out" / path.relative_to(pictures)
        if path.suffix == ".png":
            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(copy)))
        elif path.suffix == ".npy":
            assert np.array_equal(np.load(path), np.load(copy))
        else:
            assert path.read_bytes() == copy.read_bytes()


def test_only_some_and_no_overwrite(osoa: Osoa, archive: Path, tmp_path: Path) -> None:
    words = ("decompress", archive, "-o", tmp_path, "--only", "sub/*", "--json")
    ran = osoa(*words)
    assert ran.last["type"] == "summary" and ran.last["files"] == ["sub/grey.png"]
    again = osoa(*words)
    assert again.code == 7 and again.last["exit_code"] == 7 and "-f" in again.last["hint"]
    assert osoa(*words, "-f").code == 0
    assert osoa("decompress", archive, "-o", tmp_path, "--only", "nothing*").code == 2


def test_compress_summary(osoa: Osoa, pictures: Path, checkpoint_path: str, tmp_path: Path) -> None:
    """`auto`, an output inside the input folder, twice."""
    folder = tmp_path / "copy"
    shutil.copytree(pictures, folder)
    words = ("compress", folder, "-o", folder / "a.osoa", "--checkpoint", checkpoint_path, "--json")
    words = (*words, "--model-only")
    first = osoa(*words)
    assert first.code == 0
    data = (folder / "a.osoa").read_bytes()
    assert osoa(*words).code == 7
    second = osoa(*words, "-f")
    assert second.code == 0 and (folder / "a.osoa").read_bytes() == data
    found = second.last
    assert found["type"] == "summary" and found["archive"] == str(folder / "a.osoa")
    assert found["archive_bytes"] == len(data) and found["images"] == 6
    assert found["raw_bytes"] == 2 * 13 * 9 * 3 + 7 * 12 + 3 * 5 * 6 * 3
    assert found["stored"] == [{"name": "notes.txt", "reason": "not an image"}]
    assert found["skipped"] == found["renamed"] == [] and found["exit_code"] == 0
    assert len(found["policies"]) == 2 and found["bits_per_dim"] > 0 and found["seconds"] > 0
    assert osoa("compress", folder / "a.osoa", "-o", folder / "a.osoa", "-f").code == 2


def test_skipped_inputs(osoa: Osoa, checkpoint_path: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "one.png")
    (folder / "gone").symlink_to(tmp_path / "nothing")
    words = ("compress", folder, "--checkpoint", checkpoint_path, "--adaptation", "none")
    ran = osoa(*words, "-o", tmp_path / "a.osoa", "-q")
    assert ran.code == 3 and ran.out == ""
    assert ran.err.startswith("osoa: warning: skipped: symbolic link to nothing: ")
    told = osoa(*words, "-o", tmp_path / "b.osoa", "--json")
    assert told.code == told.last["exit_code"] == 3
    assert told.last["skipped"][0]["path"].endswith("gone")


def test_files_alone(osoa: Osoa, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    ran = osoa("compress", tmp_path / "a.txt", "-o", tmp_path / "a.osoa")
    assert ran.code == 0 and "1 file stored" in ran.err
    info = osoa("info", tmp_path / "a.osoa", "--json").last
    assert info["bits_per_dim"] == 0 and info["shards"] == []
    assert osoa("info", tmp_path / "a.osoa").code == 0


def test_list_and_info(osoa: Osoa, archive: Path) -> None:
    text = osoa("list", archive)
    assert [line.split()[0] for line in text.out.splitlines()][0] == "kind"
    assert "13x9 rgb8" in text.out and "3x5x6 rgb8" in text.out and "sub/grey.png" in text.out
    items = osoa("list", archive, "--json").last
    assert items["type"] == "list"
    names = [item["name"] for item in items["items"]]
    assert names == ["img2.png", "img10.png", "notes.txt", "stack.npy", "sub", "sub/grey.png"]
    assert items["items"][3]["images"] == 3 and items["items"][3]["shape"] == [3, 5, 6, 3]

    info = osoa("info", archive, "--json").last
    assert info["type"] == "info" and info["embedded"] and info["checkpoint"] == "small"
    parts = ("segment", "plane", "table", "file", "checkpoint", "container")
    assert sum(info[f"{part}_bytes"] for part in parts) == info["archive_bytes"]
    assert info["archive_bytes"] == archive.stat().st_size
    assert info["settings"]["segment_batches"] == 1
    for shard in info["shards"]:
        rates, sizes = shard["segment_bits_per_dim"], shard["segment_bytes"]
        assert len(rates) == len(sizes) >= 1
        assert rates[0] == 8 * sizes[0] / (shard["segment_pixels"][0] * shard["channels"])
        assert shard["policy"]["name"] == "online"
    text = osoa("info", archive)
    for expected in ("rate, gross", "rate, net", "adaptation online", "whole archive", "100.0 %"):
        assert expected in text.out
    assert "\x1b" not in text.out


def test_installed_checkpoints(osoa: Osoa) -> None:
    found = osoa("info", "--checkpoints", "--json").last
    assert found["type"] == "checkpoints"
    default = {c["name"]: c for c in found["checkpoints"]}["base"]
    assert len(default["sha256"]) == 64 and set(default["models"]) <= {"rgb", "grey"}
    assert default["sha256"] in osoa("info", "--checkpoints").out


def test_verify(osoa: Osoa, archive: Path) -> None:
    assert "sound" in osoa("verify", archive).err
    found = osoa("verify", archive, "--json", "--threads", 1).last
    assert found["images"] == 6 and found["files"] == 1 and found["exit_code"] == 0


@pytest.mark.parametrize("command", ["verify", "list", "info", "decompress"])
def test_what_is_no_sound_archive(osoa: Osoa, command: str, archive: Path, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "out"] if command == "decompress" else []
    (tmp_path / "text.osoa").write_text("no archive")
    (tmp_path / "empty.osoa").write_bytes(b"")
    (tmp_path / "cut.osoa").write_bytes(archive.read_bytes()[:-200])
    for name in ("text.osoa", "empty.osoa", "cut.osoa"):
        ran = osoa(command, tmp_path / name, *output)
        assert ran.code == 4, (name, ran.err)
        assert name in ran.err and ran.err.count("osoa: error:") == 1
    missing = osoa(command, tmp_path / "missing.osoa", *output)
    assert missing.code == 2 and "missing.osoa" in missing.err


def test_a_flipped_bit_names_the_segment(osoa: Osoa, archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.rindex(b"OSEG") + 90] ^= 1
    (tmp_path / "bad.osoa").write_bytes(data)
    ran = osoa("verify", tmp_path / "bad.osoa", "--json")
    assert ran.code == 4 and "segment" in ran.last["message"]


def test_bad_inputs_of_compress(osoa: Osoa, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.osoa"
    (tmp_path / "empty").mkdir()
    cases = [
        ((tmp_path / "nothing", "-o", out), 2, "no such file or folder"),
        ((tmp_path / "empty", "-o", out), 2, "no files to read"),
        ((pictures, "-o", tmp_path / "no" / "a.osoa"), 2, "does not exist"),
        ((pictures, "-o", tmp_path), 2, "is a folder"),
        ((pictures, "-o", out, "--checkpoint", "defualt"), 5, "unknown checkpoint 'defualt'"),
        ((pictures, "-o", out, "--checkpoint", pictures / "notes.txt"), 5, "not an osoa_pl"),
    ]
    for words, code, message in cases:
        ran = osoa("compress", *words)
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert message in ran.err and ran.err.startswith("osoa: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_checkpoint_that_is_not_the_archives(osoa: Osoa, archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    other.write_bytes(health.tiny_checkpoint(3).data)
    ran = osoa("verify", archive, "--checkpoint", other)
    assert ran.code == 5 and "SHA-256" in ran.err


def test_doctor(osoa: Osoa, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = osoa("doctor", "--json")
    assert sound.code == 0, sound.err
    assert sound.last["type"] == "doctor" and sound.last["versions"]["torch"]
    checks = {check["name"]: check for check in sound.last["checks"]}
    assert checks["linear on cpu"]["passed"] and checks["compiled kernels, rgb"]["passed"]
    wrong = health.Check("compiled kernels, rgb", False, "differs")
    monkeypatch.setattr(health, "check_trajectory", lambda channels: wrong)
    failed = osoa("doctor")
    assert failed.code == 6 and "FAILED" in failed.out
    assert "compiled kernels, rgb" in failed.err.splitlines()[-1]
    monkeypatch.undo()
    monkeypatch.setattr(health, "check_trajectory", lambda channels: health.Check("x", True, ""))
    monkeypatch.setattr(doctor, "installed_checkpoints", list)
    assert osoa("doctor").code == 5


def test_bench(osoa: Osoa, pictures: Path, checkpoint_path: str) -> None:
    ran = osoa(
        "bench", pictures / "stack.npy", "--adaptation", "none", "--rivals", "png,xz",
        "--checkpoint", checkpoint_path, "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    rows = ran.last["rows"]
    assert ran.last["images"] == 3 and ran.last["raw_bytes"] == 270
    assert {(row["codec"], row["arrangement"]) for row in rows} == {
        ("osoa none", "archive"), ("png", "each"), ("png", "mosaic"), ("xz", "each"),
        ("xz", "concatenated"),
    }  # fmt: skip
    assert rows == sorted(rows, key=lambda row: row["bits_per_dim"])
    own = next(row for row in rows if row["codec"] == "osoa none")
    assert own["peak_bytes"] > 1 << 20 and own["bits_per_dim"] > own["net_bits_per_dim"] > 0


def test_bench_prints_one_table(osoa: Osoa, pictures: Path) -> None:
    ran = osoa("bench", pictures / "img2.png", "--adaptation", "none", "--rivals", "none",
               "--color", "always")  # fmt: skip
    assert ran.code == 0 and len(ran.out.splitlines()) == 2 and "\x1b[1mosoa none" in ran.out
    nothing = osoa("bench", pictures / "notes.txt", "--rivals", "none")
    assert nothing.code == 2 and "no pictures" in nothing.err
    assert osoa("bench", pictures, "--checkpoint", "none-such").code == 5


def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    """What one process has compiled, the next ones load: none says that it compiles."""
    np.save(tmp_path / "a.npy", np.stack([picture(16, 16, 3, n) for n in range(3)]))
    archive, out = str(tmp_path / "a.osoa"), str(tmp_path / "out")
    commands = (
        ["compress", str(tmp_path / "a.npy"), "-o", archive, "-f"],
        ["decompress", archive, "-o", out, "-f"],
    )
    for command in commands:
        assert main(command) == 0
    for command in commands:
        ran = subprocess.run(
            [sys.executable, "-m", "osoa_pl", *command], capture_output=True, text=True, check=True
        )
        assert "3 images" in ran.stderr or "1 file" in ran.stderr
        assert "compiling" not in ran.stderr
