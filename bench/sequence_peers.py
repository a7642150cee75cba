"""Long and ragged runs beside JAX and PyTorch: `python -m bench sequence-peers`.

Each contender has a process of its own and takes its turns alone; ratios are those of
the medians. Memory is what a step adds to the resident memory at its peak, results
included, from a state without any: the first one, where later ones use it again.
"""

import argparse
import gc
import importlib
import multiprocessing
import os
import time
from pathlib import Path
from statistics import median

import numpy as np

import bptt
from bench.sequences import arrays, heading, line, step, weights
from bptt.bench import machine
from bptt.bench.cases import Shape, Task
from bptt.bench.cases import arrays as inputs_of
from bptt.bench.contenders import Bptt, Jax

LONG = Task(Shape(1_000_000, 1, 16, 64))
LONGEST = 10_000_000
PAUSE = 0.5  # threads of the one before spin on for a while
RAGGED = 32, 4000, 64, 128  # sequences, the longest one's steps, I, H


def main(arguments, targets, path):
    """Measure and print."""
    del targets, path
    parser = argparse.ArgumentParser(
        prog="python -m bench sequence-peers", description=__doc__
    )
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args(arguments).turns
    if turns < 1:
        parser.error(f"--turns must be at least 1, got {turns}")
    print(machine.summary(machine.describe()))
    against(turns, "Long: T = 1,000,000, B = 1, I = 16, H = 64", long_steps(), 10**6)
    S, T, I, H = RAGGED
    cells = int(lengths().sum())
    text = f"Ragged: {S} lengths of 1..{T}, I = {I}, H = {H}"
    against(turns, text, [packed, ragged], cells)
    against(1, f"T = {LONGEST:,}, a loss on the last state", [longest], LONGEST)


def against(turns, text, makers, cells):
    """Print the times of contenders, and how many times the last one's each is."""
    context = multiprocessing.get_context("spawn")
    ends = []
    for make in makers:
        end, other = context.Pipe()
        process = context.Process(target=serve, args=(make, other), daemon=True)
        process.start()
        other.close()
        ends.append((make.__name__, process, end))
    heading(text)
    ready = [(name, end) for name, _, end in ends if receive(name, end) is not None]
    found = {name: [] for name, _ in ready}
    for _ in range(turns):
        for name, end in ready:
            time.sleep(PAUSE)
            end.send("step")
            found[name].append(end.recv())
    plain = median(seconds for seconds, _ in found[makers[-1].__name__])
    for name, results in found.items():
        seconds, peak = median(s for s, _ in results), max(p for _, p in results)
        line(f"{name} ({peak / 2**20:.0f} MB)", seconds, cells, seconds / plain, "")
    for _, process, end in ends:
        end.close()
        process.join()


def receive(name, end):
    """Return what a process says first; None if it has not what it needs."""
    reply = end.recv()
    if reply is None:
        print(f"{name}: not installed")
    return reply


def serve(make, end):
    """Take a step whenever the parent asks for one, and say how it went."""
    try:
        run = make()
    except ImportError:
        end.send(None)
        return
    _, first = measured(run)  # warms up
    end.send("ready")
    while True:
        try:
            end.recv()
        except EOFError:
            return
        seconds, peak = measured(run)
        # What is kept from one step to the next is missing in the later ones.
        end.send((seconds, max(first, peak)))


def measured(run):
    """Return how long a step takes, and what it adds to the resident memory."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = resident("VmRSS")
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return seconds, resident("VmHWM") - before


def resident(what):
    """Return the resident memory of this process in bytes, or its peak."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) * 1024 for s in status if s.startswith(what))


def long_steps():
    """Return contenders at a long sequence with a loss on every step."""
    return [jax, checkpointed, stored]


def stored():
    return Bptt(LONG, inputs_of(LONG)).step


def checkpointed():
    i = inputs_of(LONG)
    layer = i.W, i.V, i.b, i.z0
    grads = None

    def run():
        nonlocal grads
        tape = bptt.forward(i.x, *layer, memory="64MB")[1]
        grads = bptt.backward(tape, i.dz, out=grads)

    return run


def jax():
    contender = Jax(LONG, inputs_of(LONG))

    def run():
        contender.step()
        contender.out = None

    return run


def longest():
    I, H = 16, 64
    (x,) = arrays((LONGEST, 1, I))
    dz_last = np.ones((1, H), np.float32)
    layer = weights(I, H)
    return lambda: bptt.backward(
        bptt.forward(x, *layer, memory="64MB")[1], dz_last=dz_last, need_x_grad=False
    )


def lengths():
    S, T, _, _ = RAGGED
    return np.random.default_rng(0).integers(1, T + 1, S)


def ragged():
    _, _, I, H = RAGGED
    xs, dzs = ([a for n in lengths() for a in arrays((n, K))] for K in (I, H))
    return step(xs, weights(I, H), dzs)


def packed():
    """PyTorch's packed sequences, whose gradients are those of a list."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(os.cpu_count())
    _, _, I, H = RAGGED
    rnn = torch.nn.RNN(I, H)
    xs, dzs = (
        [torch.from_numpy(a) for n in lengths() for a in arrays((n, K))] for K in (I, H)
    )
    pack = torch.nn.utils.rnn.pack_sequence
    dz = pack(dzs, enforce_sorted=False).data

    def run():
        leaves = [x.requires_grad_() for x in xs]
        z = rnn(pack(leaves, enforce_sorted=False))[0].data
        torch.autograd.grad(z, [*rnn.parameters(), *leaves], dz)

    return run
