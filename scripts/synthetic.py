"""Made-up pictures for pretraining: what photographs lack (flat areas, edges, palettes, noise)."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_WORDS = [
    "open",
    "save",
    "file",
    "edit",
    "view",
    "help",
    "0123456789",
    "tile",
    "map",
    "score",
    "run",
]


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    r, g, b = (int(v) for v in rng.integers(0, 256, 3))
    if rng.random() < 0.3:
        return r, r, r
    return r, g, b


def gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    """Smooth colour ramps, some with dither noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle = rng.random() * 6.28
    t = (x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(0.2, 2.0)
    if rng.random() < 0.4:
        t = np.hypot(x - rng.random(), y - rng.random()) * rng.uniform(0.5, 2.0)
    a, b = np.array(_colour(rng)), np.array(_colour(rng))
    image = a + (b - a) * np.abs(t % 2 - 1)[..., None]
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0.3, 3.0), image.shape)
    return image.clip(0, 255).astype(np.uint8)


def drawing(rng: np.random.Generator, size: int) -> np.ndarray:
    """Boxes, lines, ellipses and words: interfaces and line art."""
    image = Image.new("RGB", (size, size), _colour(rng))
    draw = ImageDraw.Draw(image)
    palette = [_colour(rng) for _ in range(int(rng.integers(2, 7)))]

    def pick() -> tuple[int, int, int]:
        return palette[int(rng.integers(len(palette)))]

    for _ in range(int(rng.integers(2, 14))):
        x0, y0, x1, y1 = (int(v) for v in rng.integers(-8, size + 8, 4))
        box = (min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1)
        kind = rng.random()
        if kind < 0.35:
            draw.rectangle(box, fill=pick(), outline=pick() if rng.random() < 0.5 else None)
        elif kind < 0.5:
            draw.ellipse(box, fill=pick(), outline=pick())
        elif kind < 0.65:
            draw.line((x0, y0, x1, y1), fill=pick(), width=int(rng.integers(1, 4)))
        else:
            words = " ".join(_WORDS[int(i)] for i in rng.integers(0, len(_WORDS), 3))
            font = ImageFont.load_default(float(rng.integers(8, 16)))
            draw.text((x0, y0), words, fill=pick(), font=font)
    return np.asarray(image)


def sprite(rng: np.random.Generator, size: int) -> np.ndarray:
    """Few-colour cells with shading noise, repeated and mirrored: game tiles and icons."""
    cell = int(rng.choice([8, 16, 32]))
    colours = np.array([_colour(rng) for _ in range(int(rng.integers(2, 12)))])
    ramp = rng.integers(-40, 41, (len(colours), 1))
    kinds = []
    for _ in range(int(rng.integers(1, 4))):
        field = rng.normal(size=(cell, cell))
        for _ in range(int(rng.integers(0, 3))):
            field = (field + np.roll(field, 1, 0) + np.roll(field, 1, 1)) / 3
        if rng.random() < 0.5:
            field = (field + field[:, ::-1]) / 2
        edges = np.quantile(field, np.linspace(0, 1, len(colours) + 1)[1:-1])
        index = np.digitize(field, edges)
        kinds.append(colours[index] + (ramp[index] if rng.random() < 0.3 else 0))
    rows = [
        np.concatenate([kinds[int(rng.integers(len(kinds)))] for _ in range(size // cell)], 1)
        for _ in range(size // cell)
    ]
    return np.concatenate(rows, 0).clip(0, 255).astype(np.uint8)


def elevation(rng: np.random.Generator, size: int) -> np.ndarray:
    """Power-law fields through a colour ramp: terrain, clouds, scans."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1.0
    spectrum = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    field = np.fft.irfft2(spectrum / frequency ** rng.uniform(0.8, 2.2), s=(size, size))
    field = (field - field.min()) / (np.ptp(field) + 1e-9)
    if rng.random() < 0.5:
        field = (field * 1.6 - 0.5).clip(0, 1)
    stops = np.linspace(0, 1, int(rng.integers(2, 6)))
    colours = np.array([_colour(rng) for _ in stops], float)
    image = np.stack([np.interp(field, stops, colours[:, c]) for c in range(3)], -1)
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0.3, 6.0), image.shape[:2])[..., None]
    return image.clip(0, 255).astype(np.uint8)


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Independent samples, uniform or Gaussian around a colour."""
    if rng.random() < 0.3:
        return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    image = rng.normal(_colour(rng), rng.uniform(1, 40), (size, size, 3))
    return image.clip(0, 255).astype(np.uint8)


def draw(rng: np.random.Generator, size: int) -> np.ndarray:
    """One synthetic picture uint8 [size, size, 3]."""
    kinds = (gradient, drawing, sprite, elevation, noise)
    index = int(rng.choice(len(kinds), p=[0.15, 0.3, 0.25, 0.25, 0.05]))
    return np.ascontiguousarray(kinds[index](rng, size))
