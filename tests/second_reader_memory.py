"""The family `memory_ar` for `second_reader.py`: section 13 of docs/format.md, and nothing else."""

from bisect import bisect_left
from collections import Counter
from math import isqrt, log

import numpy as np
from second_reader import Head, Model, clamp, f4, features, head_gradient, look, rne, step, weights
from second_reader_latent import sha256

D = [rne(8 * log((2 * x + 1) / (8191 - 2 * x))) for x in range(4096)]
START = [
    (65536 * ((24 if a else 40) + (3 if a else 5) * n + 2 * q) // 100) if k == 0 else 6553
    for q in range(9)
    for k in range(3)
    for n in range(8)
    for a in range(4)
] + [(131072 + 10240 * z * z) // 100 for m in range(2) for z in range(25) for v in range(4)]
assert sha256(D) == "83cd9543a98ea2bcb422b9a2b838c37bcb6751b3f6f55944a39f0dd5a4ec6c80"
assert sha256(START, "<i8") == "09d95c31412a2e82f0d3e81ce3c883bc378336e6260b379d3e8be80650a4083a"

ALL = (1 << 64) - 1
RING = 1 << 22
KEPT = 256  # shapes, and means
LARGEST_MEAN = 1 << 18
MEAN_OF = 32
FIRST_TRIES, MOST_TRIES = 24, 1000
MOST_COLOURS = {3: 1 << 13, 1: 64}
NEAR = [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, 2), (-1, -2), (0, -3), (-2, -1)]
NEAR += [(-2, 1), (-2, -2), (-2, 2), (-1, -3), (-1, 3), (-2, -3), (-2, 3), (-3, 0), (-3, -1)]
NEAR += [(-3, 1), (-3, -2), (-3, 2), (-3, -3), (-3, 3)]
AHEAD = [(0, 1), (1, 0), (1, 1), (1, -1)]


def join(h, v):
    h = (h ^ v) * 0x9E3779B97F4A7C15 & ALL
    return h ^ (h >> 29)


def final(h, q):
    h = ((h + q * 0xA24BAED4963EE407 & ALL) ^ (h >> 31)) * 0xD6E8FEB86659FD93 & ALL
    return h ^ (h >> 32)


def contexts(v, row, j):
    """The first eight; the ninth is the reference's."""
    g = [1]
    for a in v:
        g.append(join(g[-1], a))
    hashes = [g[1], join(2, v[1]), g[2], g[4], g[8], g[13], g[24], join(g[2], 65537 * row + j)]
    return [final(h, q) for q, h in enumerate(hashes)]


def round13(X):
    t = step(np.abs(X).max(), 13)
    return np.clip(np.rint(X / f4(t)), -8191, 8191).astype(np.int64), t


def less(values, others):
    return [a - b for a, b in zip(values, others)]


def pack(values):
    out = 0
    for a in values:
        out = out << 8 | int(a)
    return out


def unpack(v, C):
    return [(v >> (8 * (C - 1 - c))) & 255 for c in range(C)]


def insert(table, size, X, v):
    """An entry is [check, [pixel, count], ..]: places that are not empty."""
    entry = table.get(X % size)
    if entry is None or entry[0] != X >> 32 | 1:
        table[X % size] = [X >> 32 | 1, [v, 1]]
        return
    check, *places = entry
    count = next((c for a, c in places if a == v), 0)
    places = [[v, min(count + 1, 255)]] + [p for p in places if p[0] != v]
    for p in places[1:3]:
        p[1] -= p[1] >> 3 if p[1] > 6 else 0
    table[X % size] = [check, *places[:3]]


def gather(X, *tables):
    found = {}
    for table, size in tables if X else ():
        entry = table.get(X % size)
        if entry is None or entry[0] != X >> 32 | 1:
            continue
        for v, c in entry[1:]:
            if v in found or len(found) < 3:
                found[v] = found.get(v, 0) + c
    return list(found.items())


def remember(kept, key, value):
    """The last is the newest."""
    kept.pop(key, None)
    kept[key] = value
    if len(kept) > KEPT:
        del kept[next(iter(kept))]


class Reference:
    def __init__(s, cell, start, stride, ring):
        s.cell, s.start, s.stride, s.ring = cell, start, stride, ring

    def place(s, i, j):
        return s.start + (i + 3) * s.stride + j + 3


def score(cell, p, stride, v):
    return sum(cell(p + dy * stride + dx) == v[k] for k, (dy, dx) in enumerate(NEAR))


class Looked:
    """What was looked up for a pixel: hashes, match, features, parts (their pixels) and bins."""


class Memory(Model):
    first_head = 0

    def __init__(s, cfg, p, A, v, basis=None):
        super().__init__(cfg, p, A, v)
        C, H, K = s.C, s.H, s.K
        s.size = 1 << cfg.get("memory_bits", 18)
        s.sizes[0] = (H, {3: 136, 1: 68}[C])
        s.sizes[-1] = (3 * K * C + C * (C - 1) // 2 + 31, H)
        s.basis, at = [], 0
        for o, i in s.sizes if basis is not None else []:
            U, V = basis[at : at + o * o], basis[at + o * o : at + o * o + i * i]
            s.basis.append((U.reshape(o, o).astype(np.int64), V.reshape(i, i).astype(np.int64)))
            at += o * o + i * i
        s.trust, s.tries = list(START), [FIRST_TRIES] * 1064
        s.tables, s.pointers = [{} for _ in range(8)], [{}, {}]
        s.ring, s.marked, s.head = {}, {}, s.first_head
        s.shapes, s.means, s.colours = {}, {}, Counter()

    def both(s, flat, matrices):
        """W -> left W right of each layer; biases as they are."""
        flat = flat.copy()
        for (W, _), (left, right) in zip(s.views(flat), matrices):
            q, t = round13(W)
            Y = (q @ right).astype(f4) * f4(t * 2.0**-7)
            q, t = round13(Y)
            W[:] = (left @ q).astype(f4) * f4(t * 2.0**-7)
        return flat

    def weights(s, flat):
        return s.both(flat, [(U, V.T) for U, V in s.basis])

    def stored_gradient(s, flat):
        return s.both(flat, [(U.T, V) for U, V in s.basis]) if np.isfinite(flat).all() else flat

    def cell(s, p):
        return s.ring.get(p % RING, 0)

    def stretch(s, b):
        return D[s.trust[b] >> 4]

    def state(s, online):
        net = super().state(online)
        return [*net[:2], np.array(s.trust, "<i8").tobytes(), *net[2:]]

    def tree(s):
        """Beginning -> values that follow it and their weights; none where colours are off."""
        n, total = len(s.colours), s.colours.total()
        if not n or 16 * n > total or n > MOST_COLOURS[s.C]:
            return None
        tree = {}
        for v, count in s.colours.items():
            values = unpack(v, s.C)
            for c in range(s.C):
                tree.setdefault(tuple(values[:c]), Counter())[values[c]] += count
        return {
            begin: [(x, min(isqrt(16 * count), 4095)) for x, count in sorted(after.items())]
            for begin, after in tree.items()
        }

    def decode_batch(s, tiles, streams, images):
        half = (len(tiles) + 1) // 2
        s.looked, s.seen_colours = [], s.tree()
        for g, group in enumerate((range(half), range(half, len(tiles)))):
            local, before = [{} for _ in range(9)], None
            for b in group:
                stream = streams[min(g, len(streams) - 1)]
                before = s.decode_tile(b, tiles[b], stream, images[tiles[b][0]], local, before)

    def decode_tile(s, b, tile, stream, img, local, before):
        _, r, h, w = tile
        shape, reference = (r, h, w), None
        if before and before[0] == shape:
            cells = before[1] + [pack([128] * s.C)] * (w + 6)
            reference = Reference(cells.__getitem__, 0, w + 6, False)
        elif shape in s.shapes and s.head - s.shapes[shape] <= RING:
            reference = Reference(s.cell, s.shapes[shape], w + 6, True)
        looked, runs = {}, {}
        s.looked.append(looked)
        for time in range(4 * h + w):
            now = [(i, time - 4 * i) for i in range(h) if 0 <= time - 4 * i < w]
            for i, j in now:
                found = s.look_up(
                    img, shape, i, j, b, looked, runs.get((i, j - 1), 0), local, reference
                )
                looked[i, j] = found
            for i, j in now:
                found = looked[i, j]
                head = MemoryHead(s, s.forward([found.features])[0], found)
                for c in range(s.C):
                    head.channel()
                    lo = stream.pop(head.cum, 256, 20)
                    head.take(lo)
                    img[r + i, j, c] = lo
            for i, j in now:
                found, pixel = looked[i, j], pack(img[r + i, j])
                hit = found.match and s.cell(found.match[0]) == pixel
                runs[i, j] = 1 + runs.get((i, j - 1), 0) if hit else 0
                for X, table in zip(found.X, local):
                    if X:
                        insert(table, 1 << 13, X, pixel)
        return shape, s.padded(img, shape)

    def padded(s, img, shape):
        r, h, w = shape
        rows, columns = range(r - 3, r + h), range(-3, w + 3)
        return [pack(look(img, y, x, c) for c in range(s.C)) for y in rows for x in columns]

    def find_match(s, v, X, w, i, j, looked, reference):
        """(place, stride) and score, or None and 0."""
        candidates = []
        for y, x, down, back in ((i, j - 1, 0, 1), (i - 1, j, 1, 0), (i - 1, j + 1, 1, -1)):
            if (y, x) in looked and looked[y, x].match:
                p, stride = looked[y, x].match
                candidates.append((p + down * stride + back, stride))
        for table, hashed in zip(s.pointers, X[3:5]):
            if hashed % (1 << 17) in table:
                candidates.append(table[hashed % (1 << 17)])
        if reference and reference.ring:
            candidates.append((reference.place(i, j), w + 6))
        best, most = None, 3
        for p, stride in candidates:
            if s.marked.get(p % RING):
                z = score(s.cell, p, stride, v)
                if z > most:
                    best, most = (p, stride), z
        return (best, most) if best else (None, 0)

    def look_up(s, img, shape, i, j, b, looked, run, local, reference):
        r, h, w = shape
        y, C, found = r + i, s.C, Looked()
        v = [pack(look(img, y + dy, j + dx, c) for c in range(C)) for dy, dx in NEAR]
        out, found.pred, near = features(img, y, j)
        found.X = contexts(v, y, j) + [0]
        found.pixels, found.bins = dict(enumerate(near)), {}
        level = run if run < 2 else 2 if run < 8 else 3

        found.match, z = s.find_match(v, found.X, w, i, j, looked, reference)
        sources = [(s.cell, *found.match) if found.match else None, None]
        if found.match:
            found.bins[27] = 864 + 4 * z + level
        if reference:
            sources[1] = reference.cell, reference.place(i, j), w + 6
            found.bins[28] = 964 + 4 * score(*sources[1], v) + level
            found.X[8] = final(join(join(3, reference.cell(reference.place(i, j))), b), 8)
        for m, source in zip((27, 28), sources):
            if source:
                found.pixels[m] = s.beside(source, 0)
                out += less(found.pixels[m], found.pred) + less(found.pixels[m], s.old(source))
            else:
                out += [0] * (2 * C)
        if shape in s.means:
            out += less([(m + 128) >> 8 for m in s.means[shape][0][i, j].tolist()], found.pred)
        else:
            out += [0] * C
        known = s.propose(found, local)
        firsts = [6, 9, 12, 15, 17, 19, 21, 23, 25]
        odds = [s.stretch(found.bins[m]) if m in found.bins else -48 for m in [*firsts, 27, 28]]
        out += [*odds[:9], known, 32 if s.seen_colours else 0, *odds[9:]]
        for dy, dx in AHEAD:
            if reference:
                out += less(s.beside(sources[1], dy * (w + 6) + dx), found.pixels[28])
            else:
                out += [0] * C
        found.features = out + [0] * (-len(out) % 4)
        return found

    def beside(s, source, steps):
        return unpack(source[0](source[1] + steps), s.C)

    def old(s, source):
        """The predictor there."""
        sides = (s.beside(source, -o) for o in (1, source[2], source[2] + 1))
        return [min(max(W + N - NW, min(W, N)), max(W, N)) for W, N, NW in zip(*sides)]

    def propose(s, found, local):
        known = 0
        for q, X in enumerate(found.X):
            tables = [(local[q], 1 << 13)] + ([(s.tables[q], s.size)] if q < 8 else [])
            proposed = gather(X, *tables)
            known = 8 * (1 + q) if proposed and q <= 6 else known
            for k, (pixel, n) in enumerate(proposed[: 3 if q <= 2 else 2]):
                m = 6 + 3 * q + k if q <= 2 else 15 + 2 * (q - 3) + k
                e = sum(count for _, count in proposed) - n
                a = 0 if e == 0 else 1 if e <= 2 else 2 if e <= 8 else 3
                found.pixels[m] = unpack(pixel, s.C)
                found.bins[m] = ((q * 3 + k) * 8 + min(n, 7)) * 4 + a
        return known

    def places(s, tiles):
        """(image, its row, column, what was looked up), in raster order, tile after tile."""
        for (im, r, h, w), looked in zip(tiles, s.looked):
            yield from ((im, r + i, j, looked[i, j]) for i in range(h) for j in range(w))

    def gradient(s, tiles, images, seed):
        places = list(s.places(tiles))
        outputs = s.forward([found.features for *_, found in places])
        G = [
            head_gradient(MemoryHead(s, o, found), images[im][y, x].tolist())
            for o, (im, y, x, found) in zip(outputs, places)
        ]
        return s.backward(s.sampled(np.stack(G)), seed)

    def adapt(s, pol, tiles, images, seed):
        super().adapt(pol, tiles, images, seed)
        tries, hits = Counter(), Counter()
        for im, y, x, found in s.places(tiles):
            values = images[im][y, x].tolist()
            for m, b in found.bins.items():
                tries[b] += 1
                hits[b] += found.pixels[m] == values
            pixel = pack(values)
            s.colours[pixel] += 1
            for X, table in zip(found.X, s.tables):
                insert(table, s.size, X, pixel)
        for b, y in tries.items():
            n = s.tries[b]
            s.trust[b] = clamp((s.trust[b] * n + hits[b] * 65536) // (n + y), 32, 65504)
            s.tries[b] = min(n + y, MOST_TRIES)
        for (im, r, h, w), looked in zip(tiles, s.looked):
            s.write(images[im], (r, h, w), looked)

    def write(s, img, shape, looked):
        r, h, w = shape
        cells = s.padded(img, shape)
        for k, v in enumerate(cells):
            i, j = k // (w + 6) - 3, k % (w + 6) - 3
            s.ring[(s.head + k) % RING] = v
            s.marked[(s.head + k) % RING] = inside = i >= 0 and 0 <= j < w
            if inside:
                for table, X in zip(s.pointers, looked[i, j].X[3:5]):
                    table[X % (1 << 17)] = (s.head + k) % RING, w + 6
        remember(s.shapes, shape, s.head)
        s.head += len(cells)
        if len(cells) * s.C <= LARGEST_MEAN:
            value = 256 * img[r : r + h].astype(np.int64)
            m, c = s.means.get(shape, (value, 0))
            c = min(c + 1, MEAN_OF)
            remember(s.means, shape, (m + (value - m) // c, c))


class MemoryHead(Head):
    def __init__(s, model, o, found):
        s.prepare(model, o, found.pred)
        s.cand = {m + 2: values for m, values in found.pixels.items()}
        s.tree, s.values, s.chance = model.seen_colours, [], 1.0
        s.there = sorted([0, *([1] if s.tree else []), *s.cand])
        added = {m + 2: model.stretch(b) for m, b in found.bins.items()}
        s.logits = [float(f4(o[s.cp + m]) + f4(added.get(m, 0) / 8)) for m in s.there]
        s.u = dict(zip(s.there, weights(s.logits, 16)[2]))
        if s.u[0] == 0:
            s.u[0] = 1
            s.u[max(s.there[1:], key=s.u.get)] -= 1

    def channel(s):
        super().channel()
        children = s.tree.get(tuple(s.values), []) if s.tree else []
        s.children = [x for x, _ in children]
        s.a = [(((s.mix(x + 1) - s.mix(x)) >> 12) + 1) * y for x, y in children]

    def seen(s, x):
        if not s.children or not s.u[1]:
            return 0
        return (sum(s.a[: bisect_left(s.children, x)]) * 2**23 // sum(s.a)) * 2**9

    def cum(s, x):
        c = len(s.res)
        below = s.u[0] * s.mix(x) + (s.u[1] * s.seen(x) if s.tree else 0)
        below += sum(s.u[m] << 32 for m, values in s.cand.items() if values[c] < x)
        return x + (((below >> 16) * ((1 << 20) - 256)) >> 32)

    def take(s, value):
        c = len(s.res)
        mass = s.mix(value + 1) - s.mix(value)
        d = (s.u[1] * (s.seen(value + 1) - s.seen(value))) >> 16 if s.tree else 0
        hit = [m for m, values in s.cand.items() if values[c] == value]
        t = ((s.u[0] * mass) >> 16) + 1 + d + sum(s.u[m] << 16 for m in hit)
        u = dict.fromkeys(s.cand, 0) | {m: (s.u[m] << 32) // t for m in hit}
        if s.tree:
            u[1] = (d << 16) // t
        s.u = {0: (1 << 16) - sum(u.values())} | u
        s.passed(value)

    def passed(s, value):
        if value in s.children:
            s.chance = s.chance * (float(s.a[s.children.index(value)]) / float(sum(s.a)))
        else:
            s.chance = 0.0
        super().passed(value)
        s.values.append(value)

    def hits(s, product, pixel):
        q, t, _ = weights(s.logits, 16)
        pc = [a / t for a in q]
        given = {0: product, 1: s.chance} | {m: float(v == pixel) for m, v in s.cand.items()}
        return pc, [p * given[m] for p, m in zip(pc, s.there)]
