"""The model with memory: compiled against eager, memory against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import picture
from sampling import check_sampled_gradients

from osoa_pl.arith.engines import use_engine
from osoa_pl.models import memory, network, recall
from osoa_pl.models.eigenbasis import Eigenbasis, near_identity
from osoa_pl.models.features import fill_tile, make_batch
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig, initial_parameters
from osoa_pl.models.memory_ar_density import MemoryAR
from osoa_pl.models.memory_ar_eager import EagerMemoryAutoregressive
from osoa_pl.online.direct import DirectDecoder, DirectEncoder
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.session import Session

SHAPES = [(1, 1), (1, 9), (7, 1), (12, 15), (30, 5), (3, 3)]


def made(kind, channels, **options):
    config = MemoryConfig(channels, width=16, depth=1, mixtures=2, memory_bits=10)
    generator = torch.Generator().manual_seed(5)
    parameters = initial_parameters(config, 0)
    parameters += 0.05 * torch.randn(parameters.shape, generator=generator)
    return kind(config, parameters, torch.full((3,), 2.0), **options)


def art(height, width, channels, seed):
    """Few colours, many repeats."""
    rng = np.random.default_rng(seed % 3)
    palette = np.random.default_rng(1).integers(0, 256, (5, channels))
    cell = palette[rng.integers(0, 5, (4, 4))]
    pixels = np.tile(cell, (height // 4 + 1, width // 4 + 1, 1))[:height, :width]
    spots = np.random.default_rng(seed).random((height, width)) < 0.05
    pixels[spots] = palette[seed % 5]
    return pixels.astype(np.uint8)


def batch_of(channels, draw, seed=0, shapes=SHAPES):
    batch = make_batch(shapes, channels, [None] * len(shapes), list(range(len(shapes))))
    for index, (height, width) in enumerate(shapes):
        fill_tile(batch, index, draw(height, width, channels, seed + index))
    return batch


def learn(model, batch, counter):
    gradient = model.gradient(batch, 7, counter)
    model.parameters.sub_(gradient * 0.5)
    model.stepped()
    model.advance()
    return gradient


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("draw", [picture, art])
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_equals_eager(channels, draw, threads):
    fast = made(MemoryAutoregressive, channels, threads=threads)
    slow = made(EagerMemoryAutoregressive, channels)
    on = []
    for counter in range(4):
        batch = batch_of(channels, draw, counter)
        on.append(fast.memory.colours.on)
        for ours, theirs in zip(fast.intervals(batch), slow.intervals(batch)):
            np.testing.assert_array_equal(ours, theirs)
        ours, theirs = (learn(m, batch, counter) for m in (fast, slow))
        assert torch.equal(ours, theirs)
        assert all(torch.equal(a, b) for a, b in zip(fast.state(), slow.state()))
    assert any(on) == (draw is art)


@pytest.mark.parametrize("channels", [1, 3])
def test_forward_passes_in_blocks_and_by_layers_agree(channels):
    models = [made(MemoryAutoregressive, channels, threads=threads) for threads in (1, 2)]
    models[1]._blocks = False  # as where the processor has no 16-bit products
    for counter in range(2):
        batch = batch_of(channels, picture, counter, [(70, 30), (1, 3)])
        for ours, theirs in zip(*(m.intervals(batch) for m in models)):
            np.testing.assert_array_equal(ours, theirs)
        assert torch.equal(*(learn(m, batch, counter) for m in models))
        assert all(torch.equal(a, b) for a, b in zip(*(m.state() for m in models)))


@pytest.mark.parametrize("channels", [1, 3])
def test_eigenbasis_compiled_equals_eager(channels):
    layers = MemoryConfig(channels, width=16, depth=1, mixtures=2).network().layers()
    basis = near_identity(layers)
    fast = made(MemoryAutoregressive, channels, basis=Eigenbasis(layers, basis, compiled=True))
    slow = made(EagerMemoryAutoregressive, channels, basis=Eigenbasis(layers, basis))
    plain = made(MemoryAutoregressive, channels)
    for counter in range(3):
        batch = batch_of(channels, picture, counter)
        for ours, theirs in zip(fast.intervals(batch), slow.intervals(batch)):
            np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(fast.intervals(batch)[0], plain.intervals(batch)[0])
        assert torch.equal(learn(fast, batch, counter), learn(slow, batch, counter))
        learn(plain, batch, counter)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", [2, 7, 64])
def test_sampled_gradients(channels, stride):
    """Compiled equals eager; a batch of fewer pixels than the stride has one."""
    fast = made(MemoryAutoregressive, channels)
    slow = made(EagerMemoryAutoregressive, channels)
    batches = [batch_of(channels, art, n) for n in range(5)]
    batches[2] = batch_of(channels, art, 2, [(2, 1)])
    check_sampled_gradients(fast, slow, batches, stride)


@pytest.mark.parametrize("channels", [1, 3])
def test_engines_agree(channels):
    results = []
    for engine in ("float32", "float64", "int8"):
        with use_engine(engine):
            model = made(MemoryAutoregressive, channels)
            for counter in range(3):
                batch = batch_of(channels, art, counter)
                coded = model.intervals(batch)
                gradient = learn(model, batch, counter)
            results.append((*coded, gradient.numpy()))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kinds", [
    (MemoryAutoregressive, MemoryAutoregressive),
    (MemoryAutoregressive, EagerMemoryAutoregressive),
    (EagerMemoryAutoregressive, MemoryAutoregressive),
])  # fmt: skip
@pytest.mark.parametrize("streams", [1, 2, 4])
def test_each_decodes_the_other(channels, kinds, streams):
    encoder, decoder = (made(kind, channels) for kind in kinds)
    shapes = [(4, 7), (5, 4), (3, 1), (4, 7)]  # few pixels: eager decoding takes 0.1 s for each
    for counter in range(3):
        batch = batch_of(channels, art, counter, shapes)
        coder = DirectEncoder(encoder, streams)
        coder.code(batch)
        words = coder.finish().streams
        found = make_batch(shapes, channels, [None] * 4, list(range(4)))
        coder = DirectDecoder(decoder, "segment", words)
        coder.code(found)
        coder.finish()
        np.testing.assert_array_equal(found.buffer, batch.buffer)
        learn(encoder, batch, counter)
        learn(decoder, found, counter)
        assert all(torch.equal(a, b) for a, b in zip(encoder.state(), decoder.state()))


@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_integers_whose_products_fit(channels):
    """The first layer sums features times weights of 9 bits exactly in float32."""
    largest = None
    for draw in (picture, art):
        model = made(MemoryAutoregressive, channels)
        for counter in range(3):
            batch = batch_of(channels, draw, counter)
            x = np.abs(model._features(batch).numpy())
            np.testing.assert_array_equal(x, np.rint(x))
            top = x.max(0)
            largest = top if largest is None else np.maximum(largest, top)
            learn(model, batch, counter)
    assert (largest <= 510).all()
    assert largest.sum() <= recall.largest_input(channels) <= network.MAX_INPUT


@pytest.mark.parametrize("channels", [1, 3])
def test_memory_sees_only_what_is_decoded(channels):
    """Changing a pixel leaves what memory says of the pixels before it alone."""
    shapes = [(7, 11), (7, 11), (5, 6)]
    model = made(MemoryAutoregressive, channels)
    learn(model, batch_of(channels, art, 0, shapes), 0)

    def looked(batch):
        model._looked = None
        work = model.look(batch)
        return work.features.copy(), work.values.copy(), work.counts.copy()

    batch = batch_of(channels, art, 3, shapes)
    before = looked(batch)
    orders = [model.order(batch, group, 2) for group in range(2)]
    np.testing.assert_array_equal(np.sort(np.concatenate(orders)), np.arange(batch.pixels))
    for group, place in ((0, 0), (0, 40), (0, 77), (0, 120), (1, 12)):
        pixel = orders[group][place]
        tile = int(np.searchsorted(batch.table[:, 3], pixel, side="right")) - 1
        changed = make_batch(shapes, channels, [None] * 3, [0, 1, 2])
        for index in range(3):
            pixels = batch.tile(index).copy()
            if index == tile:
                pixels.reshape(-1, channels)[pixel - batch.table[tile, 3]] ^= 85
            fill_tile(changed, index, pixels)
        after = looked(changed)
        unaffected = np.concatenate([orders[group][: place + 1], orders[1 - group]])
        counts = before[2][unaffected]
        np.testing.assert_array_equal(counts, after[2][unaffected])
        np.testing.assert_array_equal(before[0][unaffected], after[0][unaffected])
        for ours, theirs, count in zip(before[1][unaffected], after[1][unaffected], counts):
            np.testing.assert_array_equal(ours[:count], theirs[:count])


def test_contexts_hold_the_last_three_pixels_with_counts():
    entries = np.zeros((16, 4), np.uint32)
    h = np.uint64(0xABCDEF0123456789)
    for value in (7, 7, 9, 7, 11, 13):
        recall.insert(entries, h, np.uint32(value))
    entry = entries[int(h) & 15]
    assert [(int(e) & 0xFFFFFF, int(e) >> 24) for e in entry[1:]] == [(13, 1), (11, 1), (7, 3)]
    other = h ^ np.uint64(1 << 60)  # same place, another check
    recall.insert(entries, other, np.uint32(5))
    entry = entries[int(h) & 15]
    assert [(int(e) & 0xFFFFFF, int(e) >> 24) for e in entry[1:]] == [(5, 1), (0, 0), (0, 0)]


def test_repeats_are_learnt_at_once():
    """The second time a picture comes, it costs next to nothing; without memory it costs."""
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    model = made(MemoryAutoregressive, 3)
    costs = []
    for counter in range(3):
        batch = make_batch([(24, 24)], 3, [None])
        fill_tile(batch, 0, image)
        costs.append(model.bits(batch, 0, 0) / image.size)
        learn(model, batch, counter)
    assert costs[0] > 7
    assert costs[1] < 2
    assert costs[2] < costs[1]


def test_history_and_shapes_are_bounded(monkeypatch):
    """A ring that wraps and shapes that fall out leave encoder and decoder equal."""
    monkeypatch.setattr(memory, "HISTORY_BITS", 10)
    monkeypatch.setattr(memory, "_MOST_SHAPES", 2)
    encoder, decoder = (made(MemoryAutoregressive, 3) for _ in range(2))
    for counter in range(6):
        shapes = [(8 + counter % 3, 9), (6, 7)]
        batch = batch_of(3, art, counter, shapes)
        coder = DirectEncoder(encoder, 2)
        coder.code(batch)
        words = coder.finish().streams
        found = make_batch(shapes, 3, [None] * 2, [0, 1])
        DirectDecoder(decoder, "segment", words).code(found)
        np.testing.assert_array_equal(found.buffer, batch.buffer)
        for model, seen in ((encoder, batch), (decoder, found)):
            learn(model, seen, counter)
    assert len(encoder.memory.tables.history) == 1 << 10


@pytest.mark.parametrize("channels", [1, 3])
def test_native_loss_is_the_exact_one_but_for_rounding(channels):
    images = torch.from_numpy(np.stack([art(12, 16, channels, n) for n in range(3)]))
    density = MemoryAR(channels, 16, 1, 2, memory_bits=10)
    with torch.no_grad():
        density.flat += 0.02 * torch.randn(density.flat.shape)
    density.calibrate([images])
    native = density(images, 0)
    native.backward()
    slope = density.flat.grad.clone()
    density.form = "exact"
    density.flat.grad = None
    exact = density(images, 0)
    exact.backward()
    assert abs(exact.item() - native.item()) < 0.02 * native.item()
    cosine = torch.nn.functional.cosine_similarity(slope, density.flat.grad, dim=0)
    assert float(cosine) > 0.98


@pytest.mark.parametrize("policy", [NoAdaptation, OnlineAdaptation])
def test_a_session_resumes_with_its_memory(policy):
    images = [art(12, 16, 3, n) for n in range(12)]
    settings = BatchSettings(batch_pixels=400, first_pixels=400, segment_batches=2)

    def begun():
        model = made(MemoryAutoregressive, 3)
        session = Session(
            model, policy(), torch.full_like(model.parameters, 1e-6), [(12, 16)] * 12, settings
        )
        session.begin(iter(images))
        return session

    whole, snapshots, segments = begun(), [], []
    while whole.code() is not None:
        segment = whole.step()
        if segment is not None:
            segments.append(segment)
            snapshots.append(whole.snapshot())
    assert len(segments) == 3
    for done in (1, 2, 3):
        rest = begun()
        rest.restore(snapshots[done - 1])
        for expected in segments[done:]:
            segment = None
            while segment is None:
                rest.code()
                segment = rest.step()
            assert segment.header == expected.header
            for ours, theirs in zip(segment.streams, expected.streams):
                np.testing.assert_array_equal(ours, theirs)
        assert rest.exhausted
