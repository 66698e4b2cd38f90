"""A second reader of archives, written from docs/format.md alone: slow, plain Python and numpy.

It shares no code with the package. `tests/test_second_reader.py` lets it read what the package
writes, adapting, down to the digests of pixels and weights; so the page is enough, and true.
Section 12 of the page, the family `vae`, is in `second_reader_latent.py`; section 13, `memory_ar`,
in `second_reader_memory.py`.

    python tests/second_reader.py ARCHIVE [CHECKPOINT.safetensors]
"""

import hashlib
import json
import lzma
import struct
import sys
import zipfile
import zlib
from base64 import b64decode
from math import factorial
from pathlib import Path

import numpy as np
from mpmath import exp as mexp
from mpmath import mp, mpf, nint

f4, f8 = np.float32, np.float64
MASK = 0xFFFFFFFF
LIM = 1 << 31


def exp(x):
    x = min(max(float(x), -708.0), 709.0)
    k = float(np.rint(x * 1.4426950408889634))
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    y = 1.0 / factorial(13)
    for i in range(12, -1, -1):
        y = y * r + 1.0 / factorial(i)
    return y * 2.0 ** int(k)


mp.prec = 120
T = [int(nint(mpf(2) ** 18 / (1 + mexp(-mpf(i - 800) / 64)))) for i in range(1601)]
assert (
    hashlib.sha256(np.array(T, "<i4").tobytes()).hexdigest()
    == "e97fd1ad3263e42ec9a4b865aa26e88b89ed5b8bb8ed360b673e051257e0570b"
)
T.append(T[-1])
rne = lambda x: int(np.rint(x))


def hmix(i, key):
    h = (i * 0x9E3779B1 + key) & MASK
    h ^= h >> 16
    h = h * 0x21F0AAAD & MASK
    h ^= h >> 15
    h = h * 0x735A2D97 & MASK
    return h ^ (h >> 15)


def step(m, bits):
    m = max(float(m), 2.0**-40)
    return 2.0 ** (int(np.frexp(m)[1]) - 1 + 1 - bits)


