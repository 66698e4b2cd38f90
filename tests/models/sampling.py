"""Gradients of every n-th pixel, the same walk for models of both families."""

from __future__ import annotations

from typing import Any

import torch


def check_sampled_gradients(fast: Any, slow: Any, batches: list[Any], stride: int) -> None:
    """Compiled equals eager, twice, and differs from the gradient of all pixels."""
    for counter, batch in enumerate(batches):
        fast.intervals(batch)  # its forward pass serves the gradient, the eager one makes its own
        found = [m.sampled_gradient(batch, 7, counter, stride) for m in (fast, slow)]
        assert torch.equal(*found)
        again = fast.sampled_gradient(batch, 7, counter, stride)
        assert torch.equal(again, found[0])
        assert not torch.equal(fast.gradient(batch, 7, counter), found[0])
        for m in (fast, slow):
            m.parameters.sub_(found[0] * 0.5)
            m.stepped()
            m.advance()
        assert all(torch.equal(a, b) for a, b in zip(fast.state(), slow.state()))
