"""Temporal order (Hochreiter and Schmidhuber 1997; Pascanu et al. 2013, section 4.1).

    python -m bench.experiments.temporal_order --clip 1 --omega 2 >> log.jsonl
    python -m bench.experiments.temporal_order --figure log.jsonl

Six symbols, of which two carry information: one comes in [L/10, 2L/10), one in
[5L/10, 6L/10), each A or B, among noise of four others. At the end one of four classes
is to be told: AA, AB, BA, BB. Trains one network and prints one JSON object: settings,
progress, errors and seconds; or draws the progress of many.

Omega is that of the authors' program, squared lengths, and the mean over all steps and
sequences of the batch whose error has not vanished; --form sum takes that of their
equation 9 instead, which is the sum over the steps. Its gradient is the paper's,
through the factor V^T alone. One pass serves the loss and Omega: backwards the one-hot
input is widened to H columns and V stands for W, so that the gradient by the input is
e[t-1] = da[t] V^T.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import bptt
from bptt import losses

SYMBOLS, CLASSES, B = 6, 4, 20
VANISHED = 1e-20  # of ||e||^2, as in the authors' program
DIVERGED = 1e10  # of the gradient's norm, likewise
PAST = (200, 500, 1000, 5000)  # lengths beyond those learned from


def batch(rng, length, size=B):
    """Return token ids (L, size) and classes (size,)."""
    x = rng.integers(2, SYMBOLS, (length, size))
    tenth, half = length // 10, length // 2
    first = rng.integers(tenth, 2 * tenth, size)
    second = rng.integers(half, half + tenth, size)
    a, b = rng.integers(0, 2, (2, size))
    x[first, np.arange(size)], x[second, np.arange(size)] = a, b
    return x, 2 * a + b


def initial(H, init, rng):
    """Return the parameters as the authors draw them, with a sparse V or a dense one.

    Sparse: 15 entries a row, at spectral radius .95, and small W and U.
    """
    scale = {"sparse": 0.01, "dense": 0.1}[init]
    W, V, U = (
        scale * rng.standard_normal(shape)
        for shape in [(SYMBOLS, H), (H, H), (H, CLASSES)]
    )
    if init == "sparse":
        for row in V:
            row[rng.permutation(H)[15:]] = 0
        V *= 0.95 / np.abs(np.linalg.eigvals(V)).max()
    params = {"W": W, "V": V, "b": np.zeros(H), "U": U, "c": np.zeros(CLASSES)}
    return {name: array.astype(np.float32) for name, array in params.items()}


def gradients(params, x, target, weight=None, form="mean"):
    """Return the loss, Omega or None, and the gradients of loss + weight * Omega."""
    W, V, b, U, c = (params[name] for name in "WVbUc")
    z, tape = bptt.forward(x, W, V, b)
    loss, df = losses.cross_entropy(z[-1] @ U + c, target)
    dz_last = df @ U.T
    by_readout = {"U": z[-1].T @ df, "c": df.sum(axis=0)}
    if weight is None:
        grads = bptt.backward(tape, dz_last=dz_last)
        return loss, None, {**by_readout, "W": grads.W, "V": grads.V, "b": grads.b}
    one_hot = np.eye(SYMBOLS, len(V), dtype=V.dtype)[x]
    tape = bptt.Tape(one_hot, V, V, b, tape.z, tape.activation, True)
    grads = bptt.backward(tape, dz_last=dz_last)
    value, dV = omega(np.concatenate([grads.x, dz_last[None]]), z, form)
    dV = grads.V + V.dtype.type(weight) * dV
    return loss, value, {**by_readout, "W": grads.W[:SYMBOLS], "V": dV, "b": grads.b}


def omega(e, z, form):
    """Return Omega, and its gradient through the factor V^T, of e[0..T] and z[1..T].

    Omega is the mean of (||e[t-1]||^2 / ||e[t]||^2 - 1)^2, e[t-1] = e[t] D[t] V^T, or
    the sum over t of (||e[t-1]|| / ||e[t]|| - 1)^2.
    """
    size, H = z.shape[1:]
    e = e.reshape(-1, H)
    squares = np.einsum("ij,ij->i", e, e)
    there = squares[size:] >= VANISHED
    divisor = np.where(there, squares[size:], 1)
    ratio = np.where(there, squares[:-size] / divisor, 1)  # squared
    if form == "mean":
        excess, terms = ratio - 1, max(1, np.count_nonzero(there))
        scale = excess / divisor * z.dtype.type(4 / terms)
    else:
        root, terms = np.sqrt(ratio), size
        excess = root - 1
        scale = excess / np.maximum(root, VANISHED) / divisor * z.dtype.type(2 / terms)
    da = e[size:] * (1 - np.square(z.reshape(-1, H)))
    value = float(np.square(excess).sum()) / terms
    return value, (e[:-size] * scale[:, None]).T @ da


def clipped(grads, params, clip):
    """Return gradients of norm clip at most, and the norm they came with.

    Where the norm is no number to trust, V shrinks a little, as in the authors'
    program.
    """
    grads, norm = bptt.clip_norm(grads, clip, nonfinite="pass")
    if norm <= DIVERGED:
        return grads, norm
    grads = {name: np.zeros_like(array) for name, array in grads.items()}
    grads["V"] = np.float32(0.02) * params["V"]
    return grads, norm


def error(params, rng, low, high, count=10_000):
    """Return the share of sequences of which the class is not told."""
    W, V, b, U, c = (params[name] for name in "WVbUc")
    wrong, size = 0, 100
    for _ in range(count // size):
        x, target = batch(rng, int(rng.integers(low, high + 1)), size)
        z, _ = bptt.forward(x, W, V, b)
        wrong += int(((z[-1] @ U + c).argmax(axis=1) != target).sum())
    return wrong / count


def train(args):
    """Train until few of 10,000 sequences are wrong, and return what the log keeps.

    The error is that of 10,000 others.
    """
    rng, valid, test = (np.random.default_rng([args.seed, i]) for i in range(3))
    params = initial(args.hidden, args.init, rng)
    sgd = bptt.optimizers.SGD(args.rate)
    start, progress, seen = time.process_time(), [], []
    for update in range(1, args.updates + 1):
        x, target = batch(rng, int(rng.integers(args.low, args.high + 1)))
        loss, value, grads = gradients(params, x, target, args.omega, args.form)
        if args.clip is not None:
            grads, _ = clipped(grads, params, args.clip)
        sgd.update(params, grads)
        seen.append((loss, 0.0 if value is None else value))
        if not np.isfinite(loss):
            break
        if update % args.every == 0:
            wrong = error(params, valid, args.low, args.high)
            radius = np.abs(np.linalg.eigvals(params["V"])).max()
            loss, value = np.mean(seen, axis=0)
            seen.clear()
            progress.append([update, *(round(float(v), 4) for v in (loss, value))])
            progress[-1] += [round(float(radius), 3), wrong]
            print(*progress[-1], file=sys.stderr, flush=True)
            if wrong <= args.stop:
                break
    seconds = round(time.process_time() - start, 1)
    return {
        "made": update,
        "cpu_seconds": seconds,
        "error": error(params, test, args.low, args.high),
        "error_at": {L: error(params, test, L, L, 1000) for L in PAST},
        "progress": progress,
    }


def arm_of(run):
    """Return the name of the arm of the experiment that a run belongs to."""
    if run["omega"] is None:
        return "neither" if run["clip"] is None else "clipping"
    source = {"mean": "their program", "sum": "equation 9"}[run["form"]]
    return f"clipping, {run['omega']:g} Omega of {source}"


def draw(log):
    """Draw the errors of a log against updates, in an SVG file beside it."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "temporal order"
    from matplotlib import pyplot

    runs = [json.loads(line) for line in log.read_text().splitlines()]
    arms = list(dict.fromkeys(map(arm_of, runs)))
    figure, axes = pyplot.subplots(
        (len(arms) + 1) // 2,
        2,
        figsize=(7, 4),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for arm, panel in zip(arms, axes.flat, strict=False):
        panel.set_title(arm, fontsize="medium")
        for run in runs:
            if arm_of(run) == arm:
                updates, *_, wrong = np.transpose(run["progress"])
                panel.plot(updates / 1000, 100 * wrong, f"C{run['seed']}", linewidth=1)
    figure.supxlabel("thousands of updates; a color is a seed", fontsize="medium")
    figure.supylabel("% of 10,000 sequences wrong", fontsize="medium")
    figure.savefig(log.with_suffix(".svg"), metadata={"Date": None})


def main():
    """Train once and report, or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=float, help="the norm; default: none")
    parser.add_argument("--omega", type=float, help="the weight; default: none")
    parser.add_argument("--form", choices=("mean", "sum"), default="mean")
    parser.add_argument("--init", choices=("sparse", "dense"), default="sparse")
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--low", type=int, default=50, help="shortest length")
    parser.add_argument("--high", type=int, default=100, help="longest length")
    parser.add_argument("--updates", type=int, default=200_000, help="at most")
    parser.add_argument("--stop", type=float, default=0.0, help="at an error of")
    parser.add_argument("--every", type=int, default=2500, help="updates a report")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, metavar="LOG", help="draw, from a log")
    args = parser.parse_args()
    if args.figure:
        draw(args.figure)
        return
    bptt.set_num_threads(1)
    # glibc keeps what is freed up to the largest block freed so far; less than that
    # goes to the system and comes back, page by page, with each update.
    np.ones(1 << 21)
    settings = {name: v for name, v in vars(args).items() if name != "figure"}
    print(json.dumps({**settings, **train(args)}), flush=True)


if __name__ == "__main__":
    main()
