"""How tangents are proved: random directions, and two checks; see `proof.py`."""

import numpy as np
from proof import STEP, run_forward
from tolerances import COMPLEX_STEP, assert_within, jvp_bound

from bptt import _reference


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


def check_tangent(module, case, given, dz0, reference=_reference):
    """Assert that a module's tangents are the reference's, to rounding."""
    dtype = case.W.dtype
    z = run_forward(_reference, case)
    actual = tangents(module, case, z, given, dz0)
    wide = [None if a is None else a.astype(np.float64) for a in given]
    x = case.x.astype(np.float64) if case.x.ndim == 3 else np.eye(len(case.W))[case.x]
    arguments = (x, *(a.astype(np.float64) for a in (case.W, case.V, z)))
    arguments += (case.activation, *wide)
    desired = np.full(z.shape, np.nan)
    desired[0] = dz0
    reference.jvp(*arguments, desired)
    bound = jvp_bound(*arguments, desired, dtype)
    bound += np.abs(desired) * np.finfo(dtype).eps
    assert_within(actual, desired.astype(dtype), bound, "dz")


def check_tangent_by_complex_step(module, case, given, dz0):
    """Assert that a module's tangents are derivatives of the reference's states."""
    dz = tangents(module, case, run_forward(_reference, case), given, dz0)
    moved = {"z0": case.z0 + 1j * STEP * dz0}
    for name, direction in zip("xWVb", given, strict=True):
        if direction is not None:
            moved[name] = getattr(case, name) + 1j * STEP * direction
    shifted = type(case)(**{**vars(case), **moved})
    derivative = run_forward(_reference, shifted).imag / STEP
    # Entries may cancel: to the largest of their step.
    largest = np.abs(derivative).max(axis=2, keepdims=True)
    assert (np.abs(dz - derivative) <= COMPLEX_STEP * largest).all()
