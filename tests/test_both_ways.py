"""Both directions at once: on the threads of the pool, and on two of Python's."""

import concurrent.futures
import os
import subprocess
import sys

import numpy as np
import pytest
from processes import interrupt
from proof import random_case
from ragged import same_bits

import bptt
from bptt import RNN, _at_once, _reference
from bptt._backend import kernels
from bptt.activations import Activation

COMPILED = pytest.mark.skipif(
    kernels is _reference, reason="a promise of the compiled kernels"
)
TANH = Activation("tanh")
COUNTS = [1, 2, 3, 4, 5, 8]

# By themselves they are a pipeline, share columns, and share rows.
SHAPES = [
    (300, 1, 8, 16),
    (90, 1, 16, 130),
    (25, 2, 8, 513),
    (60, 3, 16, 100),
    (200, 7, 5, 20),
    (40, 40, 6, 40),
]


def forward_arguments(case):
    z = np.full((len(case.x) + 1, *case.z0.shape), np.nan, case.W.dtype)
    z[0] = case.z0
    return case.x, case.W, case.V, case.b, z, case.activation


def backward_arguments(case, z):
    grads = [np.full_like(a, np.nan) for a in (case.W, case.V, case.b, case.z0)]
    dx = None if case.x.ndim == 2 else np.full_like(case.x, np.nan)
    return (
        case.x, case.W, case.V, z, case.activation, case.dz, case.dz_last, *grads, dx,
    )  # fmt: skip


def alone(case):
    """Return z and all gradients of one run."""
    forward = forward_arguments(case)
    kernels.forward(*forward)
    backward = backward_arguments(case, forward[4])
    kernels.backward(*backward)
    return [forward[4], *backward[7:]]


def at_once(one, other):
    """Return the same of each of two runs."""
    forward = forward_arguments(one), forward_arguments(other)
    kernels.forward_both(*forward)
    backward = [
        backward_arguments(case, arguments[4])
        for case, arguments in zip((one, other), forward, strict=True)
    ]
    kernels.backward_both(*backward)
    return [[f[4], *b[7:]] for f, b in zip(forward, backward, strict=True)]


