"""Pretraining of many lanes at once, in native floats, against the exact model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import picture

from osoa_pl.models.eigenbasis import Eigenbasis, near_identity
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig, initial_parameters

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import pretrain
    import pretrain_lanes

    yield pretrain, pretrain_lanes
    for path in SCRIPTS.glob("*.py"):
        sys.modules.pop(path.stem, None)


def noisy(seed: int, channels: int) -> np.ndarray:
    """A picture of many colours."""
    noise = np.random.default_rng(seed).normal(0, 12, (32, 32, channels))
    return (picture(32, 32, channels, seed) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_lanes_learn_as_the_exact_model_does(scripts, channels, tmp_path, monkeypatch):
    pretrain, lanes = scripts
    monkeypatch.setattr(pretrain, "SETTINGS", pretrain.BatchSettings(512, 512, 64))
    monkeypatch.setattr("osoa_pl.models.colours.MOST_COLOURS", {1: 8, 3: 64})
    collections = [[noisy(10 * k + n, channels) for n in range(4)] for k in range(2)]
    config = MemoryConfig(channels, 16, 1, 2, eigenbasis=True)
    layers = config.network().layers()
    basis = near_identity(layers)
    exact = Eigenbasis(layers, basis)
    weights = exact.stored(initial_parameters(config, 1))
    run = {
        "config": config.to_dict(), "parameters": weights, "basis": basis,
        "activation_max": torch.full((config.maxima_count(),), 4.0),
        "second_moment": torch.full_like(weights, 1e-4),
    }  # fmt: skip
    torch.save(run, tmp_path / "start.pt")
    pool = lanes.Pool(10_000, torch.device("cpu"))
    assert all(pool.add(lanes.prepared(images, channels)) for images in collections)
    learner = lanes.Run(tmp_path / "start.pt", tmp_path / "out", 2, torch.device("cpu"))
    steps = 4 * 32 * 32 // lanes.BATCH
    losses, gradients = [], []
    for step in range(steps):
        batch = pool.batch([begin + step * lanes.BATCH for begin, _ in pool.spans])
        loss, gradient, _, _ = learner.learn(learner.state, batch, learner.first)
        losses.append(loss / np.log(2))
        gradients.append(gradient)
    for lane, images in enumerate(collections):
        model = MemoryAutoregressive(
            config, weights.clone(), run["activation_max"].clone(), threads=1, basis=exact
        )
        model.memory = pretrain.MemoryState(channels, pretrain.MEMORY_BITS, model.memory.pool)
        adam = pretrain.online_adam(model.parameters, 6e-4, run["second_moment"])
        for step, tiles in enumerate(pretrain.batches_of(images, channels)):
            bits = model.bits(tiles, 0, 0) / (tiles.pixels * channels)
            assert float(losses[step][lane]) == pytest.approx(bits, rel=0.02)
            gradient = model.gradient(tiles, 0, step)
            alike = torch.cosine_similarity(gradient, gradients[step][lane], 0)
            assert alike > 0.9
            adam.step(pretrain.clip_by_exact_norm(gradient, 1.0))
            model.advance()
        assert step == steps - 1
    batch = pool.batch([begin for begin, _ in pool.spans])
    learner.update(batch, 1e-3)
    before = learner.validate(pool, 2)
    for _ in range(10):
        learner.begin([0, 1], [0.0, 0.0])
        learner.update(batch, 1e-3)
    learner.average.copy_(learner.first)
    assert learner.validate(pool, 2) < before
    learner.save()
    kept = torch.load(tmp_path / "out.pt", weights_only=True)
    assert torch.equal(kept["average"], learner.average) and kept["step"] == 11


def test_few_colours_are_left_out(scripts):
    _, lanes = scripts
    assert lanes.prepared([np.full((32, 32, 3), 7, np.uint8)] * 2, 3) is None
