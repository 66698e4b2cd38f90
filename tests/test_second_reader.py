"""docs/format.md is enough: a reader written from it alone restores what this package writes."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zipfile
import zlib
from collections import Counter
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import second_reader
import second_reader_latent
import second_reader_memory
import torch
from fakes import picture, small_vae
from PIL import Image
from second_reader_latent import sha256

import osoa_pl
from osoa_pl.arith.functions import inverse_normal_cdf
from osoa_pl.data import png
from osoa_pl.format.blocks import BlockWriter
from osoa_pl.models import colours, latents, memory, recall
from osoa_pl.models.eigenbasis import near_identity
from osoa_pl.models.memory_ar import MemoryConfig
from osoa_pl.models.memory_ar import initial_parameters as memory_parameters
from osoa_pl.models.vae import VAEConfig
from osoa_pl.models.vae import initial_parameters as vae_parameters
from osoa_pl.models.zoo import pack
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.types import MODES

SETTINGS = BatchSettings(batch_pixels=80, first_pixels=64, segment_batches=2, streams=3)


@pytest.mark.parametrize("adaptation", ["none", "online"])
def test_second_reader(adaptation, tmp_path, checkpoint_path):
    images = [picture(h, w, c, i) for i, (h, w, c) in enumerate(
        [(13, 9, 3), (1, 1, 3), (4, 11, 1), (2, 30, 3), (9, 7, 1)]
    )]  # fmt: skip
    images[1][:] = 255
    images[3][:] = np.random.default_rng(0).integers(0, 256, images[3].shape)
    archive = tmp_path / "a.osoa"
    osoa_pl.compress(
        images, archive, checkpoint=checkpoint_path, adaptation=adaptation, seed=77,
        step_size=0.01, settings=SETTINGS, model_only=True,
    )  # fmt: skip
    assert Path(second_reader.__file__).read_text().count("import osoa_pl") == 0
    assert_equal(second_reader.read(str(archive), checkpoint_path).pictures, images)


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def opened(archive, checkpoint):
    """What the package restores, the second reader's equal of it, and the manifest."""
    with osoa_pl.open_archive(archive, checkpoint=checkpoint) as package:
        theirs, items = list(package), package.items
    ours = second_reader.read(str(archive), checkpoint)
    assert_equal(ours.pictures, theirs)
    facts = [(i.name, i.output_name, i.mtime, i.given, i.before, i.after) for i in items]
    assert facts == [(e.name, e.restored, e.mtime, e.given, e.before, e.after) for e in ours.items]
    with zipfile.ZipFile(archive) as members:
        return ours, json.loads(members.read("manifest.json"))


@pytest.mark.parametrize("adaptation", ["none", "online"])
def test_parts(adaptation, tmp_path, checkpoint_path):
    """An array that is cut by parts; each begins anew."""
    folder, archive = tmp_path / "in", tmp_path / "a.osoa"
    folder.mkdir()
    stack = np.stack([picture(5, 8, 3, seed) for seed in range(4)])
    Image.fromarray(picture(6, 5, 1)[:, :, 0]).save(folder / "a.png")
    np.savez(folder / "b.npz", colour=stack, grey=stack[..., 0])
    np.save(folder / "c.npy", stack[0])
    glass = np.stack([picture(4, 3, 4, seed) for seed in range(2)])
    np.save(folder / "d.npy", glass)
    osoa_pl.compress(
        folder, archive, checkpoint=checkpoint_path, adaptation=adaptation, step_size=0.01,
        settings=SETTINGS, shard=3, model_only=True, embed_checkpoint=True,
    )  # fmt: skip
    found, manifest = opened(archive, None)
    assert [part["pictures"] for part in manifest["parts"]] == [3, 3, 3, 3]
    assert [shard["number"] for shard in manifest["shards"]] == [0, 1, 2, 3, 5, 6, 7]
    expected = [*stack, *(image[..., :1] for image in stack), stack[0], *glass]
    assert_equal(found.pictures[1:], expected)


