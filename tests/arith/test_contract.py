"""Every engine gives the exact value: random and extreme operands, all shapes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from osoa_pl.arith import contract, convolve, engines
from osoa_pl.arith.diagnosis import engine_report
from osoa_pl.errors import PortabilityError, UsageError

ENGINES = ("auto", "float32", "float64", "int8")
SHAPES = (
    (0, 3, 4),
    (3, 0, 4),
    (3, 4, 0),
    (1, 1, 1),
    (7, 5, 3),
    (300, 64, 64),
    (2000, 147, 33),
    (129, 1000, 2),
)
WINDOWS = (
    # n, c, o, h, w, kernel, window
    (0, 3, 4, 8, 8, (3, 3), convolve.Window()),
    (1, 1, 1, 1, 1, (1, 1), convolve.Window()),
    (2, 3, 16, 9, 11, (3, 3), convolve.Window(padding=(1, 1))),
    (4, 16, 16, 32, 32, (3, 3), convolve.Window(padding=(1, 1))),
    (2, 5, 7, 17, 13, (5, 3), convolve.Window((2, 3), (2, 1), (1, 2))),
    (2, 64, 30, 16, 16, (1, 1), convolve.Window()),
    (1, 4, 6, 150, 150, (3, 3), convolve.Window(padding=(1, 1))),
)


def operand(shape, bits, kind, generator):
    limit = 2**bits - 1
    if kind == "ends":
        return torch.full(shape, float(limit))
    if kind == "signs":
        return (torch.randint(0, 2, shape, generator=generator) * 2 - 1).float() * limit
    return torch.randint(-limit, limit + 1, shape, generator=generator).float()


@pytest.mark.parametrize("bits", [(8, 9, 7), (7, 7, 7), (10, 11, 11)])
@pytest.mark.parametrize("kind", ["random", "signs", "ends"])
def test_linear_engines_agree_with_integers(bits, kind):
    generator = torch.Generator().manual_seed(1)
    bx, bw, bg = bits
    for p, k, o in SHAPES:
        x = operand((p, k), bx, kind, generator)
        w = operand((o, k), bw, kind, generator)
        g = operand((p, o), bg, kind, generator)
        xi, wi, gi = x.long(), w.long(), g.long()
        expected = [(v.double() * 0.25).float() for v in (xi @ wi.t(), gi @ wi, gi.t() @ xi)]
        for engine in ENGINES:
            for given in (True, False):
                with engines.use_engine(engine):
                    found = [
                        contract.linear(x, w, 0.25, bits=(bx, bw) if given else None),
                        contract.linear_grad_input(g, w, 0.25, bits=(bg, bw) if given else None),
                        contract.linear_grad_weight(g, x, 0.25, bits=(bg, bx) if given else None),
                    ]
                for name, a, b in zip("yxw", found, expected, strict=True):
                    assert torch.equal(a, b), (p, k, o, engine, given, name)


@pytest.mark.parametrize("bits", [(8, 9, 7), (10, 11, 11)])
@pytest.mark.parametrize("kind", ["random", "signs", "ends"])
@pytest.mark.parametrize("case", range(len(WINDOWS)))
def test_convolution_engines_agree_with_integers(bits, kind, case):
    n, c, o, h, wide, kernel, window = WINDOWS[case]
    generator = torch.Generator().manual_seed(2)
    bx, bw, bg = bits
    size = window.output_size(h, wide, kernel)
    x = operand((n, c, h, wide), bx, kind, generator)
    w = operand((o, c, *kernel), bw, kind, generator)
    g = operand((n, o, *size), bg, kind, generator)
    geometry = (kernel, window.dilation, window.padding, window.stride)
    y, by_x, by_w = torch.zeros(g.shape).long(), torch.zeros(x.shape), torch.zeros(w.shape).long()
    if n:
        patches = F.unfold(x, *geometry).long()
        y = (w.flatten(1).long() @ patches).view(g.shape)
        spread = (w.flatten(1).long().t() @ g.flatten(2).long()).double()
        by_x = F.fold(spread, (h, wide), *geometry)
        by_w = (g.flatten(2).long() @ patches.transpose(1, 2)).sum(0).view(w.shape)
    expected = [v.double().float() for v in (y, by_x, by_w)]
    for engine in ("auto", "float64"):
        for onednn in (True, False):
            torch._C._set_mkldnn_enabled(onednn)
            try:
                with engines.use_engine(engine):
                    found = [
                        convolve.conv2d(x, w, 1.0, window, bits=(bx, bw)),
                        convolve.conv2d_grad_input(g, w, 1.0, (h, wide), window, bits=(bg, bw)),
                        convolve.conv2d_grad_weight(g, x, 1.0, kernel, window, bits=(bg, bx)),
                    ]
            finally:
                torch._C._set_mkldnn_enabled(True)
            for name, a, b in zip("yxw", found, expected, strict=True):
                assert torch.equal(a, b), (engine, onednn, name)


def test_unfolded_convolutions_agree_where_the_native_ones_are_refused(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    window = convolve.Window((2, 1), (1, 2), (1, 1))
    x, w = (
        operand((3, 5, 11, 9), 8, "random", generator),
        operand((4, 5, 3, 3), 9, "signs", generator),
    )
    g = operand((3, 4, *window.output_size(11, 9, (3, 3))), 7, "random", generator)

    def all_three():
        return [
            convolve.conv2d(x, w, 1.0, window),
            convolve.conv2d_grad_input(g, w, 1.0, (11, 9), window),
            convolve.conv2d_grad_weight(g, x, 1.0, (3, 3), window),
        ]

    native = all_three()
    monkeypatch.setattr(convolve, "_native", lambda *_: False)
    for a, b in zip(native, all_three(), strict=True):
        assert torch.equal(a, b)


def test_a_kernel_that_fails_its_known_answers_is_not_used(monkeypatch):
    monkeypatch.setattr(engines, "_answers", {})
    real = torch.Tensor.__matmul__

    def rounded(a, b):  # what a bfloat16 mode would do
        if a.dtype == torch.float32:
            a, b = a.bfloat16().float(), b.bfloat16().float()
        return real(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    generator = torch.Generator().manual_seed(4)
    x, w = operand((9, 20), 10, "random", generator), operand((7, 20), 10, "random", generator)
    assert torch.equal(contract.linear(x, w, 1.0), (x.long() @ w.long().t()).float())
    assert engines.known_answers()["linear on cpu"] == {"float32": False, "float64": True}


def test_bias_gradient_is_the_rounded_integer_sum():
    g = torch.full((3, 4, 100, 100), 127.0)
    g[0, :, 0, 0] = 126
    assert contract.bias_gradient(g, 0.5, axis=1).tolist() == [(127 * 30000 - 1) / 2] * 4
    assert contract.bias_gradient(g, 0.5).shape == (100,)


def test_misuse_is_named():
    with pytest.raises(UsageError, match="matching shapes"):
        contract.linear(torch.ones(2, 3), torch.ones(2, 4), 1.0)
    with pytest.raises(UsageError, match="float64"):
        contract.linear(torch.ones(2, 3).double(), torch.ones(2, 3), 1.0)
    with pytest.raises(UsageError, match="does not fit"):
        convolve.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3), 1.0)
    with pytest.raises(UsageError, match="unknown engine"), engines.use_engine("float16"):
        pass
    with pytest.raises(PortabilityError, match="2\\^53"):
        contract.linear(torch.ones(1, 1 << 20), torch.ones(1, 1 << 20), 1.0, bits=(20, 20))
    with pytest.raises(PortabilityError, match="autocast"), torch.autocast("cpu"):
        contract.linear(torch.ones(2, 3), torch.ones(2, 3), 1.0)


def test_the_report_names_operations_and_engines():
    report = engine_report()
    assert report["linear on cpu"]["float64"]
    assert {"float32", "float64", "int8"} <= set(report["linear on cpu"])
    assert any(name.startswith("conv2d_grad_weight 3x3") for name in report)
