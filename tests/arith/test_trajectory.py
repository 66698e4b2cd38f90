"""One short exact training run: the same digests with any thread count, engine or kernel set.

The golden digests were made with torch 2.14.1 on x86-64 by `print(train())` of this file; they
never change while the arithmetic version stays.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from osoa_pl.arith import (
    Adam,
    Conv2d,
    Linear,
    OperationChecker,
    OperationRefused,
    flat_gradient,
    flatten_parameters,
    gradient_keys,
    set_form,
    state_digest,
    update_scales,
    use_engine,
)
from osoa_pl.arith.functions import exp
from osoa_pl.arith.layers import activation_maxima
from osoa_pl.arith.noise import bits, uniform

CLASSES = 16


class FixedPointCrossEntropy(torch.autograd.Function):
    """Sum of cross entropies whose softmax is a ratio of integers; the value is not of interest."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        e = exp(logits - logits.amax(1, keepdim=True))
        weights = (e * 65536.0).round_().add_(1.0)
        p = weights / weights.sum(1, keepdim=True)
        ctx.save_for_backward(p, target)
        chosen = p.gather(1, target)
        return (chosen * 1024.0).round_().to(torch.int64).sum().to(torch.float32)

    @staticmethod
    def backward(ctx, _: Tensor) -> tuple[Tensor, None]:
        p, target = ctx.saved_tensors
        return p.scatter(1, target, p.gather(1, target) - 1.0), None


class Network(nn.Module):
    """A causal convolution, two residual 3x3 ones, a strided one, then two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        mask = torch.ones(1, 1, 5, 5)
        mask[:, :, 2, 2:] = 0
        mask[:, :, 3:] = 0
        self.first = Conv2d(3, 24, 5, padding=2, mask=mask, input_step=2.0**-7)
        self.middle = nn.ModuleList(Conv2d(24, 24, 3, padding=1) for _ in range(2))
        self.halved = Conv2d(24, 32, 3, stride=2, padding=1)
        self.hidden = Linear(32, 48)
        self.last = Linear(48, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        for layer in self.middle:
            h = h + layer(h).relu()
        h = self.halved(h).relu().permute(0, 2, 3, 1).reshape(-1, 32)
        return self.last(self.hidden(h).relu())


def network() -> tuple[Network, Tensor]:
    """The network with weights from counters, and its flat parameter vector."""
    net = Network()
    for i, p in enumerate(net.parameters()):
        fan = p[0].numel() if p.dim() > 1 else 1
        width = 2.0 ** (-((fan).bit_length() // 2)) if p.dim() > 1 else 0.0
        p.data = (uniform(i, p.numel()).view(p.shape) - 0.5).mul_(4.0 * width)
    return net, flatten_parameters(net.parameters())


def batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels (3, 3, 18, 14) as multiples of 2^-7, classes (3 * 9 * 7, 1))."""
    for t in range(count):
        step = (bits(1000 + t, 3 * 3 * 18 * 14) % 41 - 20).view(3, 3, 18, 14)
        image = step.cumsum(3).remainder(256)
        classes = image[:, 0, ::2, ::2].reshape(-1, 1) >> 4
        yield (image - 128).to(torch.float32) * 2.0**-7, classes


def train(steps: int = 12, guard: contextlib.AbstractContextManager | None = None) -> list[str]:
    """Digest (hex) of parameters, moments and scales after every step."""
    net, flat = network()
    optimizer = Adam(flat, lr=2e-3)
    digests = []
    for t, (x, target) in enumerate(batches(steps)):
        for p in net.parameters():
            p.grad = None
        with guard or contextlib.nullcontext(), gradient_keys(7, t):
            FixedPointCrossEntropy.apply(net(x), target).backward()
            assert optimizer.step(flat_gradient(net.parameters()))
            update_scales(net)
        digests.append(
            state_digest(flat, *optimizer.state_tensors(), *activation_maxima(net)).hex()
        )
    return digests


