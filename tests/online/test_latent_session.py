"""Trajectories of latent models, and what holds for both kinds: snapshots, accounts, moves."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import picture, small_model, small_vae

from osoa_pl.errors import DamagedArchiveError, InputError, PortabilityError, UsageError
from osoa_pl.models.local_ar import LocalAutoregressive
from osoa_pl.models.vae import VariationalAutoencoder
from osoa_pl.models.vae_eager import EagerVariationalAutoencoder
from osoa_pl.online import snapshots
from osoa_pl.online.latent import INITIAL_WORDS, initial_words
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings
from osoa_pl.online.session import Session

COUNT, SIDE = 23, (6, 7)
SETTINGS = BatchSettings(batch_pixels=168, first_pixels=84, segment_batches=3, streams=2)


def images(likelihood="bernoulli"):
    levels = 2 if likelihood == "bernoulli" else 256
    rng = np.random.default_rng(5)
    return [rng.integers(0, levels, (*SIDE, 1), dtype=np.uint8) for _ in range(COUNT)]


def session(policy, *, likelihood="bernoulli", kind=VariationalAutoencoder, settings=SETTINGS,
            **options):  # fmt: skip
    config, parameters, maxima, moment = small_vae(likelihood)
    model = kind(config, parameters.clone(), maxima.clone())
    return Session(model, policy, moment, [SIDE] * COUNT, settings, **options)


def pairs(encoded):
    return [(s.header, s.streams) for s in encoded]


@pytest.mark.parametrize("likelihood", ["bernoulli", "beta_binomial"])
@pytest.mark.parametrize("policy", [NoAdaptation, OnlineAdaptation])
def test_round_trip(likelihood, policy):
    encoded = list(session(policy(), likelihood=likelihood).encode(images(likelihood)))
    assert len(encoded) == 3
    out = list(session(policy(), likelihood=likelihood).decode(pairs(encoded)))
    for ours, theirs in zip(out, images(likelihood), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("updates", [1, 2])
def test_eager_and_compiled_give_the_same_bytes_and_read_each_other(updates):
    kinds = (VariationalAutoencoder, EagerVariationalAutoencoder)
    fast, slow = (
        list(session(OnlineAdaptation(updates=updates), kind=kind).encode(images()))
        for kind in kinds
    )
    assert [s.header for s in fast] == [s.header for s in slow]
    for ours, theirs in zip(fast, slow):
        for a, b in zip(ours.streams, theirs.streams):
            np.testing.assert_array_equal(a, b)
    reader = session(OnlineAdaptation(updates=updates), kind=EagerVariationalAutoencoder)
    for ours, theirs in zip(reader.decode(pairs(fast)), images()):
        np.testing.assert_array_equal(ours, theirs)


def test_streams_are_chains_of_their_own():
    for streams in (1, 5, 9):
        settings = BatchSettings(168, 84, 100, streams)
        encoded = list(session(OnlineAdaptation(), settings=settings).encode(images()))
        used = [s for s in encoded[0].streams if len(s)]
        assert len(used) == min(streams, 4)  # four images a batch at most
        out = session(OnlineAdaptation(), settings=settings).decode(pairs(encoded))
        assert all(np.array_equal(a, b) for a, b in zip(out, images(), strict=True))


def test_initial_bits_are_counted_and_paid_once_a_segment():
    whole = BatchSettings(168, 84, 100, 1)
    (one,) = session(NoAdaptation(), settings=whole).encode(images())
    many = list(session(NoAdaptation(), settings=BatchSettings(168, 84, 1, 1)).encode(images()))
    assert 0 < one.initial_bits < 32 * 8
    assert sum(s.initial_bits for s in many) > 4 * one.initial_bits
    total = 8 * one.code_bytes
    assert total == pytest.approx(one.initial_bits + sum(one.batch_bits), abs=64)
    assert len(one.batch_bits) == one.header.batch_count


def test_damage_names_the_segment_and_hands_out_no_wrong_pixel():
    encoded = pairs(session(OnlineAdaptation()).encode(images()))
    good = images()
    for number in range(len(encoded)):
        for place in (0, 1, -1, -2):
            damaged = list(encoded)
            header, streams = damaged[number]
            streams = [s.copy() for s in streams]
            streams[0][place] ^= 0x10
            damaged[number] = header, streams
            out = []
            with pytest.raises((DamagedArchiveError, PortabilityError), match=f"segment {number}"):
                for image in session(OnlineAdaptation()).decode(damaged):
                    out.append(image)
            assert all(np.array_equal(a, b) for a, b in zip(out, good))


def test_streams_that_are_no_messages_are_damage():
    ((header, streams), *_) = pairs(session(NoAdaptation()).encode(images()))
    for wrong in (streams[0][:-1], streams[0][:1], np.zeros(0, np.uint32), streams[1]):
        with pytest.raises((DamagedArchiveError, PortabilityError), match="segment 0"):
            list(session(NoAdaptation()).decode([(header, [wrong, streams[1]])]))


def test_batches_too_small_for_an_image_are_refused_both_ways():
    strips = BatchSettings(64, 64, 3, 1)
    config, parameters, maxima, moment = small_vae()
    big = [(12, 7)] * 3

    def make():
        model = VariationalAutoencoder(config, parameters.clone(), maxima.clone())
        return Session(model, NoAdaptation(), moment, big, strips)

    with pytest.raises(UsageError, match="whole images of 6x7"):
        list(make().encode([np.zeros((12, 7, 1), np.uint8)] * 3))
    encoded = pairs(session(NoAdaptation()).encode(images()))
    header, streams = encoded[0]
    with pytest.raises(DamagedArchiveError, match="whole images|streams"):
        list(make().decode([(header, streams[:1])]))


def test_pixels_that_the_model_cannot_code():
    wrong = images()
    wrong[7] = wrong[7] * 255
    with pytest.raises(InputError, match="0 and 1"):
        list(session(NoAdaptation()).encode(wrong))


def direct_session(policy):
    config, parameters, maxima, moment = small_model(1)
    model = LocalAutoregressive(config, parameters.clone(), maxima.clone(), threads=1)
    shapes = [(9, 8)] * 9 + [(40, 9)]
    settings = BatchSettings(batch_pixels=128, first_pixels=64, segment_batches=2, streams=2)
    made = [picture(h, w, 1, i) for i, (h, w) in enumerate(shapes)]
    return Session(model, policy, moment, shapes, settings), made


def latent_session(policy):
    return session(policy), images()


@pytest.mark.parametrize("make", [direct_session, latent_session])
@pytest.mark.parametrize("policy", [NoAdaptation, OnlineAdaptation])
def test_a_run_continues_from_any_snapshot_with_the_same_bytes(make, policy):
    run, data = make(policy())
    run.begin(data)
    kept, made = [run.snapshot()], []
    while run.code() is not None:
        segment = run.step()
        if segment is not None:
            made.append(segment)
            kept.append(snapshots.unpack(snapshots.pack(run.snapshot())))
    for done, snapshot in enumerate(kept):
        again, data = make(policy())
        again.begin(data)
        again.restore(snapshot)
        rest = []
        while again.code() is not None:
            segment = again.step()
            if segment is not None:
                rest.append(segment)
        assert [s.header for s in rest] == [s.header for s in made[done:]]
        for ours, theirs in zip(rest, made[done:]):
            assert all(np.array_equal(a, b) for a, b in zip(ours.streams, theirs.streams))


def test_moves_come_in_turn():
    run, data = latent_session(OnlineAdaptation())
    run.begin(data)
    with pytest.raises(UsageError, match="nothing to step on"):
        run.step()
    run.code()
    with pytest.raises(UsageError, match="its step comes first"):
        run.code()
    with pytest.raises(UsageError, match="between segments"):
        run.snapshot()


def test_initial_words_never_change():
    words = initial_words(0)
    assert words.dtype == np.uint32 and len(words) == INITIAL_WORDS
    assert [hex(w) for w in words[:3]] == ["0xbd9e03e8", "0x5aef16f9", "0xdfddeec9"]
    assert not np.array_equal(words, initial_words(1))