def check(found, expected):
    for run, wanted in zip(found, expected, strict=True):
        same_bits(run, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_each_of_two_runs_is_what_it_is_alone(shape, dtype, rng):
    for ids in (False, True):
        cases = [random_case(rng, *shape, TANH, dtype, ids=ids) for _ in range(2)]
        with bptt.threads(1):
            expected = [alone(case) for case in cases]
        for n in COUNTS:
            with bptt.threads(n):
                check(at_once(*cases), expected)


@pytest.mark.parametrize("T", [0, 1, 40])
def test_runs_of_different_sizes_are_made_too(T, rng):
    one = random_case(rng, 50, 1, 8, 100, TANH, np.float32)
    other = random_case(rng, T, 2, 7, 90, TANH, np.float32)
    expected = [alone(one), alone(other)]
    with bptt.threads(2):
        check(at_once(one, other), expected)
        check(at_once(other, one), expected[::-1])


@COMPILED
@pytest.mark.parametrize(
    ("n", "B", "H", "work", "expected"),
    [
        (1, 1, 16, 1e9, False),
        (2, 1, 16, 1e9, True),
        (2, 1, 16, 1e5, False),
        (2, 7, 1000, 1e9, True),
        (2, 8, 16, 1e9, False),
        (4, 15, 100, 1e9, True),
        (4, 1, 1000, 1e9, False),
    ],
)
def test_where_it_is_worth_while(n, B, H, work, expected):
    with bptt.threads(n):
        assert kernels.side_by_side(B, H, work) is expected


def make(seed=0, layers=2, **options):
    return RNN(6, 40, layers, bidirectional=True, seed=seed, **options)


def run(rnn, **options):
    """Return all that layers compute, of two sequences of 150 steps."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((150, 2, 6), np.float32)
    z, tape = rnn.forward(x, **options)
    grads = rnn.backward(tape, z, dz_last=tape.z_last)
    return [z, grads.z0, grads.x, *grads.params.values()]


@COMPILED
def test_python_threads_that_find_the_pool_at_work():
    networks = [make(seed) for seed in range(4)]
    with bptt.threads(1):
        expected = [run(rnn) for rnn in networks]
    bptt.set_num_threads(before := max(2, bptt.get_num_threads()))
    try:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for _ in range(10):
                check(pool.map(run, networks), expected)
    finally:
        bptt.set_num_threads(before)


# -- Python's threads, for sequences with lengths --------------------------------------


@COMPILED
def test_two_python_threads_give_the_same_bits(monkeypatch):
    rnn = make(layers=3)
    with bptt.threads(1):
        expected = run(rnn, lengths=[150, 120])
    started = []

    class Thread(_at_once.threading.Thread):
        def start(self):
            started.append(self.name)
            super().start()

    monkeypatch.setattr(_at_once, "WORTH_A_THREAD", 0)
    monkeypatch.setattr(_at_once.threading, "Thread", Thread)
    with bptt.threads(2):
        same_bits(run(rnn, lengths=[150, 120]), expected)
        assert started == ["bptt-direction"] * 6
        run(rnn)
        assert len(started) == 6


@COMPILED
@pytest.mark.parametrize("wrong", [0, 1])
def test_an_error_in_either_direction_is_raised(wrong):
    def run(d):
        if d == wrong:
            raise MemoryError(f"direction {d}")
        return d

    with bptt.threads(2), pytest.raises(MemoryError, match=f"direction {wrong}"):
        _at_once.both(run, 1, 1, 1e9)


@COMPILED
def test_where_no_thread_is_to_be_had_one_does_all(monkeypatch):
    tried = []

    def start(self):
        tried.append(self)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_at_once.threading.Thread, "start", start)
    with bptt.threads(2):
        assert _at_once.both(lambda d: d, 1, 1, 1e9) == [0, 1]
    assert len(tried) == 1


# -- What forks or is signalled runs in a process of its own ---------------------------

WORK = """
import multiprocessing, time
import numpy as np, bptt
from bptt._backend import kernels
from bptt.activations import Activation
bptt.set_num_threads(2)
rnn = bptt.RNN(8, 40, 2, bidirectional=True, seed=0)
x = np.random.default_rng(0).standard_normal((150, 2, 8), np.float32)
def work(_=None):
    z, tape = rnn.forward(x)
    return rnn.backward(tape, z).params["V"].tobytes()
"""


@COMPILED
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_after_both_ran_works_and_so_does_the_parent():
    code = """
expected = work()
with multiprocessing.get_context("fork").Pool(2) as pool:
    for _ in range(3):
        assert all(r == expected for r in pool.map(work, range(4)))
        assert work() == expected
print("the same")
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WORK + code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "the same\n", done.stderr


# Seconds of softplus, step by step, beside as many or beside a part of one.
SIZES = """
T = 30_000_000
inputs = np.ones((T, 1, 1), np.float32)
W, V = np.ones((1, 1), np.float32), np.full((1, 1), 0.5, np.float32)
def arguments(name):
    return inputs, W, V, None, np.zeros((T + 1, 1, 1), np.float32), Activation(name)
"""


@COMPILED
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("first", ["softplus", "relu"])
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_an_interrupt_ends_both_soon_and_nothing_is_broken(part, first):
    code = f"""
first, second = arguments("{first}"), arguments("softplus")
def back(x, W, V, b, z, activation):
    last = np.ones((1, 1), np.float32)
    grads = np.empty_like(W), np.empty_like(V), None, np.empty_like(last), None
    return x, W, V, z, activation, None, last, *grads
call, given = kernels.forward_both, (first, second)
if "{part}" == "backward":
    call, given = kernels.backward_both, (back(*first), back(*second))
expected = work()
print("ready", flush=True)
try:
    end = time.time() + 30  # should nobody be left to send the signal
    while time.time() < end:
        call(*given)
except KeyboardInterrupt:
    print("interrupted", time.time(), flush=True)
assert work() == expected
print("usable")
"""
    # Not a measure of speed: a run that nobody stops has more than a second to go.
    assert interrupt(WORK + SIZES + code, after=1.2) < 0.5
