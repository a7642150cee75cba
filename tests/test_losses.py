"""Losses: their values, their derivatives by complex step, and what they refuse."""

import math

import numpy as np
import pytest
from tolerances import COMPLEX_STEP, assert_within, loss_bound

from bptt import losses

STEP = 1e-30
SHAPES = [(5, 3, 4), (3, 4), (4,), (1, 1, 1), (2, 7, 1), (6, 1)]
DTYPES = [np.float32, np.float64]


def log_sigmoid(f):
    """Take the logarithm of 1 / (1 + exp(-f)), for complex f too."""
    positive = f.real > 0
    small = np.exp(np.where(positive, -f, f))
    return np.where(positive, 0, f) - np.log(1 + small)


# Each loss by its definition, one term for each target, for complex f too.
def squared_error(f, target):
    return (f - target) ** 2


def binary_cross_entropy(f, target):
    return -target * log_sigmoid(f) - (1 - target) * log_sigmoid(-f)


def cross_entropy(f, target):
    p = np.exp(f) / np.exp(f).sum(axis=-1, keepdims=True)
    return -np.log(np.take_along_axis(p, target[..., None], axis=-1))


DEFINITIONS = {
    "squared_error": squared_error,
    "binary_cross_entropy": binary_cross_entropy,
    "cross_entropy": cross_entropy,
}


def random_target(name, shape, rng):
    if name == "cross_entropy":
        return rng.integers(0, shape[-1], shape[:-1])
    if name == "binary_cross_entropy":
        return rng.uniform(0, 1, shape)
    return rng.standard_normal(shape)


def check_derivative(loss, definition, f, target):
    """Assert that a loss has the value and the derivative of its definition."""
    value, df = loss(f, target)
    terms = definition(f.astype(np.float64), target)
    assert abs(value - terms.mean()) <= loss_bound(f, target, f.dtype)
    expected = np.empty(f.shape)
    for index in np.ndindex(f.shape):
        stepped = f.astype(np.complex128)
        stepped[index] += 1j * STEP
        expected[index] = definition(stepped, target).mean().imag / STEP
    bound = COMPLEX_STEP + loss_bound(f, target, f.dtype)
    assert_within(df, expected.astype(f.dtype), bound / terms.size)


def test_every_loss_is_proved():
    assert DEFINITIONS.keys() == losses.TABLE.keys()


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_derivative_are_those_of_the_definition(name, shape, dtype, rng):
    f = rng.standard_normal(shape).astype(dtype)
    target = random_target(name, shape, rng)
    check_derivative(losses.get(name), DEFINITIONS[name], f, target)


def no_mean(f, target):
    value, df = losses.squared_error(f, target)
    return value, df * df.size


def forgets_the_target(f, target):
    value, df = losses.cross_entropy(f, target)
    return value, df + np.eye(f.shape[-1], dtype=f.dtype)[target] / target.size


def mean_over_elements(f, target):
    value, df = losses.cross_entropy(f, target)
    return value / f.shape[-1], df / f.shape[-1]


