"""Archives end to end through the Python interface, with small untrained models."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from fakes import picture
from PIL import Image

import osoa_pl
from osoa_pl.errors import (
    ArchiveError,
    CheckpointError,
    DamagedArchiveError,
    OsoaError,
    OutputExistsError,
    UsageError,
)
from osoa_pl.online.plan import BatchSettings

SMALL = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of mixed files: RGB and grey pictures, arrays, a palette picture, a text."""
    root = tmp_path / "pictures"
    (root / "deep er").mkdir(parents=True)
    for i in (2, 10, 1):
        Image.fromarray(picture(20 + i, 30, 3, i)).save(root / f"tile{i}.png")
    Image.fromarray(picture(40, 33, 1, 4)[..., 0]).save(root / "deep er" / "grey ü.tif")
    Image.fromarray(picture(9, 8, 3, 5)).convert("P").save(root / "palette.png")
    (root / "notes.txt").write_text("kept as it is\n" * 40)
    np.save(root / "stack.npy", np.stack([picture(12, 11, 1, i)[..., 0] for i in range(5)]))
    np.savez(root / "both.npz", a=picture(8, 8, 3, 1)[None], b=picture(6, 5, 1, 2)[None])
    return root


def test_folder_round_trip(folder, tmp_path, checkpoint_path):
    archive, out = tmp_path / "a.osoa", tmp_path / "out"
    result = osoa_pl.compress(
        folder, archive, checkpoint=checkpoint_path, settings=SMALL, model_only=True
    )
    assert {name for name, _ in result.stored} == {"notes.txt"}
    assert result.images == 3 + 1 + 1 + 5 + 2
    osoa_pl.decompress(archive, out, checkpoint=checkpoint_path)
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        name = path.relative_to(folder)
        if path.suffix == ".npy":
            np.testing.assert_array_equal(np.load(out / name), np.load(path))
        elif path.suffix == ".npz":
            for key in ("a", "b"):
                np.testing.assert_array_equal(np.load(out / name)[key], np.load(path)[key])
        elif path.name == "notes.txt":
            assert (out / name).read_bytes() == path.read_bytes()
        else:
            back = out / name if path.suffix == ".png" else out / f"{name}.png"
            ours, theirs = Image.open(back), Image.open(path)
            assert ours.mode == theirs.mode
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    assert len(list(out.rglob("*.*"))) == 8
    for path in folder.rglob("*"):
        back = out / path.relative_to(folder)
        if back.exists():
            assert back.stat().st_mtime_ns == path.stat().st_mtime_ns


@pytest.mark.parametrize(
    "shape", [(4, 9, 7), (3, 10, 6, 3), (2, 5, 5, 1), (1, 1, 1, 3), (1, 60, 70)]
)
@pytest.mark.parametrize("adaptation", ["auto", "online", "none"])
def test_array_round_trip(shape, adaptation, tmp_path, checkpoint_path):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(
        images, archive, checkpoint=checkpoint_path, adaptation=adaptation, settings=SMALL,
        model_only=shape[0] != 2,
    )  # fmt: skip
    back = np.stack(osoa_pl.decompress(archive, checkpoint=checkpoint_path))
    np.testing.assert_array_equal(back.reshape(shape), images)


def test_same_input_gives_the_same_bytes(folder, tmp_path, checkpoint_path):
    results = []
    for number, threads in enumerate((1, 2, 1)):
        archive = tmp_path / f"{number}.osoa"
        osoa_pl.compress(folder, archive, checkpoint=checkpoint_path, threads=threads)
        results.append(archive.read_bytes())
    assert results[0] == results[1] == results[2]


def test_open_archive(tmp_path, checkpoint_path):
    images = [picture(14, 15, 1 + 2 * (i % 2), i) for i in range(9)]
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(images, archive, checkpoint=checkpoint_path, settings=SMALL, model_only=True)
    with osoa_pl.open_archive(archive, checkpoint=checkpoint_path) as opened:
        assert len(opened) == 9
        for i in (0, 5, 3, -1, 8, 4):
            np.testing.assert_array_equal(opened[i], images[i])
        for ours, theirs in zip(opened[2:6], images[2:6]):
            np.testing.assert_array_equal(ours, theirs)
        for ours, theirs in zip(opened, images):
            np.testing.assert_array_equal(ours, theirs)
        with pytest.raises(IndexError):
            opened[9]
        info = opened.info
        assert info.archive_bytes == archive.stat().st_size
        parts = info.segment_bytes + info.table_bytes + info.container_bytes + info.plane_bytes
        assert parts + info.file_bytes + info.checkpoint_bytes == info.archive_bytes
        assert info.raw_bytes == sum(i.size for i in images)
        assert 0 < info.net_bits_per_dim < info.bits_per_dim
        assert opened.verify() == 9
    with osoa_pl.open_archive(io.BytesIO(archive.read_bytes()), checkpoint=checkpoint_path) as two:
        np.testing.assert_array_equal(two[1], images[1])


