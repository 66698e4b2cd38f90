"""Material for `synthetic_collections`: fields, ramps, shapes; tiles, sprites, flats, icons."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

Rng = np.random.Generator
Photos = Sequence[np.ndarray]


def between(rng: Rng, low: int, high: int) -> int:
    """A whole number from low to high, both included."""
    return int(rng.integers(low, max(low, high) + 1))


def chance(rng: Rng, probability: float) -> bool:
    return bool(rng.random() < probability)


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


def side(rng: Rng, pixels: int, low: int = 16, high: int = 160) -> int:
    """An image side, small ones as likely as large ones; two such images hold `pixels` or less."""
    limit = max(8, min(high, math.isqrt(max(1, pixels // 2))))
    low = min(low, limit)
    size = low * (limit / low) ** rng.random()
    if chance(rng, 0.6):
        size = max(low, min(limit, round(size / 8) * 8))
    return int(size)


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Rounded and clipped uint8 [h, w, 3]; a single channel is repeated."""
    image = np.rint(image).clip(0, 255).astype(np.uint8)
    return np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image


def spread(values: np.ndarray) -> np.ndarray:
    """Stretched to the range 0..1."""
    values = values - values.min()
    return values / (values.max() + 1e-9)


def ramp(rng: Rng, shades: int) -> np.ndarray:
    """Dark to light shades of about one hue, float [shades, 3]."""
    value = np.linspace(rng.uniform(0, 0.4), rng.uniform(0.5, 1), shades)
    saturation = rng.uniform(0, 0.95) * (1 - rng.uniform(0, 0.7) * value)
    hue = rng.random() * 6 + rng.normal(0, 0.5) * value
    if chance(rng, 0.25):
        saturation = saturation * 0
    out = []
    for shift in (5, 3, 1):
        k = (shift + hue) % 6
        out.append(value - value * saturation * np.minimum(np.minimum(k, 4 - k), 1).clip(0))
    return np.rint(np.stack(out, -1) * 255)


def field(rng: Rng, h: int, w: int, cell: float, octaves: int = 1) -> np.ndarray:
    """Smooth noise in 0..1 whose largest bumps are about `cell` pixels, float32 [h, w]."""
    total = np.zeros((h, w), np.float32)
    for octave in range(octaves):
        step = max(1.0, cell / 2**octave)
        rows, columns = int(h / step) + 3, int(w / step) + 3
        grid = rng.standard_normal((rows, columns), np.float32) * np.float32(0.55**octave)
        box = (0.5, 0.5, 0.5 + w / step, 0.5 + h / step)
        total += np.asarray(Image.fromarray(grid).resize((w, h), Image.Resampling.BICUBIC, box))
    return spread(total)


def torus(rng: Rng, size: int, exponent: float) -> np.ndarray:
    """Power-law noise in 0..1 that tiles, float [size, size]."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1
    spectrum = rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)
    return spread(np.fft.irfft2(spectrum / frequency**exponent, s=(size, size)))


def order(rng: Rng, images: list[np.ndarray], shuffled: float = 0.4) -> list[np.ndarray]:
    """The same images, sometimes in random order."""
    if chance(rng, shuffled):
        return [images[int(i)] for i in rng.permutation(len(images))]
    return images


# -------------------------------------------------------------------------------------- shapes


@functools.lru_cache(maxsize=256)
def grid(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers of pixel centres, float32 [h, 1] and [1, w]."""
    y, x = np.arange(h, dtype=np.float32)[:, None] + 0.5, np.arange(w, dtype=np.float32) + 0.5
    return y, x[None]


def box_distance(h: int, w: int, shape: tuple[float, float, float, float], angle: float = 0.0,
                 rounding: float = 0.0) -> np.ndarray:  # fmt: skip
    """Distance in pixels to a box (centre y, x, half height, half width), negative inside."""
    cy, cx, ry, rx = shape
    y, x = grid(h, w)
    y, x = y - cy, x - cx
    if angle:
        c, s = math.cos(angle), math.sin(angle)
        y, x = c * y + s * x, c * x - s * y
    y, x = np.abs(y) - (ry - rounding), np.abs(x) - (rx - rounding)
    outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2)
    return outside + np.minimum(np.maximum(x, y), 0) - rounding


