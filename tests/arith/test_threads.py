"""Calls side by side: who shares what, and what a failure does."""

from __future__ import annotations

import threading

import pytest
import torch

from osoa_pl.arith.engines import chosen_engine, use_engine
from osoa_pl.arith.threads import RowPool, Together, single_torch_thread


def test_calls_run_at_once_and_share_the_threads():
    pool, both, alone = RowPool(4), threading.Barrier(2, timeout=60), threading.Event()
    seen = {}

    def first():
        both.wait()
        seen["shared"] = pool.threads, torch.get_num_threads(), chosen_engine()
        both.wait()

    def second():
        both.wait()
        both.wait()
        while Together.running() > 1:
            alone.wait(0.01)
        seen["last"] = pool.threads

    with use_engine("float64"):
        Together().run([first, second], 2)
    assert seen == {"shared": (2, 1, "float64"), "last": 4}
    assert pool.threads == 4 and Together.running() == 1


def test_one_thread_makes_the_calls_in_order_where_it_is():
    made = []
    Together().run([lambda i=i: made.append((i, threading.get_ident())) for i in range(3)], 1)
    assert made == [(i, threading.get_ident()) for i in range(3)]


def test_after_a_failure_the_others_come_back_and_nothing_begins():
    begun = []

    def fails():
        raise ValueError("of the first")

    def goes_on():
        begun.append(True)
        while not Together.in_vain():
            threading.Event().wait(0.01)

    with pytest.raises(ValueError, match="of the first"):
        Together().run([goes_on, fails, *[goes_on] * 4], 2)
    assert len(begun) < 5
    assert not Together.in_vain()


def test_a_pool_gives_later_results_with_any_number_of_threads():
    for threads in (1, 2):
        for rows in (1, 1 << 20):
            assert RowPool(threads).later(lambda: 3, rows).result() == 3


def test_torch_thread_count_is_left_as_found():
    found = torch.get_num_threads()
    with single_torch_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == found