def test_only_some_entries(folder, tmp_path, checkpoint_path):
    archive, out = tmp_path / "a.osoa", tmp_path / "out"
    osoa_pl.compress(folder, archive, checkpoint=checkpoint_path, settings=SMALL, model_only=True)
    result = osoa_pl.decompress(archive, out, only="tile1*", checkpoint=checkpoint_path)
    assert sorted(result.files) == ["tile1.png", "tile10.png"]
    assert sorted(p.name for p in out.rglob("*.*")) == ["tile1.png", "tile10.png"]
    with pytest.raises(UsageError, match="no entry"):
        osoa_pl.decompress(archive, tmp_path / "other", only="nothing*")


def test_embedded_checkpoint_needs_no_file(tmp_path, checkpoint_path):
    images = np.stack([picture(12, 12, 3, i) for i in range(3)])
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(
        images, archive, checkpoint=checkpoint_path, embed_checkpoint=True, model_only=True
    )
    np.testing.assert_array_equal(np.stack(osoa_pl.decompress(archive)), images)


def test_checkpoints_are_known_by_their_digest(tmp_path, checkpoint_path):
    archive = tmp_path / "a.osoa"
    image = np.zeros((1, 8, 8), np.uint8)
    osoa_pl.compress(image, archive, checkpoint=checkpoint_path, model_only=True)
    with pytest.raises(CheckpointError, match="needs checkpoint small"):
        osoa_pl.decompress(archive)
    other = tmp_path / "other.safetensors"
    other.write_bytes(Path(checkpoint_path).read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CheckpointError, match="found SHA-256"):
        osoa_pl.decompress(archive, checkpoint=str(other))
    with pytest.raises(CheckpointError, match="unknown checkpoint"):
        osoa_pl.compress(np.zeros((1, 8, 8), np.uint8), archive, checkpoint="nope", overwrite=True)
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"no checkpoint at all")
    with pytest.raises(CheckpointError, match="not an osoa_pl checkpoint"):
        osoa_pl.compress(np.zeros((1, 8, 8), np.uint8), tmp_path / "b.osoa", checkpoint=str(junk))


def test_errors_leave_nothing_behind(tmp_path, checkpoint_path, folder):
    archive = tmp_path / "a.osoa"
    archive.write_bytes(b"precious")
    with pytest.raises(OutputExistsError):
        osoa_pl.compress(folder, archive, checkpoint=checkpoint_path)
    assert archive.read_bytes() == b"precious"
    for options in ({"adaptation": "magic"}, {"seed": -1}, {"device": "abacus"}):
        with pytest.raises(UsageError):
            osoa_pl.compress(folder, tmp_path / "b.osoa", checkpoint=checkpoint_path, **options)
    with pytest.raises(OsoaError):
        osoa_pl.compress(np.zeros((2, 2), np.float32), tmp_path / "b.osoa")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.osoa", "pictures"]


def test_damage_is_an_error_that_names_a_place(folder, tmp_path, checkpoint_path):
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(folder, archive, checkpoint=checkpoint_path, settings=SMALL, model_only=True)
    data = archive.read_bytes()
    reference = osoa_pl.decompress(archive, checkpoint=checkpoint_path)
    rng = np.random.default_rng(0)
    reported = 0
    for case in range(150):
        damaged = bytearray(data)
        if case % 3 == 2:
            damaged = damaged[: int(rng.integers(1, len(data)))]
        else:
            damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        try:
            found = osoa_pl.decompress(io.BytesIO(bytes(damaged)), checkpoint=checkpoint_path)
        except (ArchiveError, CheckpointError) as error:
            reported += 1
            assert "\n" not in str(error)
            continue
        for ours, theirs in zip(found, reference, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert reported > 100


def test_damaged_segment_is_named(tmp_path, checkpoint_path):
    images = np.stack([picture(16, 16, 3, i) for i in range(12)])
    archive, out = tmp_path / "a.osoa", tmp_path / "out"
    osoa_pl.compress(images, archive, checkpoint=checkpoint_path, settings=SMALL, model_only=True)
    data = bytearray(archive.read_bytes())
    data[data.index(b"OSEG", data.index(b"OSEG") + 1) + 200] ^= 4
    archive.write_bytes(bytes(data))
    with pytest.raises(DamagedArchiveError, match="shard 0, segment 1"):
        osoa_pl.decompress(archive, out, checkpoint=checkpoint_path)
    assert not out.exists() or not list(out.rglob("*.npy"))