def ellipse_distance(h: int, w: int, shape: tuple[float, float, float, float]) -> np.ndarray:
    """About the distance to an ellipse (centre y, x, half height, half width)."""
    cy, cx, ry, rx = shape
    y, x = grid(h, w)
    return (np.sqrt(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2) - 1) * min(ry, rx)


def polygon_distance(h: int, w: int, cy: float, cx: float, radius: float, corners: int,
                     angle: float) -> np.ndarray:  # fmt: skip
    """About the distance to a regular polygon."""
    y, x = grid(h, w)
    out = np.full((h, w), -1e9, np.float32)
    for k in range(corners):
        a = angle + 2 * math.pi * k / corners
        edge = (
            (y - cy) * math.sin(a) + (x - cx) * math.cos(a) - radius * math.cos(math.pi / corners)
        )
        out = np.maximum(out, edge)
    return out


def shape_distance(rng: Rng, size: int, cy: float, cx: float, radius: float) -> np.ndarray:
    """Distance to a random shape of about this radius in a size x size picture."""
    kind = rng.random()
    ry, rx = radius * rng.uniform(0.5, 1, 2)
    if kind < 0.35:
        rounding = min(ry, rx) * rng.random()
        angle = rng.uniform(-1.6, 1.6) if chance(rng, 0.25) else 0.0
        return box_distance(size, size, (cy, cx, ry, rx), angle, rounding)
    if kind < 0.65:
        return ellipse_distance(size, size, (cy, cx, ry, rx))
    if kind < 0.75:
        ring = ellipse_distance(size, size, (cy, cx, ry, rx))
        return np.abs(ring) - max(0.7, radius * rng.uniform(0.1, 0.3))
    if kind < 0.9:
        angle = rng.random() * 6.3 if chance(rng, 0.3) else math.pi / 2
        return polygon_distance(size, size, cy, cx, radius, between(rng, 3, 6), angle)
    thin = max(0.6, radius * rng.uniform(0.05, 0.2))
    return box_distance(size, size, (cy, cx, radius, thin), rng.uniform(-0.9, 0.9))


# --------------------------------------------------------------------------------------- icons


def over(below: np.ndarray, above: np.ndarray) -> np.ndarray:
    """One float layer [h, w, 4] (colour 0..255, opacity 0..1) on another, straight alpha."""
    a, b = above[..., 3:], below[..., 3:]
    alpha = a + b * (1 - a)
    colour = (above[..., :3] * a + below[..., :3] * (b * (1 - a))) / np.maximum(alpha, 1e-6)
    return np.concatenate([colour, alpha], -1)


def glossy(rng: Rng, distance: np.ndarray, shades: np.ndarray) -> np.ndarray:
    """A layer: shape filled with a gradient, with an outline and perhaps an inner highlight."""
    h, w = distance.shape
    y, x = grid(h, w)
    slope = rng.uniform(-0.6, 0.6)
    t = (y + slope * x) / (h * (1 + abs(slope))) + max(0.0, -slope) / (1 + abs(slope))
    if chance(rng, 0.25):
        t = np.sqrt((y / h - rng.random()) ** 2 + (x / w - rng.random()) ** 2)
    first, last = shades[between(rng, 1, len(shades) - 1)], shades[between(rng, 0, len(shades) - 1)]
    colour = first + (last - first) * np.asarray(t).clip(0, 1)[..., None]
    width = rng.uniform(0.7, 1.6)
    if chance(rng, 0.6):
        shine = (1 - np.abs(distance + 1.5 * width) / width).clip(0, 1)[..., None]
        colour = colour + (shades[-1] * 0.3 + 178 - colour) * shine * rng.uniform(0.2, 0.9)
    if chance(rng, 0.8):
        line = (distance + width + 0.5).clip(0, 1)[..., None]
        colour = colour + (shades[0] - colour) * line
    return np.concatenate([colour, (0.5 - distance).clip(0, 1)[..., None]], -1)


