"""Look for holes: shapes that cost much more per flop than their neighbours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from bptt.bench.cases import Shape

HIDDEN = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 50, 63, 64, 65]
HIDDEN += [96, 100, 127, 128, 129, 160, 200, 255, 256, 257, 320, 384, 500, 511, 512]
HIDDEN += [513, 650, 768, 1000, 1023, 1024, 1025, 1500, 1760, 2047, 2048]
BATCH = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 32]
STEPS = [15, 100]
WIDEST_INPUT = 64
HOLE = 1.5


def shapes(
    steps: Iterable[int] = STEPS,
    batch: Iterable[int] = BATCH,
    hidden: Iterable[int] = HIDDEN,
) -> list[Shape]:
    """Return the grid; the input is as wide as the state, up to 64."""
    batch, hidden = list(batch), list(hidden)
    return [
        Shape(T, B, min(H, WIDEST_INPUT), H)
        for T in steps
        for B in batch
        for H in hidden
    ]


def holes(cost: Mapping[Shape, float]) -> list[tuple[Shape, str, float]]:
    """Return where the cost of a flop exceeds what its neighbours let expect.

    Along B and along H, what is expected between two neighbours is the straight line
    of the logarithms.

    Parameters
    ----------
    cost : mapping of Shape to float
        Nanoseconds per flop.

    Returns
    -------
    list of (Shape, str, float)
        The shape, the letter of the axis, and the factor, above 1.5.

    Examples
    --------
    >>> cost = {Shape(15, 1, 4, H): 3.0 if H == 8 else 1.0 for H in (4, 8, 16)}
    >>> holes(cost)
    [(Shape(T=15, B=1, I=4, H=8), 'H', 3.0)]
    """
    found = []
    for letter in ("B", "H"):
        axis = Shape._fields.index(letter)
        lines: dict[tuple[int, ...], list[Shape]] = {}
        for shape in cost:
            fixed = (shape.T, shape.H if letter == "B" else shape.B)
            lines.setdefault(fixed, []).append(shape)
        for line in lines.values():
            line.sort(key=lambda shape: shape[axis])
            for left, here, right in zip(line, line[1:], line[2:], strict=False):
                x0, x, x1 = (math.log(s[axis]) for s in (left, here, right))
                y0, y, y1 = (math.log(cost[s]) for s in (left, here, right))
                expected = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
                factor = round(math.exp(y - expected), 2)
                if factor > HOLE:
                    found.append((here, letter, factor))
    return sorted(found, key=lambda hole: -hole[2])


def table(cost: Mapping[Shape, float]) -> tuple[list[str], list[list[str]]]:
    """Return ns per 1000 flops: a line for each T and H, a column for each B."""
    batch = sorted({shape.B for shape in cost})
    by_sizes = {(s.T, s.B, s.H): value for s, value in cost.items()}
    lines = sorted({(shape.T, shape.H) for shape in cost})
    cells = [
        [str(T), str(H), *(f"{by_sizes[T, B, H] * 1e3:.3g}" for B in batch)]
        for T, H in lines
    ]
    return ["T", "H", *(f"B={B}" for B in batch)], cells
