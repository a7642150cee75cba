"""jvp and vjp: kernels against reference, complex step, and each against the other."""

import itertools

import numpy as np
import pytest
from proof import ACTIVATIONS, STEP, random_case, run_forward
from tolerances import COMPLEX_STEP, assert_within, jvp_bound

import bptt
from bptt import _backend, _reference
from bptt.activations import Activation

TANH = Activation("tanh")
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])
PARTS = list(itertools.product([False, True], repeat=4))


def random_tangent(rng, case, parts=(True,) * 4):
    """Return dx, dW, dV, db, each where it is asked for and can be, and dz[0]."""
    dtype, ids = case.W.dtype, case.x.ndim == 2
    shapes = [case.x.shape, case.W.shape, case.V.shape, (len(case.V),)]
    given = [
        rng.standard_normal(shape).astype(dtype) if part else None
        for shape, part in zip(shapes, parts, strict=True)
    ]
    if ids:
        given[0] = None
    return given, rng.standard_normal(case.z0.shape).astype(dtype)


def tangents(module, case, z, given, dz0):
    dz = np.full(z.shape, np.nan, np.result_type(z, dz0))
    dz[0] = dz0
    module.jvp(case.x, case.W, case.V, z, case.activation, *given, dz)
    return dz


def check(case, given, dz0):
    """Assert that the kernel's tangents are the reference's, to rounding."""
    dtype = case.W.dtype
    z = run_forward(_reference, case)
    actual = tangents(_backend.kernels, case, z, given, dz0)
    wide = [None if a is None else a.astype(np.float64) for a in given]
    x = case.x.astype(np.float64) if case.x.ndim == 3 else np.eye(len(case.W))[case.x]
    arguments = (x, *(a.astype(np.float64) for a in (case.W, case.V, z)))
    arguments += (case.activation, *wide)
    desired = np.zeros(z.shape)
    desired[0] = dz0
    _reference.jvp(*arguments, desired)
    bound = jvp_bound(*arguments, desired, dtype)
    bound += np.abs(desired) * np.finfo(dtype).eps
    assert_within(actual, desired.astype(dtype), bound, "dz")


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_reference_is_the_complex_step_derivative(activation, rng):
    for ids, parts in itertools.product([False, True], PARTS):
        case = random_case(rng, 6, 2, 3, 5, activation, ids=ids)
        given, dz0 = random_tangent(rng, case, parts)
        dz = tangents(_reference, case, run_forward(_reference, case), given, dz0)
        moved = {"z0": case.z0 + 1j * STEP * dz0}
        for name, direction in zip("xWVb", given, strict=True):
            if direction is not None:
                moved[name] = getattr(case, name) + 1j * STEP * direction
        derivative = run_forward(_reference, bptt_replace(case, moved)).imag / STEP
        # Entries may cancel: to the largest of their step.
        largest = np.abs(derivative).max(axis=2, keepdims=True)
        assert (np.abs(dz - derivative) <= COMPLEX_STEP * largest).all()


def bptt_replace(case, moved):
    return type(case)(**{**vars(case), **moved})


@DTYPES
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_activations(activation, dtype, rng):
    case = random_case(rng, 6, 3, 5, 19, activation, dtype)
    check(case, *random_tangent(rng, case))


@DTYPES
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("parts", PARTS)
def test_parts(parts, ids, dtype, rng):
    for B in (1, 3):
        case = random_case(rng, 9, B, 5, 19, TANH, dtype, ids=ids)
        check(case, *random_tangent(rng, case, parts))


@DTYPES
@pytest.mark.parametrize("H", range(1, 68))
def test_every_size(H, dtype, rng):
    for B, I in ((1, 68 - H), (3, 5)):
        case = random_case(rng, 4, B, I, H, TANH, dtype)
        check(case, *random_tangent(rng, case))


@DTYPES
@pytest.mark.parametrize("shape", [(600, 1, 3, 64), (700, 9, 3, 40), (5, 21, 30, 517)])
def test_chunks_and_threads(shape, dtype, rng):
    case = random_case(rng, *shape, TANH, dtype)
    given, dz0 = random_tangent(rng, case)
    check(case, given, dz0)
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
