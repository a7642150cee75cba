"""The reference against derivatives of its own forward pass, and against PyTorch."""

import itertools

import numpy as np
import pytest
from proof import (
    ACTIVATIONS,
    check_against_reference,
    check_complex_step,
    random_case,
    run_backward,
    run_forward,
)
from tolerances import assert_within, backward_bound

from bptt import _reference
from bptt.activations import Activation


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_gradients_are_the_complex_step_derivatives(activation, rng):
    # 12 activations x 44 = 528 configurations
    sizes = [1, 2, 3, 5, 8]
    options = itertools.cycle(
        itertools.product([True, False], [True, False], ["dz", "dz_last", "both"])
    )
    for n, (b, z0, dz) in zip(range(44), options, strict=False):
        T, B, I, H = (int(rng.choice(sizes)) for _ in range(4))
        case = random_case(
            rng, T, B, I, H, activation, ids=n % 5 == 4, b=b, z0=z0, dz=dz
        )
        check_complex_step(_reference, case, rng)


def test_long_gaps_are_differentiated_exactly(rng):
    case = random_case(rng, 60, 2, 3, 4, Activation("tanh"), dz="dz_last")
    case.V[...] = 0.98 * np.linalg.qr(case.V)[0]
    check_complex_step(_reference, case, rng)


TORCH = {
    "identity": lambda torch, a: a,
    "sigmoid": lambda torch, a: torch.sigmoid(a),
    "tanh": lambda torch, a: torch.tanh(a),
    "relu": lambda torch, a: torch.relu(a),
    "leaky_relu": lambda torch, a: torch.nn.functional.leaky_relu(a, 0.2),
    "elu": lambda torch, a: torch.nn.functional.elu(a, 0.7),
    "softplus": lambda torch, a: torch.nn.functional.softplus(a),
    "softsign": lambda torch, a: torch.nn.functional.softsign(a),
    "hard_sigmoid": lambda torch, a: torch.clamp(0.3 * a + 0.45, 0, 1),
    "scaled_tanh": lambda torch, a: 1.7 * torch.tanh(0.6 * a),
    "thresholded_relu": lambda torch, a: torch.where(a >= 0.1, a, 0.0),
    "affine": lambda torch, a: 0.8 * a + 0.1,
}


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
def test_gradients_are_those_of_pytorch_autograd(activation, rng):
    torch = pytest.importorskip("torch")
    case = random_case(rng, 7, 3, 4, 5, activation)
    leaves = {
        name: torch.tensor(getattr(case, name), requires_grad=True)
        for name in ("W", "V", "b", "z0", "x")
    }
    state, total = leaves["z0"], 0.0
    for t in range(7):
        a = leaves["x"][t] @ leaves["W"] + state @ leaves["V"] + leaves["b"]
        state = TORCH[activation.name](torch, a)
        total = total + (torch.tensor(case.dz[t]) * state).sum()
    (total + (torch.tensor(case.dz_last) * state).sum()).backward()

    z = run_forward(_reference, case)
    bounds = backward_bound(
        case.x,
        case.W,
        case.V,
        case.b,
        z,
        activation,
        case.dz,
        case.dz_last,
        np.float64,
    )
    for name, grad in run_backward(_reference, case, z).items():
        expected = leaves[name].grad.numpy()
        assert_within(grad, expected, getattr(bounds, name), name)


def test_pytorch_layer_gives_the_same_states(rng):
    torch = pytest.importorskip("torch")
    case = random_case(rng, 9, 2, 4, 6, Activation("tanh"))
    layer = torch.nn.RNN(4, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(torch.tensor(case.W.T))
        layer.weight_hh_l0.copy_(torch.tensor(case.V.T))
        layer.bias_ih_l0.copy_(torch.tensor(case.b))
        layer.bias_hh_l0.zero_()
        z, _ = layer(torch.tensor(case.x), torch.tensor(case.z0)[None])

    class Torch:
        @staticmethod
        def forward(x, W, V, b, states, activation):
            states[1:] = z.numpy()

        backward = _reference.backward

    check_against_reference(Torch, case)
