"""Temporal order (Hochreiter and Schmidhuber 1997; Pascanu et al. 2013, section 4.1).

    python -m bench.experiments.temporal_order --clip 1 --omega 4 --steps 50000

Six symbols, of which two carry information: one comes in [L/10, 2L/10), one in
[5L/10, 6L/10), each A or B, among noise of four others. At the end one of four classes
is to be told: AA, AB, BA, BB. Prints one JSON object: settings, progress, errors and
seconds.

Omega's gradient is the paper's, through the factor V^T alone. One pass serves the loss
and Omega: with the pre-activations as input and W = I, the gradient by the input is
da[t], and e[t] = da[t+1] V^T is one product for all t.
"""

import argparse
import json
import sys
import time

import numpy as np

import bptt
from bptt import losses

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


def gradients(params, x, target, weight):
    """Return the loss and its gradients, with weight * Omega's added to that by V."""
    W, V, b, U, c = (params[name] for name in "WVbUc")
    T, H = len(x), len(V)
    z, tape = bptt.forward(W[x], np.eye(H, dtype=W.dtype), V, b)
    loss, df = losses.cross_entropy(z[-1] @ U + c, target)
    dz_last = df @ U.T
    grads = bptt.backward(tape, dz_last=dz_last, need_x_grad=True)
    da, dV = grads.x.reshape(-1, H), grads.V
    one_hot = np.eye(SYMBOLS, dtype=W.dtype)[x.reshape(-1)]
    if weight:
        dV = dV + weight * omega_by_V(V, da, dz_last, T)
    dW, dU = one_hot.T @ da, z[-1].T @ df
    return loss, {"W": dW, "V": dV, "b": grads.b, "U": dU, "c": df.sum(axis=0)}


def omega_by_V(V, da, dz_last, T):
    """Return the gradient of Omega by the factor V^T, as `bptt.flow.omega` does."""
    size = len(dz_last)
    r = da @ V.T  # r[t] = e[t-1]
    lengths, last = lengths_of(r).reshape(T, size), lengths_of(dz_last)
    before = np.vstack([lengths[1:], last])
    there = (before > 0) & (lengths > 0)
    scale = np.zeros_like(lengths)
    ratio = np.divide(lengths, before, where=there, out=np.ones_like(lengths))
    np.divide(2 / size * (ratio - 1), before, where=there, out=scale)
    # By r it is 2 (ratio - 1) / ||e|| * r / ||r||.
    np.divide(scale, lengths, where=there, out=scale)
    of_r = r * scale.reshape(-1, 1).astype(r.dtype)
    return of_r.T @ da


def lengths_of(rows):
    """Return the lengths of rows, of which the squares may leave float32."""
    return np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))


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
    parser.add_argument("--omega-mean", action="store_true", help="divide it by T")
    parser.add_argument("--init", choices=("sparse", "orthogonal"), default="sparse")
    parser.add_argument("--momentum", type=float, default=0.0)
    parser.add_argument("--adam", action="store_true")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=np.inf, help="stop after")
    parser.add_argument("--low", type=int, default=50)
    parser.add_argument("--high", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rng = np.random.default_rng(args.seed)
    network = bptt.Network(
        SYMBOLS, args.hidden, CLASSES, readout="last", seed=args.seed
    )
    V = network.params["V"]
    if args.init == "sparse":
        V[...] = sparse_tanh(args.hidden, rng)
    else:
        V[...] = np.linalg.qr(rng.standard_normal(V.shape))[0]
    if args.adam:
        optimizer = bptt.optimizers.Adam(args.rate)
    else:
        optimizer = bptt.optimizers.SGD(args.rate, momentum=args.momentum)
    start, progress = time.monotonic(), []
    for step in range(1, args.steps + 1):
        x, target = batch(rng, int(rng.integers(args.low, args.high + 1)))
        weight = (args.omega or 0.0) / (len(x) if args.omega_mean else 1)
        loss, params = gradients(network.params, x, target, weight)
        if args.clip:
            params, _ = bptt.clip_norm(params, args.clip)
        optimizer.update(network.params, params)
        if not np.isfinite(loss):
            progress.append([step, None, None])
            break
        if step % max(1, args.steps // 25) == 0:
            wrong = error(network, np.random.default_rng(1), args.low, args.high, 1000)
            progress.append([step, round(float(loss), 4), wrong])
            print(*progress[-1], file=sys.stderr, flush=True)
            if wrong == 0 or time.monotonic() - start > args.seconds:
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
