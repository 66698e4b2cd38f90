"""Pages for `synthetic_collections`: text, screenshots, scans and maps."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from synthetic_art import (
    Photos,
    Rng,
    between,
    box_distance,
    chance,
    field,
    grid,
    icon_part,
    order,
    over,
    pick,
    ramp,
    side,
    to_bytes,
)

_FACES = ["DejaVuSans", "DejaVuSans-Bold", "DejaVuSansCondensed", "DejaVuSerif", "DejaVuSansMono"]
_FACES += ["LiberationSans-Regular", "LiberationSerif-Regular"]
_COMMON = """the of and to in is for on that with as are this by be or from an it at can not
file edit view open save close help image layer select tools window new copy paste cancel apply
options color size width height name type mode default filter value opacity brush script dialog
preview reset settings network search page print home more than when where which used between
image pixels north lake river port city mount saint area total number date 100 25 0.5 12 2024"""
_SYLLABLES = (
    "an be ca do er fi go ha in ju ka lo mi no or pe qua re sta tion ur ve wi xi yo zen "
    "men al ing ed ly con tra pro ble"
)


@functools.lru_cache(maxsize=512)
def _font(name: str, size: int) -> Any:
    """The named font, or the one that comes with Pillow where the machine lacks it."""
    if name in _missing():
        return ImageFont.load_default(size)
    return ImageFont.truetype(f"{name}.ttf", size)


@functools.lru_cache(maxsize=1)
def _missing() -> frozenset[str]:
    missing = {""}
    for name in _FACES:
        try:
            ImageFont.truetype(f"{name}.ttf", 10)
        except OSError:
            missing.add(name)
    return frozenset(missing)


class Writer:
    """Text in one font and size; the antialiased mask of every word is drawn once."""

    def __init__(self, rng: Rng, size: int, grey: float = 0.75) -> None:
        self.name = pick(rng, ["", *_FACES])
        self.size, self.grey, self.crisp = size, chance(rng, grey), chance(rng, 0.1)
        self.space, self.height = max(2, round(size * 0.3)), round(size * 1.3)
        self.masks: dict[str, np.ndarray] = {}

    def mask(self, text: str) -> np.ndarray:
        """Coverage 0..1 of a word, float32 [h, w, 1 or 3]; 3 for sub-pixel (LCD) rendering."""
        if text not in self.masks:
            scale = 1 if self.grey else 3
            font = _font(self.name, self.size * scale)
            width = int(font.getlength(text)) + scale
            image = Image.new("L", (-(-width // scale) * scale, self.height * scale))
            ImageDraw.Draw(image).text((0, 0), text, 255, font)
            mask = np.asarray(image, np.float32) / 255
            if self.grey:
                mask = np.rint(mask) if self.crisp else mask
                self.masks[text] = mask[..., None]
            else:
                mask = mask.reshape(self.height, 3, -1).mean(1)
                padded = np.pad(mask, ((0, 0), (1, 1)))
                mask = (padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]) / 3
                self.masks[text] = mask.reshape(self.height, -1, 3)
        return self.masks[text]

    def write(self, canvas: np.ndarray, x: int, y: int, text: str, colour: np.ndarray) -> int:
        """Blend words into a uint8 canvas; returns where the line ends."""
        for word in text.split():
            mask = self.mask(word)
            stop = x + mask.shape[1]
            if x >= 0 and y >= 0:
                region = canvas[y : y + mask.shape[0], x:stop]
                part = mask[: region.shape[0], : region.shape[1]]
                region[...] = region + (colour - region) * part + 0.5
            x = stop + self.space
        return x


def vocabulary(rng: Rng) -> list[str]:
    """Words of one collection: common ones and made-up ones, the first used most."""
    words, syllables = _COMMON.split(), _SYLLABLES.split()
    made = ["".join(pick(rng, syllables) for _ in range(between(rng, 1, 4))) for _ in range(60)]
    both = words + [w.capitalize() if chance(rng, 0.3) else w for w in made]
    return [both[int(i)] for i in rng.permutation(len(both))[: between(rng, 20, 150)]]


def phrase(rng: Rng, words: list[str], count: int) -> str:
    """Some words, common ones more often, with a capital and punctuation."""
    chosen = [words[int(i)] for i in len(words) * rng.random(count) ** 2]
    text = " ".join(chosen)
    return text[:1].upper() + text[1:] + (pick(rng, [".", ":", "...", ","]) if count > 3 else "")


def cut(rng: Rng, canvas: np.ndarray, h: int, w: int) -> list[np.ndarray]:
    """All non-overlapping h x w cells of a canvas, from a random origin, in order or shuffled."""
    height, width = canvas.shape[:2]
    top, left = between(rng, 0, height % h), between(rng, 0, width % w)
    rows, columns = range(top, height - h + 1, h), range(left, width - w + 1, w)
    return order(rng, [canvas[y : y + h, x : x + w] for y in rows for x in columns], 0.5)


# --------------------------------------------------------------------------------- screenshots


@dataclass
class Theme:
    """What the windows of one desktop share."""

    plain: Writer
    bold: Writer
    words: list[str]
    icons: list[np.ndarray]  # float [h, w, 4]
    window: np.ndarray  # colours, float [3]
    ink: np.ndarray
    paper: np.ndarray
    accent: np.ndarray
    light: np.ndarray  # upper left edges
    dark: np.ndarray  # lower right edges
    radius: float  # of button corners
    gloss: float  # strength of gradients on buttons and title bars
    pad: int


def theme(rng: Rng) -> Theme:
    """Fonts, colours and icons of one desktop."""
    size = between(rng, 8, 15)
    grey = chance(rng, 0.7)
    plain, bold = (
        Writer(rng, size, float(grey)),
        Writer(rng, size + between(rng, 0, 3), float(grey)),
    )
    window = np.full(3, rng.uniform(190, 250)) + rng.normal(0, 6, 3)
    ink, paper = np.full(3, rng.uniform(0, 70)), np.full(3, 255.0)
    if chance(rng, 0.2):
        window, ink, paper = 255 - window, 255 - ink, 255 - paper + rng.uniform(10, 60)
    shades, side_length = ramp(rng, 7), pick(rng, [12, 16, 16, 22, 24, 32])
    ramps = [ramp(rng, 6) for _ in range(4)]
    drawn = []
    for _ in range(between(rng, 3, 14)):
        icon = icon_part(rng, side_length, True, ramps)
        drawn.append(over(icon, icon_part(rng, side_length, False, ramps)))
    window = np.rint(window.clip(0, 255))
    return Theme(plain, bold, vocabulary(rng), drawn, window, np.rint(ink), np.rint(paper),
                 shades[between(rng, 2, 5)], np.minimum(window + rng.uniform(8, 60), 255),
                 window * rng.uniform(0.4, 0.85), rng.uniform(0, 6) * between(rng, 0, 1),
                 rng.uniform(0, 0.4) * between(rng, 0, 1), between(rng, 3, 10))  # fmt: skip


def fill(canvas: np.ndarray, x: int, y: int, w: int, h: int, colour: np.ndarray) -> None:
    canvas[max(0, y) : max(0, y + h), max(0, x) : max(0, x + w)] = colour


def paste(canvas: np.ndarray, x: int, y: int, layer: np.ndarray) -> None:
    """Blend a float layer [h, w, 4] into a uint8 canvas, cut at its borders."""
    region = canvas[max(0, y) : y + layer.shape[0], max(0, x) : x + layer.shape[1]]
    layer = layer[max(0, -y) :, max(0, -x) :][: region.shape[0], : region.shape[1]]
    region[...] = region + (layer[..., :3] - region) * layer[..., 3:] + 0.5


def raised(canvas: np.ndarray, x: int, y: int, w: int, h: int, style: Theme,
           face: np.ndarray, sunk: bool = False) -> None:  # fmt: skip
    """A button or a field: bevelled, or rounded with a gradient."""
    if w < 3 or h < 3:
        return
    if style.radius == 0 and style.gloss == 0:
        edges = (style.dark, style.light) if sunk else (style.light, style.dark)
        fill(canvas, x, y, w, h, edges[1])
        fill(canvas, x, y, w - 1, h - 1, edges[0])
        fill(canvas, x + 1, y + 1, w - 2, h - 2, face)
        return
    distance = box_distance(h, w, (h / 2, w / 2, h / 2, w / 2), 0.0, min(style.radius, h / 2))
    layer = np.empty((h, w, 4), np.float32)
    slope = (0.5 - grid(h, w)[0] / h)[..., None] * style.gloss * 120 * (not sunk)
    layer[..., :3] = (face + slope).clip(0, 255)
    layer[..., :3] += (style.dark - layer[..., :3]) * (distance + 1.5).clip(0, 1)[..., None]
    layer[..., 3] = (0.5 - distance).clip(0, 1)
    paste(canvas, x, y, layer)


def widget(rng: Rng, canvas: np.ndarray, x: int, y: int, room: int, style: Theme) -> int:
    """One control on one line; returns its width."""
    kind, pad, line = between(rng, 0, 9), style.pad, style.plain.height
    text = phrase(rng, style.words, between(rng, 1, 3))
    high = line + 4
    if kind <= 1:  # button, perhaps with an icon
        label = pick(rng, style.words).capitalize()
        w = max(40, style.plain.mask(label).shape[1] + 2 * pad + 4)
        raised(canvas, x, y, w, high, style, style.window)
        style.plain.write(canvas, x + (w - style.plain.mask(label).shape[1]) // 2, y + 2, label,
                          style.ink)  # fmt: skip
        return w
    if kind == 2:  # check box or radio button
        box = max(8, style.plain.size)
        raised(canvas, x, y + 2, box, box, style, style.paper, True)
        if chance(rng, 0.5):
            fill(canvas, x + box // 4, y + 2 + box // 4, box // 2, box // 2, style.ink)
        return style.plain.write(canvas, x + box + pad, y, text, style.ink) - x
    if kind == 3:  # entry
        w = min(room, between(rng, 40, 160))
        raised(canvas, x, y, w, high, style, style.paper, True)
        style.plain.write(canvas[:, : max(0, x + w - 2)], x + 3, y + 2, text, style.ink)
        return w
    if kind == 4:  # slider
        w, place = min(room, between(rng, 60, 160)), rng.random()
        raised(canvas, x, y + high // 2 - 2, w, 4, style, style.dark, True)
        raised(canvas, x + int(place * (w - 12)), y + 1, 12, high - 2, style, style.window)
        return w
    if kind == 5:  # progress
        w = min(room, between(rng, 60, 180))
        raised(canvas, x, y, w, high, style, style.paper, True)
        raised(canvas, x, y, between(rng, 6, w), high, style, style.accent)
        return w
    if kind == 6:  # row of icons
        count, step = between(rng, 2, 8), style.icons[0].shape[1] + pad
        for k in range(count):
            paste(canvas, x + k * step, y, style.icons[(k * 5 + count) % len(style.icons)])
        return count * step
    if kind == 7:
        return style.bold.write(canvas, x, y, text, style.ink) - x
    return style.plain.write(canvas, x, y, text + ":", style.ink) - x


def listing(rng: Rng, canvas: np.ndarray, x: int, y: int, w: int, h: int, style: Theme) -> None:
    """A list, a tree or running text in a sunken field with a scroll bar."""
    raised(canvas, x, y, w, h, style, style.paper, True)
    view = canvas[: y + h - 1, : max(0, x + w - 14)]
    step = max(style.plain.height, style.icons[0].shape[0] + 1) if chance(rng, 0.4) else 0
    running, chosen = chance(rng, 0.4), between(rng, 0, 12)
    columns = sorted(int(c) for c in rng.integers(60, max(61, w), between(rng, 0, 2)))
    for k, top in enumerate(range(y + 2, y + h - style.plain.height, step or style.plain.height)):
        ink, left = style.ink, x + 4
        if k == chosen and not running:
            fill(view, x + 1, top, w, step or style.plain.height, style.accent)
            ink = style.paper
        if step:
            paste(view, left, top, style.icons[(k * k) % len(style.icons)])
            left += step + 3
        count = max(2, w // (style.plain.size * 4)) if running else between(rng, 1, 3)
        style.plain.write(view, left, top, phrase(rng, style.words, count), ink)
        for c in columns if not running else []:
            text = str(between(rng, 0, 2000)) if c % 2 else pick(rng, style.words)
            style.plain.write(view, x + c, top, text, ink)
    raised(canvas, x + w - 13, y + 1, 12, h - 2, style, style.dark, True)
    start, length = between(rng, 1, max(1, h // 2)), between(rng, 10, max(10, h // 2))
    raised(canvas, x + w - 13, y + start, 12, min(length, h - start - 1), style, style.window)


def window(rng: Rng, canvas: np.ndarray, photos: Photos, x: int, y: int, w: int, h: int,
           style: Theme) -> None:  # fmt: skip
    """A window with title bar, menu and rows of widgets, drawn over what is there."""
    pad, bar = style.pad, style.bold.height + 6
    body = np.empty((h, w, 3), np.uint8)
    body[...] = style.window
    body[:2], body[:, :2], body[-2:], body[:, -2:] = (style.accent,) * 4
    slope = np.linspace(1, -1, bar)[:, None, None] * 80 * style.gloss
    body[:bar] = (style.accent + slope).clip(0, 255)
    style.bold.write(body, pad + 22, 3, phrase(rng, style.words, 2), style.paper)
    paste(body, 4, 2, style.icons[0])
    for k in range(3):
        raised(body, w - (k + 1) * 18, 4, 14, bar - 8, style, style.window)
        fill(body, w - (k + 1) * 18 + 4, bar // 2, 6, 1 + k, style.ink)
    top = bar + 2
    if chance(rng, 0.6):
        left = pad
        for k in range(between(rng, 3, 8)):
            word = style.words[k % len(style.words)].capitalize()
            left = style.plain.write(body, left, top, word, style.ink) + pad
        top += style.plain.height + 2
        fill(body, 2, top, w - 4, 1, style.dark)
    top += pad
    while top < h - 20:
        block = rng.random()
        if block < 0.15:
            high = min(h - top - pad, between(rng, 40, 160))
            listing(rng, body, pad, top, w - 2 * pad, high, style)
        elif block < 0.22 and h - top > 40:  # a picture, or a colour field
            high, wide = min(h - top - pad, between(rng, 24, 120)), min(w - 2 * pad, 140)
            picture = pick(rng, photos)[:high, :wide]
            if chance(rng, 0.4):
                ends = rng.uniform(0, 255, (2, 3))
                t = np.linspace(0, 1, wide)[None, :, None]
                picture = to_bytes(
                    np.broadcast_to(ends[0] + (ends[1] - ends[0]) * t, (high, wide, 3))
                )
            raised(body, pad, top, picture.shape[1] + 4, picture.shape[0] + 4, style, style.dark)
            body[top + 2 : top + 2 + high, pad + 2 : pad + 2 + wide] = picture
        elif block < 0.3:
            high = 2
            fill(body, pad, top, w - 2 * pad, 1, style.dark)
            fill(body, pad, top + 1, w - 2 * pad, 1, style.light)
        else:
            left, high = pad, style.plain.height + 6
            while left < w - 50:
                left += widget(rng, body, left, top, w - left - pad, style) + 2 * pad
                if chance(rng, 0.3):
                    left += pad * between(rng, 0, 8)
        top += high + pad
    body[:2], body[:, :2], body[-2:], body[:, -2:] = (style.accent,) * 4
    region = canvas[y : y + h, x : x + w]
    region[...] = body[: region.shape[0], : region.shape[1]]


def menu(rng: Rng, canvas: np.ndarray, x: int, y: int, style: Theme) -> None:
    """A menu that hangs over what is there: icons, entries, short cuts, one entry chosen."""
    step, entries = style.plain.height + between(rng, 1, 6), between(rng, 3, 14)
    wide, chosen = between(rng, 90, 200), between(rng, 0, 14)
    fill(canvas, x, y, wide, entries * step + 4, style.dark)
    fill(canvas, x + 1, y + 1, wide - 2, entries * step + 2, style.window)
    for k in range(entries):
        top, ink = y + 2 + k * step, style.ink
        if k == chosen:
            fill(canvas, x + 2, top, wide - 4, step, style.accent)
            ink = style.paper
        if chance(rng, 0.4):
            paste(canvas, x + 3, top, style.icons[k % len(style.icons)])
        view = canvas[:, : x + wide - 4]
        text = phrase(rng, style.words, between(rng, 1, 3)).capitalize()
        style.plain.write(view, x + 8 + style.icons[0].shape[1], top, text, ink)
        if chance(rng, 0.3):
            style.plain.write(view, x + wide - 50, top, f"Ctrl+{text[0]}", ink)


def screenshots(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Crops of screens of one desktop: the same glyphs, icons and widgets at other offsets."""
    h, w = side(rng, pixels, 32), side(rng, pixels, 32)
    if chance(rng, 0.5):
        w = h
    style, images = theme(rng), []
    count = max(2, pixels // (h * w))
    most = max(180, math.isqrt(pixels * 3 // 2))
    back = rng.uniform(0, 255, 3) if chance(rng, 0.7) else style.paper
    while len(images) < count:
        height = max(h, min(most, between(rng, 200, 400)))
        width = max(w, min(most, between(rng, 240, 520)))
        screen = np.empty((height, width, 3), np.uint8)
        screen[...] = back
        if chance(rng, 0.15):
            photo = pick(rng, photos)[:height, :width]
            screen[: photo.shape[0], : photo.shape[1]] = photo
        if chance(rng, 0.6):
            window(rng, screen, photos, 0, 0, width, height, style)
        for _ in range(between(rng, 0, 2)):
            wide, high = between(rng, 160, width), between(rng, 100, height)
            x, y = between(rng, 0, width - wide), between(rng, 0, height - high)
            window(rng, screen, photos, x, y, wide, high, style)
        for _ in range(between(rng, 0, 2)):
            menu(rng, screen, between(rng, 0, width // 2), between(rng, 0, height // 2), style)
        tiles = cut(rng, screen, h, w)
        images += [tile for tile in tiles if np.ptp(tile) > 40 or chance(rng, 0.4)]
    return images[:count]


# ------------------------------------------------------------------------------ scans and maps


def scans(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Crops of printed pages, near binary, with paper noise, or exactly two-coloured."""
    h, w = side(rng, pixels, 32), side(rng, pixels, 32)
    writer, words = Writer(rng, between(rng, 9, 24), 1.0), vocabulary(rng)
    count = max(2, pixels // (h * w))
    ink, paper = np.full(3, rng.uniform(0, 80)), np.full(3, rng.uniform(200, 255))
    if chance(rng, 0.4):
        paper = paper - np.array([0, rng.uniform(0, 15), rng.uniform(0, 40)])
    blur, noise, stain = rng.uniform(0, 0.9), rng.uniform(0, 8), rng.uniform(0, 25)
    mode, leading, gain = rng.random(), rng.uniform(0.9, 1.6), rng.uniform(1, 1.6)
    images: list[np.ndarray] = []
    while len(images) < count:
        height, width = max(h, between(rng, 160, 360)), max(w, between(rng, 200, 420))
        page = np.full((height, width, 1), 255, np.uint8)
        for top in range(between(rng, 2, 20), height, max(8, int(writer.height * leading))):
            if not chance(rng, 0.1):
                text = phrase(rng, words, max(2, width // (writer.size * 3)))
                writer.write(page, between(rng, 2, 6), top, text, np.zeros(1))
        if chance(rng, 0.3):
            fill(page, 4, height // 2, width - 8, between(rng, 1, 3), np.zeros(1))
        soft = Image.fromarray(page[..., 0])
        if mode < 0.75 and blur > 0.3:
            soft = soft.filter(ImageFilter.GaussianBlur(blur))
        cover = np.asarray(soft, np.float32)[..., None] / 255
        if mode >= 0.75:
            image = ink + (paper - ink) * (cover > rng.uniform(0.3, 0.7))
        else:
            image = ink + (paper - ink) * ((cover - 0.5) * gain + 0.5).clip(0, 1)
            image = image - stain * field(rng, height, width, 90, 3)[..., None]
            image = image + noise * rng.standard_normal((height, width, 1), np.float32)
        images += cut(rng, to_bytes(image), h, w)
    return images[:count]


def relief(rng: Rng, height: int, width: int) -> np.ndarray:
    """Terrain through a colour map with hill shading; the sea may be flat."""
    ground = field(rng, height, width, rng.uniform(24, 120), between(rng, 4, 7))
    sea = rng.uniform(0.2, 0.6) if chance(rng, 0.6) else 0.0
    stops = between(rng, 3, 8)
    colours = np.concatenate([ramp(rng, stops), ramp(rng, stops)])
    place = np.concatenate([np.linspace(0, sea, stops), np.linspace(sea + 1e-3, 1, stops)])
    image = np.stack([np.interp(ground, place, colours[:, c]) for c in range(3)], -1)
    slope = np.zeros_like(ground)
    slope[1:, 1:] = ground[1:, 1:] - ground[:-1, :-1]
    shade = (slope * rng.uniform(0, 14)).clip(-0.5, 0.5)[..., None]
    water = (ground < sea)[..., None]
    image = image * (1 - shade * np.where(water, rng.uniform(0, 1), 1))
    if chance(rng, 0.4):
        image = np.where(water, colours[stops - 1], image)
    if chance(rng, 0.4):
        image = image + rng.normal(0, rng.uniform(0.3, 5), (height, width, 1))
    return to_bytes(image)


def road_map(rng: Rng, height: int, width: int) -> np.ndarray:
    """Regions of flat or softly shaded colour, borders, rivers, roads and names."""
    step, count = 4, between(rng, 3, 14)
    rows, columns = height // step + 2, width // step + 2
    y, x = np.mgrid[0:rows, 0:columns] * float(step)
    y = y + rng.uniform(10, 60) * field(rng, rows, columns, rng.uniform(3, 12), 3)
    x = x + rng.uniform(10, 60) * field(rng, rows, columns, rng.uniform(3, 12), 3)
    seeds = rng.random((count, 2)) * (height + 40, width + 40)
    apart = [np.asarray(Image.fromarray(np.hypot(y - r, x - c).astype(np.float32)).resize(
        (columns * step, rows * step), Image.Resampling.BICUBIC)) for r, c in seeds]  # fmt: skip
    region = np.argmin(np.stack(apart), 0)[:height, :width]
    pale = rng.uniform(0, 0.8)
    colours = np.concatenate([ramp(rng, 4) for _ in range(3)])
    colours = np.rint(colours + (250 - colours) * pale)[rng.integers(0, 12, count)]
    image = colours[region]
    if chance(rng, 0.4):
        land = (region % 3 > 0)[..., None] * rng.uniform(5, 40)
        image = image + land * (field(rng, height, width, 30, 5)[..., None] - 0.5)
    border = np.zeros((height, width), bool)
    border[1:] |= region[1:] != region[:-1]
    border[:, 1:] |= region[:, 1:] != region[:, :-1]
    if chance(rng, 0.8):
        image[border] = image[border] * rng.uniform(0.2, 0.8)
    scale = pick(rng, [1, 1, 2])  # lines are antialiased where the sheet is larger than the map
    lines = Image.new("RGBA", (width * scale, height * scale))
    draw = ImageDraw.Draw(lines)
    for _ in range(between(rng, 1, 8)):
        turns = np.cumsum(rng.normal(0, 0.35, 80)) + rng.random() * 6.3
        path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1) * 8, 0) * scale
        path = [tuple(p) for p in path + rng.random(2) * (width * scale, height * scale)]
        colour, wide = tuple(int(v) for v in rng.integers(0, 256, 3)), between(rng, 1, 4)
        if chance(rng, 0.4):
            draw.line(path, fill=(60, 60, 60, 255), width=(wide + 2) * scale)
        draw.line(path, fill=(*colour, 255), width=wide * scale)
    layer = np.asarray(lines.resize((width, height)), np.float32)
    image = image + (layer[..., :3] - image) * layer[..., 3:] / 255
    return to_bytes(image)


def maps(rng: Rng, photos: Photos, pixels: int) -> list[np.ndarray]:
    """Tiles of elevation pictures or of political and road maps."""
    size = side(rng, pixels, 24)
    count, images = max(2, pixels // size**2), []
    reliefs, labels = chance(rng, 0.5), between(rng, 0, 12)
    writer, words = Writer(rng, between(rng, 8, 14)), vocabulary(rng)
    length = max(size, min(448, math.isqrt(pixels) + 8))
    while len(images) < count:
        canvas = (relief if reliefs else road_map)(rng, length, length)
        for _ in range(0 if reliefs else labels):
            x, y = (between(rng, 0, length - 1) for _ in range(2))
            name = pick(rng, words).capitalize()
            halo = chance(rng, 0.3)
            for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)) if halo else ():
                writer.write(canvas, x + dx, y + dy, name, np.full(3, 255.0))
            writer.write(canvas, x, y, name, np.zeros(3))
        images += cut(rng, canvas, size, size)
    return images[:count]
