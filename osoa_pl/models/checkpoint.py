"""Checkpoints: one safetensors file each, found by name or path and known by its SHA-256.

A checkpoint `NAME.safetensors` holds, for each kind of pixel it knows (`rgb`, `grey`), the master
weights, the activation maxima and the optimizer's second moments, all float32, and in its metadata
the family and the sizes of each model as JSON. A kind may have further starting weights by name, of
the same sizes: `photo` of `rgb`, say, is `rgb.photo.parameters` and `rgb.photo.activation_max`. No
pickles, no class paths. Its model card is `NAME.md` beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from osoa_pl.errors import CheckpointError

DEFAULT = "default"
"""A word for the first of `TIERS`, and where an encoder has the patience for the best of them."""
TIERS = ("base", "large")
CHECKPOINT_FORMAT = 1
MAX_CHECKPOINT_BYTES = 64 << 20
METADATA_KEY = "osoa_pl"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint's bytes and name; `sha256` is its identity in archives."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        """Hex digest of the file."""
        return hashlib.sha256(self.data).hexdigest()


def folders() -> list[Path]:
    """Where named checkpoints are looked for: inside the package, then beside it (a checkout)."""
    package = Path(str(resources.files("osoa_pl")))
    return [package / "checkpoints", package.parent / "checkpoints"]


def available() -> list[str]:
    """Names of the checkpoints that are installed."""
    return sorted({p.stem for f in folders() if f.is_dir() for p in f.glob("*.safetensors")})


def read(name_or_path: str) -> Checkpoint:
    """The checkpoint of this name, or in this file; `default` is the first of `TIERS`.

    Raises CheckpointError.
    """
    if name_or_path == DEFAULT:
        name_or_path = TIERS[0]
    path = Path(name_or_path)
    if path.suffix != ".safetensors" and not path.exists():
        for folder in folders():
            path = folder / f"{name_or_path}.safetensors"
            if path.is_file():
                break
        else:
            known = ", ".join(available()) or "none"
            raise CheckpointError(f"unknown checkpoint {name_or_path!r} (installed: {known})")
    try:
        if path.stat().st_size > MAX_CHECKPOINT_BYTES:
            raise CheckpointError(f"{name_or_path}: larger than a checkpoint may be (64 MiB)")
        return Checkpoint(path.stem, path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{name_or_path}: {error.strerror}") from None


def find(name: str, sha256: str, explicit: str | None = None) -> Checkpoint:
    """The installed (or explicitly given) checkpoint with this digest. Raises CheckpointError."""
    wanted = f"checkpoint {name} (SHA-256 {sha256[:12]}...)"
    if explicit is not None:
        found = read(explicit)
        if found.sha256 != sha256:
            raise CheckpointError(
                f"the archive needs {wanted}, found SHA-256 {found.sha256[:12]}... in {explicit}"
            )
        return found
    others = []
    for folder in folders():
        for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
            candidate = read(str(path))
            if candidate.sha256 == sha256:
                return candidate
            others.append(f"{candidate.name} {candidate.sha256[:12]}...")
    raise CheckpointError(
        f"the archive needs {wanted}, installed: {', '.join(others) or 'none'}",
        hint="give the file with `--checkpoint PATH`",
    )


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Family, sizes and further weights of the models in a checkpoint, from its metadata."""
    about = metadata(checkpoint)
    named = {kind: {"weights": names} for kind, names in about.get("weights", {}).items()}
    return {
        kind: {"family": about["family"], **config, **named.get(kind, {})}
        for kind, config in about["models"].items()
    }


def metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """The JSON that describes a checkpoint. Raises CheckpointError where there is none."""
    where = f"checkpoint {checkpoint.name}"
    try:
        size = int.from_bytes(checkpoint.data[:8], "little")
        if not 2 <= size <= min(len(checkpoint.data) - 8, 1 << 20):
            raise ValueError("header size")
        header = json.loads(checkpoint.data[8 : 8 + size])
        about = json.loads(header["__metadata__"][METADATA_KEY])
        if about["format"] != CHECKPOINT_FORMAT:
            raise CheckpointError(f"{where}: made for another version of osoa_pl")
        if not isinstance(about["family"], str):
            raise TypeError("family")
        if not all(isinstance(config, dict) for config in about["models"].values()):
            raise TypeError("models")
        for names in about.get("weights", {}).values():
            if not (isinstance(names, list) and all(isinstance(n, str) and n for n in names)):
                raise TypeError("weights")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CheckpointError(f"{where}: not an osoa_pl checkpoint") from None
    return dict(about)
