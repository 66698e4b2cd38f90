"""Whether this machine repeats the arithmetic: engines, compiled kernels, checkpoints.

The trajectory check codes and decodes a few tiny pictures with a tiny model under adaptation,
once with the compiled kernels and once in eager torch, and compares code words, digests of the
adapted weights, and pixels. Weights and pictures come from the counter-based noise, so the
trajectory's digest can be compared between machines.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from osoa_pl.models.checkpoint import Checkpoint

PACKAGES = ("torch", "numpy", "numba", "safetensors", "pillow", "imagecodecs", "rich")
_SHAPES = ((9, 11), (1, 5), (14, 6), (3, 1), (8, 8))


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `decides_bits`: archives depend on it."""

    name: str
    passed: bool
    detail: str
    decides_bits: bool = True


def versions() -> dict[str, str]:
    """Versions of osoa_pl, Python and the packages it stands on; empty where one is missing."""
    import osoa_pl

    found = {"osoa_pl": osoa_pl.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return found


def check_engines() -> list[Check]:
    """One check an operation: float64, to which every contraction may fall back, is exact."""
    from osoa_pl.arith.diagnosis import engine_report
    from osoa_pl.models import network_int8

    network_int8.is_exact()  # asked here, so that the report below has it
    checks = []
    for operation, engines in sorted(engine_report().items()):
        words = [name if passed else f"{name} refused" for name, passed in sorted(engines.items())]
        # int8 alone is a faster way to the same values: refused is as sound as taken
        sound = engines.get("float64", set(engines) == {"int8"} or any(engines.values()))
        checks.append(Check(operation, sound, ", ".join(words)))
    return checks


def check_trajectory(channels: int) -> Check:
    """Compiled kernels against the eager reference, both directions, adapting."""
    name = f"compiled kernels, {'rgb' if channels == 3 else 'grey'}"
    try:
        digest = trajectory_digest(channels, "compiled")
        reference = trajectory_digest(channels, "eager")
    except Exception as error:  # whatever a kernel does on an odd machine is a failed check
        return Check(name, False, f"{type(error).__name__}: {error}")
    if digest != reference:
        return Check(name, False, f"trajectory {digest[:16]}, eager reference {reference[:16]}")
    return Check(name, True, f"trajectory {digest[:16]}, as the eager reference")


def check_cuda() -> Check:
    """The eager path on a CUDA device against the CPU; passed where there is none."""
    import torch

    if not torch.cuda.is_available():
        return Check("cuda", True, "no device", decides_bits=False)
    where = torch.cuda.get_device_name(0)
    try:
        same = trajectory_digest(3, "eager", device="cuda") == trajectory_digest(3, "compiled")
    except Exception as error:
        return Check("cuda", False, f"{where}: {type(error).__name__}: {error}")
    return Check("cuda", same, f"{where}: trajectory {'as' if same else 'not as'} on the CPU")


def trajectory_digest(channels: int, engine: str, device: str = "cpu") -> str:
    """SHA-256 of the code words and state digests of the tiny trajectory, after decoding it.

    Raises OsoaError where the pixels do not come back.
    """
    from osoa_pl.models import zoo
    from osoa_pl.online.online import OnlineAdaptation
    from osoa_pl.online.plan import BatchSettings
    from osoa_pl.online.session import Session

    settings = BatchSettings(batch_pixels=64, first_pixels=64, segment_batches=3, streams=2)
    checkpoint = tiny_checkpoint(channels)
    images = _pictures(channels)

    def session() -> Session:
        model, moment = zoo.build(
            checkpoint, channels, engine="eager" if engine == "eager" else "compiled",
            device=device, threads=1,
        )  # fmt: skip
        policy = OnlineAdaptation(step_size=1e-2)
        return Session(model, policy, moment, list(_SHAPES), settings, seed=1)

    digest = hashlib.sha256()
    coded = []
    for segment in session().encode(images):
        digest.update(segment.header.state_digest)
        for words in segment.streams:
            digest.update(np.ascontiguousarray(words, dtype="<u4").tobytes())
        coded.append((segment.header, segment.streams))
    decoded = list(session().decode(coded, "trajectory"))  # raises where a digest differs
    if len(decoded) != len(images) or not all(map(np.array_equal, decoded, images)):
        from osoa_pl.errors import PortabilityError

        raise PortabilityError("trajectory: decoded pixels differ")
    return digest.hexdigest()


def tiny_checkpoint(*kinds: int) -> Checkpoint:
    """Models of a few thousand weights for pixels of 1 or 3 samples, the same everywhere."""
    import torch

    from osoa_pl.arith import noise
    from osoa_pl.models import zoo
    from osoa_pl.models.checkpoint import Checkpoint
    from osoa_pl.models.local_ar import LocalConfig

    models = {}
    for channels in kinds:
        config = LocalConfig(channels=channels, width=16, depth=1, mixtures=2)
        count = config.network().parameter_count()
        weights = (noise.uniform(noise.derive_key(7, channels), count) - 0.5) * 0.25
        maxima = torch.full((2 * config.depth + 1,), 4.0)
        models[zoo.KINDS[channels]] = (config, weights, maxima, torch.full((count,), 1e-4))
    return Checkpoint("tiny", zoo.pack(models))


def _pictures(channels: int) -> list[np.ndarray]:
    """Smooth pictures with some noise, from integer arithmetic alone."""
    from osoa_pl.arith.noise import mix

    pictures = []
    for number, (height, width) in enumerate(_SHAPES):
        samples = [
            (9 * row + 5 * column + 40 * channel + 60 * number + mix(row * width + column, 3) % 7)
            % 256
            for row in range(height)
            for column in range(width)
            for channel in range(channels)
        ]
        pictures.append(np.array(samples, np.uint8).reshape(height, width, channels))
    return pictures
