"""Derive every constant of the vector activations and write csrc/vmath_constants.h.

    python3 -m venv venv && venv/bin/pip install mpmath
    venv/bin/python tools/fit_activations.py bptt/csrc/vmath_constants.h

All polynomials interpolate in Chebyshev nodes, at 60 digits, then each coefficient is
rounded to the type. That is within a small factor of minimax; where a term must be
exact (the 1 in e^r = 1 + r + ...) it is split off before fitting. The script prints the
error of each fit as rounded, in units of half an ULP of the result: what is well below
1 is lost in the rounding of the evaluation.

The table of tanh has a polynomial for each of 16 half octaves [s, 1.5 s), [1.5 s, 2 s).
Its centre is chosen near the middle, so that tanh(centre) is within 1/1000 ULP of a
number of the type (Gal's accurate tables): then c0 carries no error, and c0 + t q(t) is
rounded essentially once.
"""

import sys
from pathlib import Path

import mpmath as mp

mp.mp.dps = 60


class Real:
    def __init__(self, bits, mant, lo, saturated, degree, fits):
        self.bits = bits  # 32 | 64
        self.mant = mant  # bits of precision, the hidden one included
        self.lo = lo  # exponent where the table of tanh begins
        self.saturated = saturated  # tanh(x) rounds to 1 from here on
        self.degree = degree  # degree of the table's polynomials
        self.fits = fits  # number of coefficients per polynomial

    def round(self, x):
        """x rounded to the type, to nearest."""
        x = mp.mpf(x)
        if x == 0:
            return x
        ulp = self.ulp(x)
        return mp.nint(x / ulp) * ulp

    def ulp(self, x):
        return mp.mpf(2) ** (mp.floor(mp.log(abs(x), 2)) - self.mant + 1)

    def literal(self, x):
        text = float(x).hex()
        mantissa, exponent = text.split("p")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return mantissa + "p" + exponent + ("f" if self.bits == 32 else "")


TYPES = [
    Real(32, 24, -4, 9.02, 7, {"exp": 5, "log1p": 6, "tanh": 6}),
    Real(64, 53, -3, 19.07, 16, {"exp": 11, "log1p": 14, "tanh": 13}),
]

# Where the text without tables passes from a polynomial to an exponential. At 3/4 the
# noise of the polynomial makes one step down in float32 without FMA, at 5/8 the error
# of the exponential weighs more.
TANH_SPLIT = mp.mpf(11) / 16


def interpolate(f, a, b, n):
    """Coefficients, lowest first, of the degree n-1 interpolant of f on [a, b]."""
    a, b = mp.mpf(a), mp.mpf(b)
    nodes = [
        (a + b) / 2 + (b - a) / 2 * mp.cos(mp.pi * (2 * k + 1) / (2 * n))
        for k in range(n)
    ]
    newton = [f(x) for x in nodes]  # divided differences
    for j in range(1, n):
        for k in range(n - 1, j - 1, -1):
            newton[k] = (newton[k] - newton[k - 1]) / (nodes[k] - nodes[k - j])
    c = [mp.mpf(0)] * n
    for k in range(n - 1, -1, -1):  # Horner: c <- c * (x - nodes[k]) + newton[k]
        c = [(c[i - 1] if i else 0) - nodes[k] * c[i] for i in range(n)]
        c[0] += newton[k]
    return c


def horner(c, x):
    return mp.polyval(list(reversed(c)), x)


def worst(real, f, g, a, b, n=600):
    """Largest |g - f| over [a, b], in half ULPs of f."""
    a, b = mp.mpf(a), mp.mpf(b)
    grid = [a + (b - a) * k / n for k in range(1, n)]
    return max(abs(g(x) - f(x)) / (real.ulp(f(x)) / 2) for x in grid)


def fit_exp(real):
    """e^r = 1 + r + r^2 Q(r), |r| <= ln 2 / 2 and a little more."""
    b = mp.log(2) / 2 * mp.mpf("1.0001")
    q = lambda r: (mp.exp(r) - 1 - r) / r**2 if abs(r) > 1e-20 else mp.mpf(1) / 2
    c = [real.round(x) for x in interpolate(q, -b, b, real.fits["exp"])]
    return c, worst(real, mp.exp, lambda r: 1 + r + r * r * horner(c, r), -b, b)


def fit_log1p(real):
    """log(1 + s) = 2 atanh(u/2) = u + u w P(w), u = s / (1 + s/2), w = u^2, s <= 1."""
    f = lambda w: 2 * mp.atanh(mp.sqrt(w) / 2)
    p = lambda w: (f(w) / mp.sqrt(w) - 1) / w
    c = [real.round(x) for x in interpolate(p, 0, mp.mpf(4) / 9, real.fits["log1p"])]
    g = lambda w: mp.sqrt(w) * (1 + w * horner(c, w))
    return c, worst(real, f, g, 0, mp.mpf(4) / 9)


def fit_tanh(real, split):
    """tanh(x) = x + x w P(w), w = x^2, |x| <= split."""
    f = lambda w: mp.tanh(mp.sqrt(w))
    p = lambda w: (f(w) / mp.sqrt(w) - 1) / w
    c = [real.round(x) for x in interpolate(p, 0, split**2, real.fits["tanh"])]
    return c, worst(real, f, lambda w: mp.sqrt(w) * (1 + w * horner(c, w)), 0, split**2)


