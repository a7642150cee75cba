"""Temporal order (Hochreiter and Schmidhuber 1997; Pascanu et al. 2013, section 4.1).

    python -m bench.experiments.temporal_order --clip 1 --omega 4 --steps 50000

Six symbols, of which two carry information: one comes in [L/10, 2L/10), one in
[5L/10, 6L/10), each A or B, among noise of four others. At the end one of four classes
is to be told: AA, AB, BA, BB. Prints one JSON object: settings, progress, errors and
seconds.
"""

import argparse
import json
import time

import numpy as np

import bptt
from bptt.network_flow import network_omega

SYMBOLS, CLASSES, B = 6, 4, 20


def batch(rng, length, size=B):
    """Return token ids (L, size) and classes (size,)."""
    x = rng.integers(2, SYMBOLS, (length, size))
    first = rng.integers(length // 10, 2 * length // 10, size)
    second = rng.integers(5 * length // 10, 6 * length // 10, size)
    a, b = rng.integers(0, 2, (2, size))
    x[first, np.arange(size)], x[second, np.arange(size)] = a, b
    return x, 2 * a + b


def sparse_tanh(H, rng, nonzero=15, radius=0.95):
    """Return V as Pascanu et al. draw it: few entries a unit, spectral radius .95."""
    V = np.zeros((H, H))
    for column in V.T:
        column[rng.choice(H, nonzero, replace=False)] = rng.standard_normal(nonzero)
    return V * radius / np.abs(np.linalg.eigvals(V)).max()


def error(network, rng, low, high, count=10_000):
    """Return the share of sequences of which the class is not told."""
    wrong, size = 0, 500
    for _ in range(count // size):
        x, target = batch(rng, int(rng.integers(low, high + 1)), size)
        wrong += int((network.predict(x).argmax(axis=1) != target).sum())
    return wrong / count


def main():
    """Train once, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=float)
    parser.add_argument("--omega", type=float)
    parser.add_argument("--through", default="everything")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--low", type=int, default=50)
    parser.add_argument("--high", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    network = bptt.Network(
        SYMBOLS, args.hidden, CLASSES, readout="last", seed=args.seed
    )
    network.params["V"][...] = sparse_tanh(args.hidden, rng)
    optimizer = bptt.optimizers.SGD(args.rate)
    start, progress = time.monotonic(), []
    for step in range(1, args.steps + 1):
        x, target = batch(rng, int(rng.integers(args.low, args.high + 1)))
        loss, grads = network.loss_and_gradients(x, target)
        params = grads.params
        if args.omega:
            _, extra = network_omega(network, x, target, through=args.through)
            for name, p in params.items():
                p += args.omega * extra[name]
        if args.clip:
            params, _ = bptt.clip_norm(params, args.clip)
        optimizer.update(network.params, params)
        if not np.isfinite(loss):
            progress.append([step, None, None])
            break
        if step % max(1, args.steps // 25) == 0:
            wrong = error(network, np.random.default_rng(1), args.low, args.high, 1000)
            progress.append([step, round(loss, 4), wrong])
            if wrong == 0:
                break
    result = {
        **vars(args),
        "progress": progress,
        "error": error(network, np.random.default_rng(2), args.low, args.high),
        "error_at_length_1000": error(
            network, np.random.default_rng(3), 1000, 1000, 500
        ),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
