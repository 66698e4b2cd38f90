"""docs/format.md is enough: a reader written from it alone restores what this package writes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import second_reader
import second_reader_latent
import torch
from fakes import picture, small_vae
from second_reader_latent import sha256

import osoa_pl
from osoa_pl.arith.functions import inverse_normal_cdf
from osoa_pl.models import latents
from osoa_pl.models.vae import VAEConfig
from osoa_pl.models.vae import initial_parameters as vae_parameters
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


def latent_archive(model, images, folder, adaptation, streams):
    """(archive, checkpoint) of images [n, h, w(, 3)] coded by a VAE: batches of 2, then 3."""
    checkpoint, archive = folder / "vae.safetensors", folder / "a.osoa"
    kind = "grey" if model[0].channels == 1 else "rgb"
    checkpoint.write_bytes(pack({kind: model}, "vae"))
    pixels = model[0].height * model[0].width
    settings = BatchSettings(3 * pixels, 2 * pixels, segment_batches=2, streams=streams)
    osoa_pl.compress(
        list(images), archive, checkpoint=str(checkpoint), adaptation=adaptation, seed=5,
        step_size=0.01, settings=settings,
    )  # fmt: skip
    return str(archive), str(checkpoint)


def assert_latent(model, images, folder, adaptation, streams):
    archive, checkpoint = latent_archive(model, images, folder, adaptation, streams)
    found = second_reader.read(archive, checkpoint)[model[0].channels]
    np.testing.assert_array_equal(np.stack(found).reshape(images.shape), images)
    return archive, checkpoint


def random_images(config, count=11):
    levels = 2 if config.likelihood == "bernoulli" else 256
    shape = (config.height, config.width, config.channels)[: 2 + (config.channels == 3)]
    images = np.random.default_rng(1).integers(0, levels, (count, *shape), dtype=np.uint8)
    images[0], images[-1] = 0, levels - 1
    return images


@pytest.mark.parametrize("likelihood", ["bernoulli", "beta_binomial"])
@pytest.mark.parametrize("adaptation", ["none", "online"])
@pytest.mark.parametrize("streams", [1, 2])
def test_latent_models(likelihood, adaptation, streams, tmp_path):
    model = small_vae(likelihood)
    model[0].views(model[1])[0][1][0] = 40.0  # a hidden unit that saturates
    archive, _ = assert_latent(model, random_images(model[0]), tmp_path, adaptation, streams)
    with zipfile.ZipFile(archive) as members:
        assert sum(name.endswith(".seg") for name in members.namelist()) == 2
    assert "osoa_pl" not in Path(second_reader_latent.__file__).read_text()


@pytest.mark.parametrize("bits", [2, 12])
@pytest.mark.parametrize("likelihood", ["bernoulli", "beta_binomial"])
def test_latent_models_at_the_limits(bits, likelihood, tmp_path):
    config = VAEConfig(6, 6, 3, hidden=9, latent=3, likelihood=likelihood, latent_bits=bits)
    parameters = vae_parameters(config, seed=bits) * 300  # clamped means, scales and logits
    model = config, parameters, torch.tensor([1e5, 0.0]), torch.zeros_like(parameters)
    # 3 streams: one without images in batches of 2
    assert_latent(model, random_images(config, 6), tmp_path, "online", 3)


def test_an_update_that_is_not_finite_is_skipped(tmp_path):
    config, parameters, _, moments = small_vae()
    views = config.views(parameters)
    views[3][0].mul_(1e26)
    views[2][0].mul_(1e13)
    model = config, parameters, torch.zeros(2), moments
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert_latent(model, random_images(config, 2), tmp_path, "online", 1)


@pytest.mark.parametrize(
    ("likelihood", "stream", "word", "bit"),
    [("bernoulli", 0, 0, 7), ("beta_binomial", 1, 2, 0), ("bernoulli", 1, -2, 13),
     ("beta_binomial", 0, -1, 3)],
)  # fmt: skip
def test_a_flipped_bit_of_latent_models_is_noticed(likelihood, stream, word, bit, tmp_path):
    """Even with every checksum made good; the first words are initial ones."""
    model = small_vae(likelihood)
    archive, checkpoint = latent_archive(model, random_images(model[0]), tmp_path, "online", 2)
    with zipfile.ZipFile(archive) as members:
        content = {name: bytearray(members.read(name)) for name in members.namelist()}
    segment = content["shards/0000/000001.seg"]
    lengths = np.frombuffer(segment, "<u4", 2, 64).tolist()
    place = sum(lengths[:stream]) + word % lengths[stream]
    segment[72 + 4 * place + bit // 8] ^= 1 << bit % 8
    segment[56:60] = struct.pack("<I", zlib.crc32(segment[72:]))
    segment[60:64] = struct.pack("<I", zlib.crc32(segment[:60] + segment[64:72]))
    with zipfile.ZipFile(archive, "w") as members:
        for name, data in content.items():
            members.writestr(name, bytes(data))
    with pytest.raises((AssertionError, IndexError)):
        second_reader.read(archive, checkpoint)


def test_tables_of_the_normal_distribution():
    """The page defines them as exact values; here the package's, and the standard library's."""
    noise = inverse_normal_cdf((torch.arange(1 << 20).double() + 0.5) * 2.0**-20)
    ppf = NormalDist().inv_cdf
    inner = [ppf(j / 8192) for j in range(1, 8192)]
    middle = [centre for bits in range(2, 13) for centre in latents.centres(bits).tolist()]
    rounded = np.rint(np.array(inner) * 256)
    assert set(middle) <= set(rounded.tolist()) and max(middle) == 939
    found = [
        sha256(latents.table()), sha256(latents.edges(12)), sha256(rounded),
        sha256(noise.numpy(), "<f4"),
    ]  # fmt: skip
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    assert all(digest in page for digest in found)
    assert sha256(np.rint(np.array(inner[1::2]) * 65536)) == found[1]
    sample = np.random.default_rng(0).integers(0, 1 << 20, 2000)
    stdlib = np.array([ppf((i + 0.5) * 2.0**-20) for i in sample.tolist()], np.float32)
    np.testing.assert_array_equal(noise.numpy()[sample].astype(np.float32), stdlib)