def sum_over_batch(f, target):
    value, df = losses.binary_cross_entropy(f, target)
    return value * f.shape[-1], df * f.shape[-1]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (no_mean, "squared_error"),
        (forgets_the_target, "cross_entropy"),
        (mean_over_elements, "cross_entropy"),
        (sum_over_batch, "binary_cross_entropy"),
    ],
)
def test_a_planted_mistake_is_found(wrong, name, rng):
    f, target = rng.standard_normal((3, 2, 4)), random_target(name, (3, 2, 4), rng)
    with pytest.raises(AssertionError):
        check_derivative(wrong, DEFINITIONS[name], f, target)


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_dtype_of_f_is_kept_and_f_is_not_written_to(name, dtype, rng):
    f = rng.standard_normal((4, 2, 3)).astype(dtype)
    before = f.copy()
    f.flags.writeable = False
    value, df = losses.get(name)(f, random_target(name, f.shape, rng))
    assert isinstance(value, float)
    assert df.dtype == dtype
    assert df.shape == f.shape
    assert (f == before).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits_neither_overflow_nor_lose_the_answer(dtype):
    f = np.array([[3e4, -3e4, 0.0]], dtype)
    for target, expected in [(0, 0.0), (1, 6e4), (2, 3e4)]:
        value, df = losses.cross_entropy(f, [target])
        assert value == expected
        assert np.isfinite(df).all()
    value, df = losses.binary_cross_entropy(f, [[1, 0, 1]])
    assert abs(value - math.log(2) / 3) <= np.finfo(dtype).eps
    assert df[0, 0] == 0
    assert df[0, 1] == 0


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan_stays_nan(name):
    f = np.array([[np.nan, 1.0], [0.5, 2.0]])
    target = [0, 1] if name == "cross_entropy" else [[0, 1], [1, 0]]
    value, df = losses.get(name)(f, target)
    assert math.isnan(value)
    assert np.isnan(df[0]).any()
    assert np.isfinite(df[1]).all()


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (0, 4)])
def test_no_terms_are_a_loss_of_zero(name, shape, rng):
    value, df = losses.get(name)(np.empty(shape), random_target(name, shape, rng))
    assert value == 0
    assert df.shape == shape


def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    f = rng.standard_normal((5, 3, 4))
    cases = {
        "squared_error": functional.mse_loss,
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
        "cross_entropy": lambda f, t: functional.cross_entropy(
            f.reshape(-1, 4), t.reshape(-1)
        ),
    }
    for name, theirs in cases.items():
        target = random_target(name, f.shape, rng)
        tensor = torch.tensor(f, requires_grad=True)
        expected = theirs(tensor, torch.tensor(target))
        expected.backward()
        value, df = losses.get(name)(f, target)
        bound = loss_bound(f, target, np.float64)
        assert abs(value - expected.item()) <= bound
        assert_within(df, tensor.grad.numpy(), bound)


F = np.zeros((5, 2, 3))


@pytest.mark.parametrize(
    ("name", "f", "target", "error", "message"),
    [
        (
            "cross_entropy",
            F,
            np.full((5, 2), 3),
            ValueError,
            "target must hold class ids from 0 to O - 1 = 2, got 3",
        ),
        (
            "cross_entropy",
            F,
            np.full((5, 2), -1),
            ValueError,
            "target must hold class ids from 0 to O - 1 = 2, got -1",
        ),
        (
            "cross_entropy",
            F,
            np.zeros((5, 2)),
            TypeError,
            "target must hold integer class ids for cross_entropy, got float64",
        ),
        (
            "cross_entropy",
            F,
            np.zeros((2, 5), int),
            ValueError,
            "target must have shape f.shape[:-1] = (5, 2), got (2, 5)",
        ),
        (
            "squared_error",
            F,
            np.zeros((5, 2)),
            ValueError,
            "target must have shape f.shape = (5, 2, 3), got (5, 2)",
        ),
        (
            "squared_error",
            F,
            F.astype(complex),
            TypeError,
            "target must hold real numbers, got dtype complex128",
        ),
        (
            "squared_error",
            F.astype(int),
            F,
            TypeError,
            "f must have dtype float32 or float64, got int64; "
            "pass f.astype(np.float32)",
        ),
        (
            "squared_error",
            np.zeros((3, 0)),
            np.zeros((3, 0)),
            ValueError,
            "f must have shape (..., O) with O >= 1, got (3, 0)",
        ),
        (
            "binary_cross_entropy",
            F,
            F - 1,
            ValueError,
            "target must be from 0 to 1 for binary_cross_entropy, "
            "got values from -1 to -1",
        ),
    ],
)
def test_bad_input_is_told_of_in_one_line(name, f, target, error, message):
    with pytest.raises(error) as caught:
        losses.get(name)(f, target)
    assert str(caught.value) == message


def test_an_unknown_loss_lists_the_known_ones():
    with pytest.raises(ValueError, match="'squared_error', 'cross_entropy', 'binary"):
        losses.get("hinge")
