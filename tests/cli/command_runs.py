"""Commands run in this process, and a small collection for them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from osoa_pl.cli.main import main


@dataclass
class Ran:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        """The last JSON object."""
        return self.objects[-1]


def run_command(*words: object) -> Ran:
    """`osoa WORDS` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(word) for word in words])
    return Ran(code, out.getvalue(), err.getvalue())


def picture(height: int, width: int, channels: int, seed: int = 0) -> Any:
    """Smooth with a little noise, uint8 (h, w) or (h, w, 3)."""
    generator = np.random.default_rng(seed)
    ramp = np.arange(height)[:, None, None] * 3 + np.arange(width)[None, :, None] * 2
    noise = generator.integers(0, 5, (height, width, channels))
    pixels = (ramp + noise + 30 * np.arange(channels)).astype(np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def write_pictures(folder: Path) -> None:
    """Two RGB pictures, a grey one, an array, and a text file."""
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(picture(13, 9, 3)).save(folder / "img10.png")
    Image.fromarray(picture(13, 9, 3, 1)).save(folder / "img2.png")
    Image.fromarray(picture(7, 12, 1)).save(folder / "sub" / "grey.png")
    np.save(folder / "stack.npy", np.stack([picture(5, 6, 3, s) for s in range(3)]))
    (folder / "notes.txt").write_text("about these pictures\n" * 9)