@pytest.mark.parametrize("mode", MODES)
def test_modes(mode, tmp_path, checkpoint_path):
    """Every plane through the model: high and low bytes, alpha, indices."""
    archive, samples = tmp_path / "a.osoa", MODES[mode].samples
    high = picture(4, 6, samples, 1).astype(np.uint16)
    raster = high * 256 + picture(4, 6, samples, 2) if MODES[mode].depth == 16 else (
        (high >> (8 - MODES[mode].depth)).astype(np.uint8)
    )  # fmt: skip
    palette = b""
    if mode.startswith("palette"):
        palette = png.chunk(b"PLTE", bytes(range(3 << MODES[mode].depth)[:48] or b"\0\0\0"))
        raster = raster % min(16, 1 << MODES[mode].depth)
    (tmp_path / "a.png").write_bytes(png.encode(raster, mode, palette))
    osoa_pl.compress(
        tmp_path / "a.png", archive, checkpoint=checkpoint_path, settings=SETTINGS,
        adaptation="online", step_size=0.01, model_only=True,
    )  # fmt: skip
    found, manifest = opened(archive, checkpoint_path)
    assert_equal(found.pictures, [raster])
    assert [found.items[0].mode, found.items[0].coded] == [mode, "m" * len(MODES[mode].planes)]
    assert not manifest["parts"][0]["planes"]
    counts = {shard["channels"]: shard["images"] for shard in manifest["shards"]}
    assert counts == dict(Counter(MODES[mode].planes))


def pam(path, raster):
    """A picture file that is never smaller than its pixels, so that it is coded as pixels."""
    height, width, samples = raster.shape
    kind = {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}[samples]
    largest = 65535 if raster.dtype == np.uint16 else 255
    head = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {samples}\nMAXVAL {largest}\n"
    data = raster.astype(">u2") if largest > 255 else raster
    path.write_bytes(f"{head}TUPLTYPE {kind}\nENDHDR\n".encode() + data.tobytes())


