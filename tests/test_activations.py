"""Each row of the table of activations: its formula, slope, bound and range."""

import copy
import math
import pickle

import numpy as np
import pytest
from proof import ACTIVATIONS, PARAMETERS
from tolerances import ACTIVATION_ULPS, COMPLEX_STEP

from bptt.activations import TABLE, Activation, as_activation

BY_NAME = pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.name)
POINTS = np.concatenate([np.linspace(-6, 6, 2001), [-30.0, 30.0, 1e-9, -1e-9]])

# The formulas of the ONNX operator RNN, one number at a time.
FORMULAS = {
    "identity": lambda a: a,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "tanh": lambda a: math.tanh(a),
    "relu": lambda a: max(0.0, a),
    "leaky_relu": lambda a: a if a >= 0 else 0.2 * a,
    "elu": lambda a: a if a >= 0 else 0.7 * math.expm1(a),
    "softplus": lambda a: math.log1p(math.exp(-abs(a))) + max(a, 0.0),
    "softsign": lambda a: a / (1 + abs(a)),
    "hard_sigmoid": lambda a: max(0.0, min(1.0, 0.3 * a + 0.45)),
    "scaled_tanh": lambda a: 1.7 * math.tanh(0.6 * a),
    "thresholded_relu": lambda a: a if a >= 0.1 else 0.0,
    "affine": lambda a: 0.8 * a + 0.1,
}


def test_the_tables_name_the_same_activations_in_order():
    assert list(FORMULAS) == list(TABLE)
    assert [row.code for row in TABLE.values()] == list(range(len(TABLE)))
    assert set(PARAMETERS) == {n for n, row in TABLE.items() if row.parameters}


@BY_NAME
def test_sigma_is_its_formula(activation):
    expected = np.array([FORMULAS[activation.name](a) for a in POINTS])
    np.testing.assert_array_max_ulp(
        activation.sigma(POINTS), expected, maxulp=ACTIVATION_ULPS
    )


@BY_NAME
def test_dsigma_is_the_derivative_of_sigma(activation):
    # Not at 0, where leaky_relu and elu have none, nor where the state is saturated.
    a = POINTS[(np.abs(POINTS) < 4) & (np.abs(POINTS) > 1e-6)]
    derivative = activation.sigma(a + 1e-30j).imag / 1e-30
    slope = activation.dsigma(activation.sigma(a))
    assert (np.abs(slope - derivative) <= COMPLEX_STEP).all()


@BY_NAME
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_is_kept(activation, dtype):
    z = activation.sigma(POINTS.astype(dtype))
    assert z.dtype == dtype
    assert activation.dsigma(z).dtype == dtype


@BY_NAME
def test_gamma_is_the_least_bound_of_the_slope(activation):
    slope = np.abs(activation.dsigma(activation.sigma(POINTS)))
    assert slope.max() <= activation.gamma
    assert slope.max() > 0.999 * activation.gamma


@BY_NAME
def test_the_range_holds_and_is_reached(activation):
    z = activation.sigma(POINTS)
    low, high = activation.range
    assert low <= z.min()
    assert z.max() <= high
    ends = activation.sigma(np.array([-1e308, 1e308]))
    for end, limit in zip(sorted(ends), (low, high), strict=True):
        assert abs(end) > 1e300 if math.isinf(limit) else abs(end - limit) < 1e-15


def test_names_and_objects_are_accepted():
    assert as_activation("relu") == Activation("relu")
    assert as_activation(Activation("elu", 0.5)).alpha == 0.5
    assert hash(Activation("elu")) == hash(Activation("elu", alpha=1.0))
    assert Activation("elu") != Activation("elu", alpha=0.5)


@BY_NAME
def test_an_activation_prints_pickles_and_copies(activation):
    assert eval(repr(activation)) == activation
    assert pickle.loads(pickle.dumps(activation)) == activation
    assert copy.deepcopy(activation) == activation


def test_an_activation_does_not_change():
    for name in ("alpha", "name", "new"):
        with pytest.raises(AttributeError, match="an Activation does not change"):
            setattr(as_activation("leaky_relu"), name, 9.0)
