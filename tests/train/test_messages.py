"""Messages of jsonargparse on one line; `tests/cli/test_fit.py` has them from real mistakes."""

from __future__ import annotations

import pytest

from osoa_pl.train.messages import explain, flat, near

KEYS = ["config", "model", "model.seed", "trainer.max_epochs", "trainer.max_steps"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("unrecognized arguments: --trainer.max_epoch=3 x",
         "unknown option '--trainer.max_epoch'; did you mean 'max_epochs'?"),
        ("Unrecognized arguments: --seed 3", "unknown option '--seed'"),
        ("unrecognized arguments: --trainer.profiler.depth 3",
         "unknown option '--trainer.profiler.depth'"),
        ("Subcommand 'fit' does not accept option 'modl.seed'",
         "unknown key 'modl'; did you mean 'model'?"),
        ("Multiple subclasses with name A. Give the full class path to avoid ambiguity: x.A, y.A.",
         ": more than one class is called A: x.A, y.A"),
        ("Something\n  - quite: new\n  - and long.", "something; quite: new; and long"),
    ],
)  # fmt: skip
def test_explained(message: str, expected: str) -> None:
    assert str(explain(message, "fit", KEYS)) == expected


def test_long_messages_are_cut() -> None:
    assert len(flat("word " * 1000)) < 310
    assert flat("") == "" and near("zzz", KEYS) == ""
