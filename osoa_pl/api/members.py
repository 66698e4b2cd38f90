"""What both directions share: names of members, progress, devices."""

from __future__ import annotations

from collections.abc import Callable

from osoa_pl.errors import UsageError

ITEMS_MEMBER = "items.json.z"
CHECKPOINT_MEMBER = "checkpoint.safetensors"

Watch = Callable[[int, int], None]
"""Called with (samples done, samples to do); the second may change when `auto` decides."""


def segment_member(shard: int, segment: int) -> str:
    """Name of a segment's member."""
    return f"shards/{shard:04d}/{segment:06d}.seg"


def check_device(device: str) -> None:
    """Raises UsageError unless this device is there."""
    if device == "cpu":
        return
    import torch

    if device != "cuda":
        raise UsageError(f"device {device!r} (expected cpu or cuda)")
    if not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device is available to torch")