GOLDEN_FIRST = "893340e4923e568532bdf1f6007b598b"
GOLDEN_LAST = "a1e9b262a93f93b4aa541f2518b9df88"


def test_the_trajectory_is_the_stored_one():
    digests = train()
    assert (digests[0], digests[-1]) == (GOLDEN_FIRST, GOLDEN_LAST)


@pytest.mark.parametrize("engine", ["float32", "float64", "int8"])
def test_the_engine_does_not_matter(engine):
    with use_engine(engine):
        assert train()[-1] == GOLDEN_LAST


def test_the_thread_count_does_not_matter():
    found = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert train(4)[0] == GOLDEN_FIRST
    finally:
        torch.set_num_threads(found)


def test_other_kernels_do_not_matter():
    torch._C._set_mkldnn_enabled(False)
    try:
        assert train(4)[0] == GOLDEN_FIRST
    finally:
        torch._C._set_mkldnn_enabled(True)


def test_a_reduced_precision_mode_is_overruled_and_restored():
    holder = torch.backends.mkldnn.conv
    found = holder.fp32_precision
    holder.fp32_precision = "bf16"
    try:
        assert train(2)[0] == GOLDEN_FIRST
        assert holder.fp32_precision == "bf16"
    finally:
        holder.fp32_precision = found


def test_an_exact_step_calls_portable_operations_only():
    checker = OperationChecker()
    assert train(2, checker)[0] == GOLDEN_FIRST
    assert checker.seen["convolution"] and checker.seen["convolution_backward"]


def test_native_layers_do_not_pass_the_checker():
    net, _ = network()
    set_form(net, "native")
    x, _ = next(batches(1))
    with pytest.raises(OperationRefused, match="convolution"), OperationChecker():
        net(x)


X = torch.tensor([0.3, 1.7, 2.1])
REFUSED = {
    "exp": lambda: X.exp(),
    "softmax": lambda: X.softmax(0),
    "sigmoid": lambda: X.sigmoid(),
    "mean": lambda: X.mean(),
    "sum of fractions": lambda: X.sum(),
    "large sum": lambda: (X * 2.0**24).round().sum(),
    "alpha": lambda: X.add(X, alpha=0.3),
    "addcmul": lambda: X.addcmul(X, X),
    "scalar division": lambda: X / 3.0,
    "sqrt": lambda: X.sqrt(),
    "pow": lambda: X**1.5,
    "reciprocal": lambda: 1.0 / X,
    "random": lambda: torch.rand(3),
    "matmul": lambda: X.view(1, 3) @ X.view(3, 1),
    "half": lambda: X.to(torch.bfloat16),
    "cumsum": lambda: X.cumsum(0),
    "scatter_add": lambda: X.scatter_add(0, torch.tensor([0, 0, 1]), X),
    "accumulate": lambda: X.clone().index_put_((torch.tensor([0, 0, 1]),), X, accumulate=True),
    "adam": lambda: torch._fused_adam_(
        [X.clone()], [X], [X.clone()], [X.clone()], [], [torch.ones(())], lr=0.1, beta1=0.9,
        beta2=0.9, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
    ),
}  # fmt: skip
ALLOWED = {
    "arithmetic": lambda: (X + 1.0 - X * 2.0) / (X + 1.0),
    "halving": lambda: X / 2.0,
    "integer sum": lambda: X.round().sum(),
    "wide sum": lambda: (X * 2.0**24).round().sum(dtype=torch.float64),
    "integers": lambda: (torch.arange(5) * 3 >> 1).sum(),
    "moving": lambda: torch.cat([X[1:], X.flip(0)]).view(5, 1).expand(5, 2).contiguous(),
    "choosing": lambda: torch.where(X > 1, X.clamp(max=2.0), X.floor()).amax(),
    "bits": lambda: (X.view(torch.int32) & 0x7F800000).view(torch.float32),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_the_checker_refuses(name):
    with pytest.raises(OperationRefused), OperationChecker():
        REFUSED[name]()


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_the_checker_allows(name):
    with OperationChecker():
        ALLOWED[name]()
