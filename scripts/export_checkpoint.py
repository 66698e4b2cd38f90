"""Make a checkpoint of finished pretraining runs: `NAME.safetensors` and `SHA256SUMS` beside it.

python scripts/export_checkpoint.py --rgb RUN.pt --grey RUN.pt --out checkpoints/base
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from osoa_pl.models.memory_ar import MemoryConfig
from osoa_pl.models.zoo import pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rgb", type=Path, required=True)
    parser.add_argument("--grey", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    models, constants = {}, {}
    for kind in ("rgb", "grey"):
        run = torch.load(getattr(args, kind), weights_only=True)
        models[kind] = (
            MemoryConfig(**run["config"]),
            run["average"],
            run["activation_max"],
            run["second_moment"],
        )
        constants[kind] = {"basis": run["basis"]} if "basis" in run else {}
    data = pack(models, "memory_ar", constants)
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
