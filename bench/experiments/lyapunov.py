"""Lyapunov exponents of z <- tanh(J z), J ~ N(0, g^2/N), beside their mean field.

    python -m bench.experiments.lyapunov --sizes 128 256 512 --seeds 200 >> log.jsonl
    python -m bench.experiments.lyapunov --table log.jsonl

Runs networks and prints one JSON object for each: the largest exponent, and the mean of
all N, which is the time mean of log|det J_t| / N and costs one determinant; or prints
tables of many: what they are off by, and what is left of that as N goes to infinity.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import bptt

NAMES = ("largest", "mean")


def mean_field(g):
    """Return the largest exponent and the mean one as N goes to infinity, for g > 1.

    The states are Gaussian before tanh, of variance g^2 q (Sompolinsky et al. 1988):
    q = E tanh^2(g sqrt(q) z), 2 largest = ln(g^2 E tanh'^2), and the mean of all is
    E ln tanh' + ln g - 1/2, of which ln g - 1/2 is ln|det J| / N (Girko's circle).
    """
    z = np.linspace(-12, 12, 20_001)
    weight = np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    low, high = 1e-9, 1.0
    for _ in range(100):
        q = (low + high) / 2
        grows = weight @ np.square(np.tanh(g * np.sqrt(q) * z)) > q
        low, high = (q, high) if grows else (low, q)
    a = g * np.sqrt(q) * z
    log_slope = -2 * (np.logaddexp(a, -a) - np.log(2))
    largest = np.log(g * g * (weight @ np.exp(2 * log_slope))) / 2
    return largest, np.log(g) - 0.5 + weight @ log_slope


def network(N, g, seed):
    """Return V = J^T and z0."""
    rng = np.random.default_rng(seed)
    V = (rng.standard_normal((N, N)) * g / np.sqrt(N)).T.copy()
    return V, rng.standard_normal(N)


def exponents(V, z0, T, skip):
    """Return the largest exponent, and the mean of all N."""
    N = len(V)
    x, W = np.zeros((T, 1)), np.ones((1, N))
    z, tape = bptt.forward(x, W, V, z0=z0)
    spectrum = bptt.lyapunov_exponents(tape, 1, skip=skip)
    log_slopes = np.log(1 - np.square(z[skip:])).sum(axis=1).mean()
    return spectrum.exponents[0], (log_slopes + np.linalg.slogdet(V)[1]) / N


def run(args):
    """Print one line for each network."""
    for g in args.gains:
        for N in args.sizes:
            for seed in range(args.first, args.first + args.seeds):
                start = time.process_time()
                found = exponents(*network(N, g, seed), args.steps, args.skip)
                line = {"g": g, "N": N, "seed": seed, "T": args.steps}
                line |= {"skip": args.skip} | dict(zip(NAMES, found, strict=True))
                line["seconds"] = round(time.process_time() - start, 2)
                print(json.dumps(line), flush=True)


def deviations(lines, name):
    """Return N, the mean deviation from the mean field and its standard error."""
    g = lines[0]["g"]
    expected = dict(zip(NAMES, mean_field(g), strict=True))[name]
    rows = []
    for N in sorted({line["N"] for line in lines}):
        found = np.array([line[name] for line in lines if line["N"] == N])
        error = found.std(ddof=1) / np.sqrt(len(found))
        rows.append((N, found.mean() - expected, error))
    return np.array(rows).T


def fit(N, off, error, power):
    """Return c of off = c / N^power by weighted least squares, its error, chi^2."""
    basis = N**-power / error
    c = (basis @ (off / error)) / (basis @ basis)
    return c, (basis @ basis) ** -0.5, np.square(off / error - c * basis).sum()


def table(lines, out=sys.stdout):
    """Print the deviations over g and N, and how they shrink."""
    print("| g | N | networks | not chaotic | largest | mean |", file=out)
    print("|---|---|---|---|---|---|", file=out)
    gains = sorted({line["g"] for line in lines})
    of = {g: [line for line in lines if line["g"] == g] for g in gains}
    for g in gains:
        both = zip(*(deviations(of[g], n).T for n in NAMES), strict=True)
        for (N, *largest), (_, *mean) in both:
            found = [line["largest"] for line in of[g] if line["N"] == N]
            cells = [f"{o:+.5f} +- {e:.5f}" for o, e in (largest, mean)]
            quiet = sum(e <= 0 for e in found)
            row = [g, int(N), len(found), quiet, *cells]
            print("|", " | ".join(map(str, row)), "|", file=out)
    print("\n| g | exponent | power of 1/N | c | chi^2 | of |", file=out)
    print("|---|---|---|---|---|---|", file=out)
    for g in gains:
        for name in NAMES:
            rows = deviations(of[g], name)
            for power in (1, 0.5):
                c, error, chi = fit(*rows, power)
                row = [g, name, power, f"{c:.2f} +- {error:.2f}", f"{chi:.1f}"]
                print(
                    "|", " | ".join(map(str, [*row, len(rows[0]) - 1])), "|", file=out
                )
    seconds = sum(line["seconds"] for line in lines)
    print(f"\n{seconds:.0f} s of CPU.", file=out)


def main():
    """Run networks, or print the tables of a log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--gains", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--steps", type=int, default=5000, help="T")
    parser.add_argument("--skip", type=int, default=1000, help="steps not counted")
    parser.add_argument("--table", type=Path, help="log to print the tables of")
    args = parser.parse_args()
    if args.table is None:
        run(args)
    else:
        table([json.loads(line) for line in args.table.read_text().splitlines()])


if __name__ == "__main__":
    main()
