"""Trajectories: round trips in both directions, on any engine and number of threads."""

from __future__ import annotations

import numpy as np
import pytest
from fakes import picture, small_model

from osoa_pl.errors import DamagedArchiveError, InputError, PortabilityError, UsageError
from osoa_pl.format.partial import PartialFolder
from osoa_pl.models.local_ar import LocalAutoregressive
from osoa_pl.models.local_ar_eager import EagerLocalAutoregressive
from osoa_pl.online import auto
from osoa_pl.online.none import NoAdaptation
from osoa_pl.online.online import OnlineAdaptation
from osoa_pl.online.plan import BatchSettings, batches, needed_version, segments
from osoa_pl.online.policy import from_manifest
from osoa_pl.online.prices import UNIT, prices
from osoa_pl.online.session import Session
from osoa_pl.online.trajectory import Trajectory

SETTINGS = BatchSettings(batch_pixels=256, first_pixels=64, segment_batches=3, streams=3)
SHAPES = [(13, 17), (1, 1), (20, 9), (5, 30), (9, 1), (1, 300), (40, 41), (3, 4), (16, 16)]


def images(channels):
    made = [picture(h, w, channels, i) for i, (h, w) in enumerate(SHAPES)]
    made[4][:] = 0
    made[7] = np.random.default_rng(0).integers(0, 256, made[7].shape, dtype=np.uint8)
    return made


def session(channels, policy, *, kind=LocalAutoregressive, shapes=SHAPES, threads=1, **options):
    config, parameters, maxima, moment = small_model(channels)
    extra = {"threads": threads} if kind is LocalAutoregressive else {}
    model = kind(config, parameters.clone(), maxima.clone(), **extra)
    return Session(model, policy, moment, shapes, SETTINGS, **options)


def coded(channels, policy, **options):
    return list(session(channels, policy, **options).encode(images(channels)))


def pairs(encoded):
    return [(s.header, s.streams) for s in encoded]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", [NoAdaptation, OnlineAdaptation])