def mixed_folder(folder):
    """Something for each way in which an archive holds content."""
    rng = np.random.default_rng(3)
    (folder / "empty").mkdir(parents=True)
    noise = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    near = noise.copy()
    near[3, 4] += 100  # modulo 256
    slope = (np.add.outer(np.arange(50) * 3, np.arange(70) * 5) % 256).astype(np.uint8)
    Image.fromarray(slope).save(folder / "00.png")
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes())
    alpha = np.full((9, 12, 1), 255, np.uint8)
    wide = picture(12, 9, 1).astype(np.uint16) * 256 + np.arange(9, dtype=np.uint16)[:, None] % 2
    pam(folder / "a.pam", noise)
    pam(folder / "b.pam", near)
    pam(folder / "c.pam", noise)
    pam(folder / "flat.pam", np.full((30, 40, 3), 9, np.uint8))
    pam(folder / "glass.pam", np.concatenate((picture(9, 12, 3), alpha), 2))
    pam(folder / "wide.pam", wide)
    pam(folder / "wide2.pam", wide)
    indices = rng.integers(0, 4, (20, 30, 1), dtype=np.uint8)
    for number, grey in enumerate((b"", png.chunk(b"tEXt", b"Title\0two"))):
        palette = png.chunk(b"PLTE", bytes(range(12)))
        (folder / f"p{number}.png").write_bytes(png.encode(indices, "palette2", palette, grey))
    np.save(folder / "stack.npy", np.zeros((3, 10, 11), np.uint8))
    np.save(folder / "clear.npy", np.zeros((2, 7, 6, 2), np.uint8))
    (folder / "small.png").write_bytes(png.encode(np.zeros((4, 4, 1), np.uint8), "grey1"))
    (folder / "text.txt").write_text("a few words\n")
    (folder / "text2.txt").write_text("a few words\n")
    (folder / "text3.txt").write_text("a few more words\n")
    (folder / "none.txt").write_text("")
    (folder / "noise.bin").write_bytes(rng.bytes(5000))
    (folder / "noise2.bin").write_bytes((folder / "noise.bin").read_bytes())
    (folder / "long.txt").write_text("all work and no play\n" * 5000)
    (folder / "aux.txt").write_text("of a device\n")
    for number in range(9):
        (folder / f"x{number}.dat").write_bytes(rng.bytes(400))
    for number, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, ns=(0, (1_700_000_000 - number // 2) * 10**9 + 1))


@pytest.mark.parametrize("adaptation", ["online", "auto"])
@pytest.mark.parametrize("shard", [None, 4])
def test_whatever_is_smallest(adaptation, shard, tmp_path, checkpoint_path, monkeypatch):
    folder, archive = tmp_path / "in", tmp_path / "a.osoa"
    mixed_folder(folder)
    monkeypatch.setattr(BlockWriter.__init__, "__defaults__", (1300,))
    result = osoa_pl.compress(
        folder, archive, checkpoint=checkpoint_path, adaptation=adaptation, step_size=0.01,
        settings=SETTINGS, shard=shard,
    )  # fmt: skip
    found, manifest = opened(archive, checkpoint_path)
    entries = {entry.name: entry for entry in found.items}
    starts = accumulate((entry.count for entry in found.items), initial=0)
    numbers = dict(zip(entries, starts, strict=False))
    coded = {
        name: (e.coded, e.reference) for name, e in entries.items() if e.count and e.same == -1
    }
    names = list(entries)
    copies = {name: names[e.same] for name, e in entries.items() if e.same != -1}

    assert coded["a.pam"] == ("p", -1) and coded["b.pam"] == ("d", numbers["a.pam"])
    letters = set("".join(letters for letters, _ in coded.values()))
    assert letters == set("mpd") if adaptation == "online" else letters >= set("pd")
    assert copies == {
        "01.png": "00.png", "c.pam": "a.pam", "noise.bin": "noise2.bin", "p1.png": "p0.png",
        "text.txt": "text2.txt", "wide.pam": "wide2.pam",
    }  # fmt: skip
    assert result.copies == len(copies) and result.kept_bytes
    assert {entry.codec for entry in found.items} == {"raw", "xz", "block"}
    assert len(manifest["packed"]) > 1
    assert (len(manifest["parts"]) > 1) == (shard is not None)
    assert any(len(part["planes"]) > 1 for part in manifest["parts"])
    assert entries["empty"].kind == "folder" and entries["_aux.txt"].given == b"aux.txt"
    for name, entry in entries.items():
        own = folder / (entry.given.decode() or name)
        assert entry.mtime == own.stat().st_mtime_ns
        if entry.kind == "file":
            assert found.files[name] == own.read_bytes()
    assert entries["00.png"].kind == entries["01.png"].kind == "file"


@pytest.mark.parametrize("name", ["v1-small-none", "v1-small-online"])
def test_version_1(name):
    golden = Path(__file__).parent / "golden"
    found = second_reader.read(str(golden / f"{name}.osoa"))
    known = json.loads((golden / "contents.json").read_text())[f"{name}.osoa"]
    pictures = iter(found.pictures)
    digests = {}
    for entry in found.items:
        whole = b"".join(next(pictures).tobytes() for _ in range(entry.count))
        if entry.kind == "image":
            digests[entry.restored] = hashlib.sha256(whole).hexdigest()
    for file, data in found.files.items():
        digests[file] = hashlib.sha256(data).hexdigest()
    expected = {n: facts.get("pixels") or facts.get("bytes") for n, facts in known.items()}
    assert digests.items() <= expected.items() and len(digests) == 5


def test_version_3():
    golden = Path(__file__).parent / "golden" / "v3-transforms.osoa"
    found, manifest = opened(golden, None)
    steps = [step.partition(":")[0] for e in found.items for step in e.transform.split(" ")]
    assert (
        set(steps) == {"grey", "alpha", "key", "yuv420", "jfif", ""} and steps.count("yuv420") == 4
    )
    assert manifest["format"] == 3 and any("i" in entry.coded for entry in found.items)


def latent_archive(model, images, folder, adaptation, streams):
    """(archive, checkpoint) of images [n, h, w(, 3)] coded by a VAE: batches of 2, then 3."""
    checkpoint, archive = folder / "vae.safetensors", folder / "a.osoa"
    kind = "grey" if model[0].channels == 1 else "rgb"
    checkpoint.write_bytes(pack({kind: model}, "vae"))
    pixels = model[0].height * model[0].width
    settings = BatchSettings(3 * pixels, 2 * pixels, segment_batches=2, streams=streams)
    osoa_pl.compress(
        list(images), archive, checkpoint=str(checkpoint), adaptation=adaptation, seed=5,
        step_size=0.01, settings=settings, model_only=True,
    )  # fmt: skip
    return str(archive), str(checkpoint)


def assert_latent(model, images, folder, adaptation, streams):
    archive, checkpoint = latent_archive(model, images, folder, adaptation, streams)
    found = second_reader.read(archive, checkpoint).pictures
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
    segment = content["shards/0001/000001.seg"]
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


def memory_checkpoint(folder, bits=8, own=0.0, eigenbasis=False, further=False):
    """Untrained models with memory. own: added to the logit of the network's own mixture.

    further: with better weights by the name of `tame`.
    """
    models, bases, named = {}, {}, {}
    for kind, channels in (("grey", 1), ("rgb", 3)):
        config = MemoryConfig(channels, 16, 1, 2, memory_bits=bits, eigenbasis=eigenbasis)
        bases[kind] = {"basis": near_identity(config.network().layers())} if eigenbasis else {}
        parameters = memory_parameters(config, channels)
        noise = torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))
        parameters += 0.05 * noise
        parameters[-31] += own
        rest = torch.full((3,), 2.0), torch.full_like(parameters, 1e-6)
        models[kind] = config, parameters, *rest
        if further:
            named[kind] = {"tame": (parameters - 0.05 * noise, 2 * rest[0])}
            parameters += 0.2 * noise
    path = folder / "memory.safetensors"
    path.write_bytes(pack(models, "memory_ar", bases, named))
    return str(path)


