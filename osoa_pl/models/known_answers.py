"""Known-answer test of the compiled kernels: they must repeat the eager path before they are used.

A tiny model codes two tiny pictures with both; intervals, gradient and decoded pixels must agree
bit for bit. Once per process, a fraction of a second.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from osoa_pl.arith.engines import check_rounding
from osoa_pl.coding import rans_numba
from osoa_pl.coding.bitsback import initial_message, is_initial
from osoa_pl.coding.rans import base_message, copy_message, message_equal
from osoa_pl.errors import PortabilityError
from osoa_pl.models.base import StreamDecoder
from osoa_pl.models.eigenbasis import Eigenbasis, near_identity
from osoa_pl.models.features import TileBatch, fill_tile, make_batch
from osoa_pl.models.local_ar import LocalAutoregressive, LocalConfig, initial_parameters
from osoa_pl.models.local_ar_eager import EagerLocalAutoregressive
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig
from osoa_pl.models.memory_ar import initial_parameters as memory_parameters
from osoa_pl.models.memory_ar_eager import EagerMemoryAutoregressive
from osoa_pl.models.vae import VAEConfig, VariationalAutoencoder
from osoa_pl.models.vae import initial_parameters as vae_parameters
from osoa_pl.models.vae_eager import EagerVariationalAutoencoder

_SHAPES = [(6, 9), (3, 1)]
_DIFFERENT = "compiled kernels differ from the eager path on this machine"
_STALE = (
    "`osoa doctor` shows which; a stale numba cache is the usual cause: "
    "remove __pycache__ below the package"
)


def _batch(channels: int, levels: int = 256) -> TileBatch:
    batch = make_batch(_SHAPES, channels, [None] * len(_SHAPES))
    for index, (height, width) in enumerate(_SHAPES):
        y, x, c = np.mgrid[0:height, 0:width, 0:channels]
        pixels = (37 * x + 91 * y + 50 * c + x * y * 7 + 200 * index) % 256
        fill_tile(batch, index, (pixels * levels // 256).astype(np.uint8))
    return batch


@cache
def check_compiled_vae(likelihood: str) -> None:
    """Raises PortabilityError where a kernel of the VAE differs from the eager path."""
    rans_numba.check_engine()
    check_rounding()
    config = VAEConfig(6, 5, 1, hidden=8, latent=4, likelihood=likelihood, latent_bits=8)
    parameters = vae_parameters(config, seed=0) * 2.0
    made = [
        kind(config, parameters.clone(), torch.full((2,), 2.0))
        for kind in (VariationalAutoencoder, EagerVariationalAutoencoder)
    ]
    levels = made[0].likelihood.levels
    y, x, n = np.mgrid[0:6, 0:5, 0:3]
    images = ((37 * x + 91 * y + x * y * 7 + 50 * n) % 256 * levels // 256).astype(np.uint8)
    words = np.arange(1, 65, dtype=np.uint32) * np.uint32(0x9E3779B1)
    batch = make_batch([(6, 5)] * 3, 1, [None] * 3)
    for index in range(3):
        fill_tile(batch, index, images[:, :, index : index + 1])
    messages, same = [], True
    for model in made:
        message = initial_message(words)
        model.push([model.record(batch)], message, 0, 1)
        messages.append(message)
        found = make_batch([(6, 5)] * 3, 1, [None] * 3)
        copy = copy_message(message)
        model.pop(found, [copy])
        same = same and np.array_equal(found.buffer, batch.buffer) and is_initial(copy, words)
    same = same and message_equal(*messages)
    if not same or not torch.equal(made[0].gradient(batch, 1, 2), made[1].gradient(batch, 1, 2)):
        raise PortabilityError(_DIFFERENT, hint=_STALE)


@cache
def check_compiled(channels: int) -> None:
    """Raises PortabilityError where a compiled kernel differs from the eager path."""
    config = LocalConfig(channels, width=8, depth=1, mixtures=2)
    # zeros in the second layer would leave half of the network untested
    parameters = initial_parameters(config, seed=0) + 0.01
    maxima = torch.full((3,), 2.0)
    _check_direct(
        LocalAutoregressive(config, parameters.clone(), maxima, threads=1),
        EagerLocalAutoregressive(config, parameters.clone(), maxima),
        [_batch(channels)],
    )


@cache
def check_compiled_memory(channels: int) -> None:
    """Raises PortabilityError where a kernel of the model with memory differs from the eager path.

    The second batch repeats the first, so that memory has something to say.
    """
    config = MemoryConfig(channels, width=8, depth=1, mixtures=2, memory_bits=8)
    parameters = memory_parameters(config, seed=0) + 0.01
    maxima = torch.full((3,), 2.0)
    layers = config.network().layers()
    basis = near_identity(layers)
    _check_direct(
        MemoryAutoregressive(
            config, parameters.clone(), maxima, threads=1,
            basis=Eigenbasis(layers, basis, compiled=True),
        ),
        EagerMemoryAutoregressive(
            config, parameters.clone(), maxima, basis=Eigenbasis(layers, basis)
        ),
        [_batch(channels, 8), _batch(channels, 8)],
    )  # fmt: skip


def _check_direct(
    fast: LocalAutoregressive, slow: LocalAutoregressive, known: list[TileBatch]
) -> None:
    rans_numba.check_engine()
    check_rounding()
    same = True
    for batch in known:
        start, frequency = fast.intervals(batch)
        expected = slow.intervals(batch)
        same = same and np.array_equal(start, expected[0])
        same = same and np.array_equal(frequency, expected[1])
        same = same and torch.equal(fast.gradient(batch, 1, 2), slow.gradient(batch, 1, 2))
        order = fast.order(batch, 0, 1)
        message = base_message(1)
        rans_numba.push_sequence(
            message, start[order].reshape(-1), frequency[order].reshape(-1), fast.precision
        )
        words = message.tail.content()
        decoder = StreamDecoder(
            message.head.copy(), words, np.array([0, len(words)]), np.array([len(words)])
        )
        found = make_batch(_SHAPES, batch.channels, [None] * len(_SHAPES))
        same = same and fast.decode(found, decoder)
        same = same and np.array_equal(found.buffer, batch.buffer)
        if not same:
            raise PortabilityError(_DIFFERENT, hint=_STALE)
        fast.advance()
        slow.advance()
