"""Threads: how many, the same bits with any number, and what they must survive."""

import concurrent.futures
import multiprocessing
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from processes import interrupt
from proof import random_case, run_backward, run_forward

import bptt
from bptt import _threads
from bptt._backend import kernels
from bptt.activations import Activation

TANH = Activation("tanh")
# BLAS, which the fallback calls, promises none of this.
COMPILED = pytest.mark.skipif(
    kernels.__name__ != "bptt._kernels", reason="a promise of the compiled kernels"
)
COUNTS = [1, 2, 3, 4, 7, 8]

# Large enough to be split: by rows, by columns, and by both.
SHAPES = [
    (40, 1, 16, 400),
    (30, 2, 8, 513),
    (20, 3, 33, 300),
    (15, 7, 5, 260),
    (12, 33, 20, 150),
    (9, 130, 17, 65),
    (300, 12, 40, 64),
    (5, 64, 300, 257),
    (11, 17, 35, 52),  # of the two halves one is enough to share, the other is not
]


def run(case):
    z = run_forward(kernels, case)
    return {"z": z, **run_backward(kernels, case, z)}


def assert_same_bits(result, expected):
    for name, value in expected.items():
        np.testing.assert_array_equal(
            result[name].view(np.uint8), value.view(np.uint8), err_msg=name
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_do_not_depend_on_the_number_of_threads(shape, dtype, rng):
    for ids in (False, True):
        case = random_case(rng, *shape, TANH, dtype, ids=ids)
        with bptt.threads(1):
            expected = run(case)
        for n in COUNTS:
            with bptt.threads(n):
                assert_same_bits(run(case), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("H", [1, 16, 31, 64, 100, 128, 200, 300, 600])
def test_a_sequence_has_the_same_states_alone_and_in_a_batch(H, dtype, rng):
    if kernels.__name__ != "bptt._kernels":
        pytest.skip("NumPy's matmul orders its sums by the shape")
    for B in (2, 5, 16, 40):
        case = random_case(rng, 6, B, 9, H, TANH, dtype)
        together = run_forward(kernels, case)
        for row in (0, B // 2, B - 1):
            alone = np.empty((7, 1, H), dtype)
            alone[0, 0] = case.z0[row]
            x = np.ascontiguousarray(case.x[:, row : row + 1])
            kernels.forward(x, case.W, case.V, case.b, alone, TANH)
            assert_same_bits({"z": alone[:, 0]}, {"z": together[:, row].copy()})


def test_several_python_threads_at_once(rng):
    cases = [random_case(rng, 50, 16, 8, 96, TANH, np.float32) for _ in range(6)]
    expected = [run(case) for case in cases]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        for _ in range(5):
            for result, wanted in zip(pool.map(run, cases), expected, strict=True):
                assert_same_bits(result, wanted)


def test_a_block_is_for_its_own_thread_alone():
    before = bptt.get_num_threads()
    seen = []
    with bptt.threads(before + 3):
        other = threading.Thread(target=lambda: seen.append(bptt.get_num_threads()))
        other.start()
        other.join()
        assert bptt.get_num_threads() == before + 3
    assert seen == [before]
    assert bptt.get_num_threads() == before


def test_the_number_can_be_set():
    before = bptt.get_num_threads()
    bptt.set_num_threads(5)
    try:
        assert bptt.get_num_threads() == 5
    finally:
        bptt.set_num_threads(before)


def test_more_threads_than_there_can_be_are_allowed(rng):
    case = random_case(rng, 9, 33, 20, 150, TANH, np.float32)
    expected = run(case)
    with bptt.threads(2**40):
        assert_same_bits(run(case), expected)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"BPTT_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"BPTT_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"BPTT_NUM_THREADS": "", "OMP_NUM_THREADS": "4,2"}, 4),
        ({"BPTT_NUM_THREADS": "", "OMP_NUM_THREADS": "junk"}, _threads.processors()),
    ],
)
def test_the_environment_sets_the_default(variables, expected, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _threads._from_environment()[0] == expected


def test_a_wrong_environment_is_an_error(monkeypatch):
    monkeypatch.setenv("BPTT_NUM_THREADS", "many")
    with pytest.raises(
        ImportError, match="BPTT_NUM_THREADS must be a positive integer, got 'many'"
    ):
        _threads._from_environment()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        (
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            float("inf"),
        ),
        ({}, float("inf")),
    ],
)
def test_the_quota_of_a_control_group_counts(files, expected, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _threads._quota(tmp_path) == expected


# What forks, hangs or is signalled runs in a process of its own, with a time limit.

WORK = """
import multiprocessing, sys, time
import numpy as np, bptt
bptt.set_num_threads(4)
rng = np.random.default_rng(0)
x = rng.standard_normal((40, 48, 32), np.float32)
W, V = rng.standard_normal((32, 200), np.float32) / 6, np.eye(200, dtype=np.float32) / 2
def work(_=None):
    z, tape = bptt.forward(x, W, V)
    return bptt.backward(tape, z).V.tobytes()
"""


def python(code, timeout=60):
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", WORK + code],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_after_threads_ran_works_and_so_does_the_parent():
    done = python("""
expected = work()
with multiprocessing.get_context("fork").Pool(3) as pool:
    for _ in range(3):
        assert all(r == expected for r in pool.map(work, range(6)))
        assert work() == expected
print("the same")
""")
    assert done.stdout == "the same\n", done.stderr


@COMPILED
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_while_another_thread_computes():
    done = python("""
import os, threading
expected, stop = work(), []
def busy():
    while not stop:
        work()
thread = threading.Thread(target=busy)
thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(work() != expected)
    assert os.waitpid(child, 0)[1] == 0
stop.append(True)
thread.join()
print("the same")
""")
    assert done.stdout == "the same\n", done.stderr


@COMPILED
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_of_another_thread_is_interrupted():
    done = python("""
import os, signal, threading
from bptt._backend import kernels
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
W, V = np.ones((1, 1000), np.float32), np.eye(1000, dtype=np.float32) / 2
x, z = np.ones((30_000, 1, 1), np.float32), np.zeros((30_001, 1, 1000), np.float32)
def fork():
    child = os.fork()
    if child:
        print("status", os.waitpid(child, 0)[1])
        return
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        kernels.forward(x, W, V, None, z, bptt.Activation("identity"))
    except KeyboardInterrupt:
        os._exit(int(z[-1].any()))
    os._exit(2)
thread = threading.Thread(target=fork)
thread.start()
thread.join()
""")
    assert done.stdout == "status 0\n", done.stderr


def spawned(number):
    rng = np.random.default_rng(number)
    return run(random_case(rng, 20, 16, 8, 96, TANH, np.float32))["V"].tobytes()


@COMPILED
def test_spawned_processes_give_the_same_bits():
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(spawned, range(4))) == [spawned(n) for n in range(4)]


