"""Put a pretraining run's weights into the eigenbasis of their gradients, grown first if asked.

    python scripts/change_basis.py RUN.pt --data FOLDER --out NEW [--width 128 --depth 6]
    python scripts/change_basis.py RUN.pt --into OTHER.pt --out NEW

NEW.pt is what `scripts/pretrain.py --start` goes on with: the same function of its inputs, but for
rounding, as parameters over a frozen basis (`osoa_pl.models.eigenbasis`) with their second moments.
Growing keeps the function too: units that are new have random inputs and no effect yet. `--into`
takes sizes, basis and second moments of another run: further starting weights share them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from pretrain import Lane, Material, gradients, photographs

from osoa_pl.models.eigenbasis import Eigenbasis, from_gradients
from osoa_pl.models.memory_ar import MemoryAutoregressive, MemoryConfig, initial_parameters

_NEW_UNITS = 0.5  # of the usual spread of initial weights


def grown(config: MemoryConfig, flat: torch.Tensor, wider: MemoryConfig) -> torch.Tensor:
    """The weights of a larger network with the outputs of this one."""
    out = initial_parameters(wider, 1) * _NEW_UNITS
    old, new = config.network().views(flat), wider.network().views(out)
    last = len(new) - 1
    for index, (weight, bias) in enumerate(new):
        source = index if index < len(old) - 1 else -1 if index == last else None
        if source is None:  # a block that is new: its second layer is zero
            if index % 2 == 0:
                weight.zero_()
            bias.zero_()
            continue
        given, given_bias = old[source]
        rows, columns = given.shape
        if index:
            weight[:, columns:] = 0.0  # what new units give
        if index % 2 == 0 and 0 < index < last:
            weight[rows:] = 0.0  # the residual stream of new units
        weight[:rows, :columns] = given
        bias.zero_()
        bias[: len(given_bias)] = given_bias
    return out


def lanes(model: MemoryAutoregressive, photos: list, seed: int) -> list[Lane]:
    """Collections of all kinds, without adaptation."""
    return [Lane(model, Material(photos), seed + n, 200_000) for n in range(24)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--into", type=Path, help="a run in its basis, instead of --data")
    parser.add_argument("--width", type=int)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--batches", type=int, default=600)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if (args.data is None) == (args.into is None):
        parser.error("either --data or --into")
    torch.set_num_threads(1)
    run = torch.load(args.run, weights_only=True)
    config = MemoryConfig(**{**run["config"], "eigenbasis": False})
    weights = run.get("average", run["parameters"])
    if "basis" in run:
        weights = Eigenbasis(config.network().layers(), run["basis"]).weights(weights)
    other = torch.load(args.into, weights_only=True) if args.into else {}
    wider = (
        MemoryConfig(**{**other["config"], "eigenbasis": False})
        if other
        else MemoryConfig(
            config.channels, args.width or config.width, args.depth or config.depth, config.mixtures
        )
    )
    maxima = torch.cat(
        [run["activation_max"], run["activation_max"][-1:].repeat(2 * (wider.depth - config.depth))]
    )
    layers = wider.network().layers()
    weights = grown(config, weights, wider)
    made = {"config": {**wider.to_dict(), "eigenbasis": True}}
    if other:
        made |= {name: other[name] for name in ("second_moment", "basis")}
        frozen = Eigenbasis(layers, other["basis"], compiled=True)
        made |= {"parameters": frozen.stored(weights), "activation_max": maxima}
    else:
        model = MemoryAutoregressive(wider, weights, maxima, threads=1)
        photos = photographs(args.data)
        found, maxima = gradients(model, lanes(model, photos, 77), args.batches)
        made["basis"] = from_gradients(layers, found)
        frozen = Eigenbasis(layers, made["basis"], compiled=True)
        turned = MemoryAutoregressive(
            MemoryConfig(**made["config"]), frozen.stored(weights), maxima, threads=1, basis=frozen
        )
        found, _ = gradients(turned, lanes(turned, photos, 177), args.batches)
        made["second_moment"] = torch.stack(found).square().mean(0)
        made |= {"parameters": turned.parameters, "activation_max": maxima}
    torch.save(made, args.out.with_suffix(".pt"))


if __name__ == "__main__":
    main()