def accurate_centre(real, a, b):
    """A number near the middle of [a, b] whose tanh is a number of the type, nearly."""
    step = real.ulp(a) * 2 ** (real.mant // 2)
    middle = mp.nint((a + b) / 2 / step) * step
    best = None
    for k in range(20000):
        x = middle + (k // 2 if k % 2 else -k // 2) * real.ulp(b)
        y = mp.tanh(x)
        miss = abs(y - real.round(y)) / real.ulp(y)
        if best is None or miss < best[0]:
            best = (miss, x)
        if miss < mp.mpf("0.001"):
            break
    return best[1]


def fit_half_octave(real, a, b):
    """Centre and coefficients for [a, b], for [0, b] where the table begins; error."""
    n = real.degree
    if a == mp.mpf(2) ** real.lo:  # the error must be relative: tanh(t) = t + t^3 R(t)
        r = lambda t: (mp.tanh(t) - t) / t**3
        c = [mp.mpf(0), mp.mpf(1), mp.mpf(0)] + interpolate(r, 0, b, n - 2)
        a, centre = mp.mpf(0), mp.mpf(0)
    else:
        centre = accurate_centre(real, a, b)
        c0 = mp.tanh(centre)
        q = lambda t: (mp.tanh(centre + t) - c0) / t
        c = [c0] + interpolate(q, a - centre, b - centre, n)
    c = [real.round(x) for x in c]
    top = min(b, mp.mpf(real.saturated))
    error = worst(real, mp.tanh, lambda x: horner(c, x - centre), a, top, 200)
    return [centre] + c, error


def fit_table(real):
    """Rows of centre, c0 .. c<degree> for the half octaves from 2^lo; worst error."""
    rows, errors = [], []
    for j in range(16):
        s = mp.mpf(2) ** (real.lo + j // 2)
        a, b = (s, s * 1.5) if j % 2 == 0 else (s * 1.5, s * 2)
        if a < real.saturated:
            row, error = fit_half_octave(real, a, b)
            errors.append(error)
        else:  # |x| is clamped to the first of these, where t is |x| itself
            row = [mp.mpf(0), mp.mpf(1)] + [mp.mpf(0)] * real.degree
        rows.append(row)
    return rows, max(errors)


def emit_row(out, real, values, indent):
    line = indent
    for v in values:
        item = real.literal(v) + ","
        if len(line) + len(item) + 1 > 88:
            out.append(line.rstrip())
            line = indent
        line += item + " "
    out.append(line.rstrip())


def main(path):
    out = [
        "/* Written by tools/fit_activations.py, which says what each constant is",
        " * and how it is derived. Do not edit. */",
        "#ifndef BPTT_VMATH_CONSTANTS_H",
        "#define BPTT_VMATH_CONSTANTS_H",
    ]
    for real in TYPES:
        ctype, tag = ("float", "f32") if real.bits == 32 else ("double", "f64")
        # ln 2 in two parts, the first short enough that n * LN2_HI is exact for each n
        keep = real.mant - (8 if real.bits == 32 else 11)
        ln2 = mp.log(2)
        unit = mp.mpf(2) ** (-keep)
        hi = mp.nint(ln2 / unit) * unit
        out += [
            "",
            f"#define INV_LN2_{tag} {real.literal(real.round(1 / ln2))}",
            f"#define LN2_HI_{tag} {real.literal(hi)}",
            f"#define LN2_LO_{tag} {real.literal(real.round(ln2 - hi))}",
            f"#define TANH_SPLIT_{tag} {real.literal(TANH_SPLIT)}",
        ]
        for name, what, (c, err) in [
            ("EXP_POLY", "e^r = 1 + r + r^2 Q(r), |r| <= ln2 / 2", fit_exp(real)),
            (
                "LOG1P_POLY",
                "log1p(s) = u + u w P(w), w = u^2, u = s / (1 + s/2)",
                fit_log1p(real),
            ),
            (
                "TANH_POLY",
                "tanh(x) = x + x w P(w), w = x^2, |x| <= TANH_SPLIT",
                fit_tanh(real, TANH_SPLIT),
            ),
        ]:
            print(
                f"{name}_{tag}: {len(c)} coefficients, error {float(err):.4f} half ULP"
            )
            out += [
                "",
                f"/* {what} */",
                f"#define {name}_LEN_{tag} {len(c)}",
                f"static const {ctype} {name}_{tag}[] = {{",
            ]
            emit_row(out, real, c, "    ")
            out.append("};")
        rows, err = fit_table(real)
        print(
            f"TANH_TABLE_{tag}: degree {real.degree}, error {float(err):.4f} half ULP"
        )
        _lo, hi = rows[1][0], next(j for j, r in enumerate(rows) if j and r[0] == 0)
        bias = 127 if real.bits == 32 else 1023
        start = mp.mpf(2) ** (real.lo + hi // 2) * (1.5 if hi % 2 else 1)
        out += [
            "",
            "/* Row 0: centres, row 1 + k: coefficients of t^k, by half octave mod 16.",
            f" * The first also serves below 2^{real.lo}; from {int(start)} on: 1. */",
            f"#define TANH_TABLE_MIN_{tag} {real.literal(mp.mpf(2) ** real.lo)}",
            f"#define TANH_TABLE_MAX_{tag} {real.literal(start)}",
            f"#define TANH_TABLE_LEN_{tag} {real.degree + 1}",
            f"static const {ctype} TANH_TABLE_{tag}[{real.degree + 2}][16] = {{",
        ]
        first = (real.lo + bias) * 2  # the index of v_half_octave, before mod 16
        for k in range(real.degree + 2):
            column = [rows[(i - first) % 16][k] for i in range(16)]
            out.append("    {")
            emit_row(out, real, column, "        ")
            out.append("    },")
        out.append("};")
    out += ["", "#endif"]
    Path(path).write_text("\n".join(out) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
