"""Runs that are not plain beside plain ones: `python -m bench sequences`.

Each pair does the same work, turn by turn; a ratio is that of the medians of the turns.
"""

import argparse
import time

import numpy as np

import bptt
from bptt import truncation
from bptt.bench import machine

rng = np.random.default_rng(0)


def main(arguments, targets, path):
    """Measure and print."""
    del targets, path  # nobody else's runs are timed
    parser = argparse.ArgumentParser(
        prog="python -m bench sequences", description=__doc__
    )
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument(
        "--longest", type=int, default=1_000_000, help="steps of the longest run"
    )
    options = parser.parse_args(arguments)
    for name, least in (("turns", 1), ("longest", 1000)):
        if getattr(options, name) < least:
            parser.error(
                f"--{name} must be at least {least}, got {getattr(options, name)}"
            )
    print(machine.summary(machine.describe()))
    for measure in (ragged, long, checkpointed, truncated, stacked):
        measure(options)


def arrays(*shapes):
    """Return random arrays, small enough that nothing explodes."""
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def weights(I, H):
    W, V = arrays((I, H), (H, H))
    return W / I**0.5, 0.8 * V / H**0.5, np.zeros(H, np.float32)


def step(x, layer, dz=None, dz_last=None, *, reuse=False, **options):
    """Return what makes a training step, in new memory or that of the step before."""
    tape = grads = None

    def run():
        nonlocal tape, grads
        _, tape = bptt.forward(x, *layer, out=tape, **options)
        grads = bptt.backward(tape, dz, dz_last=dz_last, out=grads)
        if not reuse:
            tape = grads = None

    return run


def medians(turns, runs):
    """Return the median time of each of some runs, which take turns."""
    times = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:  # the first warms up
                times[name].append(time.perf_counter() - start)
    return {name: float(np.median(found)) for name, found in times.items()}


def line(name, seconds, cells, ratio, wanted):
    print(f"{name:34} {seconds / cells * 1e9:9.1f} ns   {ratio:6.2f}   {wanted}")


def heading(text):
    print(f"\n{text}\n{'':34} {'per step':>12}   ratio   wanted")


def ragged(options):
    """Lengths 1..4000, against as much work on sequences of one length."""
    S, I, H = 32, 64, 128
    lengths = rng.integers(1, 4001, S)
    T, mean = lengths.max(), lengths.sum() // S
    layer = weights(I, H)
    xs, dzs = ([a for n in lengths for a in arrays((n, K))] for K in (I, H))
    x, dz = np.zeros((T, S, I), np.float32), np.zeros((T, S, H), np.float32)
    for s, n in enumerate(lengths):
        x[:n, s], dz[:n, s] = xs[s], dzs[s]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values, errors = np.concatenate(xs), np.concatenate(dzs)
    equal = *arrays((mean, S, I)), layer, *arrays((mean, S, H))
    batch = values, layer, errors
    found = medians(
        options.turns,
        {
            "one length": step(*equal),
            "list": step(xs, layer, dzs),
            "values, offsets": step(*batch, offsets=offsets),
            "padded, lengths": step(x, layer, dz, lengths=lengths),
            "one length, reused": step(*equal, reuse=True),
            "values, offsets, reused": step(*batch, offsets=offsets, reuse=True),
            "padded, lengths, reused": step(x, layer, dz, lengths=lengths, reuse=True),
        },
    )
    heading(f"Ragged: {S} lengths of 1..4000, I = {I}, H = {H}; results in new memory")
    for name, seconds in found.items():
        plain = found["one length, reused" if name.endswith("reused") else "one length"]
        ratio = seconds / lengths.sum() / (plain / (mean * S))
        line(name, seconds, lengths.sum(), ratio, "1.25")