@pytest.mark.parametrize("threads", [1, 2])
def test_round_trip(channels, policy, threads):
    encoded = coded(channels, policy(), threads=threads)
    assert len(encoded) > 2
    decoder = session(channels, policy(), threads=3 - threads)
    out = list(decoder.decode(pairs(encoded)))
    assert len(out) == len(SHAPES)
    for ours, theirs in zip(out, images(channels)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("updates", [1, 2])
def test_eager_and_compiled_give_the_same_bytes(updates):
    fast = coded(1, OnlineAdaptation(updates=updates))
    slow = coded(1, OnlineAdaptation(updates=updates), kind=EagerLocalAutoregressive)
    assert [s.header for s in fast] == [s.header for s in slow]
    for ours, theirs in zip(fast, slow):
        for a, b in zip(ours.streams, theirs.streams):
            np.testing.assert_array_equal(a, b)


def test_eager_decodes_what_compiled_wrote():
    shapes = [(6, 7), (1, 1), (12, 9), (2, 40)]
    made = [picture(h, w, 3, i) for i, (h, w) in enumerate(shapes)]
    encoded = list(session(3, OnlineAdaptation(), shapes=shapes).encode(made))
    decoder = session(3, OnlineAdaptation(), shapes=shapes, kind=EagerLocalAutoregressive)
    for ours, theirs in zip(decoder.decode(pairs(encoded)), made):
        np.testing.assert_array_equal(ours, theirs)


def test_code_length_is_the_ideal_one():
    encoded = coded(3, OnlineAdaptation())
    ideal = sum(s.ideal_bits for s in encoded)
    found = 8 * sum(s.code_bytes for s in encoded)
    streams = sum(1 for s in encoded for words in s.streams if len(words))
    assert ideal <= found + 64 and found <= ideal * 1.0005 + 64 * streams


def test_adaptation_changes_the_state_and_none_does_not():
    digests = {s.header.state_digest for s in coded(1, NoAdaptation())}
    assert len(digests) == 1
    adapted = [s.header.state_digest for s in coded(1, OnlineAdaptation())]
    assert len(set(adapted)) == len(adapted)


def test_seed_and_step_size_change_the_trajectory():
    first = coded(1, OnlineAdaptation(), seed=0)[-1].header.state_digest
    assert coded(1, OnlineAdaptation(), seed=1)[-1].header.state_digest != first
    assert coded(1, OnlineAdaptation(step_size=2e-3))[-1].header.state_digest != first


def test_damage_names_the_segment_and_hands_out_no_wrong_pixel():
    encoded = coded(1, OnlineAdaptation())
    good = images(1)
    for number in range(len(encoded)):
        damaged = pairs(encoded)
        header, streams = damaged[number]
        streams = [s.copy() for s in streams]
        longest = max(range(len(streams)), key=lambda i: len(streams[i]))
        streams[longest][len(streams[longest]) // 2] ^= 0x10
        damaged[number] = header, streams
        out = []
        with pytest.raises((DamagedArchiveError, PortabilityError), match=f"segment {number}"):
            for image in session(1, OnlineAdaptation()).decode(damaged):
                out.append(image)
        for ours, theirs in zip(out, good):
            np.testing.assert_array_equal(ours, theirs)


def test_swapped_missing_and_foreign_segments():
    encoded = pairs(coded(1, OnlineAdaptation()))
    swapped = [encoded[1], encoded[0], *encoded[2:]]
    with pytest.raises(DamagedArchiveError, match="segment 0"):
        list(session(1, OnlineAdaptation()).decode(swapped))
    with pytest.raises(DamagedArchiveError, match="missing"):
        list(session(1, OnlineAdaptation()).decode(encoded[:-1]))
    with pytest.raises((DamagedArchiveError, PortabilityError), match="segment"):
        list(session(1, OnlineAdaptation(step_size=5e-3)).decode(encoded))


def test_images_must_be_as_announced():
    with pytest.raises(InputError, match="shape"):
        list(session(1, NoAdaptation()).encode([np.zeros((2, 2, 1), np.uint8)]))
    with pytest.raises(InputError, match="fewer"):
        list(session(1, NoAdaptation()).encode(images(1)[:3]))


def test_batches_cover_every_row_once_in_order():
    rows = {}
    for number, tiles in enumerate(batches(SHAPES, SETTINGS)):
        held = sum(t.height * t.width for t in tiles)
        assert held <= max(SETTINGS.budget(number), max(t.width for t in tiles))
        for tile in tiles:
            assert tile.row == rows.get(tile.image, 0)
            rows[tile.image] = tile.row + tile.height
            assert tile.last == (rows[tile.image] == SHAPES[tile.image][0])
            assert tile.row == 0 or tile is tiles[0]
    assert rows == {i: h for i, (h, _) in enumerate(SHAPES)}
    groups = [list(group) for group in segments(SHAPES, SETTINGS)]
    assert [b for group in groups for b in group] == list(batches(SHAPES, SETTINGS))
    assert all(len(group) == SETTINGS.segment_batches for group in groups[:-1])


def test_auto_is_never_larger_than_none(tmp_path):
    rng = np.random.default_rng(3)
    noise = [rng.integers(0, 256, (16, 16, 1), dtype=np.uint8) for _ in range(12)]
    flat = [np.full((16, 16, 1), 7, np.uint8)] * 12
    for number, made in enumerate((images(1), noise, flat)):
        chosen = choose(tmp_path, f"{number}", made)
        plain = trajectory(tmp_path, f"{number}-plain", made, NoAdaptation())
        plain.run()
        assert chosen.record.cost <= plain.record.cost
        folder = PartialFolder(tmp_path)
        sizes = [folder.size(chosen.file(i)) for i in range(len(chosen.record.sizes))]
        assert sizes == chosen.record.sizes


def trajectory(place, name, made, policy):
    """A trajectory over grey images, kept in the folder `place`."""

    def begin(policy):
        shapes = [image.shape[:2] for image in made]
        started = session(1, policy, shapes=shapes)
        started.begin(made)
        return started

    return Trajectory(PartialFolder(place), name, "key", policy, begin)


def choose(place, name, made):
    """The one that `auto` takes."""

    def start(policy):
        size = policy.to_dict().get("step_size", 0)
        return trajectory(place, f"{name}-{size:g}", made, policy)

    moves = auto.choose(start, auto.search(5, (5e-4, 1e-3)))
    try:
        while True:
            for move in next(moves):
                move.run()
    except StopIteration as done:
        return done.value


def test_a_trajectory_goes_on_where_it_ended(tmp_path):
    made = images(1)
    whole = trajectory(tmp_path, "whole", made, OnlineAdaptation())
    whole.run()
    count = len(whole.record.sizes)
    assert count > 2 and whole.done and len(whole.prices) == len(made)
    folder = PartialFolder(tmp_path)
    expected = [folder.read(whole.file(i)) for i in range(count)]
    for made_before in range(1, count):
        name = f"cut-{made_before}"
        trajectory(tmp_path, name, made, OnlineAdaptation()).run(made_before)
        rest = trajectory(tmp_path, name, made, OnlineAdaptation())
        assert len(rest.record.sizes) == made_before
        rest.run()
        assert [folder.read(rest.file(i)) for i in range(count)] == expected
        assert rest.record == whole.record and rest.prices == whole.prices
    again = trajectory(tmp_path, "cut-1", made, OnlineAdaptation())
    assert again.done and again.record == whole.record


def test_nothing_that_was_kept_is_trusted(tmp_path):
    made, folder = images(1), PartialFolder(tmp_path)
    first = trajectory(tmp_path, "t", made, OnlineAdaptation())
    first.run()
    state, segment = folder.read("t/state"), folder.read(first.file(0))
    rng = np.random.default_rng(1)
    for name, data in (("t/state", state), (first.file(0), segment)):
        for _ in range(20):
            damaged = bytearray(data)
            damaged[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            folder.write(name, bytes(damaged))
            assert not trajectory(tmp_path, "t", made, OnlineAdaptation()).record.sizes
        folder.remove(name)
        assert not trajectory(tmp_path, "t", made, OnlineAdaptation()).record.sizes
        folder.write(name, data)
    assert trajectory(tmp_path, "t", made, OnlineAdaptation()).done


def test_prices_are_those_of_the_segments():
    frequency = np.array([1, 2, 3, 1000, 1 << 19, (1 << 20) - 1, 1 << 20])
    exact = 20 - np.log2(frequency)
    np.testing.assert_allclose(prices(frequency, 20) / UNIT, exact, atol=2e-4)


def test_policies_come_back_from_the_manifest():
    for policy in (NoAdaptation(), OnlineAdaptation(step_size=3e-3, updates=2)):
        assert from_manifest(policy.to_dict()).to_dict() == policy.to_dict()
    for entry in ({"name": "magic"}, {"name": "online", "step_size": -1}, {"name": "none", "x": 1}):
        with pytest.raises(ValueError, match="policy"):
            from_manifest(entry)


def test_budgets_double_every_so_many_batches():
    settings = BatchSettings(batch_pixels=1000, first_pixels=128, first_batches=3)
    found = [settings.budget(number) for number in range(14)]
    assert found == [128] * 3 + [256] * 3 + [512] * 3 + [1000] * 5
    assert BatchSettings(**settings.to_dict()) == settings
    assert "first_batches" not in SETTINGS.to_dict() and needed_version(SETTINGS) == 1
    assert needed_version(settings) == 4
    assert needed_version(BatchSettings(gradient_stride=2)) == 5
    assert settings.budget(10**9) == 1000


@pytest.mark.parametrize(
    "options", [{"streams": 0}, {"batch_pixels": 1}, {"first_pixels": 2.5}, {"gradient_stride": 65}]
)
def test_settings_are_checked(options):
    with pytest.raises(UsageError, match="expected"):
        BatchSettings(**options)
