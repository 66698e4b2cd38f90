"""docs/format.md is enough: a reader written from it alone restores what this package writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import second_reader
from fakes import picture, small_vae

import osoa_pl
from osoa_pl.models.zoo import pack
from osoa_pl.online.plan import BatchSettings


@pytest.mark.parametrize("adaptation", ["none", "online"])
def test_second_reader(adaptation, tmp_path, checkpoint_path):
    images = [picture(h, w, c, i) for i, (h, w, c) in enumerate(
        [(13, 9, 3), (1, 1, 3), (4, 11, 1), (2, 30, 3), (9, 7, 1)]
    )]  # fmt: skip
    images[1][:] = 255
    images[3][:] = np.random.default_rng(0).integers(0, 256, images[3].shape)
    archive = tmp_path / "a.osoa"
    settings = BatchSettings(batch_pixels=80, first_pixels=64, segment_batches=2, streams=3)
    osoa_pl.compress(
        images, archive, checkpoint=checkpoint_path, adaptation=adaptation, seed=77,
        step_size=0.01, settings=settings,
    )  # fmt: skip
    found = second_reader.read(str(archive), checkpoint_path)
    assert Path(second_reader.__file__).read_text().count("import osoa_pl") == 0
    for channels in (1, 3):
        expected = [image for image in images if image.shape[2] == channels]
        assert len(found[channels]) == len(expected)
        for ours, theirs in zip(found[channels], expected):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("likelihood", ["bernoulli", "beta_binomial"])
@pytest.mark.parametrize(("adaptation", "streams"), [("none", 2), ("online", 1), ("online", 2)])
def test_latent_models(likelihood, adaptation, streams, tmp_path):
    levels = 2 if likelihood == "bernoulli" else 256
    images = np.random.default_rng(1).integers(0, levels, (11, 6, 7), dtype=np.uint8)
    checkpoint, archive = str(tmp_path / "vae.safetensors"), tmp_path / "a.osoa"
    Path(checkpoint).write_bytes(pack({"grey": small_vae(likelihood)}, "vae"))
    settings = BatchSettings(batch_pixels=126, first_pixels=84, segment_batches=2, streams=streams)
    osoa_pl.compress(
        images, archive, checkpoint=checkpoint, adaptation=adaptation, seed=5, step_size=0.01,
        settings=settings,
    )  # fmt: skip
    found = second_reader.read(str(archive), checkpoint)[1]
    assert len(found) == 11
    for ours, theirs in zip(found, images):
        np.testing.assert_array_equal(ours[..., 0], theirs)
    data = bytearray(archive.read_bytes())
    place = data.rindex(b"OSEG") + 64 + 4 * streams + 9
    data[place] ^= 4
    archive.write_bytes(data)
    with pytest.raises(Exception):  # noqa: B017 (the reader has no errors of its own)
        second_reader.read(str(archive), checkpoint)
