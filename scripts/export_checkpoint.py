"""Make a checkpoint of finished pretraining runs: `NAME.safetensors` and `SHA256SUMS` beside it.

    python scripts/export_checkpoint.py --rgb RUN.pt --grey RUN.pt --out checkpoints/base \\
        --further rgb.photo=RUN.pt grey.photo=RUN.pt

`--further` adds starting weights by name; they have the sizes and the basis of their kind.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from osoa_pl.models.memory_ar import MemoryConfig
from osoa_pl.models.zoo import pack


def weights(run: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Averaged weights and activation maxima."""
    return run["average"], run["activation_max"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rgb", type=Path, required=True)
    parser.add_argument("--grey", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--further", nargs="+", default=[], metavar="KIND.NAME=RUN.pt")
    args = parser.parse_args()
    models, constants = {}, {}
    further: dict[str, dict[str, tuple[torch.Tensor, torch.Tensor]]] = {}
    for kind in ("rgb", "grey"):
        run = torch.load(getattr(args, kind), weights_only=True)
        models[kind] = (MemoryConfig(**run["config"]), *weights(run), run["second_moment"])
        constants[kind] = {"basis": run["basis"]} if "basis" in run else {}
        for entry in args.further:
            name, _, file = entry.removeprefix(f"{kind}.").partition("=")
            if entry.startswith(f"{kind}."):
                other = torch.load(file, weights_only=True)
                if not torch.equal(other["basis"], run["basis"]):
                    parser.error(f"{file}: not in the basis of {getattr(args, kind)}")
                further.setdefault(kind, {})[name] = weights(other)
    data = pack(models, "memory_ar", constants, further)
    file = args.out.with_suffix(".safetensors")
    file.write_bytes(data)
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(file.parent.glob("*.safetensors"))
    ]
    (file.parent / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")
    print(f"{file.name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
