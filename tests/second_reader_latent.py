"""The family `vae` for `second_reader.py`: section 12 of docs/format.md, and nothing else."""

import hashlib
from statistics import NormalDist

import numpy as np
from mpmath import erfc, mpf, nint, sqrt
from second_reader import LIM, Model, clamp, exp, f4, f8, hmix, rne, step


def sha256(values, kind="<i4"):
    return hashlib.sha256(np.array(values).astype(kind).tobytes()).hexdigest()


ppf = NormalDist().inv_cdf
N = [int(nint(mpf(2) ** 29 * erfc(-mpf(j - 2048) / 256 / sqrt(mpf(2))))) for j in range(4098)]
assert sha256(N) == "f7fd2efdceb60bd3459457b77f888a629466b1e44b51fd770e966f09a1c05f4b"
vexp = np.vectorize(exp, otypes=[f8])


def F(t):
    t = clamp(t, -(2**19), 2**19) + 2**19
    j = t >> 8
    return N[j] + (((N[j + 1] - N[j]) * (t & 255)) >> 8)


class Latent(Model):
    weight_bits, activation_bits, decay = 11, 10, 0.998

    def __init__(s, cfg, p, A, v):
        D = cfg["height"] * cfg["width"] * cfg["channels"]
        H, Z, P = cfg["hidden"], cfg["latent"], cfg["latent_bits"]
        s.shape = cfg["height"], cfg["width"], cfg["channels"]
        s.D, s.Z, s.P = D, Z, P
        s.binary = {"bernoulli": True, "beta_binomial": False}[cfg["likelihood"]]
        s.sizes = [(H, D), (2 * Z, H), (H, Z), (D if s.binary else 2 * D, H)]
        s.E = [0] + [rne(ppf(i / 2**P) * 2**16) for i in range(1, 2**P)]
        s.V = [rne(ppf((i + 0.5) / 2**P) * 2**8) for i in range(2**P)]
        s.start(p, A, v)

    def steps(s):
        return [1.0 if s.binary else 2.0**-8, step(s.A[0], 10), 2.0**-8, step(s.A[1], 10)]

    def recognise(s, x):
        s.x, s.seen = [np.asarray(x, np.int64)], []
        s.Q(s.layer(0), 1)
        out = s.layer(1)
        return out[:, : s.Z].astype(f8), out[:, s.Z :].astype(f8)

    def generate(s, z):
        s.x, s.seen = s.x[:2] + [np.asarray(z, np.int64)], s.seen[:1]
        s.Q(s.layer(2), 3)
        return s.layer(3).astype(f8)

    def posterior(s, m, logscale):
        M, S = rne(clamp(m, -16.0, 16.0) * 2**16), rne(exp(-clamp(logscale, -7.0, 2.0)) * 2**12)

        def c(i):
            if i in (0, 2**s.P):
                return i << (24 - s.P)
            return i + ((F(((s.E[i] - M) * S) >> 12) * (2**24 - 2**s.P)) >> 30)

        return c

    def pixel(s, o, d):
        """Cumulative counts of sample d, and how many values it may have."""
        if s.binary:
            f = clamp(rne(1.0 / (exp(-o[d]) + 1.0) * 2**24), 1, 2**24 - 1)
            return [0, 2**24 - f, 2**24].__getitem__, 2
        a, b = (exp(clamp(o[i], -10.0, 6.0)) for i in (d, s.D + d))
        p, t = 1.0, [0.0]
        for k in range(256):
            t.append(t[-1] + p)
            if k < 255:
                p = ((p * ((255 - k) / (k + 1))) * (a + k)) / (b + (254 - k))
        return lambda k: k + int(np.floor(t[k] / t[256] * (2**24 - 256))), 256

    def decode(s, tiles, stream, images):
        for im, row, h, w in tiles:
            assert (row, h, w, images[im].shape) == (0, *s.shape[:2], s.shape)
            bins = [stream.pop(lambda i: i, 2**s.P, s.P) for _ in range(s.Z)]
            s.x, s.seen = [None, None], [None]
            o = s.generate([[s.V[i] for i in bins]])[0].tolist()
            x = [stream.pop(*s.pixel(o, d), 24) for d in range(s.D)]
            images[im][:] = np.array(x).reshape(s.shape)
            m, logscale = (a[0].tolist() for a in s.recognise([x]))
            for k in reversed(range(s.Z)):
                c = s.posterior(m[k], logscale[k])
                stream.push(c(bins[k]), c(bins[k] + 1), 24)

    def ended(s, stream, number):
        """Of the stack, from the top, nothing but the first initial words."""
        key = hmix(number, 0x0B175BAC)
        first = [hmix(i, key) for i in range(min(len(stream.stack), 4096))]
        return stream.s == LIM and stream.stack[::-1] == first

    def gradient(s, tiles, images, seed):
        x = np.stack([images[tile[0]].reshape(-1) for tile in tiles]).astype(np.int64)
        n = len(x)
        m, logscale = s.recognise(x)
        key = hmix(4, hmix(s.n, seed))
        u = [((hmix(i, key) >> 12) + 0.5) * 2.0**-20 for i in range(n * s.Z)]
        e = np.array([ppf(a) for a in u]).astype(f4).astype(f8).reshape(n, s.Z)
        sigma = vexp(np.clip(logscale, -7, 2))
        o = s.generate(np.clip(np.rint((m + sigma * e) * 2**8), -1023, 1023))
        flat = np.zeros_like(s.p)
        into = s.views(flat)
        G3 = (s.bernoulli if s.binary else s.beta_binomial)(o, x).astype(f4)
        G2 = s.mask(s.back(3, G3, into, seed), 3)
        gz = s.back(2, G2, into, seed).astype(f8)
        inside = (logscale > -7) & (logscale < 2)
        G1 = [gz + m, np.where(inside, (gz * e) * sigma + (sigma * sigma - 1), 0.0)]
        G1 = np.concatenate(G1, 1).astype(f4)
        s.back(0, s.mask(s.back(1, G1, into, seed), 1), into, seed)
        return flat * f4(1.0 / (n * s.D))

    def bernoulli(s, o, x):
        return 1.0 / (vexp(-o) + 1.0) - x

    def beta_binomial(s, o, x):
        a, b = vexp(np.clip(o[:, : s.D], -10, 6)), vexp(np.clip(o[:, s.D :], -10, 6))
        up, down, both = np.zeros_like(a), np.zeros_like(a), np.zeros_like(a)
        for i in range(255):
            up = np.where(i < x, up + 1.0 / (a + i), up)
            down = np.where(i < 255 - x, down + 1.0 / (b + i), down)
            both = both + 1.0 / ((a + b) + i)
        g = np.concatenate([(both - up) * a, (both - down) * b], 1)
        return np.where((o > -10) & (o < 6), g, 0.0)