def long(options):
    """Time per step as T grows, everything stored."""
    I, H = 16, 64
    layer = weights(I, H)
    heading(f"Long: B = 1, I = {I}, H = {H}, loss on every step, results reused")
    first = None
    for T in (10**n for n in range(3, 9) if 10**n <= options.longest):
        n = max(1, 100_000 // T)
        x, dz = arrays((T, 1, I), (T, 1, H))
        _, tape = bptt.forward(x, *layer)
        grads = bptt.backward(tape, dz)

        def run(x=x, dz=dz, tape=tape, grads=grads, n=n):
            for _ in range(n):
                bptt.backward(bptt.forward(x, *layer, out=tape)[1], dz, out=grads)

        seconds = medians(options.turns, {T: run})[T]
        first = first or seconds / (n * T)
        line(f"T = {T:,}", seconds, n * T, seconds / (n * T) / first, ".85-1.15")


def checkpointed(options):
    """States recomputed, against all states stored."""
    T, I, H = min(1_000_000, options.longest), 16, 64
    layer = weights(I, H)
    x, dz = arrays((T, 1, I), (T, 1, H))
    found = medians(
        options.turns,
        {
            "stored": step(x, layer, dz),
            'memory="64MB"': step(x, layer, dz, memory="64MB"),
        },
    )
    heading(f"Checkpointed: T = {T:,}, B = 1, I = {I}, H = {H}")
    stored = found["stored"]
    for name, seconds in found.items():
        line(name, seconds, T, seconds / stored, "1.5")


def truncated(options):
    """BPTT(k; k) against chunks by hand, and BPTT(4 k; k) against what it needs."""
    T, B, I, H, k = min(1_000_000, options.longest), 1, 16, 64, 500
    layer = weights(I, H)
    x, target = arrays((T, B, I), (T, B, H))

    def loss(z, target):
        error = z - target
        return 0.0, error

    def by_hand():
        z = np.zeros((B, H), np.float32)
        for t in range(0, T, k):
            states, tape = bptt.forward(x[t : t + k], *layer, z)
            error = loss(states, target[t : t + k])[1]
            bptt.backward(tape, error, need_x_grad=False)
            z = states[-1]

    def by_truncation(k2):
        for _ in truncation.truncated((x, target), *layer, loss=loss, k1=k, k2=k2):
            pass

    def forwards():
        for t in range(0, T, k):
            loss(bptt.forward(x[t : t + k], *layer)[0], target[t : t + k])

    found = medians(
        options.turns,
        {
            "chunks by hand": by_hand,
            "BPTT(k; k)": lambda: by_truncation(k),
            "BPTT(4 k; k)": lambda: by_truncation(4 * k),
            "forwards": forwards,
        },
    )
    heading(f"Truncated: T = {T:,}, B = {B}, I = {I}, H = {H}, k = {k}")
    plain, once = found["chunks by hand"], found["forwards"]
    line("BPTT(k; k)", found["BPTT(k; k)"], T, found["BPTT(k; k)"] / plain, "1.1")
    needed = once + 4 * (plain - once)
    four = found["BPTT(4 k; k)"]
    line("BPTT(4 k; k), of f + 4 b", four, T, four / needed, "1")


def stacked(options):
    """Three layers both ways, against six runs of a layer."""
    heading("Stacked: three layers in both directions, against six single runs")
    shapes = (1000, 1, 16, 64), (1000, 1, 64, 256), (200, 32, 64, 128)
    for T, B, I, H in shapes:
        rnn = bptt.RNN(I, H, 3, bidirectional=True, seed=0)
        x, dz = arrays((T, B, I), (T, B, 2 * H))
        wide, half = arrays((T, B, 2 * H), (T, B, H))
        first, other = weights(I, H), weights(2 * H, H)
        singles = [step(x, first, half)] * 2 + [step(wide, other, half)] * 4
        n = max(1, 20_000 // (T * B))

        def layers(rnn=rnn, x=x, dz=dz, n=n):
            for _ in range(n):
                rnn.backward(rnn.forward(x)[1], dz)

        def alone(singles=singles, n=n):
            for _ in range(n):
                for run in singles:
                    run()

        found = medians(options.turns, {"layers": layers, "alone": alone})
        ratio = found["layers"] / found["alone"]
        line(f"{T},{B},{I},{H}", found["layers"], n * T, ratio, "1.1")
