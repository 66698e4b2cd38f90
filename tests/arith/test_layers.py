"""Layers: exact near native, frozen scales, keys, saturating and non-finite inputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from osoa_pl.arith import layers
from osoa_pl.arith.layers import Conv2d, Linear, Precision, gradient_keys
from osoa_pl.arith.noise import derive_key
from osoa_pl.errors import UsageError


def gradients(layer, x, form):
    layers.set_form(layer, form)
    x = x.clone().requires_grad_()
    layer.zero_grad()
    with gradient_keys(1, 0):
        y = layer(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
    return [y.detach(), x.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]


@pytest.mark.parametrize("kind", ["linear", "conv2d", "strided"])
def test_the_exact_form_is_near_the_native_one(kind):
    torch.manual_seed(0)
    fine = Precision(11, 11, 11)
    if kind == "linear":
        layer, x = Linear(20, 30, precision=fine), torch.randn(50, 20)
    else:
        stride = 2 if kind == "strided" else 1
        layer = Conv2d(6, 8, 3, stride=stride, padding=1, precision=fine)
        x = torch.randn(4, 6, 11, 9)
    layer(x.detach(), key=1)
    layers.calibrate_scales(layer)
    for exact, native in zip(
        gradients(layer, x, "exact"), gradients(layer, x, "native"), strict=True
    ):
        assert float((exact - native).norm() / native.norm()) < 1e-2


def test_scales_follow_the_rule_and_only_when_told():
    layer = Linear(4, 4)
    assert layer.activation_max == 1
    with torch.no_grad():
        layer(torch.full((2, 4), 3.0))
        assert layer.activation_max == 1
        layers.update_scales(layer)
        assert layer.activation_max == 3
        layer(torch.full((2, 4), -0.5))
        layers.update_scales(layer)
        assert layer.activation_max == torch.tensor(3.0) * 0.95
        layer.eval()
        layer(torch.full((2, 4), 100.0))
        layers.update_scales(layer)
        assert layer.activation_max == torch.tensor(3.0) * 0.95 * 0.95
        layer.train()
        layer(torch.full((2, 4), float("nan")))
        layers.update_scales(layer)
        assert layer.activation_max == torch.tensor(3.0) * 0.95 * 0.95
    assert set(layer.state_dict()) == {"weight", "bias", "activation_max"}


def test_values_beyond_the_frozen_scale_saturate():
    layer = Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        assert layer(torch.tensor([[50.0]])).item() == 255 / 128


def test_the_first_layer_takes_its_inputs_exactly():
    layer = Linear(3, 2, input_step=2.0**-7)
    x = (torch.randint(-255, 256, (40, 3)).float()) * 2.0**-7
    wq, step = layers.quantized_weight(layer.weight.detach(), layer.precision)
    with torch.no_grad():
        expected = x.double() @ (wq * step).double().t()
        assert torch.equal(layer(x), expected.float() + layer.bias)
    with pytest.raises(UsageError, match="power of 2"):
        Linear(3, 2, input_step=0.3)


def test_keys_are_those_of_the_calls():
    torch.manual_seed(1)
    layer, x, g = Linear(5, 5), torch.randn(7, 5), torch.randn(7, 5)

    def weight_gradient(**given):
        layer.zero_grad()
        layer(x, **given).backward(g)
        return layer.weight.grad.clone()

    with gradient_keys(3, 4):
        first, second = weight_gradient(), weight_gradient()
    assert torch.equal(first, weight_gradient(key=derive_key(3, 4, 0)))
    assert torch.equal(second, weight_gradient(key=derive_key(3, 4, 1)))
    assert not torch.equal(first, second)
    with pytest.raises(UsageError, match="no key"):
        layer(x)
    with torch.no_grad():
        layer(x)


def test_a_mask_is_part_of_the_weight():
    torch.manual_seed(2)
    mask = torch.ones(1, 1, 3, 3)
    mask[:, :, 1, 1:] = 0
    mask[:, :, 2] = 0
    layer, x = Conv2d(2, 3, 3, padding=1, mask=mask), torch.randn(2, 2, 5, 5)
    y = layer(x, key=1)
    y.backward(torch.ones_like(y))
    assert bool((layer.weight.grad * (1 - mask) == 0).all())
    changed = x.clone()
    changed[:, :, 4, 4] += 9
    with torch.no_grad():
        assert torch.equal(layer(x), layer(changed))


def test_a_non_finite_gradient_reaches_the_optimizer_as_such():
    layer, x = Linear(5, 5), torch.randn(7, 5)
    g = torch.ones(7, 5)
    g[2, 2] = float("nan")
    layer(x, key=1).backward(g)
    assert not bool(torch.isfinite(layer.weight.grad).all())


def test_the_native_form_is_torch():
    layer, x = Linear(5, 6, form="native"), torch.randn(3, 5)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with pytest.raises(UsageError, match="form"):
        Linear(2, 2, form="fast")