def icon_part(rng: Rng, size: int, large: bool, ramps: list[np.ndarray]) -> np.ndarray:
    """A base that fills the icon, with details and a shadow, or a small emblem."""
    if not large:
        radius = size * rng.uniform(0.12, 0.28)
        cy, cx = rng.uniform(radius, size - radius, 2)
        if chance(rng, 0.6):
            cy = cx = size - radius - 1
        return glossy(rng, shape_distance(rng, size, cy, cx, radius), pick(rng, ramps))
    shades = pick(rng, ramps)
    centre = size / 2 + rng.uniform(-0.05, 0.05, 2) * size
    layer = np.zeros((size, size, 4), np.float32)
    if chance(rng, 0.6):
        soft = ellipse_distance(size, size, (size * 0.9, size / 2, size * 0.09, size * 0.45))
        layer[..., 3] = (-soft / (size * 0.09)).clip(0, 1) * rng.uniform(0.2, 0.7)
    base = shape_distance(rng, size, centre[0], centre[1], size * rng.uniform(0.36, 0.49))
    layer = over(layer, glossy(rng, base, shades))
    for _ in range(between(rng, 0, 4)):
        cy, cx = centre + rng.uniform(-0.25, 0.25, 2) * size
        inner = shape_distance(rng, size, cy, cx, size * rng.uniform(0.06, 0.25))
        layer = over(layer, glossy(rng, np.maximum(inner, base + 2), pick(rng, ramps)))
    return layer


