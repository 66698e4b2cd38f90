"""What both directions share: names of members, progress, devices."""

from __future__ import annotations

from collections.abc import Callable

from osoa_pl.errors import UsageError

ITEMS_MEMBER = "items.jsonl.z"
FIRST_ITEMS_MEMBER = "items.json.z"
"""In format 1."""
CHECKPOINT_MEMBER = "checkpoint.safetensors"

Watch = Callable[[int, int], None]
"""Called with (samples done, samples to do); the second may change on the way."""


def segment_member(shard: int, segment: int) -> str:
    """Name of a segment's member."""
    return f"shards/{shard:04d}/{segment:06d}.seg"


def block_member(part: int, block: int) -> str:
    """Name of the member of a part's block of plain planes."""
    return f"planes/{part:04d}/{block:04d}"


def file_block_member(block: int) -> str:
    """Name of the member of a block of small files."""
    return f"packed/{block:04d}"


def check_device(device: str) -> None:
    """Raises UsageError unless this device is there."""
    if device == "cpu":
        return
    import torch

    if device != "cuda":
        raise UsageError(f"device {device!r} (expected cpu or cuda)")
    if not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device is available to torch")