def weights(v, bits):
    v = [float(a) for a in v]
    best = v.index(max(v))
    q = [rne(65536 * exp(a - v[best])) + 1 for a in v]
    t = sum(q)
    w = [(a << bits) // t for a in q]
    w[best] += (1 << bits) - sum(w)
    return q, t, w


def clamp(x, a, b):
    return min(max(x, a), b)


CAUSAL = [(dy, dx) for dy in range(-3, 1) for dx in range(-3, 4) if dy < 0 or dx < 0]
COPY = [(0, -1), (-1, 0), (-1, 1), (-1, -1), (0, -2), (-2, 0)]


def look(img, i, j, c):
    w = img.shape[1]
    if i < 0:
        return 128
    if j < 0:
        return 128 if i == 0 else int(img[i - 1, 0, c])
    return int(img[i, min(j, w - 1), c])


def features(img, i, j):
    C = img.shape[2]
    g = lambda dy, dx, c: look(img, i + dy, j + dx, c)
    pred, act = [], []
    for c in range(C):
        W, N, NW, NE, WW = (g(*o, c) for o in ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2)))
        pred.append(min(max(W + N - NW, min(W, N)), max(W, N)))
        a = abs(W - NW) + abs(NW - N) + abs(N - NE) + abs(W - WW)
        act.append(((a + 1) ** 16).bit_length() // 2)
    cand = [[g(*o, c) for c in range(C)] for o in COPY]
    out = [g(dy, dx, c) - pred[c] for dy, dx in CAUSAL for c in range(C)]
    out += [p - 128 for p in pred] + [pred[c] - pred[0] for c in range(1, C)] + act
    out += [32 * (cand[a] == cand[b]) for a in range(1, 6) for b in range(a)]
    out.append(32 * (i == 0 or j == 0))
    out += [0] * (-len(out) % 4)
    return out, pred, cand


def model(data, kind, weights=""):
    n = int.from_bytes(data[:8], "little")
    head = json.loads(data[8 : 8 + n])
    meta = json.loads(head["__metadata__"]["osoa_pl"])

    def tensor(name, kind="<f4"):
        a, b = head[name]["data_offsets"]
        return np.frombuffer(data[8 + n + a : 8 + n + b], kind).copy()

    start = f"{kind}.{weights}" if weights else kind
    places = f"{start}.parameters", f"{start}.activation_max", f"{kind}.second_moment"
    tensors = [tensor(place) for place in places]
    if meta["family"] == "local_ar":
        return Model(meta["models"][kind], *tensors)
    if meta["family"] == "memory_ar":
        from second_reader_memory import Memory

        sizes = meta["models"][kind]
        basis = tensor(f"{kind}.basis", "i1") if sizes.get("eigenbasis") else None
        return Memory(sizes, *tensors, basis)
    from second_reader_latent import Latent

    assert meta["family"] == "vae"
    return Latent(meta["models"][kind], *tensors)


class Model:
    weight_bits, activation_bits, decay = 9, 8, 0.95

    def __init__(s, cfg, p, A, v):
        C, H, D, K = (cfg[k] for k in ("channels", "width", "depth", "mixtures"))
        s.C, s.H, s.D, s.K = C, H, D, K
        F = {3: 96, 1: 44}[C]
        O = 3 * K * C + C * (C - 1) // 2 + 7
        s.L = 2 * D + 1
        s.sizes = [(H, F)] + [(H, H)] * (2 * D) + [(O, H)]
        s.start(p, A, v)

    def start(s, p, A, v):
        s.p, s.A, s.v, s.m = p, A, v, np.zeros_like(p)
        s.n, s.c1 = 0, 1.0

    def views(s, flat):
        at, out = 0, []
        for o, i in s.sizes:
            out.append((flat[at : at + o * i].reshape(o, i), flat[at + o * i : at + o * i + o]))
            at += o * i + o
        return out

    def quantise(s):
        s.w, s.b, s.sw, s.sx = [], [], [], s.steps()
        for W, b in s.views(s.weights(s.p)):
            t = step(np.abs(W).max(), s.weight_bits)
            limit = 2**s.weight_bits - 1
            s.sw.append(t)
            s.w.append(np.clip(np.rint(W / f4(t)), -limit, limit).astype(np.int64))
            s.b.append(b.copy())

    def weights(s, flat):
        return flat

    def stored_gradient(s, flat):
        return flat

    def steps(s):
        return [2.0**-5] + [step(a, 8) for a in s.A]

    def layer(s, l):
        return (s.x[l] @ s.w[l].T).astype(f4) * f4(s.sw[l] * s.sx[l]) + s.b[l]

    def Q(s, h, l):
        r = np.maximum(h, f4(0))
        s.seen.append(r.max())
        s.x.append(np.minimum(np.rint(r / f4(s.sx[l])), 2**s.activation_bits - 1).astype(np.int64))

    def forward(s, x):
        s.x, s.seen = [np.asarray(x, np.int64)], []
        h = s.layer(0)
        s.Q(h, 1)
        for d in range(s.D):
            s.Q(s.layer(2 * d + 1), 2 * d + 2)
            h = h + s.layer(2 * d + 2)
            s.Q(h, 2 * d + 3)
        return s.layer(s.L)

    def back(s, l, G, into, seed):
        if not np.isfinite(G).all():  # its step is infinite: the update will be skipped
            into[l][0][:] = into[l][1][:] = np.nan
            return np.full(s.x[l].shape, np.nan, f4)
        sg = step(np.abs(G).max(), 7)
        key = hmix(l, hmix(s.n, seed))
        u = [((hmix(i, key) >> 12) + 0.5) * 2.0**-20 for i in range(G.size)]
        u = np.array(u).astype(f4).reshape(G.shape)
        q = np.clip(np.floor(G / f4(sg) + u), -127, 127).astype(np.int64)
        into[l][0][:] = (q.T @ s.x[l]).astype(f4) * f4(sg * s.sx[l])
        into[l][1][:] = q.sum(0).astype(f4) * f4(sg)
        return (q @ s.w[l]).astype(f4) * f4(sg * s.sw[l])

    def mask(s, g, l):
        return np.where(s.x[l] > 0, g, f4(0))

    def gradient(s, tiles, images, seed):
        places = [(m, r + i, j) for m, r, h, w in tiles for i in range(h) for j in range(w)]
        feats = [features(images[m], i, j) for m, i, j in places]
        G = np.stack(
            [
                head_gradient(Head(s, o, f[1], f[2]), [int(a) for a in images[m][i, j]])
                for o, f, (m, i, j) in zip(s.forward([f[0] for f in feats]), feats, places)
            ]
        )
        return s.backward(s.sampled(G), seed)

    def sampled(s, G):
        rows = slice(s.n % min(s.stride, len(G)), None, s.stride)
        s.x = [x[rows] for x in s.x]
        return G[rows]

    def backward(s, G, seed):
        flat = np.zeros_like(s.p)
        into = s.views(flat)
        Gh = s.mask(s.back(s.L, G, into, seed), s.L)
        for d in reversed(range(s.D)):
            a, b = 2 * d + 1, 2 * d + 2
            Gt = s.mask(s.back(b, Gh, into, seed), b)
            Gh = Gh + s.mask(s.back(a, Gt, into, seed), a)
        s.back(0, Gh, into, seed)
        return s.stored_gradient(flat * f4(1.0 / (len(G) * s.C)))

    def ended(s, stream, number):
        return stream.s == LIM and not stream.stack

    def adapt(s, pol, tiles, images, seed):
        for _ in range(pol["updates"]):
            s.quantise()
            g = s.gradient(tiles, images, seed)
            s.n += 1
            if not np.isfinite(g).all():
                continue
            fixed = np.clip(np.rint(g * f4(2**20)), -(2**22), 2**22).astype(np.int64)
            norm = float(np.sqrt(f8(int((fixed * fixed).sum())))) * 2.0**-20
            if norm > pol["clip"]:
                g = g * f4(pol["clip"] / norm)
            b1, b2 = pol["beta1"], pol["beta2"]
            s.c1 *= b1
            s.m = s.m * f4(b1) + g * f4(1 - b1)
            s.v = s.v * f4(b2) + (g * g) * f4(1 - b2)
            s.p = s.p - (s.m * f4(pol["step_size"] / (1 - s.c1))) / (np.sqrt(s.v) + f4(pol["eps"]))
        s.A = np.maximum(np.array(s.seen, f4), s.A * f4(s.decay))

    def state(s, online):
        parts = [s.p, s.A] + ([s.m, s.v] if online else [])
        return [(a + f4(0)).astype("<f4").tobytes() for a in parts]

    def decode_batch(s, tiles, streams, images):
        S = len(streams)
        for b in range(min(S, len(tiles))):
            s.decode(tiles[b::S], streams[b], images)

    def decode(s, tiles, stream, images):
        order = sorted(
            (j + 4 * i, t, i, j)
            for t, (_, _, h, w) in enumerate(tiles)
            for i in range(h)
            for j in range(w)
        )
        for _, t, i, j in order:
            im, row, h, w = tiles[t]
            img = images[im]
            x, pred, cand = features(img, row + i, j)
            head = Head(s, s.forward([x])[0], pred, cand)
            for c in range(s.C):
                head.channel()
                lo = stream.pop(head.cum, 256, 20)
                head.take(lo)
                img[row + i, j, c] = lo


class Head:
    def __init__(s, model, o, pred, cand):
        s.prepare(model, o, pred)
        s.cand, s.there = cand, range(7)
        s.u = weights(s.o[s.cp : s.cp + 7], 16)[2]

    def prepare(s, model, o, pred):
        s.o = [float(a) for a in o]
        s.pred, s.C, s.K = pred, model.C, model.K
        s.base = 3 * s.K * s.C
        s.cp = s.base + s.C * (s.C - 1) // 2
        s.res = []

    def channel(s):
        c, K = len(s.res), s.K
        at = 3 * K * c
        s.q, s.t, s.pi = weights(s.o[at : at + K], 14)
        s.raw, s.mean, s.inv = [], [], []
        for k in range(K):
            mean = s.o[at + K + k] * 16
            for e in range(c):
                mean = mean + s.o[s.base + c * (c - 1) // 2 + e] * float(s.res[e])
            s.raw.append(mean)
            s.mean.append(clamp(mean, -1024.0, 1024.0))
            s.inv.append(exp(-clamp(s.o[at + 2 * K + k], -4.0, 6.0)))
        s.M = [rne(a * 1024) for a in s.mean]
        s.V = [rne(a * 65536) for a in s.inv]

    def mix(s, x):
        if x <= 0:
            return 0
        if x >= 256:
            return 1 << 32
        c = len(s.res)
        total = 0
        for k in range(s.K):
            z = (
                clamp(
                    (((2 * x - 1) * 512 - s.pred[c] * 1024 - s.M[k]) * s.V[k]) >> 12,
                    -204800,
                    204800,
                )
                + 204800
            )
            t = z >> 8
            total += s.pi[k] * (T[t] + (((T[t + 1] - T[t]) * (z & 255)) >> 8))
        return total

    def cum(s, x):
        c = len(s.res)
        below = sum(s.u[m + 1] << 32 for m in range(6) if s.cand[m][c] < x)
        return x + ((((s.u[0] * s.mix(x) + below) >> 16) * ((1 << 20) - 256)) >> 32)

    def take(s, value):
        c = len(s.res)
        mass = s.mix(value + 1) - s.mix(value)
        hit = [s.cand[m][c] == value for m in range(6)]
        t = ((s.u[0] * mass) >> 16) + 1 + sum(s.u[m + 1] << 16 for m in range(6) if hit[m])
        u = [(s.u[m + 1] << 32) // t if hit[m] else 0 for m in range(6)]
        s.u = [(1 << 16) - sum(u)] + u
        s.passed(value)

    def passed(s, value):
        s.res.append(value - s.pred[len(s.res)])

    def hits(s, product, pixel):
        q, t, _ = weights(s.o[s.cp : s.cp + 7], 16)
        pc = [a / t for a in q]
        equal = [pc[m + 1] if s.cand[m] == pixel else 0.0 for m in range(6)]
        return pc, [pc[0] * product] + equal


def head_gradient(h, pixel):
    C, K, pred = h.C, h.K, h.pred
    out = [0.0] * len(h.o)

    def S(z):
        t = exp(-abs(z))
        r = 1.0 / (1.0 + t)
        q = t * r
        return (r, q, r * q) if z > 0 else (q, r, r * q)

    kept, product = [], 1.0
    for c in range(C):
        h.channel()
        res = pixel[c] - pred[c]
        mixed = 0.0
        rows = []
        for k in range(K):
            d = float(res) - h.mean[k]
            hi = (d + 0.5) * h.inv[k]
            lo = (d - 0.5) * h.inv[k]
            a, b = S(hi), S(lo)
            if pixel[c] == 255:
                a = (1.0, 0.0, 0.0)
            if pixel[c] == 0:
                b = (0.0, 1.0, 0.0)
            mass = b[1] - a[1] if d > 0 else a[0] - b[0]
            p = h.q[k] / h.t
            rows.append(
                (
                    p,
                    mass,
                    (b[2] - a[2]) * h.inv[k],
                    lo * b[2] - hi * a[2],
                    h.raw[k],
                    h.o[3 * K * c + 2 * K + k],
                )
            )
            mixed = mixed + p * mass
        product = product * (mixed + 2.0**-20)
        kept.append((mixed, rows, list(h.res)))
        h.passed(pixel[c])
    pc, hits = h.hits(product, list(pixel))
    like = 0.0
    for i, a in enumerate(hits):
        like = a if i == 0 else like + a
    share = hits[0] / like
    for m, p, hit in zip(h.there, pc, hits):
        out[h.cp + m] = p - hit / like
    for c, (mixed, rows, res) in enumerate(kept):
        at = 3 * K * c
        shift = 0.0
        factor = share / (mixed + 2.0**-20)
        for k, (p, mass, dm, ds, raw, ls) in enumerate(rows):
            f = factor * p
            out[at + k] = f * (mixed - mass)
            g = f * -dm if abs(raw) < 1024 else 0.0
            shift = shift + g
            out[at + K + k] = g * 16
            out[at + 2 * K + k] = f * -ds if -4 < ls < 6 else 0.0
        for e in range(c):
            out[h.base + c * (c - 1) // 2 + e] = shift * float(res[e])
    return np.array(out).astype(f4)


def plan(shapes, st):
    out, tiles, held = [], [], 0
    for n, (h, w) in enumerate(shapes):
        row = 0
        while row < h:
            budget = min(
                st["batch_pixels"],
                st["first_pixels"] << min(len(out) // st.get("first_batches", 1), 16),
            )
            if tiles and held + (h - row) * w > budget:
                out.append(tiles)
                tiles, held = [], 0
                continue
            rows = min(h - row, max(1, budget // w))
            tiles.append((n, row, rows, w))
            held += rows * w
            row += rows
            if row < h or held >= budget:
                out.append(tiles)
                tiles, held = [], 0
    return out + [tiles] if tiles else out


class Stream:
    def __init__(s, words):
        s.stack, s.s = (
            ([int(a) for a in words[:-2]], int(words[-1]) << 32 | int(words[-2]))
            if len(words)
            else ([], LIM)
        )

    def pop(s, cum, count, r):
        slot = s.s & ((1 << r) - 1)
        lo, hi = 0, count
        while hi - lo > 1:
            mid = (lo + hi) // 2
            lo, hi = (mid, hi) if cum(mid) <= slot else (lo, mid)
        start, end = cum(lo), cum(lo + 1)
        assert start <= slot < end
        s.s = (end - start) * (s.s >> r) + slot - start
        if s.s < LIM:
            s.s = s.s << 32 | s.stack.pop()
        return lo

    def push(s, start, end, r):
        freq = end - start
        if s.s >= freq << (63 - r):
            s.stack.append(s.s & MASK)
            s.s >>= 32
        s.s = (s.s // freq << r) + s.s % freq + start


def digest(parts):
    h = hashlib.blake2b(digest_size=16)
    for a in parts:
        h.update(a)
    return h.digest()


def modes():
    """Name -> channels of each plane, whether samples have 16 bits."""
    kinds = (
        ("grey", [1], (1, 2, 4, 8, 16)),
        ("rgb", [3], (8, 16)),
        ("palette", [1], (1, 2, 4, 8)),
        ("greyalpha", [1, 1], (8, 16)),
        ("rgba", [3, 1], (8, 16)),
    )
    for name, parts, depths in kinds:
        for depth in depths:
            yield f"{name}{depth}", ([c for c in parts for _ in range(1 + depth // 16)], depth)


MODES = dict(modes())


def join(planes, depth):
    if depth < 16:
        assert all(plane.max() < 1 << depth for plane in planes)
        return np.concatenate(planes, 2)
    pairs = zip(planes[::2], planes[1::2])
    return np.concatenate([high.astype(np.uint16) * 256 + low for high, low in pairs], 2)


MATRICES = [
    (16, 9539, 13075, 16525, -3209, -6660),
    (0, 8192, 11485, 14516, -2819, -5850),
    (16, 9539, 14686, 17305, -1747, -4366),
    (0, 8192, 12901, 15201, -1534, -3835),
]


def after(mode, step):
    """The mode that a step leaves, its values checked."""
    name, *values = step
    kind, depth = mode.rstrip("0123456789"), MODES[mode][1]
    sizes = [len(value) for value in values]
    if name == "grey":
        assert kind in ("rgb", "rgba") and not values
        return kind.replace("rgba", "greyalpha").replace("rgb", "grey") + str(depth)
    if name == "key":
        assert kind in ("greyalpha", "rgba") and depth == 8
        assert sizes == [sum(MODES[mode][0]) - 1] * 2
        return mode
    if name == "alpha":
        assert kind in ("greyalpha", "rgba") and sizes == [depth // 8]
        return kind.removesuffix("alpha").removesuffix("a") + str(depth)
    assert mode == "rgb8"
    if name == "jfif":
        assert not values
        return "jfif"
    assert name == "yuv420" and sizes == [1] and values[0][0] < 4
    return "yuv"


def undo(picture, step):
    name, *values = step
    if name == "grey":
        return np.concatenate([picture[..., :1]] * 2 + [picture], 2)
    if name == "alpha":
        alpha = np.full_like(picture[..., :1], int.from_bytes(values[0], "big"))
        return np.concatenate([picture, alpha], 2)
    out = picture.copy()
    for pixel in out.reshape(-1, out.shape[2]):
        if bytes(pixel[:-1]) == values[0]:
            pixel[:-1] = list(values[1])
        else:
            pixel[-1] = (int(pixel[-1]) + 255) % 256
    return out


def video(planes, matrix):
    Y, U, V = (plane[..., 0].astype(np.int64) for plane in planes)
    black, cy, crv, cbu, cgu, cgv = MATRICES[matrix]
    rows, columns = np.indices(Y.shape) // 2
    u, v = (8 * (P[rows, columns] - 128) for P in (U, V))
    l = ((Y - black) * 8 * cy) >> 16
    found = l + (crv * v >> 16), l + (cgu * u >> 16) + (cgv * v >> 16), l + (cbu * u >> 16)
    return np.stack(found, 2).clip(0, 255).astype(np.uint8)


def jpeg(planes):
    Y, U, V = (plane[..., 0].astype(np.int64) for plane in planes)
    u, v = U - 128, V - 128
    shifts = 91881 * v, -22554 * u - 46802 * v, 116130 * u
    return np.stack([Y + ((s + 32768) >> 16) for s in shifts], 2).clip(0, 255).astype(np.uint8)


def undone(planes, it):
    *steps, last = [[], *it.steps]
    if last and last[0] == "yuv420":
        picture = video(planes, last[1][0])
    elif last == ["jfif"]:
        picture = jpeg(planes)
    else:
        steps, picture = [[], *it.steps], join(planes, it.depth)
    for step in steps[:0:-1]:
        picture = undo(picture, step)
    return picture


class Entry:
    def __init__(s, fields, last):
        s.kind, s.name = fields.pop("kind"), fields.pop("name")
        get = lambda key, default: fields.pop(key, default)
        s.source, s.key, s.deflated = get("source", ""), get("key", ""), get("deflated", False)
        s.mode, s.h, s.w = get("mode", ""), get("height", 0), get("width", 0)
        s.shape, s.size, s.codec = get("shape", []), get("size", 0), get("codec", "raw")
        s.coded, s.reference, s.same = get("coded", ""), get("reference", -1), get("same", -1)
        s.before, s.after, s.given = (b64decode(get(k, "")) for k in ("before", "after", "given"))
        s.transform = get("transform", "")
        s.mtime = fields.pop("mtime") + last if "mtime" in fields else 0
        assert not fields and s.kind in ("image", "array", "file", "folder")
        s.planes, s.depth, s.count, s.bytes, s.steps = [], 0, 0, 0, []
        if s.kind in ("image", "array"):
            channels, s.depth = MODES[s.mode]
            each = s.h * s.w * sum(channels)
            s.count = 1 if s.kind == "image" else int(np.prod(s.shape)) // each
            s.bytes = s.count * each
            s.transformed()
            s.coded = s.coded or "m" * len(s.planes)
            assert len(s.coded) == len(s.planes) and ("d" in s.coded) == (s.reference != -1)
        else:
            assert not s.transform

    def transformed(s):
        """Steps, and sides and channels of the planes."""
        mode, known = s.mode, ["grey", "key", "alpha", "yuv420", "jfif"]
        for text in s.transform.split(" ") if s.transform else []:
            name, *values = text.split(":")
            known = known[known.index(name) + 1 :]
            s.steps.append([name, *map(bytes.fromhex, values)])
            assert mode != "yuv"
            mode = after(mode, s.steps[-1])
        if mode == "yuv":
            half = (s.h + 1) // 2, (s.w + 1) // 2, 1
            s.planes = [(s.h, s.w, 1), half, half]
        elif mode == "jfif":
            s.planes = [(s.h, s.w, 1)] * 3
        else:
            s.planes = [(s.h, s.w, C) for C in MODES[mode][0]]

    @property
    def restored(s):
        if s.kind == "image" and not s.name.lower().endswith(".png"):
            return s.name + ".png"
        return s.name[:-3] if s.source == "idx" and s.name.lower().endswith(".gz") else s.name

    def alike(s):
        return s.kind, s.mode, s.h, s.w, s.shape, s.size, s.codec


def table(z, version):
    if version == 1:
        lines = json.loads(zlib.decompress(z.read("items.json.z")))
        for fields in lines:
            channels = fields.pop("channels", 0)
            fields.pop("member", 0)
            fields |= {"mode": {1: "grey8", 3: "rgb8"}[channels]} if channels else {}
    else:
        *lines, rest = zlib.decompress(z.read("items.jsonl.z")).split(b"\n")
        assert not rest
        lines = map(json.loads, lines)
    items, last = [], 0
    for fields in lines:
        items.append(Entry(fields, last))
        last = items[-1].mtime or last
    pictures = []  # (entry, bytes of planes before it)
    total = 0
    for n, it in enumerate(items):
        if it.same != -1:
            other = items[it.same]
            assert 0 <= it.same < n and other.same == -1 and other.alike() == it.alike()
            assert not it.transform
        assert version > 2 or (not it.transform and "i" not in it.coded)
        if it.reference != -1:
            assert 0 <= it.reference < len(pictures)
            other, start = pictures[it.reference]
            assert other.kind == it.kind == "image" and other.same == -1
            assert (other.mode, other.h, other.w) == (it.mode, it.h, it.w)
            assert other.transform == it.transform
            assert total - start <= 1 << 26
        pictures += [(it, total)] * it.count
        total += it.bytes
    return items, [it for it, _ in pictures]


def plain_blocks(z, name, sizes, pieces):
    """Pieces of these sizes."""
    out, data, block = [], b"", 0
    for size in pieces:
        if size and not data:
            (raw, coded), data = sizes[block], z.read(name(block))
            block += 1
            assert len(data) == coded <= raw
            data = data if coded == raw else lzma.decompress(data, lzma.FORMAT_XZ)
            assert len(data) == raw
        assert len(data) >= size
        out.append(data[:size])
        data = data[size:]
    assert not data and block == len(sizes), "left over"
    return out


def order(man, items):
    """The members, as the page wants them."""
    yield from ("mimetype", "manifest.json", "items.jsonl.z")
    if man["checkpoint"]["embedded"]:
        yield "checkpoint.safetensors"
    for p, part in enumerate(man["parts"]):
        for shard in man["shards"]:
            if shard["number"] // 2 == p:
                for n in range(len(shard["segments"])):
                    yield f"shards/{shard['number']:04d}/{n:06d}.seg"
        yield from (f"planes/{p:04d}/{n:04d}" for n in range(len(part["planes"])))
    block = held = 0
    for it in items:
        if it.kind != "file" or it.same != -1:
            continue
        if it.codec == "block":
            if held + it.size > man["packed"][block][0]:
                yield f"packed/{block:04d}"
                block, held = block + 1, 0
            held += it.size
        else:
            yield f"files/{it.name}" if it.codec == "raw" else f"xz/{it.name}.xz"
    yield from (f"packed/{n:04d}" for n in range(block, len(man["packed"])))


def check_zip(path, z):
    data, end = Path(path).read_bytes(), 0
    assert data[38:61] == b"application/vnd.osoa-pl" == z.read("mimetype")
    for info in z.infolist():
        assert (info.compress_type, info.flag_bits & 1, info.create_system) == (0, 0, 3)
        assert info.date_time == (1980, 1, 1, 0, 0, 0) and info.external_attr >> 16 == 0o644
        assert info.header_offset == end
        end += 30 + len(info.filename.encode()) + info.file_size
    assert end == z.start_dir


def stored(z, items, sizes):
    """Entry -> bytes."""
    files = [it for it in items if it.kind == "file" and it.same == -1]
    packed = [it for it in files if it.codec == "block"]
    pieces = plain_blocks(z, "packed/{:04d}".format, sizes, [it.size for it in packed])
    found = dict(zip(packed, pieces))
    for it in files:
        if it.codec == "raw":
            found[it] = z.read(f"files/{it.name}")
        elif it.codec == "xz":
            found[it] = lzma.decompress(z.read(f"xz/{it.name}.xz"), lzma.FORMAT_XZ)
        assert len(found[it]) == it.size
    for it in items:
        if it.kind == "file" and it.same != -1:
            found[it] = found[items[it.same]]
    return found


class Restored:
    def __init__(s, items, pictures, files):
        s.items = items
        s.pictures = pictures
        """All of them, copies among them: uint8 or uint16 (h, w, samples)."""
        s.files = {it.restored: data for it, data in files.items()}


def read(path, checkpoint=None):
    with zipfile.ZipFile(path) as z:
        check_zip(path, z)
        return restore(z, checkpoint)


def restore(z, checkpoint):
    man = json.loads(z.read("manifest.json"))
    assert man["format"] in range(1, 7) and man["arithmetic"] == 1
    items, pictures = table(z, man["format"])
    if man["format"] == 1:
        man |= {"parts": [{"pictures": len(pictures), "planes": []}], "packed": []}
        man["shards"] = [{"number": n, **shard} for n, shard in enumerate(man["shards"])]
        parted = {(0, shard["channels"]): shard for shard in man["shards"]}
    else:
        parted = {(s["number"] // 2, 3 - 2 * (s["number"] % 2)): s for s in man["shards"]}
        assert z.namelist() == list(order(man, items))
    assert all(channels == shard["channels"] for (_, channels), shard in parted.items())
    assert len(parted) == len(man["shards"])
    assert sum(part["pictures"] for part in man["parts"]) == len(pictures)
    totals = {"items": len(items), "samples": sum(it.bytes for it in items)}
    assert man["totals"] == totals
    data = b""
    if parted:
        name = "checkpoint.safetensors"
        embedded = man["checkpoint"]["embedded"]
        data = z.read(name) if embedded else Path(checkpoint).read_bytes()
        assert hashlib.sha256(data).hexdigest() == man["checkpoint"]["sha256"]
    planes = {}  # number of a picture -> its planes
    first = 0
    for p, part in enumerate(man["parts"]):
        numbers = range(first, first + part["pictures"])
        first = numbers.stop
        for number in (n for n in numbers if pictures[n].reference != -1):
            assert pictures[number].reference >= numbers.start
        here = [pictures[n] for n in numbers if pictures[n].same == -1]
        wanted = [(shape, how) for it in here for shape, how in zip(it.planes, it.coded)]
        coded = {}
        for C in (3, 1):
            shapes = [(h, w) for (h, w, c), how in wanted if c == C and how == "m"]
            shard = parted.pop((p, C), None)
            assert (shard is None) == (not shapes)
            coded[C] = iter(decode_shard(z, man, data, shard, shapes) if shard else [])
        sizes = []
        for it in here:
            each = [h * w * c for (h, w, c), how in zip(it.planes, it.coded) if how != "m"]
            sizes += [sum(each)] if "i" in it.coded else each
        plain = iter(plain_blocks(z, f"planes/{p:04d}/{{:04d}}".format, part["planes"], sizes))
        for number in numbers:
            it = pictures[number]
            if it.same != -1:
                continue
            planes[number] = found = []
            if "i" in it.coded:
                assert it.coded == "i" * len(it.planes) and len(it.planes) > 1
                assert all(plane[:2] == (it.h, it.w) for plane in it.planes)
                channels = [c for _, _, c in it.planes]
                beside = np.frombuffer(next(plain), np.uint8).reshape(it.h, it.w, sum(channels))
                found += np.split(beside, np.cumsum(channels)[:-1], 2)
                continue
            for (h, w, c), how in zip(it.planes, it.coded):
                if how == "m":
                    found.append(next(coded[c]))
                    continue
                assert how in "pd"
                plane = np.frombuffer(next(plain), np.uint8).reshape(h, w, c)
                base = planes[it.reference][len(found)] if how == "d" else np.uint8(0)
                found.append(plane + base)
    assert not parted
    starts = np.cumsum([0] + [it.count for it in items]).tolist()
    joined = []
    for start, it in zip(starts, items):
        source = starts[it.same] if it.same != -1 else start
        origin = items[it.same] if it.same != -1 else it
        joined += [undone(planes[source + n], origin) for n in range(it.count)]
    return Restored(items, joined, stored(z, items, man["packed"]))


def decode_shard(z, man, data, shard, shapes):
    st, number, C, pol = man["settings"], shard["number"], shard["channels"], shard["policy"]
    m = model(data, {3: "rgb", 1: "grey"}[C], pol.get("weights", ""))
    m.stride = st.get("gradient_stride", 1)
    assert shard["images"] == len(shapes) and shard["pixels"] == sum(h * w for h, w in shapes)
    images = [np.zeros((h, w, C), np.uint8) for h, w in shapes]
    batches = plan(shapes, st)
    first = words_seen = 0
    for index, told in enumerate(shard["segments"]):
        seg = z.read(f"shards/{number:04d}/{index:06d}.seg")
        *found, nb, pd, sd, crc = struct.unpack("<4sHHIIII16s16sI", seg[:60])
        S = st["streams"]
        assert found == [b"OSEG", 1, S, number, index, first]
        lengths = np.frombuffer(seg, "<u4", S, 64)
        body = seg[64 + 4 * S :]
        assert zlib.crc32(body) == crc
        assert zlib.crc32(seg[:60] + lengths.tobytes()) == struct.unpack("<I", seg[60:64])[0]
        words = np.frombuffer(body, "<u4")
        words_seen += len(words)
        cuts = np.concatenate([[0], np.cumsum(lengths.astype(np.int64))]).astype(int)
        streams = [Stream(words[a:b]) for a, b in zip(cuts[:-1], cuts[1:])]
        group = batches[first : first + st["segment_batches"]]
        inside = sum(h * w for tiles in group for _, _, h, w in tiles)
        assert told == {"batches": nb, "pixels": inside, "bytes": len(seg)} and nb == len(group)
        first += nb
        pixels = []
        for tiles in group:
            m.quantise()
            m.decode_batch(tiles, streams, images)
            for im, row, h, w in tiles:
                pixels.append(images[im][row : row + h].tobytes())
            if pol["name"] == "online":
                m.adapt(pol, tiles, images, man["seed"])
        assert all(m.ended(s, b) for b, s in enumerate(streams)), "left over"
        assert digest(pixels) == pd, "pixels"
        assert digest(m.state(pol["name"] == "online")) == sd, "state"
    assert first == len(batches) and shard["code_bytes"] == 4 * words_seen
    return images


if __name__ == "__main__":
    read(*sys.argv[1:])
