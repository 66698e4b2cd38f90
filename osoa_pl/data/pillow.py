"""Pillow behind a guard: no bombs, and no warnings, for a warning means that something is lost."""

from __future__ import annotations

import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from osoa_pl.format.items import MAX_IMAGE_PIXELS

_bomb_limit = threading.Lock()
_silence = logging.NullHandler()


@contextmanager
def opened(data: bytes, kind: str, pixels: int | None = None) -> Iterator[Image.Image]:
    """The file `data` of Pillow's format `kind`; `pixels` where a look has told their number."""
    limit = Image.MAX_IMAGE_PIXELS
    if pixels is not None and (limit is None or pixels <= limit):
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            yield image
        return
    # Pillow's limit is a global that guards against bombs; ours takes its place for as long as
    # this file is open. What Pillow logs before it raises would reach stderr for want of a handler.
    log = logging.getLogger("PIL")
    with _bomb_limit, warnings.catch_warnings():
        warnings.simplefilter("error")
        log.addHandler(_silence)
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS
        try:
            with Image.open(io.BytesIO(data), formats=(kind,)) as image:
                yield image
        finally:
            Image.MAX_IMAGE_PIXELS = limit
            log.removeHandler(_silence)


def samples(data: bytes, kind: str, modes: tuple[str, ...], pixels: int) -> NDArray[np.generic]:
    """Samples of the file, which must have one of Pillow's `modes`. Raises ValueError."""
    with opened(data, kind, pixels) as image:
        if image.mode not in modes:
            raise ValueError(f"found mode {image.mode}, expected {' or '.join(modes)}")
        return np.asarray(image)