def assert_memory(checkpoint, images, folder, adaptation="online", streams=1, batches=(150, 64)):
    settings = BatchSettings(*batches, segment_batches=3, streams=streams)
    osoa_pl.compress(
        images, folder / "a.osoa", checkpoint=checkpoint, adaptation=adaptation, seed=5,
        step_size=0.01, settings=settings, model_only=True, threads=1,
    )  # fmt: skip
    found = second_reader.read(str(folder / "a.osoa"), checkpoint).pictures
    assert_equal(found, images)


MEMORY_LIMITS = {
    "_MOST_SHAPES": "KEPT", "_MEAN_SAMPLES": "LARGEST_MEAN", "_MEAN_WINDOW": "MEAN_OF",
    "_FIRST_TRIES": "FIRST_TRIES", "_MOST_TRIES": "MOST_TRIES",
}  # fmt: skip


def few_colours(height, width, channels, seed, count=3):
    """The first pixels have all of them."""
    palette = np.array([[3, 90, 7], [3, 91, 200], [60, 0, 255], [61, 0, 2]], np.uint8)[:count]
    chosen = np.random.default_rng(seed).geometric(0.6, height * width) - 1
    chosen = np.minimum(chosen, count - 1)
    chosen[:count] = np.arange(count)
    return palette[chosen, 3 - channels :].reshape(height, width, channels)


@pytest.mark.parametrize("adaptation", ["none", "online"])
@pytest.mark.parametrize("streams", [1, 2])
def test_models_with_memory(adaptation, streams, tmp_path):
    """Repeats in a batch and of earlier ones, strips, tiles narrower than 4, grey and RGB."""
    images = [picture(6, 8, 3, n % 2) for n in range(5)]
    images += [picture(21, 10, 3, 5)] * 2 + [picture(9, 1, 3, 1), picture(1, 12, 3)]
    images += [picture(8, 6, 1, n % 2) for n in range(4)] + [picture(11, 3, 1, 2)] * 2
    assert_memory(memory_checkpoint(tmp_path), images, tmp_path, adaptation, streams)
    assert "osoa_pl" not in Path(second_reader_memory.__file__).read_text()


def test_weights_in_an_eigenbasis(tmp_path, monkeypatch):
    """And batches that grow slowly, the gradient of every third pixel: format 5."""
    made = partial(BatchSettings, first_batches=2, gradient_stride=3)
    monkeypatch.setitem(globals(), "BatchSettings", made)
    images = [picture(9, 8, 3, n % 3) for n in range(7)] + [picture(8, 9, 1, n) for n in range(5)]
    assert_memory(memory_checkpoint(tmp_path, eigenbasis=True), images, tmp_path)