def icons(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Antialiased icons in families: shared bases, emblems, recolours; on a constant background."""
    size = side(rng, pixels, 16, 96)
    count = max(2, pixels // size**2)
    ramps = [ramp(rng, between(rng, 4, 8)) for _ in range(between(rng, 2, 8))]
    emblems = [icon_part(rng, size, False, ramps) for _ in range(between(rng, 2, 12))]
    back = np.zeros(3) if chance(rng, 0.7) else pick(rng, pick(rng, ramps))
    style, family = rng.random(), rng.uniform(1.5, 8)
    repeated = rng.uniform(0, 0.8) if chance(rng, 0.6) else 0.0
    images: list[np.ndarray] = []
    base = icon_part(rng, size, True, ramps)
    for _ in range(count):
        if chance(rng, 1 / family):
            base = icon_part(rng, size, True, ramps)
        emblem = pick(rng, emblems)
        if not chance(rng, repeated):
            emblem = icon_part(rng, size, False, ramps)
        layer = base if chance(rng, 0.15) else over(base, emblem)
        if style < 0.45:  # straight colour, zeroed where nothing covers
            image = np.where(layer[..., 3:] > 1 / 512, layer[..., :3], back)
        elif style < 0.92:
            image = back + (layer[..., :3] - back) * layer[..., 3:]
        else:
            image = layer[..., 3] * 255
        images.append(to_bytes(image))
    return order(rng, images)


# ---------------------------------------------------------------------------- tiles and sprites


def texture(rng: Rng, size: int) -> np.ndarray:
    """A tileable surface in 0..1: noise, bricks, planks, cobbles, grass, waves, panels."""
    kind = between(rng, 0, 6)
    grain = torus(rng, size, rng.uniform(0, 1.6))
    y, x = np.mgrid[0:size, 0:size]
    if kind == 0:
        return grain
    if kind == 1:  # bricks or slabs
        high = max(3, size // between(rng, 1, 6))
        wide, gap = max(4, size // between(rng, 1, 4)), between(rng, 1, 2)
        row = y // high
        across = (x + (row % 2) * (wide // 2)) % size
        tone = rng.random((size // high + 1, size // wide + 1))[row, across // wide]
        v, u = y % high, across % wide
        lit = 0.3 * ((v < gap + 1) | (u < gap + 1)) - 0.3 * ((v == high - 1) | (u == wide - 1))
        return ((0.4 + 0.25 * tone + lit) * ((v >= gap) & (u >= gap)) + 0.25 * grain).clip(0, 1)
    if kind == 2:  # planks
        wide = max(3, size // between(rng, 2, 6))
        tone = rng.random(size // wide + 1)[x // wide]
        grain = np.repeat(grain[:: max(2, size // 8)], max(2, size // 8), 0)[:size]
        return ((0.3 + 0.4 * tone) * (x % wide > 0) + 0.4 * grain[y % len(grain), x]).clip(0, 1)
    if kind == 3:  # cobbles
        points = rng.random((between(rng, 3, 24), 2)) * size
        dy = np.abs(y[..., None] - points[:, 0])
        dx = np.abs(x[..., None] - points[:, 1])
        apart = np.sort(np.minimum(dy, size - dy) ** 2 + np.minimum(dx, size - dx) ** 2, -1)
        ridge = np.sqrt(apart[..., 1]) - np.sqrt(apart[..., 0])
        return ((ridge / size * rng.uniform(2, 8)).clip(0, 0.75) + 0.25 * grain).clip(0, 1)
    if kind == 4:  # grass
        base = grain * 0.4 + 0.2
        for _ in range(between(rng, size // 2, size * 3)):
            r, c = rng.integers(0, size, 2)
            base[r : r + between(rng, 1, 4), c] = rng.uniform(0.3, 1)
        return base
    if kind == 5:  # waves
        turns = rng.integers(-3, 4, 2)
        wave = np.sin(2 * np.pi * (turns[0] * x + turns[1] * y) / size + 4 * grain)
        return 0.5 + 0.5 * wave
    cell = max(4, size // between(rng, 1, 4))
    v, u = y % cell, x % cell
    near = np.minimum(np.minimum(v, u), np.minimum(cell - 1 - v, cell - 1 - u))
    raised = 0.5 + 0.35 * ((v + u < cell - 1) * 2.0 - 1) * (near < between(rng, 1, 3))
    return (raised * (near > 0) + rng.uniform(0, 0.4) * (grain - 0.5)).clip(0, 1)


def levels(values: np.ndarray, shades: int) -> np.ndarray:
    """Values 0..1 as shade numbers."""
    return (values * shades).astype(np.int64).clip(0, shades - 1)


def part(rng: Rng, size: int, cy: float, cx: float, radius: float, shades: int) -> np.ndarray:
    """A shaded, outlined figure as shade numbers, -1 outside; often mirrored left to right."""
    if chance(rng, 0.3):
        blob = field(rng, size, size, max(2.0, radius / 1.5), 2)
        distance = ellipse_distance(size, size, (cy, cx, radius, radius)) + radius * (blob - 0.6)
    else:
        distance = shape_distance(rng, size, cy, cx, radius)
    if chance(rng, 0.4):
        distance = np.minimum(distance, distance[:, ::-1])
    y, x = grid(size, size)
    light = 0.55 - (rng.uniform(0.2, 0.6) * (y - cy) + rng.uniform(-0.2, 0.6) * (x - cx)) / radius
    if chance(rng, 0.4):
        light = light + rng.uniform(0, 0.25) * rng.standard_normal((size, size), np.float32)
    index = levels(light, shades)
    if chance(rng, 0.7):
        index[distance > -1] = 0
    index[distance > 0] = -1
    return index


def crack(rng: Rng, index: np.ndarray) -> None:
    """A dark random walk across a tile, in place."""
    size = len(index)
    steps = rng.integers(-1, 2, (between(rng, size // 2, size * 2), 2))
    path = (rng.integers(0, size, 2) + np.cumsum(steps, 0)) % size
    index[path[:, 0], path[:, 1]] = 0


def game_variant(rng: Rng, base: np.ndarray, pool: list[np.ndarray], shades: int) -> np.ndarray:
    """A changed copy of a tile of shade numbers."""
    index, size = base.copy(), len(base)
    for _ in range(between(rng, 0, 2)):
        kind = between(rng, 0, 8)
        if kind == 0:
            index = index[:, ::-1].copy()
        elif kind == 1:
            index = np.roll(index, between(rng, 0, size - 1), between(rng, 0, 1))
        elif kind == 2:
            crack(rng, index)
        elif kind == 3:  # a shaded border along one side
            depth = between(rng, 1, max(1, size // 6))
            view = np.rot90(index, between(rng, 0, 3))
            view[:depth] = (view[:depth] + pick(rng, [-2, -1, 1, 2])).clip(0, shades - 1)
        elif kind == 4:  # other noise in one rectangle
            y0, x0 = rng.integers(0, size, 2)
            y1, x1 = y0 + between(rng, 2, size), x0 + between(rng, 2, size)
            index[y0:y1, x0:x1] = levels(texture(rng, size), shades)[y0:y1, x0:x1]
        elif kind == 5:
            index = (index + pick(rng, [-1, 1])).clip(0, shades - 1)
        else:
            thing = np.roll(pick(rng, pool), (int(rng.integers(-3, 4)), 0), (0, 1))
            index = np.where(thing >= 0, thing, index)
    return index


def game_tiles(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Tiles of a game: families of few-colour textures and their variants."""
    size = min(pick(rng, [16, 24, 32, 32, 32, 32, 48, 64]), side(rng, pixels, 64, 64))
    count, shades = max(2, pixels // size**2), between(rng, 3, 12)
    own = between(rng, 1, shades + 3)  # shades of the objects drawn on tiles, in a second ramp
    palettes = [ramp(rng, shades) for _ in range(between(rng, 1, 6))]
    seconds = [ramp(rng, own) for _ in range(between(rng, 1, 4))]
    pool = []
    for _ in range(between(rng, 1, 8)):
        cy, cx = rng.uniform(0.3, 0.7, 2) * size
        thing = part(rng, size, cy, cx, size * rng.uniform(0.1, 0.35), own)
        pool.append(np.where(thing >= 0, thing + shades, -1))
    family, true_colour = rng.uniform(1.2, 14), chance(rng, 0.4)
    contrast, noise = rng.uniform(0.3, 1), rng.uniform(0.5, 7)
    fresh = rng.uniform(0.4, 6) if chance(rng, 0.15) else 0.0  # alike, but nothing repeats
    images, base, colours, grain = [], None, np.empty(0), np.empty(0)
    for _ in range(count):
        if base is None or chance(rng, 1 / family):
            surface = texture(rng, size)
            base = levels(0.5 + contrast * (surface - 0.5), shades)
            colours = np.concatenate([pick(rng, palettes), pick(rng, seconds)])
            grain = rng.normal(0, noise, (size, size, 1 if chance(rng, 0.6) else 3))
            smooth = np.repeat(surface[..., None] * rng.uniform(0, 60), 3, -1)
            grain = grain + smooth if chance(rng, 0.5) else grain
        used = colours
        if chance(rng, 0.15):
            used = np.concatenate([pick(rng, palettes), pick(rng, seconds)])
        index = game_variant(rng, base, pool, shades)
        image = used[index.clip(0, len(used) - 1)]
        image = image + grain if true_colour else image
        images.append(to_bytes(image + fresh * rng.standard_normal(image.shape)))
    return order(rng, images, 0.3)


def sprites(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Few-colour figures on one background: shared bodies, other tools, recolours."""
    size = side(rng, pixels, 16, 64) if chance(rng, 0.5) else min(32, side(rng, pixels, 32, 32))
    count = max(2, pixels // size**2)
    ramps = [ramp(rng, between(rng, 2, 7)) for _ in range(between(rng, 2, 9))]
    back = np.zeros(3) if chance(rng, 0.6) else rng.integers(0, 256, 3)
    scale = rng.uniform(0.6, 1.1)
    places = {"cape": (0.55, 0.5, 0.33), "legs": (0.8, 0.5, 0.18), "body": (0.55, 0.5, 0.26),
              "head": (0.25, 0.5, 0.17), "tool": (0.5, 0.2, 0.4), "other": (0.55, 0.78, 0.22),
             }  # fmt: skip  # down, right, radius, as shares of the size

    def new(name: str) -> tuple[np.ndarray, np.ndarray]:
        down, right, radius = places[name]
        cy, cx = (rng.normal(0, 0.04, 2) + (down, right)) * size
        shades = pick(rng, ramps)
        radius *= size * scale * rng.uniform(0.7, 1.4)
        return part(rng, size, cy, cx, radius, len(shades)), shades

    pools = {name: [new(name) for _ in range(between(rng, 1, 8))] for name in places}
    renew, keep = rng.uniform(0, 0.7), rng.uniform(0.2, 0.9)
    soft = rng.uniform(1, 6) if chance(rng, 0.2) else 0.0
    chosen = {name: pick(rng, pools[name]) for name in places}
    images = []
    for _ in range(count):
        for name in places:
            if not chance(rng, keep):
                chosen[name] = new(name) if chance(rng, renew) else pick(rng, pools[name])
        image = np.tile(np.asarray(back, float), (size, size, 1))
        names = [n for n in places if chance(rng, 0.8)]
        for index, shades in (chosen[name] for name in names):
            if chance(rng, 0.1):
                shades = ramps[between(rng, 0, len(ramps) - 1)]
            inside = index >= 0
            colours = shades[index[inside].clip(0, len(shades) - 1)]
            image[inside] = colours + soft * rng.standard_normal(colours.shape)
        images.append(to_bytes(image))
    return order(rng, images)


# --------------------------------------------------------------------------------------- flats


def shared_palette(rng: Rng) -> list[np.ndarray]:
    """About 256 colours as ramps of unequal length."""
    lengths = pick(rng, [[16] * 16, [32] * 4 + [16] * 6 + [8] * 4, [8] * 32, [16] * 6, [12] * 3])
    return [ramp(rng, length) for length in lengths]


def bayer(size: int) -> np.ndarray:
    """Ordered-dither thresholds in -0.5..0.5, size x size."""
    out = np.zeros((1, 1))
    for _ in range(3):
        out = np.block([[4 * out, 4 * out + 2], [4 * out + 3, 4 * out + 1]])
    return np.tile(out / 64 - 0.5, (size // 8 + 1, size // 8 + 1))[:size, :size]


def inset(rng: Rng, size: int) -> np.ndarray:
    """Where something is set into a surface: lamps, grates, frames, stripes; bool, tileable."""
    y, x = np.mgrid[0:size, 0:size] % (size // pick(rng, [1, 1, 2, 4]))
    cell = int(y.max()) + 1
    kind = between(rng, 0, 3)
    if kind == 0:
        return np.hypot(y - cell / 2, x - cell / 2) < cell * rng.uniform(0.15, 0.45)
    if kind == 1:
        return (y + (x if chance(rng, 0.3) else 0)) % max(2, cell // 4) < max(1, cell // 10)
    lo, hi = cell * rng.uniform(0.05, 0.3, 2), cell * rng.uniform(0.6, 0.95, 2)
    inner = (y >= lo[0]) & (y < hi[0]) & (x >= lo[1]) & (x < hi[1])
    return inner if kind == 2 else inner & ((y % 4 < 2) | (x % 4 < 2))


def flats(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Tileable textures through one palette of ramps; families share parts; some are dithered."""
    size = max(16, side(rng, pixels, 24, 128) // 8 * 8)
    size = min(64, size) if chance(rng, 0.6) else size
    count, palette = max(2, pixels // size**2), shared_palette(rng)
    colours = np.concatenate(palette).astype(np.uint8)
    table = Image.new("P", (1, 1))
    table.putpalette(np.resize(colours, (256, 3)).tobytes())
    dither = bayer(size) * rng.uniform(0.3, 1) if chance(rng, 0.35) else np.zeros((size, size))
    family, from_photos = rng.uniform(1.2, 8), rng.uniform(0, 0.6)
    images: list[np.ndarray] = []

    def shaded(values: np.ndarray) -> np.ndarray:
        shades = pick(rng, palette)
        low, high = np.sort(rng.uniform(0, len(shades), 2))
        index = low + values * max(1.5, high - low) + dither
        return shades[index.astype(np.int64).clip(0, len(shades) - 1)].astype(np.uint8)

    for _ in range(count):
        if images and not chance(rng, 1 / family):
            image = images[-1].copy()
            change = rng.random()
            if change < 0.2:
                image = np.roll(image, rng.integers(0, size, 2), (0, 1))
            elif change < 0.3:
                image = np.rot90(image, between(rng, 1, 3)).copy()
            elif change < 0.5:
                other = pick(rng, images)
                mask = inset(rng, size)
                image[mask] = other[mask]
            else:
                mask = inset(rng, size)
                image[mask] = shaded(texture(rng, size))[mask]
        elif chance(rng, from_photos):
            photo = pick(rng, photos)
            y, x = (between(rng, 0, max(0, n - 2 * size)) for n in photo.shape[:2])
            crop = Image.fromarray(photo[y : y + 2 * size, x : x + 2 * size])
            crop = np.asarray(crop.resize((size, size)), float)
            if chance(rng, 0.6):  # through one ramp, as old textures are coloured
                image = shaded(spread(crop.mean(-1)))
            else:
                rough = to_bytes(crop + 24 * dither[..., None])
                index = np.asarray(Image.fromarray(rough).quantize(palette=table, dither=0))
                image = np.resize(colours, (256, 3))[index]
        else:
            image = shaded(texture(rng, size) * 0.8 + 0.2 * torus(rng, size, rng.uniform(0, 1.5)))
        images.append(np.ascontiguousarray(image))
    return order(rng, images, 0.3)
