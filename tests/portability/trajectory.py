"""A short adaptive trajectory made of whole numbers, to be repeated under other configurations.

Run as a program in a process whose environment selects kernels (see `tests/test_portability.py`),
it compresses a fixed collection with a fixed model and prints digests as one JSON object::

    python tests/portability/trajectory.py --threads 2 --engine float64 --write FOLDER
    python tests/portability/trajectory.py --model eager --collection tiny --decode FOLDER

Pixels and weights come from integer formulas alone: no random generator, no file, no library whose
version could change them. Whatever differs between two runs was made by the arithmetic.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import osoa_pl
from osoa_pl.arith import Adam, engines
from osoa_pl.format import segment as segment_format
from osoa_pl.models import family as families
from osoa_pl.models import zoo
from osoa_pl.models.checkpoint import Checkpoint
from osoa_pl.models.eigenbasis import near_identity
from osoa_pl.models.local_ar import LocalConfig
from osoa_pl.models.memory_ar import MemoryConfig
from osoa_pl.models.vae import VAEConfig
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.session import Session

Part = int | str
# (height, width) of the images by samples a pixel; the largest is cut into strips
SHAPES: dict[str, dict[Any, list[tuple[int, int]]]] = {
    "tiny": {3: [(5, 6), (9, 12)], 1: [(6, 9)]},
    "short": {
        3: [(24, 20), (1, 1), (9, 33), (16, 16), (70, 30), (3, 40), (28, 25), (16, 16)],
        1: [(17, 19), (60, 41), (2, 2), (20, 24)],
    },
}
SETTINGS = {
    "tiny": BatchSettings(batch_pixels=64, first_pixels=64, segment_batches=2, streams=2),
    "short": BatchSettings(batch_pixels=640, first_pixels=128, segment_batches=4, streams=3),
}
SHAPES["latent"] = {"bernoulli": [(12, 10)] * 14, "beta_binomial": [(12, 10)] * 14}
SETTINGS["latent"] = BatchSettings(batch_pixels=480, first_pixels=240, segment_batches=3, streams=2)
# repeats, equal sizes in a row, one image that is cut into strips
SHAPES["memory"] = {
    "memory_rgb": [(16, 16)] * 6 + [(40, 12), (1, 5), (9, 33), (16, 16)],
    "memory_grey": [(12, 14)] * 5 + [(30, 9)],
}
SETTINGS["memory"] = BatchSettings(batch_pixels=520, first_pixels=260, segment_batches=3, streams=2)
CONFIGS: dict[Part, Any] = {3: LocalConfig(3, 24, 2, 3), 1: LocalConfig(1, 16, 1, 2)}
CONFIGS |= {
    name: VAEConfig(12, 10, hidden=20, latent=6, likelihood=str(name), latent_bits=9)
    for name in SHAPES["latent"]
}
CONFIGS |= {
    "memory_rgb": MemoryConfig(3, 24, 2, 3, memory_bits=9, eigenbasis=True),
    "memory_grey": MemoryConfig(1, 16, 1, 2, memory_bits=9, eigenbasis=True),
}
FAMILIES = {"memory_rgb": "memory_ar", "memory_grey": "memory_ar", 3: "local_ar", 1: "local_ar"}
SEED, STEP_SIZE = 11, 2e-3


def hashes(count: int, key: int) -> np.ndarray:
    """int64 (count,) in 0..2^32-1: a 32-bit mix of the counters."""
    h = (np.arange(count, dtype=np.int64) * 2654435761 + key * 40503 + 977) & 0xFFFFFFFF
    for multiplier in (73244475, 295559667):
        h = ((h ^ (h >> 16)) * multiplier) & 0xFFFFFFFF
    return h ^ (h >> 16)


def image(height: int, width: int, channels: int, number: int) -> np.ndarray:
    """uint8 (height, width, channels): slopes, a flat patch, a repeated tile and noise."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(channels), indexing="ij")
    noise = hashes(height * width * channels, number).reshape(height, width, channels)
    slope = (3 * x + (number % 5) * y + 40 * c + (x * y >> 4)) >> (number % 2)
    tile = 29 * (x % 5) + 53 * (y % 4) + 17 * c
    value = np.where((x // 8 + y // 8 + number) % 3 == 0, tile, slope + (noise >> 20) % 11)
    value = np.where((x > 10) & (y > 10) & (x < 22), 255 * (number & 1), value)
    return (value & 255).astype(np.uint8)


def images(collection: str, part: Part) -> list[np.ndarray]:
    """The pictures of one kind of pixel, or of one latent model."""
    shapes = SHAPES[collection][part]
    if isinstance(part, int):
        return [image(h, w, part, 10 * part + n) for n, (h, w) in enumerate(shapes)]
    if part in FAMILIES:
        channels = CONFIGS[part].channels
        # few levels, and every third picture comes back
        return [(image(h, w, channels, n % 3) >> 4) * 17 for n, (h, w) in enumerate(shapes)]
    shift = 7 if part == "bernoulli" else 0
    return [image(h, w, 1, 30 + n) >> shift for n, (h, w) in enumerate(shapes)]


def parameters(config: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(weights, activation maxima, second moments): float32 with at most 12 bits each."""
    if isinstance(config, VAEConfig):
        return latent_parameters(config)
    shape = config.network()
    flat = torch.zeros(shape.parameter_count())
    for index, (weight, bias) in enumerate(shape.views(flat)):
        fan = weight.shape[1].bit_length()
        step = 2.0 ** -(11 + fan // 2) if index <= 2 * config.depth else 2.0**-15
        whole = torch.from_numpy(hashes(weight.numel(), index) % 4095 - 2047)
        weight.copy_(whole.to(torch.float32).view(weight.shape) * step)
        bias.copy_(torch.from_numpy(hashes(bias.numel(), 50 + index) % 255 - 127) * 2.0**-10)
    k, bias = config.mixtures, shape.views(flat)[-1][1]
    for c in range(config.channels):
        bias[3 * k * c + 2 * k : 3 * k * (c + 1)] = torch.arange(k) * 0.75 + 0.5
    copies = config.outputs - 3 * k * config.channels - config.channels * (config.channels - 1) // 2
    bias[-copies + 1 :] = -3.0
    maxima = torch.full((2 * config.depth + 1,), 6.0)
    moments = torch.from_numpy(hashes(flat.numel(), 99) % 1021 + 3).to(torch.float32) * 2.0**-24
    return flat, maxima, moments


def latent_parameters(config: VAEConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a VAE."""
    flat = torch.zeros(config.parameter_count())
    for index, (weight, bias) in enumerate(config.views(flat)):
        fan = weight.shape[1].bit_length()
        whole = torch.from_numpy(hashes(weight.numel(), index) % 4095 - 2047)
        weight.copy_(whole.to(torch.float32).view(weight.shape) * 2.0 ** -(10 + fan // 2))
        bias.copy_(torch.from_numpy(hashes(bias.numel(), 50 + index) % 255 - 127) * 2.0**-9)
    config.views(flat)[1][1][config.latent :] -= 1.5
    moments = torch.from_numpy(hashes(flat.numel(), 99) % 1021 + 3).to(torch.float32) * 2.0**-24
    return flat, torch.full((2,), 3.0), moments


def checkpoint() -> Checkpoint:
    """Both models as a checkpoint file's bytes."""
    packed = {zoo.KINDS[c]: (CONFIGS[c], *parameters(CONFIGS[c])) for c in (3, 1)}
    return Checkpoint("whole-numbers", zoo.pack(packed))


def digest(*parts: bytes) -> str:
    """SHA-256 over the parts, in hex."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def session(collection: str, part: Part, options: argparse.Namespace) -> Session:
    """A trajectory at theta_0 in the chosen form."""
    flat, maxima, moments = (t.to(options.device) for t in parameters(CONFIGS[part]))
    family = families.find(FAMILIES.get(part, "vae"))
    constants = {}
    if family.constants(CONFIGS[part]):
        constants["basis"] = near_identity(CONFIGS[part].network().layers()).to(options.device)
    model = family.build(CONFIGS[part], flat, maxima, options.model, options.threads, **constants)
    policy = OnlineAdaptation(step_size=STEP_SIZE, updates=2 if part == 1 else 1, beta1=0.9)
    shapes = SHAPES[collection][part]
    return Session(model, policy, moments, shapes, SETTINGS[collection], seed=SEED)


def encode(options: argparse.Namespace) -> dict[str, Any]:
    """Digests of the segments and of the states after them; the segments go to --write."""
    packed: list[bytes] = []
    states = []
    for part in SHAPES[options.collection]:
        run = session(options.collection, part, options)
        for index, segment in enumerate(run.encode(images(options.collection, part))):
            packed.append(segment_format.pack(segment.header, segment.streams))
            states.append(segment.header.state_digest.hex())
            if options.write:
                name = f"{options.collection}-{part}-{index:02d}.seg"
                (options.write / name).write_bytes(packed[-1])
    return {"segments": digest(*packed), "bytes": sum(map(len, packed)), "states": states}


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Digest of the pixels in the segments that another run wrote to --decode."""
    parts = []
    for part in SHAPES[options.collection]:
        files = sorted(options.decode.glob(f"{options.collection}-{part}-*.seg"))
        coded = [segment_format.unpack(f.read_bytes(), f.name) for f in files]
        run = session(options.collection, part, options)
        parts += [np.ascontiguousarray(i).tobytes() for i in run.decode(coded)]
    return {"decoded": digest(*parts)}


def archive(options: argparse.Namespace) -> dict[str, Any]:
    """The same pictures through `osoa_pl.compress` and `decompress`, policy `auto`."""
    found: dict[str, Any] = {}
    if options.write:
        made = options.write / "whole-numbers.safetensors"
        made.write_bytes(checkpoint().data)
        pictures = images(options.collection, 3) + images(options.collection, 1)
        out = options.write / "archive.osoa"
        osoa_pl.compress(
            pictures, out, checkpoint=str(made), seed=SEED, threads=options.threads,
            settings=SETTINGS[options.collection], device=options.device,
        )  # fmt: skip
        found["archive"] = digest(out.read_bytes())
        found["checkpoint"] = digest(made.read_bytes())
    if options.decode:
        restored = osoa_pl.decompress(
            options.decode / "archive.osoa",
            checkpoint=str(options.decode / "whole-numbers.safetensors"),
            threads=options.threads, device=options.device,
        )  # fmt: skip
        found["restored"] = digest(*(i.tobytes() for i in restored))
    return found


def layer_digests(steps: int = 4) -> list[str]:
    """State digests of a short training of exact convolutions and linear layers."""
    path = Path(__file__).parents[1] / "arith" / "test_trajectory.py"
    spec = importlib.util.spec_from_file_location("layer_trajectory", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.train(steps))


def optimizer_digest() -> str:
    """Digest of Adam on gradients whose squares are subnormal."""
    flat = torch.zeros(64)
    adam = Adam(flat, lr=1.0, second_moment=torch.zeros(64), bias_correct_second=False)
    for step in range(4):
        whole = torch.from_numpy(hashes(64, step) % 2047 - 1023).to(torch.float32)
        adam.step(whole * 2.0**-78)
    return digest(flat.numpy().tobytes(), *(t.numpy().tobytes() for t in adam.state_tensors()))


def native_digest() -> str:
    """Digest of a native float32 layer, softmax and mean: the control, expected to differ."""
    x = torch.from_numpy(hashes(512 * 384, 7) % 4095 - 2047).view(512, 384) * 2.0**-11
    w = torch.from_numpy(hashes(384 * 96, 8) % 4095 - 2047).view(384, 96) * 2.0**-14
    y = torch.softmax(x.to(torch.float32) @ w.to(torch.float32), 1)
    return digest(y.numpy().tobytes(), y.mean().numpy().tobytes())


def pixels(collection: str) -> str:
    """What `decoded` and `restored` must be."""
    return digest(*(i.tobytes() for part in SHAPES[collection] for i in images(collection, part)))


@contextlib.contextmanager
def configured(options: argparse.Namespace) -> Iterator[None]:
    """torch's switches as chosen, and as found afterwards."""
    threads, onednn = torch.get_num_threads(), torch._C._get_mkldnn_enabled()
    torch.set_num_threads(options.threads)
    torch._C._set_mkldnn_enabled(options.onednn == "on")
    try:
        with engines.use_engine(options.engine):
            yield
    finally:
        torch.set_num_threads(threads)
        torch._C._set_mkldnn_enabled(onednn)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of one run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collection", choices=sorted(SHAPES), default="short")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--engine", choices=["auto", "float32", "float64", "int8"], default="auto")
    parser.add_argument("--onednn", choices=["on", "off"], default="on")
    parser.add_argument("--model", choices=["compiled", "eager"], default="compiled")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", type=Path, help="folder for segments and an archive")
    parser.add_argument("--decode", type=Path, help="folder that another run wrote")
    parser.add_argument("--archive", action="store_true", help="also compress and decompress")
    parser.add_argument("--layers", action="store_true", help="also train exact convolutions")
    return parser.parse_args(arguments)


def run(arguments: list[str]) -> dict[str, Any]:
    """One configuration: its digests."""
    options = parse(arguments)
    with configured(options):
        found = {
            "options": " ".join(arguments),
            **encode(options),
            "optimizer": optimizer_digest(),
            "native": native_digest(),
        }
        if options.decode:
            found |= decode(options)
        if options.archive:
            found |= archive(options)
        if options.layers:
            found["layers"] = layer_digests()
    return found


def versions() -> dict[str, str]:
    """What this process computes with."""
    import numba

    return {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "numba": numba.__version__,
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "compiled for": numba.config.CPU_NAME or "host",
    }


def main(arguments: list[str]) -> None:
    """Each argument is the options of one run; all run in this process, one line of JSON each."""
    print(json.dumps({"versions": versions()}))
    for line in arguments:
        print(json.dumps(run(line.split())), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
