"""What `osoa doctor` shows: which engines pass their known answers on this machine."""

from __future__ import annotations

import torch

from osoa_pl.arith import contract, convolve, engines


def engine_report() -> dict[str, dict[str, bool]]:
    """ "operation class on device" -> engine -> passed, after asking the common classes.

    Takes about a second on one core; what the process asked before is part of the answer.
    """
    x, w = torch.ones(2, 8), torch.ones(4, 8)
    image, kernel = torch.ones(1, 2, 9, 9), torch.ones(3, 2, 3, 3)
    window = convolve.Window(padding=(1, 1))
    g = torch.ones(1, 3, 9, 9)
    names: tuple[engines.EngineName, ...] = ("auto", "float64", "int8")
    for name in names:
        with engines.use_engine(name):
            contract.linear(x, w, 1.0)
            contract.linear_grad_input(torch.ones(2, 4), w, 1.0)
            contract.linear_grad_weight(torch.ones(2, 4), x, 1.0)
            convolve.conv2d(image, kernel, 1.0, window)
            convolve.conv2d_grad_input(g, kernel, 1.0, (9, 9), window)
            convolve.conv2d_grad_weight(g, image, 1.0, (3, 3), window)
    return engines.known_answers()
