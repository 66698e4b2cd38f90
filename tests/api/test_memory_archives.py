"""Archives of a model with memory: workers, interruption, random access, policies."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import picture, small_memory_checkpoint
from forge import changed, join, take_apart

import osoa_pl
from osoa_pl.errors import DamagedArchiveError, PortabilityError
from osoa_pl.online import session

SETTINGS = {"batch_pixels": 700, "first_pixels": 300, "segment_batches": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small untrained model with memory, grey and RGB."""
    path = tmp_path_factory.mktemp("checkpoint") / "memory.safetensors"
    path.write_bytes(small_memory_checkpoint())
    return str(path)


def collection() -> list[np.ndarray]:
    """Repeats, a large picture that is cut into strips, grey ones, odd sizes."""
    same = [picture(16, 20, 3, n % 4) for n in range(12)]
    large = [picture(90, 40, 3, 5), picture(90, 40, 3, 6)]
    grey = [picture(14, 18, 1, n) for n in range(6)]
    return [*same, *large, *grey, picture(1, 33, 3, 1), picture(40, 3, 3, 2)]


def make(path: Path, checkpoint: str, **options: Any) -> bytes:
    chosen = {"settings": SETTINGS, "model_only": True, "threads": 1, **options}
    osoa_pl.compress(collection(), path, checkpoint=checkpoint, overwrite=True, **chosen)
    return path.read_bytes()


@pytest.mark.parametrize("adaptation", ["none", "online", "auto"])
def test_round_trip(adaptation: str, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    make(path, checkpoint, adaptation=adaptation)
    for threads in (1, 2):
        found = osoa_pl.decompress(path, checkpoint=checkpoint, threads=threads)
        for ours, theirs in zip(found, collection(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("streams", [1, 2, 5])
def test_streams_and_threads_do_not_matter_to_pixels(
    streams: int, checkpoint: str, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "streams": streams}
    path = tmp_path / "a.osoa"
    one = make(path, checkpoint, adaptation="online", settings=settings)
    assert one == make(path, checkpoint, adaptation="online", settings=settings, threads=2)
    found = osoa_pl.decompress(path, checkpoint=checkpoint, threads=2)
    for ours, theirs in zip(found, collection(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("adaptation", ["none", "online"])
def test_any_image_alone(adaptation: str, checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    make(path, checkpoint, adaptation=adaptation, shard=7)
    with osoa_pl.open_archive(path, checkpoint=checkpoint) as archive:
        for index in (13, 0, 19, 7, 12):
            np.testing.assert_array_equal(archive[index], collection()[index])


def test_jobs_write_the_same_bytes(checkpoint: str, tmp_path: Path) -> None:
    one = make(tmp_path / "a.osoa", checkpoint, adaptation="online", shard=7)
    assert one == make(tmp_path / "b.osoa", checkpoint, adaptation="online", shard=7, jobs=2)


@pytest.mark.parametrize("adaptation", ["online", "auto"])
def test_a_stopped_run_resumes_to_the_same_bytes(
    adaptation: str, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make(tmp_path / "a.osoa", checkpoint, adaptation=adaptation)
    step, left = session.Session.step, [7]

    def stop(self: session.Session) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(session.Session, "step", stop)
    path = tmp_path / "b.osoa"
    with pytest.raises(KeyboardInterrupt):
        make(path, checkpoint, adaptation=adaptation)
    monkeypatch.undo()
    assert make(path, checkpoint, adaptation=adaptation, resume=True) == whole


def test_damage_is_told(checkpoint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.osoa"
    data = bytearray(make(path, checkpoint, adaptation="online"))
    with zipfile.ZipFile(path) as members:
        first = next(info for info in members.infolist() if info.filename.startswith("shards/"))
    begin = first.header_offset + 30 + len(first.filename)
    for place in range(begin, begin + first.file_size, max(first.file_size // 10, 1)):
        broken = bytearray(data)
        broken[place] ^= 16
        path.write_bytes(broken)
        with pytest.raises((DamagedArchiveError, PortabilityError)):
            osoa_pl.decompress(path, checkpoint=checkpoint)


def test_slowly_growing_batches_are_format_4(checkpoint: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "first_batches": 3}
    path = tmp_path / "a.osoa"
    members = take_apart(make(path, checkpoint, adaptation="online", settings=settings))
    assert b'"format":4' in members["manifest.json"]
    for ours, theirs in zip(
        osoa_pl.decompress(path, checkpoint=checkpoint), collection(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    forged = changed(members, manifest=lambda m: m.update(format=3))
    with pytest.raises(DamagedArchiveError, match="format 3 has no first_batches"):
        osoa_pl.open_archive(io.BytesIO(join(forged)), checkpoint=checkpoint)


def test_sampled_gradients_are_format_5(checkpoint: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "gradient_stride": 3}
    path = tmp_path / "a.osoa"
    members = take_apart(make(path, checkpoint, adaptation="online", settings=settings))
    assert b'"format":5' in members["manifest.json"]
    found = osoa_pl.decompress(path, checkpoint=checkpoint)
    for ours, theirs in zip(found, collection(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    forged = changed(members, manifest=lambda m: m.update(format=4))
    with pytest.raises(DamagedArchiveError, match="format 4 has no gradient_stride"):
        osoa_pl.open_archive(io.BytesIO(join(forged)), checkpoint=checkpoint)
