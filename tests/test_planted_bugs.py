"""The proofs must fail on the classic bugs: each is planted, and must be found."""

import inspect
import types

import pytest
from proof import (
    ACTIVATIONS,
    check_against_reference,
    check_complex_step,
    random_case,
)

from bptt import _backend, _reference
from bptt.activations import Activation

SOURCE = inspect.getsource(_reference)

BUGS = {
    "the first step is missing": ("range(T, 0, -1)", "range(T, 1, -1)"),
    "the last step is missing": ("range(T, 0, -1)", "range(T - 1, 0, -1)"),
    "z[t] for z[t-1] in dV": ("z[:-1].reshape", "z[1:].reshape"),
    "sigma' at z[t-1]": ("activation.dsigma(z[t])", "activation.dsigma(z[t - 1])"),
    "V for V^T": ("da[t - 1] @ V.T", "da[t - 1] @ V"),
    "the error is not carried back": ("e = e + dz[t - 1]", "e = dz[t - 1]"),
    "dz one step late": ("e + dz[t - 1]", "e + dz[min(t, T - 1)]"),
    "dz_last is dropped": (
        "np.zeros_like(z[0]) if dz_last is None else dz_last",
        "np.zeros_like(z[0])",
    ),
    "dz_last at every step": (
        "e = e + dz[t - 1]",
        "e = e + dz[t - 1] + (0 if dz_last is None else dz_last)",
    ),
    "sigma' is forgotten": ("e * activation.dsigma(z[t])", "e"),
    "dz0 without V^T": ("dz0[...] = e", "dz0[...] = da[0]"),
    "dz0 is dropped": ("dz0[...] = e", "dz0[...] = 0"),
    "a mean for a sum in db": ("rows.sum(axis=0)", "rows.mean(axis=0)"),
    "dV is added to what was there": ("dV[...] = z", "dV[...] += z"),
    "dW is added to what was there": ("dW[...] = x", "dW[...] += x"),
    "x and da swapped in dW": (
        "x.reshape(-1, len(W)).T @ rows",
        "(rows[:, : len(W)].T @ x.reshape(-1, len(W))[:, :H])",
    ),
    "W for W^T in dx": ("da @ W.T", "da @ W"),
    "dx one step late": ("dx[...] = da @ W.T", "dx[1:] = (da @ W.T)[:-1]"),
}
FORWARD_BUGS = {
    "the bias is dropped": ("z[1:] += b", "pass"),
    "the bias is added twice": ("z[1:] += b", "z[1:] += 2 * b"),
    "z0 is ignored": ("z[t - 1] @ V", "(t > 1) * z[t - 1] @ V"),
    "V^T for V": ("z[t - 1] @ V)", "z[t - 1] @ V.T)"),
    "the last step is missing": ("range(1, T + 1)", "range(1, T)"),
    "the first step is missing": ("range(1, T + 1)", "range(2, T + 1)"),
}


def with_bug(old, new):
    """Return the reference with one place of its text changed."""
    assert SOURCE.count(old) == 1, f"{old!r} must stand once in the reference"
    module = types.ModuleType("reference_with_a_bug")
    exec(compile(SOURCE.replace(old, new), "planted", "exec"), module.__dict__)
    return module


@pytest.fixture
def case(rng):
    # T and H differ, I = H: a swapped or transposed matrix still has a fitting shape.
    return random_case(rng, 4, 3, 5, 5, Activation("tanh"))


@pytest.mark.parametrize("bug", BUGS)
def test_complex_step_finds(bug, case, rng):
    with pytest.raises(AssertionError):
        check_complex_step(with_bug(*BUGS[bug]), case, rng)


@pytest.mark.parametrize("bug", BUGS | FORWARD_BUGS)
def test_comparison_of_kernels_finds(bug, case):
    wrong = with_bug(*(BUGS | FORWARD_BUGS)[bug])
    with pytest.raises(AssertionError):
        check_against_reference(_backend.kernels, case, reference=wrong)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_a_wrong_derivative_is_found(activation, rng):
    class Wrong(Activation):
        def dsigma(self, z):
            return super().dsigma(z) * (1 + 1e-9)

    values = (activation.alpha, activation.beta)[: len(activation.row.parameters)]
    case = random_case(rng, 4, 3, 5, 5, Wrong(activation.name, *values))
    with pytest.raises(AssertionError):
        check_complex_step(_reference, case, rng)


def test_nothing_is_found_without_a_bug(case, rng):
    untouched = with_bug("range(T, 0, -1)", "range(T, 0, -1)")
    check_complex_step(untouched, case, rng)
    check_against_reference(_backend.kernels, case, reference=untouched)