@pytest.mark.parametrize("adaptation", ["none", "online"])
def test_weights_that_are_named(adaptation, tmp_path):
    """Format 6."""
    images = [picture(9, 8, 3, n % 3) for n in range(7)] + [picture(8, 9, 1, n) for n in range(5)]
    path = memory_checkpoint(tmp_path, eigenbasis=True, further=True)
    assert_memory(path, images, tmp_path, adaptation)
    with osoa_pl.open_archive(tmp_path / "a.osoa") as archive:
        assert [shard.policy["weights"] for shard in archive.info.shards] == ["tame", "tame"]


@pytest.mark.parametrize("own", [0.0, -40.0])
def test_colours_seen(own, tmp_path, monkeypatch):
    """With -40 the mixture has no weight but the one it is given."""
    monkeypatch.setitem(colours.MOST_COLOURS, 1, 4)
    monkeypatch.setitem(second_reader_memory.MOST_COLOURS, 1, 4)
    just, short = (8, 8), (7, 9)  # 16 pixels for each of 4 colours, or one less
    images = [few_colours(*just, 3, 0, 4), *(few_colours(5, 6, 3, n % 3) for n in range(4))]
    images += [few_colours(8, 10, 3, n) for n in range(4)] + [picture(5, 6, 3)] * 2
    images += [few_colours(*short, 1, 0, 4), *(few_colours(8, 10, 1, n, 4) for n in range(3))]
    images += [few_colours(8, 10, 1, 4) + np.uint8(1)] * 2  # too many from here
    assert_memory(memory_checkpoint(tmp_path, 9, own), images, tmp_path)


def test_what_memory_keeps(tmp_path, monkeypatch):
    """As if there had been much before: the ring's end, and what is dropped; several updates."""
    first = second_reader_memory.RING - 400
    begin = memory.MemoryState.__init__

    def late(self, *arguments):
        begin(self, *arguments)
        self._head = first

    monkeypatch.setattr(memory.MemoryState, "__init__", late)
    monkeypatch.setattr(second_reader_memory.Memory, "first_head", first)
    monkeypatch.setitem(OnlineAdaptation.__init__.__kwdefaults__, "updates", 3)
    for (theirs, ours), value in zip(MEMORY_LIMITS.items(), (2, 500, 2, 1, 90), strict=True):
        monkeypatch.setattr(memory, theirs, value)
        monkeypatch.setattr(second_reader_memory, ours, value)
    shapes = [(6, 7), (5, 6), (6, 7), (4, 6), (5, 6), (9, 10), (6, 7), (9, 10), (4, 6), (4, 6)]
    images = [picture(h, w, 3, n % 3) // 32 * 32 for n, (h, w) in enumerate(shapes)]
    images += [np.full((10, 12, 1), n, np.uint8) for n in (0, 0, 0, 40, 40, 0)]
    assert_memory(memory_checkpoint(tmp_path), images, tmp_path)


def test_local_tables(tmp_path):
    """So many contexts in a batch that some take others' entries."""
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (110, 3), dtype=np.uint8)
    images = [palette[rng.integers(0, 110, (13, 13))]] * 4
    batches = 4 * 169, 4 * 169
    assert_memory(memory_checkpoint(tmp_path), images, tmp_path, "none", 2, batches)


def test_counts_that_fade(tmp_path):
    """Some four pixels after every context, one of them most often."""
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    images = [palette[np.minimum(rng.geometric(0.6, (9, 9)) - 1, 3)] for _ in range(4)]
    images = [rng.permutation(image) for image in images]
    assert_memory(memory_checkpoint(tmp_path), images, tmp_path, "online", 2, (162, 162))


def test_tables_of_models_with_memory():
    trust = memory._first_trust()
    found = [sha256(recall.STRETCH), sha256(trust, "<i8")]
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    assert all(digest in page for digest in found)
    assert recall.STRETCH.tolist() == second_reader_memory.D
    assert trust.tolist() == second_reader_memory.START
    assert 1 << memory.HISTORY_BITS == second_reader_memory.RING
    for theirs, ours in MEMORY_LIMITS.items():
        assert getattr(memory, theirs) == getattr(second_reader_memory, ours)
    assert colours.MOST_COLOURS == second_reader_memory.MOST_COLOURS
