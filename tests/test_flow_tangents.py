"""jvp and vjp: kernels against reference, complex step, and each against the other."""

import inspect
import itertools
import types

import numpy as np
import pytest
from proof import ACTIVATIONS, random_case, run_forward
from tangent_proof import (
    check_tangent,
    check_tangent_by_complex_step,
    random_tangent,
    tangents,
)
from tolerances import COMPLEX_STEP

import bptt
from bptt import _backend, _reference, _reference_tangents
from bptt.activations import Activation

TANH = Activation("tanh")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PARTS = list(itertools.product([False, True], repeat=4))


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_reference_is_the_complex_step_derivative(activation, rng):
    for ids, parts in itertools.product([False, True], PARTS):
        case = random_case(rng, 6, 2, 3, 5, activation, ids=ids)
        check_tangent_by_complex_step(
            _reference, case, *random_tangent(rng, case, parts)
        )


BUGS = {
    "V^T for V": ("dz[t - 1] @ V)", "dz[t - 1] @ V.T)"),
    "z[t] for z[t-1] with dV": ("z[:-1] @ dV", "z[1:] @ dV"),
    "sigma' at z[t-1]": ("dsigma(z[t]) * (dz", "dsigma(z[t - 1]) * (dz"),
    "dz0 is ignored": ("dz[t - 1] @ V)", "(t > 1) * dz[t - 1] @ V)"),
    "db is dropped": ("dz[1:] += db", "pass"),
    "dx is dropped": ("dz[1:] += dx @ W", "pass"),
    "dW for W": ("dx @ W", "dx @ dW"),
    "the last step is missing": ("len(z)):\n        dz", "len(z) - 1):\n        dz"),
    "the output is not cleared": ("dz[1:] = 0", "pass"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_proofs_find(bug, rng):
    source, (old, new) = inspect.getsource(_reference_tangents), BUGS[bug]
    assert source.count(old) == 1
    wrong = types.ModuleType("tangents_with_a_bug")
    exec(compile(source.replace(old, new), "planted", "exec"), wrong.__dict__)
    case = random_case(rng, 4, 3, 5, 5, TANH)
    direction = random_tangent(rng, case)
    with pytest.raises(AssertionError):
        check_tangent_by_complex_step(wrong, case, *direction)
    with pytest.raises(AssertionError):
        check_tangent(_backend.kernels, case, *direction, reference=wrong)


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_activations(activation, dtype, rng):
    case = random_case(rng, 6, 3, 5, 19, activation, dtype)
    check_tangent(_backend.kernels, case, *random_tangent(rng, case))


@DTYPES
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_parts(parts, ids, dtype, rng):
    for B in (1, 3):
        case = random_case(rng, 9, B, 5, 19, TANH, dtype, ids=ids)
        check_tangent(_backend.kernels, case, *random_tangent(rng, case, parts))


@DTYPES
@pytest.mark.parametrize("H", range(1, 68))
def test_every_size(H, dtype, rng):
    for B, I in ((1, 68 - H), (3, 5)):
        case = random_case(rng, 4, B, I, H, TANH, dtype)
        check_tangent(_backend.kernels, case, *random_tangent(rng, case))


@DTYPES
@pytest.mark.parametrize("shape", [(600, 1, 3, 64), (700, 9, 3, 40), (5, 21, 30, 517)])
def test_chunks_and_threads(shape, dtype, rng):
    case = random_case(rng, *shape, TANH, dtype)
    given, dz0 = random_tangent(rng, case)
    check_tangent(_backend.kernels, case, given, dz0)
    z = run_forward(_reference, case)
    alone = []
    for n in (1, 2, 3):
        with bptt.threads(n):
            alone.append(tangents(_backend.kernels, case, z, given, dz0))
    for other in alone[1:]:
        np.testing.assert_array_equal(alone[0], other)


@pytest.mark.parametrize("ids", [False, True])
def test_jvp_and_vjp_are_transposes_of_each_other(ids, rng):
    case = random_case(rng, 12, 3, 4, 7, TANH, ids=ids)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    (dx, dW, dV, db), dz0 = random_tangent(rng, case)
    forwards = bptt.jvp(tape, dz0=dz0, dx=dx, dparams={"W": dW, "V": dV, "b": db})
    grads = bptt.vjp(tape, case.dz)
    pairs = [(case.dz, forwards), (grads.W, dW), (grads.V, dV), (grads.b, db)]
    pairs += [(grads.z0, dz0)] + ([] if ids else [(grads.x, dx)])
    left, *right = ((a * b).sum() for a, b in pairs)
    size = sum(np.abs(a * b).sum() for a, b in pairs)
    assert abs(left - sum(right)) <= COMPLEX_STEP * size


def test_one_sequence_and_gradients_as_a_direction(rng):
    x, W, V = (rng.standard_normal(s) for s in [(8, 2), (2, 3), (3, 3)])
    _, tape = bptt.forward(x, W, V)
    _, batch = bptt.forward(x[:, np.newaxis], W, V)
    grads = bptt.vjp(tape, dz_last=np.ones(3))
    one = bptt.jvp(tape, dparams=grads)
    assert one.shape == (8, 3)
    np.testing.assert_array_equal(one, bptt.jvp(batch, dparams=grads)[:, 0])


def test_no_step_and_no_sequence():
    W, V = np.ones((2, 3)), np.eye(3)
    for T, B in ((0, 2), (4, 0)):
        _, tape = bptt.forward(np.ones((T, B, 2)), W, V)
        assert bptt.jvp(tape, dz0=np.ones((B, 3))).shape == (T, B, 3)


@DTYPES
def test_a_nan_reaches_all_that_depends_on_it(dtype, rng):
    case = random_case(rng, 6, 2, 3, 5, TANH, dtype)
    given, dz0 = random_tangent(rng, case)
    given[0][2, 1, 0] = np.nan
    z = run_forward(_reference, case)
    dz = tangents(_backend.kernels, case, z, given, dz0)
    assert np.isfinite(dz[:3]).all()
    assert np.isfinite(dz[:, 0]).all()
    assert np.isnan(dz[3:, 1]).all()
