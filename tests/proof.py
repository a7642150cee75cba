"""How an implementation of the recurrence is proved: random cases and two checks.

`check_complex_step` proves gradients against derivatives of the forward pass;
`check_against_reference` proves one implementation against another. Both take the
module that holds `forward` and `backward`, so that a test can hand them a wrong one.
"""

from dataclasses import dataclass, replace

import numpy as np
from tolerances import COMPLEX_STEP, assert_within, backward_bound, forward_bound

from bptt import _reference
from bptt.activations import TABLE, Activation

STEP = 1e-30

# Parameters that are not the defaults, so that a forgotten one shows.
PARAMETERS = {
    "leaky_relu": (0.2,),
    "elu": (0.7,),
    "hard_sigmoid": (0.3, 0.45),
    "scaled_tanh": (1.7, 0.6),
    "thresholded_relu": (0.1,),
    "affine": (0.8, 0.1),
}
ACTIVATIONS = [Activation(name, *PARAMETERS.get(name, ())) for name in TABLE]


@dataclass(frozen=True)
class Case:
    """The arguments of one forward and backward pass."""

    x: np.ndarray
    W: np.ndarray
    V: np.ndarray
    b: np.ndarray | None
    z0: np.ndarray
    activation: Activation
    dz: np.ndarray | None
    dz_last: np.ndarray | None
    need_x_grad: bool = True

    def __repr__(self):
        (T, B), (I, H) = self.x.shape[:2], self.W.shape
        given = [
            n
            for n in ("b", "dz", "dz_last", "need_x_grad")
            if getattr(self, n) is not None
        ]
        return f"T={T} B={B} I={I} H={H} {self.x.dtype} {self.activation} {given}"


def random_case(
    rng,
    T,
    B,
    I,
    H,
    activation,
    dtype=np.float64,
    *,
    ids=False,
    b=True,
    z0=True,
    dz="both",
):
    """Return a case with random, distinct, non-zero numbers.

    V is scaled so that states and gradients neither vanish nor explode, and bounds
    stay tight.
    """

    def array(*shape, scale=1.0):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    return Case(
        x=rng.integers(0, I, (T, B)) if ids else array(T, B, I),
        W=array(I, H, scale=0.6 / np.sqrt(I)),
        V=array(H, H, scale=0.9 / H),
        b=array(H, scale=0.3) if b else None,
        z0=array(B, H, scale=0.5) if z0 else np.zeros((B, H), dtype),
        activation=activation,
        dz=array(T, B, H) if dz in ("dz", "both") else None,
        dz_last=array(B, H) if dz in ("dz_last", "both") else None,
    )


def run_forward(module, case):
    """Return the states (T + 1, B, H)."""
    everything = (case.x, case.W, case.V, case.b, case.z0)
    dtype = np.result_type(*[a for a in everything[1:] if a is not None])
    if case.x.ndim == 3:
        dtype = np.result_type(dtype, case.x)
    T, B = case.x.shape[:2]
    z = np.full((T + 1, B, len(case.V)), np.nan, dtype)
    z[0] = case.z0
    module.forward(case.x, case.W, case.V, case.b, z, case.activation)
    return z


def run_backward(module, case, z):
    """Return the gradients W, V, b, z0, x by name."""

    def fresh(like):
        # What an output holds beforehand must not matter: NaN would show in a sum.
        return np.full_like(like, np.nan)

    wants_x = case.need_x_grad and case.x.ndim == 3
    grads = {
        "W": fresh(case.W),
        "V": fresh(case.V),
        "b": None if case.b is None else fresh(case.b),
        "z0": fresh(case.z0),
        "x": fresh(case.x) if wants_x else None,
    }
    module.backward(
        case.x,
        case.W,
        case.V,
        z,
        case.activation,
        case.dz,
        case.dz_last,
        *(grads[name] for name in ("W", "V", "b", "z0", "x")),
    )
    return {name: leaf for name, leaf in grads.items() if leaf is not None}


def loss(case, z):
    """Return the loss whose gradients with respect to z are dz and dz_last."""
    total = 0.0
    if case.dz is not None:
        total = total + (case.dz * z[1:]).sum()
    if case.dz_last is not None:
        total = total + (case.dz_last * z[-1]).sum()
    return total


def check_complex_step(module, case, rng):
    """Assert Im L(p + ih d) / h = <dL/dp, d> for a random direction d of each p."""
    grads = run_backward(module, case, run_forward(module, case))
    for name, grad in grads.items():
        direction = rng.standard_normal(grad.shape)
        moved = replace(case, **{name: getattr(case, name) + 1j * STEP * direction})
        derivative = np.imag(loss(moved, run_forward(module, moved))) / STEP
        products = grad * direction
        error = abs(derivative - products.sum())
        assert error <= COMPLEX_STEP * np.abs(products).sum(), (name, case, error)


def check_against_reference(module, case, reference=_reference):
    """Assert that module agrees with reference to within the rounding of its type."""
    dtype = case.W.dtype
    wide = replace(
        case,
        **{
            name: value.astype(np.float64)
            for name, value in vars(case).items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        },
    )
    z = run_forward(reference, wide)
    x = wide.x if wide.x.ndim == 3 else np.eye(len(case.W))[wide.x]
    bound = forward_bound(x, wide.W, wide.V, wide.b, z, case.activation, dtype)
    actual_z = run_forward(module, case)
    assert_within(actual_z, z.astype(dtype), bound + _rounding(z, dtype), "z")

    grads = run_backward(reference, wide, z)
    bounds = backward_bound(
        x, wide.W, wide.V, wide.b, z, case.activation, wide.dz, wide.dz_last, dtype
    )
    for name, actual in run_backward(module, case, actual_z).items():
        desired = grads[name]
        assert_within(
            actual,
            desired.astype(dtype),
            getattr(bounds, name) + _rounding(desired, dtype),
            name,
        )


def _rounding(values, dtype):
    return np.abs(values) * np.finfo(dtype).eps
