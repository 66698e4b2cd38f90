"""The shipped VAEs through every command, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forge import changed, join, take_apart
from PIL import Image

import osoa_pl
from osoa_pl.arith.noise import uniform
from osoa_pl.cli.main import main
from osoa_pl.errors import ArchiveError, CheckpointError, InputError, UsageError
from osoa_pl.models import checkpoint as checkpoints

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"


def digits(count: int, binary: bool = False) -> np.ndarray:
    """uint8 (count, 28, 28): strokes of a sort."""
    y, x = np.mgrid[0:28, 0:28]
    made = []
    for n in range(count):
        ring = abs(np.hypot(y - 14, (x - 13 - n % 3) * 1.4) - 6 - n % 4)
        made.append((255 * np.clip(1.6 - ring, 0, 1)).astype(np.uint8))
    grey = np.stack(made)
    return (grey > 127).astype(np.uint8) if binary else grey


@pytest.mark.parametrize("name", ["mnist", "mnist-binary"])
@pytest.mark.parametrize("adaptation", ["none", "online", "auto"])
def test_round_trip(name: str, adaptation: str, tmp_path: Path) -> None:
    data = digits(40, name == "mnist-binary")
    result = osoa_pl.compress(
        data, tmp_path / "a.osoa", checkpoint=name, adaptation=adaptation, model_only=True
    )
    with osoa_pl.open_archive(tmp_path / "a.osoa") as archive:
        for number, image in enumerate(archive):
            np.testing.assert_array_equal(image[..., 0], data[number])
        np.testing.assert_array_equal(archive[17][..., 0], data[17])
        assert archive.info.shards[0].initial_bits == result.initial_bits > 0
        assert archive.info.settings.streams == 1
    osoa_pl.decompress(tmp_path / "a.osoa", tmp_path / "out")
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "array.npy"), data)


def test_every_command_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "digits"
    folder.mkdir()
    for number, image in enumerate(digits(12)):
        Image.fromarray(image).save(folder / f"{number}.png")
    archive, out = str(tmp_path / "a.osoa"), str(tmp_path / "out")
    assert (
        main(["compress", str(folder), "-o", archive, "--checkpoint", "mnist", "--model-only"]) == 0
    )
    assert main(["verify", archive, "--checkpoint", "mnist"]) == 0
    assert main(["list", archive]) == 0
    assert main(["info", archive]) == 0
    assert "initial bits" in capsys.readouterr().out
    assert main(["decompress", archive, "-o", out, "--checkpoint", "mnist", "--only", "1*"]) == 0
    assert sorted(p.name for p in Path(out).iterdir()) == ["1.png", "10.png", "11.png"]
    words = ["--adaptation", "none", "--rivals", "png", "--checkpoint", "mnist", "--json"]
    capsys.readouterr()
    assert main(["bench", str(folder), *words]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert {row["codec"] for row in rows} == {"osoa none", "png"}
    assert main(["info", "--checkpoints"]) == 0
    assert "mnist-binary" in capsys.readouterr().out


def test_embedded_it_needs_nothing_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits(6, True)
    osoa_pl.compress(
        data, tmp_path / "a.osoa", checkpoint="mnist-binary", embed_checkpoint=True
    )  # fmt: skip
    monkeypatch.setattr(checkpoints, "folders", lambda: [])
    restored = osoa_pl.decompress(tmp_path / "a.osoa")
    assert isinstance(restored, list)
    assert all(np.array_equal(a[..., 0], b) for a, b in zip(restored, data, strict=True))


def test_binary_checkpoints_refuse_grey_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="codes binary images, pixels 0 and 1") as caught:
        osoa_pl.compress(digits(5), tmp_path / "a.osoa", checkpoint="mnist-binary")
    assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())


def test_other_sizes_and_colours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images of 28x28 alone, found 27x28"):
        osoa_pl.compress(np.zeros((2, 27, 28), np.uint8), tmp_path / "a.osoa", checkpoint="mnist")
    with pytest.raises(CheckpointError, match="has no model for rgb pixels"):
        osoa_pl.compress(
            np.zeros((2, 28, 28, 3), np.uint8), tmp_path / "a.osoa", checkpoint="mnist"
        )
    with pytest.raises(UsageError, match="batches are too small"):
        osoa_pl.compress(
            digits(2), tmp_path / "a.osoa", checkpoint="mnist",
            settings={"batch_pixels": 400, "first_pixels": 400},
        )  # fmt: skip
    for settings in ({"x": 1}, {1: 1}, [], 5):
        with pytest.raises(UsageError, match="settings: (unknown|found)"):
            osoa_pl.compress(digits(2), tmp_path / "a.osoa", checkpoint="mnist", settings=settings)
    assert not list(tmp_path.iterdir())


def test_what_a_forged_manifest_asks_of_a_model_that_cannot(tmp_path: Path) -> None:
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(digits(2), archive, checkpoint="mnist", adaptation="online", model_only=True)

    def forge(manifest: Any) -> None:
        manifest["format"] = 5
        manifest["settings"]["gradient_stride"] = 2

    archive.write_bytes(join(changed(take_apart(archive.read_bytes()), manifest=forge)))
    with pytest.raises(ArchiveError, match=r"a\.osoa: shard 1: gradient_stride"):
        osoa_pl.decompress(archive)


def test_noise_costs_what_it_must_and_comes_back(tmp_path: Path) -> None:
    noise = (uniform(3, 20 * 784).numpy() * 256).astype(np.uint8).reshape(20, 28, 28)
    osoa_pl.compress(noise, tmp_path / "a.osoa", checkpoint="mnist")
    restored = osoa_pl.decompress(tmp_path / "a.osoa")
    assert isinstance(restored, list)
    assert all(np.array_equal(a[..., 0], b) for a, b in zip(restored, noise, strict=True))


@pytest.mark.skipif(not MNIST.exists(), reason="needs the MNIST test images")
def test_messages_have_the_length_of_the_negative_elbo(tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    import mnist as benchmark

    for name, limit in (("binarised", 0.197), ("mnist", 1.40)):
        checkpoint, images = benchmark.collections(MNIST.parents[1])[name]
        found = benchmark.code(images, checkpoint, adaptation="none")
        elbo = benchmark.negative_elbo(checkpoint, images)
        assert found["gross"] <= limit
        assert abs(found["message"] / elbo - 1) < 0.01
