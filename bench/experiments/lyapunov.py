"""Lyapunov exponents of z <- tanh(J z), J ~ N(0, g^2/N), beside their mean field.

    python -m bench.experiments.lyapunov --sizes 128 256 512

Prints a table: the largest exponent and the mean one, over the seeds, less the value of
N to infinity, and the standard error of that.
"""

import argparse
import time

import numpy as np

import bptt

MEAN_FIELD = {
    1.5: (0.06522, -0.7143),
    2.0: (0.15472, -1.1490),
    3.0: (0.31025, -2.2728),
}


def exponents(N, g, seed, T, skip):
    """Return the largest exponent and the mean of all, which is mean log|det| / N."""
    rng = np.random.default_rng(seed)
    V = (rng.standard_normal((N, N)) * g / np.sqrt(N)).T.copy()  # J^T
    x, W, z0 = np.zeros((T, 1)), np.ones((1, N)), rng.standard_normal(N)
    z, tape = bptt.forward(x, W, V, z0=z0)
    spectrum = bptt.lyapunov_exponents(tape, 1, skip=skip)
    log_slopes = np.log(1 - np.square(z[skip:])).sum(axis=1).mean()
    return spectrum.exponents[0], (log_slopes + np.linalg.slogdet(V)[1]) / N


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--gains", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--skip", type=int, default=1000)
    args = parser.parse_args()
    start = time.monotonic()
    print("| g | N | largest - mean field | mean - mean field |\n|---|---|---|---|")
    for g in args.gains:
        for N in args.sizes:
            found = [
                exponents(N, g, seed, args.steps, args.skip)
                for seed in range(args.seeds)
            ]
            off = np.mean(found, axis=0) - MEAN_FIELD[g]
            error = np.std(found, axis=0, ddof=1) / np.sqrt(args.seeds)
            cells = [f"{o:+.5f} +- {e:.5f}" for o, e in zip(off, error, strict=True)]
            print(f"| {g} | {N} | {' | '.join(cells)} |", flush=True)
    print(f"\n{args.seeds} seeds, T = {args.steps}, the first {args.skip} not counted.")
    print(f"{time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