@COMPILED
def test_joblib_processes_give_the_same_bits():
    joblib = pytest.importorskip("joblib")
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(spawned)(n) for n in range(4))
    assert results == [spawned(n) for n in range(4)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("part", ["forward", "backward", "jvp", "lyapunov"])
@pytest.mark.parametrize("B", [1, 32])
def test_an_interrupt_ends_a_long_call_soon_and_nothing_is_broken(part, B):
    if kernels.__name__ != "bptt._kernels":
        pytest.skip("NumPy checks for signals itself")
    code = f"""
T = 200_000_000 // {B} // 64
x = np.broadcast_to(np.float32(0.1), (T, {B}, 1))
x = np.ascontiguousarray(x)
W, V = np.ones((1, 64), np.float32), np.eye(64, dtype=np.float32) / 2
if "{part}" != "forward":
    z, tape = bptt.forward(x, W, V)
last = np.ones(({B}, 64), np.float32)
print("ready", flush=True)
try:
    end = time.time() + 30  # should nobody be left to send the signal
    while time.time() < end:
        if "{part}" == "forward":
            bptt.forward(x, W, V)
        elif "{part}" == "jvp":
            bptt.jvp(tape, dz0=last)
        elif "{part}" == "lyapunov":
            bptt.lyapunov_exponents(tape, 64)
        else:
            bptt.backward(tape, dz_last=last)
except KeyboardInterrupt:
    print("interrupted", time.time(), flush=True)
x = x[:1000]  # the same layer, soon done
first = work()
assert work() == first
print("usable")
"""
    # Not a measure of speed: a call that ignores the signal takes seconds.
    assert interrupt(WORK + code, after=0.3) < 1.0


# What each part writes last of all, of one step that takes at least some tenths of a
# second on the fastest machines.
ONE_STEP = """
H = 2048
A, V_all = np.zeros((1, H)), np.eye(H) / 2 + 1 / H
ones, z, dz = np.ones((1, H, 1)), np.zeros((2, H, H)), np.zeros((2, H, H))
z[0] = dz[0] = 1
dA, logs, dV, dz0 = *np.zeros((2, 1, H)), *np.zeros((2, H, H))
tanh = bptt.Activation("tanh")
parts = {
    "forward": (kernels.forward, (ones, A, V_all, None, z, tanh), z[1]),
    "backward": (
        kernels.backward,
        (ones, A, V_all, z, tanh, None, V_all, dA, dV, None, dz0, None),
        dz0,
    ),
    "jvp": (kernels.jvp, (ones, A, V_all, z, tanh, ones, None, None, None, dz), dz[1]),
    "lyapunov": (
        kernels.lyapunov, (V_all, z[:, :1].copy(), tanh, V_all[None], logs), logs
    ),
}
"""


@COMPILED
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("part", ["forward", "backward", "jvp", "lyapunov"])
@pytest.mark.parametrize("n", [1, 2])
def test_an_interrupt_need_not_wait_for_the_end_of_a_large_step(part, n):
    done = python(f"""
import signal
from bptt._backend import kernels
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
{ONE_STEP}
call, given, last = parts["{part}"]
first = work()
with bptt.threads({n}):
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        call(*given)
    except KeyboardInterrupt:
        print("interrupted", not last.all())
assert work() == first
print("usable")
""")
    assert done.stdout == "interrupted True\nusable\n", done.stderr


@COMPILED
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_an_interrupt_need_not_wait_for_the_end_of_gram_schmidt():
    done = python(f"""
import signal
from bptt._backend import kernels
{ONE_STEP}
call, given, logs = parts["lyapunov"]
def stop(*_):
    if 0 < np.count_nonzero(logs) < H:  # some rows are done, and some are not
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
try:
    call(*given)
except KeyboardInterrupt:
    print("interrupted")
work()
""")
    assert done.stdout == "interrupted\n", done.stderr


def test_denormals_are_flushed_inside_a_call_and_not_after_it(rng):
    if kernels.__name__ != "bptt._kernels":
        pytest.skip("NumPy computes with denormals")
    tiny = np.float32(1e-30)
    x = np.full((1, 1, 1), tiny)
    z, _ = bptt.forward(
        x, np.full((1, 1), 1e-10, np.float32), np.zeros((1, 1), np.float32),
        activation="identity",
    )  # fmt: skip
    assert z[0, 0, 0] == 0
    assert tiny * np.float32(1e-10) != 0
    for n in (1, 2):
        with bptt.threads(n):
            run(random_case(rng, 9, 64, 20, 150, TANH, np.float32))
        assert tiny * np.float32(1e-10) != 0


@COMPILED
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("part", ["forward", "backward", "jvp", "lyapunov"])
def test_a_signal_handler_computes_with_denormals(part):
    done = python(f"""
import signal
seen, tiny = [], 1e-310
signal.signal(signal.SIGALRM, lambda *_: seen.append(tiny * 0.5))
x = np.full((400_000, 1, 1), 0.1, np.float32)
V = np.eye(64, dtype=np.float32) / 2
z, tape = bptt.forward(x, np.ones((1, 64), np.float32), V)
last = np.ones((1, 64), np.float32)
end = time.monotonic() + 30
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while len(seen) < 10 and time.monotonic() < end:
    if "{part}" == "forward":
        bptt.forward(x, tape.W, V)
    elif "{part}" == "backward":
        bptt.backward(tape, dz_last=last)
    elif "{part}" == "jvp":
        bptt.jvp(tape, dz0=last)
    else:
        bptt.lyapunov_exponents(tape, 2)
signal.setitimer(signal.ITIMER_REAL, 0)
assert len(seen) >= 10 and all(seen), seen
assert tiny * 0.5
print("all denormal")
""")
    assert done.stdout == "all denormal\n", done.stderr
