"""The fuzz target over its corpus, and over choices at random and of hypothesis' making."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from fuzz_archive import CORPUS, Target
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COUNTED: Counter[str] = Counter()


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    found = Target()
    yield found
    found.close()


def test_the_corpus_is_small(target):
    files = list(CORPUS.iterdir())
    assert len(target.archives) >= 3
    assert sum(path.stat().st_size for path in files) < 300_000


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.iterdir()))
def test_the_corpus_is_read(target, name):
    assert target((CORPUS / name).read_bytes()) == "" or name.endswith(".bin")


@pytest.mark.parametrize("seed", range(25))
def test_forgeries_at_random(target, seed):
    generator = random.Random(seed)
    for _ in range(10):
        data = generator.randbytes(generator.randint(8, 60))
        COUNTED[target(data)] += 1


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=8, max_size=60))
def test_forgeries(target, data):
    COUNTED[target(data)] += 1


def test_forgeries_get_past_the_checksums():
    assert COUNTED[""] > 5, COUNTED
    assert COUNTED["DamagedArchiveError"] > 50, COUNTED
