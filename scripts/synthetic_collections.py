"""Endless random collections of similar images, from full of exact repeats to without any.

    python scripts/synthetic_collections.py --photos FOLDER --out SHEET.png --seed 1

`collection` draws one; the command writes a contact sheet, one collection a row.
"""

from __future__ import annotations

import argparse
import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from synthetic_art import (
    Photos,
    Rng,
    between,
    chance,
    ellipse_distance,
    field,
    flats,
    game_tiles,
    grid,
    icons,
    order,
    pick,
    polygon_distance,
    ramp,
    shape_distance,
    side,
    spread,
    sprites,
    to_bytes,
)  # fmt: skip
from synthetic_pages import Writer, cut, maps, scans, screenshots

Kind = Callable[[np.random.Generator, Photos, int], list[np.ndarray]]


# --------------------------------------------------------------------------------- photographs


def scene(rng: Rng, photos: Photos, h: int, w: int, shrink: float = 3.0) -> np.ndarray:
    """A random part of a photograph, h x w, perhaps downscaled by up to `shrink`."""
    photo = photos[between(rng, 0, len(photos) - 1)]
    limit = min(shrink, photo.shape[0] / h, photo.shape[1] / w)
    scale = 1.0 if limit < 1.3 or chance(rng, 0.4) else float(rng.uniform(1, limit))
    scale = min(scale, limit)
    high, wide = max(1, int(h * scale)), max(1, int(w * scale))
    y, x = between(rng, 0, photo.shape[0] - high), between(rng, 0, photo.shape[1] - wide)
    part = photo[y : y + high, x : x + wide]
    if (high, wide) == (h, w):
        return part
    return np.asarray(Image.fromarray(part).resize((w, h), Image.Resampling.HAMMING))


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """What a lossy coder leaves of an image."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def photo_tiles(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Non-overlapping crops of one or several photographs, at full or half size; no repeats."""
    h, w = side(rng, pixels), side(rng, pixels)
    if chance(rng, 0.6):
        w = h
    half, count = chance(rng, 0.4), max(2, pixels // (h * w))
    toned, tone, gain = chance(rng, 0.3), rng.uniform(-30, 30), rng.uniform(0.5, 1.5)
    noise = rng.uniform(0.4, 4) if chance(rng, 0.2) else 0.0
    flip, axes = chance(rng, 0.5), rng.permutation(3) if chance(rng, 0.1) else np.arange(3)
    images: list[np.ndarray] = []
    most = max(1, count // between(rng, 1, 6))  # tiles of one photograph
    for number in rng.permutation(len(photos)):
        photo = photos[int(number)]
        if half and min(photo.shape[0] // h, photo.shape[1] // w) >= 2:
            y, x = photo.shape[0] // 2 * 2, photo.shape[1] // 2 * 2
            even = photo[:y, :x].astype(np.uint16)
            even = even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]
            photo = ((even + 2) >> 2).astype(np.uint8)
            if toned:  # on quarter steps, so that a gain leaves no gaps between values
                photo = to_bytes((even / 4 - 128) * gain + 128 + tone)
        if noise:
            photo = to_bytes(photo + noise * rng.standard_normal(photo.shape, np.float32))
        photo = photo[:, ::-1] if flip else photo
        images += cut(rng, photo[..., axes], h, w)[:most]
        if len(images) >= count:
            break
    while len(images) < 2:  # photographs smaller than the tiles
        images.append(np.asarray(Image.fromarray(pick(rng, photos)).resize((w, h))))
    return order(rng, images[:count], 0.2)


def thumbnails(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Large parts of photographs, all made the same small size by one filter."""
    size = side(rng, pixels, 16, 72)
    h, w = (size, size) if chance(rng, 0.7) else (size, side(rng, pixels, 16, 72))
    filters = Image.Resampling.BOX, Image.Resampling.LANCZOS, Image.Resampling.BICUBIC
    method, least, images = pick(rng, list(filters)), rng.uniform(0.2, 0.8), []
    for _ in range(max(2, pixels // (h * w))):
        photo = Image.fromarray(pick(rng, photos))
        scale = rng.uniform(least, 1) * min(photo.width / w, photo.height / h)
        x = rng.uniform(0, photo.width - scale * w)
        y = rng.uniform(0, photo.height - scale * h)
        small = photo.resize((w, h), method, (x, y, x + scale * w, y + scale * h))
        image = np.asarray(small)
        images.append(image[:, ::-1] if chance(rng, 0.5) else image)
    return images


def sign(rng: Rng, size: int) -> Image.Image:
    """A traffic sign or badge, RGBA."""
    ramps = [ramp(rng, 3)[1], np.full(3, 235.0), np.full(3, 30.0)]
    centre, corners = size / 2, pick(rng, [0, 0, 3, 4, 8])
    if corners:
        angle = math.pi / 2 if corners < 5 else math.pi / 8
        outer = polygon_distance(size, size, centre, centre, size * 0.47, corners, angle)
    else:
        outer = ellipse_distance(size, size, (centre, centre, size * 0.47, size * 0.47))
    layer = np.zeros((size, size, 4), np.float32)
    layers = [(outer, ramps[0])]
    layers.append((outer + size * rng.uniform(0.03, 0.12), pick(rng, ramps[:2])))
    for _ in range(between(rng, 1, 4)):
        cy, cx = centre + rng.normal(0, 0.08, 2) * size
        mark = shape_distance(rng, size, cy, cx, size * rng.uniform(0.08, 0.24))
        layers.append((np.maximum(mark, outer), pick(rng, ramps)))
    for distance, colour in layers:
        inside = distance < 0
        layer[inside, :3], layer[inside, 3] = colour, 255
    return Image.fromarray(layer.astype(np.uint8), "RGBA")


def photo_objects(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """The same few objects before changing backgrounds, resized, brighter and darker."""
    size = side(rng, pixels, 16, 64)
    count, big = max(2, pixels // size**2), 64
    objects = [sign(rng, big) for _ in range(between(rng, 1, 12))]
    light, noise, sharp = rng.uniform(0.1, 0.6), rng.uniform(0, 6), rng.uniform(0.3, 1)
    fresh, images = rng.uniform(0.02, 1), []
    thing = objects[0]
    for _ in range(count):
        thing = pick(rng, objects) if chance(rng, fresh) else thing
        backdrop = Image.fromarray(scene(rng, photos, big, big))
        side_length = int(big * rng.uniform(0.65, 1.05))
        turned = thing.resize((side_length, side_length), Image.Resampling.BILINEAR)
        turned = turned.rotate(float(rng.normal(0, 4)), Image.Resampling.BILINEAR)
        y, x = ((big - side_length) / 2 + rng.normal(0, 3, 2)).astype(int)
        backdrop.paste(turned, (int(x), int(y)), turned)
        small = max(8, int(size * (sharp + rng.uniform(-0.2, 0.4))))
        small_image = backdrop.resize((small, small), Image.Resampling.BOX)
        image = np.asarray(small_image.resize((size, size), Image.Resampling.BILINEAR), float)
        gain = np.exp(rng.normal(0, light)) * (1 + rng.normal(0, 0.05, 3))
        image = image * min(1.4, gain.mean()) * gain / gain.mean() + rng.uniform(0, 30)
        if noise > 2:
            image = image + noise * rng.standard_normal(image.shape)
        images.append(to_bytes(image))
    return images


# --------------------------------------------------------------------------------------- video


def shifted(image: np.ndarray, y: float, x: float, h: int, w: int) -> np.ndarray:
    """The h x w part at a fractional place, bilinear, float."""
    top, left = int(y), int(x)
    b, a = y - top, x - left
    part = image[top : top + h + 1, left : left + w + 1].astype(np.float32)
    rows = part[:-1] * (1 - b) + part[1:] * b
    return rows[:, :-1] * (1 - a) + rows[:, 1:] * a


def swaying(rng: Rng, image: np.ndarray, count: int) -> list[np.ndarray]:
    """A picture of which a part moves as leaves in wind do."""
    h, w = image.shape[:2]
    cell, reach = rng.uniform(5, 40), rng.uniform(0.3, 3)
    where = (field(rng, h, w, max(h, w) / 2) * 3 - rng.uniform(0, 1.5)).clip(0, 1)
    phase = field(rng, h, w, cell) * 12
    u, v = (field(rng, h, w, cell) * where * reach for _ in range(2))
    y, x = grid(h, w)
    time_step, out, moment = rng.uniform(0.1, 1.5), [], 0.0
    flat = image.reshape(-1, 3).astype(np.float32)
    for _ in range(count):
        moment += time_step * rng.uniform(0.3, 1.7)
        wave = np.sin(phase + moment)
        sy = (y - 0.5 + u * wave).clip(0, h - 1.001)
        sx = (x - 0.5 + v * wave).clip(0, w - 1.001)
        top, left = sy.astype(np.int32), sx.astype(np.int32)
        b, a = (sy - top)[..., None], (sx - left)[..., None]
        at = top * w + left
        low = np.take(flat, at, 0) * (1 - a) + np.take(flat, at + 1, 0) * a
        high = np.take(flat, at + w, 0) * (1 - a) + np.take(flat, at + w + 1, 0) * a
        out.append(low * (1 - b) + high * b)
    return out


class Walker:
    """A person-like figure with a shadow that crosses the picture."""

    def __init__(self, rng: Rng, h: int, w: int) -> None:
        self.size = size = between(rng, 6, max(8, min(h, w) // pick(rng, [2, 4, 6])))
        self.place = rng.random(2) * (h, w) - size / 2
        self.speed = rng.normal(0, 1, 2) * (0.3, 1.5) * rng.uniform(0, 2.5)
        self.layer = np.zeros((size, size, 4), np.float32)
        shadow = ellipse_distance(size, size, (size * 0.95, size * 0.6, size * 0.06, size * 0.3))
        self.layer[..., 3] = (0.5 - shadow / 2).clip(0, 1) * rng.uniform(0, 0.6)
        shape = (0.09, 0.5, 0.08, 0.06), (0.35, 0.5, 0.21, 0.13), (0.75, 0.5, 0.24, 0.1)
        light = 0.6 * field(rng, size, size, size / 3, 3) + 0.4 * grid(size, size)[1] / size
        for numbers in shape:  # head, trunk, legs
            jitter = np.array(numbers) * rng.uniform(0.9, 1.1, 4) * size
            alpha = (0.5 - ellipse_distance(size, size, tuple(jitter)))[..., None].clip(0, 1)
            shades = ramp(rng, 4) * rng.uniform(0.3, 0.9)
            colour = shades[1] + (shades[2] - shades[1]) * light[..., None]
            self.layer[..., :3] += (colour - self.layer[..., :3]) * alpha
            self.layer[..., 3:] += (1 - self.layer[..., 3:]) * alpha

    def draw(self, rng: Rng, frame: np.ndarray) -> None:
        """Paint on a float frame and take a step."""
        y, x = np.rint(self.place).astype(int)
        top, left = max(0, -y), max(0, -x)
        region = frame[max(0, y) : max(0, y + self.size), max(0, x) : max(0, x + self.size)]
        part = self.layer[top:, left:][: region.shape[0], : region.shape[1]]
        region += (part[..., :3] - region) * part[..., 3:]
        self.place = self.place + self.speed + rng.normal(0, 0.3, 2)
        if chance(rng, 0.03):
            self.speed = -self.speed


def video(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Frames of a fixed, a panning or a windy scene, with sensor noise or as a codec left them."""
    h, w = side(rng, pixels, 24), side(rng, pixels, 24)
    count, mode = max(2, pixels // (h * w)), rng.random()
    wide = scene(rng, photos, h + 25, w + 25)
    still = wide[:h, :w]
    if mode < 0.3:
        frames = swaying(rng, still, count)
    elif mode < 0.6:
        frames, place, speed = [], rng.random(2) * 24, rng.normal(0, 1.2, 2)
        whole, shake = chance(rng, 0.4), rng.uniform(0, 0.8)
        for _ in range(count):
            at = np.rint(place).clip(0, 24) if whole else place.clip(0, 23.99)
            frames.append(shifted(wide, at[0], at[1], h, w))
            place = place + speed.clip(-3, 3) + shake * rng.standard_normal(2)
            speed = np.where((place < 0) | (place > 24), -speed, speed)
    else:
        frames = [still.astype(np.float32) for _ in range(count)]
    walkers = [Walker(rng, h, w) for _ in range(between(rng, 0 if mode < 0.6 else 1, 6))]
    light, flicker = 1.0, rng.uniform(0, 0.02) if chance(rng, 0.3) else 0.0
    noise = rng.uniform(0.3, 5) if chance(rng, 0.6) else 0.0
    coder = between(rng, 30, 95) if chance(rng, 0.45) else 0
    freeze = rng.uniform(1, 8) if chance(rng, 0.45) else 0.0
    block: int = pick(rng, [4, 8, 8, 16])
    images: list[np.ndarray] = []
    for frame in frames:
        for walker in walkers:
            walker.draw(rng, frame)
        light *= 1 + flicker * rng.normal()
        if flicker:
            frame = frame * light
        if noise:
            frame = frame + noise * rng.standard_normal(frame.shape, np.float32)
        image = to_bytes(frame)
        image = jpeg(image, coder) if coder else image
        if freeze and images:  # blocks that changed little are repeated exactly
            change = np.abs(image.astype(np.int16) - images[-1]).mean(-1)
            padded = np.pad(change, ((0, -h % block), (0, -w % block)))
            rows, columns = padded.shape[0] // block, padded.shape[1] // block
            means = padded.reshape(rows, block, columns, block).mean((1, 3))
            moved = np.repeat(np.repeat(means > freeze, block, 0), block, 1)[:h, :w, None]
            image = np.where(moved, image, images[-1])
        images.append(image)
    return images


# ---------------------------------------------------------------- sky, cells, bodies, and others


def cells(rng: Rng, h: int, w: int, look: dict[str, float]) -> np.ndarray:
    """Soft blobs of light, 0 and up, float32 [h, w]."""
    light = np.zeros((h, w), np.float32)
    for _ in range(rng.poisson(look["density"] * h * w / 1000)):
        radius = look["radius"] * np.exp(rng.normal(0, look["spread"]))
        reach = int(radius * 1.6 + 3)
        cy, cx = between(rng, -4, h + 4), between(rng, -4, w + 4)
        top, left = max(0, cy - reach), max(0, cx - reach)
        region = light[top : max(0, cy + reach), left : max(0, cx + reach)]
        if region.size:
            shape = (cy - top, cx - left, radius, radius * rng.uniform(0.6, 1.4))
            distance = ellipse_distance(region.shape[0], region.shape[1], shape)
            blob = (0.5 - distance / look["soft"]).clip(0, 1) * rng.uniform(0.3, 1)
            np.maximum(region, blob, out=region)
    return light


def body(h: int, w: int, plan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A slice through a body, organs in an oval, and how far each pixel is within, [h, w]."""
    scale = min(h, w)
    outline = ellipse_distance(h, w, (h / 2, w / 2, h * plan[0, 0], w * plan[0, 1]))
    image = 0.45 - 0.25 * (np.abs(outline + 3) > 3) * (outline > -9)
    for cy, cx, ry, rx, value in plan[1:]:
        y, x, radii = cy * h, cx * w, np.maximum(1.5, np.array([ry, rx]) * scale)
        inside = np.maximum(ellipse_distance(h, w, (y, x, radii[0], radii[1])), outline + 4)
        image = image + (value - image) * (0.5 - inside / 1.5).clip(0, 1)
    return image, (0.5 - outline).clip(0, 1)


def dark_pictures(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Night sky, fluorescent or stained cells, medical slices; noise of any level."""
    h, w = side(rng, pixels, 24), side(rng, pixels, 24)
    count, mode, images = max(2, pixels // (h * w)), rng.random(), []
    look = {"density": rng.uniform(0.2, 8), "radius": rng.uniform(1, 12),
            "spread": rng.uniform(0, 0.6), "soft": rng.uniform(0.8, 12)}  # fmt: skip
    plan = np.concatenate([[[0.4, 0.45, 0, 0, 0]], rng.random((between(rng, 4, 14), 5))])
    plan[1:, :4] = plan[1:, :4] * [0.6, 0.6, 0.2, 0.2] + [0.2, 0.2, 0.02, 0.02]
    glow, floor, grain = rng.uniform(40, 300), rng.uniform(0, 40) * between(rng, 0, 1), 0.0
    if chance(rng, 0.7):
        grain = rng.uniform(0.3, 12)
    tint = rng.uniform(0.1, 1, 3) if chance(rng, 0.5) else np.ones(3)
    stain = ramp(rng, 6)[::-1] if chance(rng, 0.2) else None
    shot, own_noise, repeat = chance(rng, 0.4), chance(rng, 0.5), chance(rng, 0.3)
    for _ in range(count):
        inside = np.ones(1)
        if mode < 0.4:
            light = cells(rng, h, w, look)
            if look["radius"] > 3:
                light = light * (0.6 + 0.4 * field(rng, h, w, 6, 2))
        elif mode < 0.7:
            cloud = field(rng, h, w, rng.uniform(0.3, 1) * max(h, w), 5) ** rng.uniform(1, 4)
            light = cloud * rng.uniform(0.3, 1) + cells(
                rng, h, w, look | {"radius": 0.8, "soft": 3}
            )
        else:
            light, inside = body(h, w, plan)
            plan = plan + rng.normal(0, 0.01, plan.shape)
        image = light[..., None] * tint * glow + floor
        if stain is not None:
            image = stain[0] + (stain[3] - stain[0]) * spread(light)[..., None]
        if mode < 0.7 and mode > 0.4 and not repeat:  # colours change over a nebula
            image = image * (0.5 + field(rng, h, w, max(h, w), 2)[..., None] * rng.random(3))
        if grain:
            channels = 3 if own_noise and tint[0] < 1 else 1
            wild = grain * rng.standard_normal((h, w, channels), np.float32)
            image = image + (wild * np.sqrt(np.maximum(image, 0) / 60 + 0.05) if shot else wild)
        image = to_bytes(image * inside[..., None])
        images.append(image)
    return images


def strokes(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Hand-drawn signs, glyphs or filled outlines, jittered, on a constant background."""
    size = 28 if chance(rng, 0.6) else side(rng, pixels, 16, 48)
    size = min(size, side(rng, pixels, 64, 64))
    count, large = max(2, pixels // size**2), size * 3
    mode, writer = rng.random(), Writer(rng, int(size * 0.7), 1.0)
    signs = [rng.uniform(0.12, 0.88, (between(rng, 3, 7), 2)) for _ in range(between(rng, 2, 26))]
    letters = [chr(between(rng, 48, 122)) for _ in range(between(rng, 2, 20))]
    jitter, thick, tilt = rng.uniform(0, 0.06), rng.uniform(0.04, 0.12), rng.uniform(0, 0.3)
    ink, back = rng.uniform(150, 255), 0.0
    bends = between(rng, 0, 12)
    cloth = field(rng, size, size, rng.uniform(2, 12), 2)
    images = []
    for _ in range(count):
        image = Image.new("L", (large, large))
        draw = ImageDraw.Draw(image)
        angle = rng.normal(0, tilt)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        width = max(1, int(large * thick * rng.uniform(0.7, 1.3)))
        if mode < 0.25:
            mask = writer.mask(pick(rng, letters))[..., 0]
            glyph = Image.fromarray((mask * 255).astype(np.uint8))
            scale = rng.uniform(0.85, 1.2) * 3
            glyph = glyph.resize((int(glyph.width * scale) + 1, int(glyph.height * scale) + 1))
            image.paste(glyph, ((large - glyph.width) // 2, (large - glyph.height) // 2))
            image = image.rotate(angle * 57, Image.Resampling.BILINEAR)
        else:
            points = pick(rng, signs)
            points = points + rng.normal(0, jitter, points.shape)
            if mode > 0.8:  # a symmetric outline, filled
                points = points[np.argsort(points[:, 1])] * [0.8, 1.3] - [0.05, 0.15]
                points = np.concatenate([points, (points * [-1, 1] + [1, 0])[::-1]])
            points = (points - 0.5) @ turn + 0.5
            t = np.linspace(0, len(points) - 1, 6 * len(points))
            curve = np.stack(
                [np.interp(t, np.arange(len(points)), points[:, k]) for k in (0, 1)], 1
            )
            for _ in range(bends):
                curve[1:-1] = (curve[:-2] + curve[1:-1] + curve[2:]) / 3
            path = [(float(x), float(y)) for x, y in curve * large]
            if mode > 0.8:
                draw.polygon(path, fill=255)
            else:
                draw.line(path, fill=255, width=width, joint="curve")
        cover = np.asarray(image.reduce(3), np.float32) / 255
        if mode > 0.8:
            cover = cover * (0.5 + 0.5 * np.roll(cloth, between(rng, 0, size), 0))
        images.append(to_bytes(back + (ink - back) * cover))
    return [255 - image for image in images] if chance(rng, 0.2) else images


def controls(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Noise, constants and gradients."""
    h, w = side(rng, pixels), side(rng, pixels)
    images, mode = [], rng.random()
    y, x = grid(h, w)
    for _ in range(max(2, pixels // (h * w))):
        first, last = rng.integers(0, 256, (2, 3)).astype(float)
        if mode < 0.3:
            images.append(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
        elif mode < 0.5:
            images.append(to_bytes(np.broadcast_to(first, (h, w, 3))))
        else:
            t = (y / h * rng.uniform(-1, 1) + x / w * rng.uniform(-1, 1))[..., None]
            image = first + (last - first) * np.abs(t)
            noise = rng.uniform(0, 6) * (mode > 0.75)
            images.append(to_bytes(image + noise * rng.standard_normal((h, w, 1), np.float32)))
    return images


# Kinds with their weights.
KINDS: dict[str, tuple[Kind, float]] = {
    "photo_tiles": (photo_tiles, 0.24),
    "thumbnails": (thumbnails, 0.10),
    "photo_objects": (photo_objects, 0.04),
    "video": (video, 0.12),
    "game_tiles": (game_tiles, 0.09),
    "sprites": (sprites, 0.07),
    "flats": (flats, 0.07),
    "screenshots": (screenshots, 0.11),
    "icons": (icons, 0.06),
    "maps": (maps, 0.07),
    "dark_pictures": (dark_pictures, 0.06),
    "strokes": (strokes, 0.03),
    "scans": (scans, 0.02),
    "controls": (controls, 0.02),
}


def collection(
    rng: np.random.Generator, photos: Photos, pixels: int, names: Sequence[str] = tuple(KINDS)
) -> list[np.ndarray]:
    """Images uint8 (h, w, 3) of one random collection of these kinds, some `pixels` in all."""
    kinds, weights = zip(*(KINDS[name] for name in names))
    total = np.cumsum(weights)
    images = kinds[int(np.searchsorted(total, rng.random() * total[-1]))](rng, photos, pixels)
    if chance(rng, 0.05):  # some images come twice
        for _ in range(between(rng, 1, max(1, len(images) // 3))):
            images[between(rng, 1, len(images) - 1)] = pick(rng, images)
    return [np.ascontiguousarray(image) for image in images]


def sheet(rows: list[tuple[str, list[np.ndarray]]], width: int = 1200) -> Image.Image:
    """One collection a row, with its kind written before it."""
    drawn = []
    for name, images in rows:
        high = max(image.shape[0] for image in images[:16])
        row = Image.new("RGB", (width, high + 4), (90, 0, 90))
        ImageDraw.Draw(row).text((2, 2), name, (255, 255, 255))
        left = 90
        for image in images:
            row.paste(Image.fromarray(image), (left, 2))
            left += image.shape[1] + 2
        drawn.append(row)
    page = Image.new("RGB", (width, sum(row.height for row in drawn)))
    top = 0
    for row in drawn:
        page.paste(row, (0, top))
        top += row.height
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=2, help="collections of each kind")
    parser.add_argument("--pixels", type=int, default=65536)
    parser.add_argument("--kind", choices=[*KINDS], help="only this kind")
    args = parser.parse_args()
    from pretrain import photographs  # here: it needs the package installed

    photos, rng = photographs(args.photos), np.random.default_rng(args.seed)
    rows = []
    for name in [args.kind] if args.kind else KINDS:
        began, drawn = time.perf_counter(), 0
        for _ in range(args.rows):
            images = KINDS[name][0](rng, photos, args.pixels)
            drawn += sum(image.size // 3 for image in images)
            rows.append((name, images))
        speed = drawn / (time.perf_counter() - began) / 1e6
        print(f"{name:14} {speed:8.2f} Mpixel/s")
    sheet(rows).save(args.out)


if __name__ == "__main__":
    main()
