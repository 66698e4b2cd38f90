"""Binary PBM, PGM, PPM and PAM. Their samples fill a PNG's depth exactly, or are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from osoa_pl.data import png, scanlines
from osoa_pl.data.picture import Picture, Raster
from osoa_pl.errors import InputError
from osoa_pl.types import MODES

MAGIC = re.compile(rb"P[1-6]\s[\s#0-9]|P7\n")

_MAX_HEADER_BYTES = 1 << 16
_DEPTHS = {1: 1, 3: 2, 15: 4, 255: 8, 65535: 16}
_COLOURS = {1: "grey", 2: "greyalpha", 3: "rgb", 4: "rgba"}
_TUPLES = {
    **{b"BLACKANDWHITE": 1, b"GRAYSCALE": 1, b"RGB": 3},
    **{b"GRAYSCALE_ALPHA": 2, b"RGB_ALPHA": 4},
}


@dataclass
class _Header:
    width: int
    height: int
    samples: int
    largest: int
    place: int
    """Where the pixels begin."""
    bitmap: bool = False
    comments: list[str] = field(default_factory=list)


def inspect(data: bytes) -> Picture:
    """Picture of the file `data`. Raises InputError, or anything for a broken file."""
    header = _header(data)
    depth = _DEPTHS.get(header.largest)
    mode = f"{_COLOURS[header.samples]}{depth}"
    if mode not in MODES:
        raise InputError(f"PPM or PGM with a maximum of {header.largest}")
    excess = len(data) - header.place - _stride(header) * header.height
    if excess:
        raise ValueError("truncated" if excess < 0 else "data after the end of the image")
    if depth in (1, 2, 4) and not header.bitmap:
        values = np.frombuffer(data, np.uint8, offset=header.place)
        if values.max(initial=0) > header.largest:
            raise ValueError("a sample above the maximum")
    texts = {"Comment": "\n".join(header.comments)} if header.comments else {}
    before = png.metadata_chunks(texts=texts)
    return Picture("ppm", mode, header.height, header.width, before)


def decode(data: bytes, picture: Picture) -> Raster:
    """Samples (h, w, samples). A PBM says 1 for black, a PNG says 0: its bits are inverted."""
    header, mode = _header(data), MODES[picture.mode]
    rows = np.frombuffer(data, np.uint8, offset=header.place).reshape(header.height, -1)
    if header.bitmap:
        return scanlines.unpack(~rows, mode, header.width)
    if mode.depth == 16:
        return scanlines.unpack(rows, mode, header.width)
    return rows.reshape(header.height, header.width, header.samples)


def _stride(header: _Header) -> int:
    if header.bitmap:
        return (header.width + 7) // 8
    return header.width * header.samples * (2 if header.largest > 255 else 1)


def _header(data: bytes) -> _Header:
    if data[:2] == b"P7":
        return _pam_header(data)
    if data[:2] not in (b"P4", b"P5", b"P6"):
        raise InputError("plain-text PBM" if data[:2] == b"P1" else "plain-text PPM or PGM")
    bitmap = data[:2] == b"P4"
    numbers: list[int] = []
    comments: list[str] = []
    place = 2
    while len(numbers) < (2 if bitmap else 3):
        byte = data[place : place + 1]
        if place > _MAX_HEADER_BYTES:
            raise ValueError("a header without end")
        if byte == b"#":
            end = data.index(b"\n", place)
            comments.append(data[place + 1 : end].decode("utf-8"))
            place = end + 1
        elif byte.isspace():
            place += 1
        elif byte.isdigit():
            end = place
            while data[end : end + 1].isdigit():
                end += 1
            if end - place > 9:
                raise ValueError("an absurd size")
            numbers.append(int(data[place:end]))
            place = end
        else:
            raise ValueError("no size in the header")
    if not data[place : place + 1].isspace():
        raise ValueError("no space after the header")
    samples = 3 if data[:2] == b"P6" else 1
    largest = 1 if bitmap else numbers[2]
    return _Header(numbers[0], numbers[1], samples, largest, place + 1, bitmap, comments)


def _pam_header(data: bytes) -> _Header:
    place, numbers, kind = 3, dict[bytes, int](), b""
    comments: list[str] = []
    while True:
        end = data.index(b"\n", place, _MAX_HEADER_BYTES)
        line, place = data[place:end], end + 1
        words = line.split()
        if line[:1] == b"#":
            comments.append(line[1:].decode("utf-8"))
        elif words == [b"ENDHDR"]:
            break
        elif len(words) == 2 and words[0] in (b"WIDTH", b"HEIGHT", b"DEPTH", b"MAXVAL"):
            if words[0] in numbers or not words[1].isdigit() or len(words[1]) > 9:
                raise ValueError("an absurd header")
            numbers[words[0]] = int(words[1])
        elif len(words) == 2 and words[0] == b"TUPLTYPE" and not kind:
            kind = words[1]
        elif words:
            raise InputError("PAM with an unusual header")
    samples = _TUPLES.get(kind)
    if samples is None or samples != numbers[b"DEPTH"]:
        raise InputError("PAM with unusual samples")
    found = (numbers[b"WIDTH"], numbers[b"HEIGHT"], samples, numbers[b"MAXVAL"])
    return _Header(*found, place, comments=comments)
