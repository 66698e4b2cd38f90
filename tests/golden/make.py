"""Makes golden archives of the present format: `python tests/golden/make.py NAME-PREFIX`.

Only ever add: what is here has to be decoded by every later version. `contents.json` is written by
tests/test_golden.py's own reading (Pillow and numpy, no line of the package) of what each archive
restored when it was made, and never changed for an archive that exists.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parents[1]))
from fakes import picture, small_memory_checkpoint, small_model
from test_golden import CONTENTS, GOLDEN, described

import osoa_pl
from osoa_pl.data import yuv
from osoa_pl.models.zoo import pack
from osoa_pl.online.plan import BatchSettings
from osoa_pl.types import Step

SETTINGS = BatchSettings(batch_pixels=512, first_pixels=128, segment_batches=2, streams=2)
TIME = 1_700_000_000_123_456_789


def collection(folder: Path) -> None:
    """A little of everything."""
    (folder / "sub" / "empty").mkdir(parents=True)
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "golden")
    colour = picture(20, 33, 3, 1)
    alpha = picture(20, 33, 1, 7)
    Image.fromarray(colour).save(folder / "a.png", pnginfo=info, dpi=(300, 300))
    Image.fromarray(colour).save(folder / "a copy.png")
    (folder / "a same.png").write_bytes((folder / "a.png").read_bytes())
    near = colour.copy()
    near[3:5, 4:9] = 255 - near[3:5, 4:9]
    Image.fromarray(near).save(folder / "a near.png")
    Image.fromarray(picture(17, 9, 1, 2)[:, :, 0]).save(folder / "sub" / "grey.png")
    Image.fromarray(picture(12, 16, 3, 3)).save(folder / "sub" / "b.webp", lossless=True)
    Image.fromarray(np.concatenate([colour, alpha], 2)).save(folder / "rgba.png")
    Image.fromarray(np.concatenate([alpha, alpha], 2)).save(folder / "ga.png")
    Image.fromarray(colour).quantize(16).save(folder / "palette.png", transparency=3)
    Image.fromarray(alpha[:, :, 0]).convert("1").save(folder / "bits.png")
    deep = picture(14, 15, 1, 4)[:, :, 0].astype(np.uint16) * 257 + 3
    Image.fromarray(deep).save(folder / "deep.png")
    np.save(folder / "stack.npy", np.stack([picture(10, 11, 3, i) for i in range(6)]))
    np.savez_compressed(
        folder / "two.npz",
        x=np.stack([picture(9, 8, 1, i)[:, :, 0] for i in range(3)]),
        y=np.stack([picture(9, 8, 3, i) for i in range(2)]),
    )
    (folder / "readme.txt").write_text("kept byte for byte\n" * 20)
    (folder / "readme copy.txt").write_text("kept byte for byte\n" * 20)
    (folder / "noise.bin").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "aux.txt").write_text("a name that not every system takes\n")
    (folder / "A.PNG").write_bytes((folder / "bits.png").read_bytes())
    for place in sorted(folder.rglob("*"), reverse=True):
        os.utime(place, ns=(TIME, TIME + len(place.name)))


def transformed(folder: Path) -> None:
    """What is coded as something else: grey as RGB, colour keys, constant alpha, video."""
    colour, grey = picture(21, 30, 3, 1), picture(21, 30, 1, 2)
    rgba = np.concatenate([colour, np.full((21, 30, 1), 7, np.uint8)], 2)
    Image.fromarray(rgba).save(folder / "alpha.tga")
    Image.fromarray(np.repeat(grey, 3, 2)).save(folder / "grey.bmp")
    sprite = rgba.copy()
    sprite[:, :, 3] = 255 * (grey[:, :, 0] > 120)
    sprite[sprite[:, :, 3] == 0] = 0
    Image.fromarray(sprite).save(folder / "sprite.tga")
    sprite[20, 20:25, 3] = 99
    Image.fromarray(sprite[:, ::-1]).save(folder / "soft.tga")
    np.save(folder / "sprites.npy", np.concatenate([sprite[None, ..., 2:], rgba[None, ..., 2:]]))
    for matrix in range(4):
        planes = [grey, picture(11, 15, 1, 3), picture(11, 15, 1, 4 + matrix)]
        step = Step("yuv420", (bytes([matrix]),))
        Image.fromarray(yuv.join(planes, step)).save(folder / f"video{matrix}.bmp")
    chroma = [picture(21, 30, 1, seed) // 4 + 96 for seed in (3, 4)]
    Image.fromarray(yuv.join([grey, *chroma], Step("jfif"))).save(folder / "jpeg.bmp")
    tiles = np.random.default_rng(4).integers(0, 256, (6, 4, 4, 4), dtype=np.uint8)
    order = np.random.default_rng(5).integers(0, 6, (40, 3, 3))
    np.save(folder / "tiles.npy", tiles[order].swapaxes(2, 3).reshape(40, 12, 12, 4))


def main() -> None:
    """Write archives and what they hold; or one alone: transforms, sampled, weights."""
    prefix, *alone = sys.argv[1:]
    if alone:
        if alone[0] == "transforms":
            write_transformed(prefix)
        else:
            write_memory(prefix, alone[0])
        return
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        source, checkpoint = work / "in", work / "small.safetensors"
        source.mkdir()
        collection(source)
        checkpoint.write_bytes(pack({"grey": small_model(1), "rgb": small_model(3)}))
        small = {"checkpoint": str(checkpoint), "embed_checkpoint": True, "settings": SETTINGS}
        archive = {n: GOLDEN / f"{prefix}-{n}.osoa" for n in ("small", "model", "default", "parts")}
        osoa_pl.compress(source, archive["small"], adaptation="auto", seed=7, **small)
        osoa_pl.compress(source, archive["model"], adaptation="online", model_only=True, **small)
        osoa_pl.compress(source, archive["default"], adaptation="online")
        osoa_pl.compress(source, archive["parts"], adaptation="none", shard=5, **small)
        digits = np.stack([picture(28, 28, 1, i)[:, :, 0] for i in range(12)])
        vae = GOLDEN / f"{prefix}-mnist.osoa"
        osoa_pl.compress(
            digits, vae, checkpoint="mnist", adaptation="online", step_size=1e-4, model_only=True
        )
        known = json.loads(CONTENTS.read_text())
        for name in (*archive.values(), vae):
            restored = work / name.stem
            osoa_pl.decompress(name, restored)
            known[name.name] = described(restored)
        CONTENTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def write_transformed(prefix: str) -> None:
    """The archive of what is coded as something else."""
    with tempfile.TemporaryDirectory() as place:
        source, checkpoint = Path(place, "in"), Path(place, "small.safetensors")
        source.mkdir()
        transformed(source)
        checkpoint.write_bytes(pack({"grey": small_model(1), "rgb": small_model(3)}))
        path = GOLDEN / f"{prefix}-transforms.osoa"
        osoa_pl.compress(
            source, path, checkpoint=str(checkpoint), embed_checkpoint=True, settings=SETTINGS,
            adaptation="online", times=False,
        )  # fmt: skip
        osoa_pl.decompress(path, Path(place, "out"))
        known = json.loads(CONTENTS.read_text())
        known[path.name] = described(Path(place, "out"))
        CONTENTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def write_memory(prefix: str, name: str) -> None:
    """The archive of a model with memory: repeats, recoloured tiles, equal sizes, strips, grey.

    Batches that grow slowly, gradients of every second pixel; `weights`: grey planes start from
    named ones.
    """
    settings = replace(SETTINGS, first_batches=2, gradient_stride=2)
    with tempfile.TemporaryDirectory() as place:
        source, checkpoint = Path(place, "in"), Path(place, "memory.safetensors")
        source.mkdir()
        tiles = np.stack([picture(16, 18, 3, n % 4) >> 4 for n in range(16)])
        tiles[8:] = 255 - tiles[8:]
        np.save(source / "tiles.npy", tiles)
        Image.fromarray(picture(90, 40, 3, 5)).save(source / "strips.png")
        np.save(source / "grey.npy", np.stack([picture(14, 15, 1, n % 5) for n in range(10)]))
        checkpoint.write_bytes(small_memory_checkpoint(further=name == "weights"))
        path = GOLDEN / f"{prefix}-{name}.osoa"
        osoa_pl.compress(
            source, path, checkpoint=str(checkpoint), embed_checkpoint=True, settings=settings,
            adaptation="online", model_only=True, times=False,
        )  # fmt: skip
        osoa_pl.decompress(path, Path(place, "out"))
        known = json.loads(CONTENTS.read_text())
        known[path.name] = described(Path(place, "out"))
        CONTENTS.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
