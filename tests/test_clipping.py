"""Clipping: the rule, its safety from overflow, and non-finite gradients."""

import math

import numpy as np
import pytest
from tolerances import assert_within, norm_bound, scaling_bound

import bptt
from bptt.clipping import NonFiniteGradientError, NonFiniteGradientWarning

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def gradients(rng, dtype, scale=1.0):
    def array(*shape):
        return (scale * rng.standard_normal(shape)).astype(dtype)

    return bptt.Gradients(array(3, 4), array(4, 4), None, array(2, 4), array(5, 2, 3))


def leaves(grads):
    return [leaf for leaf in grads if leaf is not None]


def exact_norm(arrays):
    # Python's integers of arbitrary size would do; longdouble has the range we need.
    return np.sqrt(sum(np.square(a.astype(np.longdouble)).sum() for a in arrays))


@DTYPES
@pytest.mark.parametrize("exponent", [0, 25, -25, 37, -37])
def test_a_large_gradient_is_scaled_to_norm_h(dtype, exponent, rng):
    grads = gradients(rng, dtype, 10.0**exponent)
    h = 0.5 * 10.0**exponent
    norm = exact_norm(leaves(grads))
    clipped, reported = bptt.clip_norm(grads, h)
    bound = norm_bound(leaves(grads), dtype)
    assert abs(reported - norm) <= bound * norm
    assert isinstance(clipped, bptt.Gradients)
    assert clipped.b is None
    for before, after in zip(leaves(grads), leaves(clipped), strict=True):
        expected = (before * (h / norm)).astype(dtype)
        assert_within(after, expected, 2 * bound * np.abs(expected))


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e306])
def test_a_float64_norm_neither_overflows_nor_underflows(scale):
    grads = [np.array([3.0, 0.0]) * scale, np.array([4.0]) * scale]
    clipped, norm = bptt.clip_norm(grads, scale)
    assert abs(norm - 5 * scale) <= norm_bound(grads, np.float64) * norm + 5e-324
    # h / norm is 0.2 even where both are denormal.
    for before, after in zip(grads, clipped, strict=True):
        assert_within(after, 0.2 * before, scaling_bound(before))


def test_a_tiny_threshold_against_a_huge_gradient_loses_nothing():
    clipped, norm = bptt.clip_norm(np.array([1e25, -1e25], np.float32), 1e-20)
    assert norm > 1e25
    expected = np.array([1, -1], np.float32) * np.float32(1e-20 / math.sqrt(2))
    assert_within(clipped, expected, scaling_bound(expected))


@DTYPES
def test_a_small_gradient_is_returned_as_it_came(dtype, rng):
    grads = gradients(rng, dtype)
    clipped, norm = bptt.clip_norm(grads, 1e6)
    assert clipped is grads
    assert 1 < norm < 1e6
    assert bptt.clip_norm(grads, math.inf) == (grads, norm)


def test_a_gradient_of_norm_h_exactly_is_not_clipped():
    grads = np.array([3.0, 4.0])
    assert bptt.clip_norm(grads, 5.0)[0] is grads


@DTYPES
def test_per_leaf_clips_each_by_its_own_norm(dtype, rng):
    small, large = np.array([0.3, 0.4], dtype), np.array([30, 40], dtype)
    clipped, norms = bptt.clip_norm({"U": small, "V": large}, 1.0, per_leaf=True)
    np.testing.assert_array_equal(clipped["U"], small)
    assert_within(clipped["V"], np.array([0.6, 0.8], dtype), norm_bound([large], dtype))
    assert norms.keys() == {"U", "V"}
    assert norms["V"] == 50.0


@pytest.mark.parametrize("kind", [tuple, list])
def test_collections_keep_their_kind(kind):
    grads = kind([np.array([3.0]), None, np.array([4.0])])
    clipped, norm = bptt.clip_norm(grads, 1.0)
    assert type(clipped) is kind
    assert clipped[1] is None
    assert norm == 5.0


def test_the_argument_is_never_written_to(rng):
    grads = gradients(rng, np.float64)
    copies = [leaf.copy() for leaf in leaves(grads)]
    bptt.clip_norm(grads, 0.1)
    bptt.clip_norm(grads, 0.1, per_leaf=True)
    bptt.clip_value(grads, 0.1)
    for leaf, copy in zip(leaves(grads), copies, strict=True):
        np.testing.assert_array_equal(leaf, copy)


def test_empty_leaves_have_norm_zero():
    assert bptt.clip_norm([np.empty((0, 3)), np.zeros(2)], 1.0)[1] == 0.0


def test_clip_value_limits_each_entry(rng):
    grads = gradients(rng, np.float32)
    clipped = bptt.clip_value(grads, 0.5)
    for before, after in zip(leaves(grads), leaves(clipped), strict=True):
        np.testing.assert_array_equal(after, np.minimum(np.maximum(before, -0.5), 0.5))
        assert after.dtype == np.float32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("per_leaf", [False, True])
def test_a_non_finite_gradient_is_located_zeroed_or_passed(value, per_leaf, rng):
    grads = gradients(rng, np.float32)
    grads.V[2, 1] = value
    place = rf"leaf 'V' holds {value} at index \(2, 1\)"
    with pytest.raises(NonFiniteGradientError, match=place):
        bptt.clip_norm(grads, 1.0, per_leaf=per_leaf)
    with pytest.warns(NonFiniteGradientWarning, match=place):
        zeroed, norm = bptt.clip_norm(grads, 1.0, per_leaf=per_leaf, nonfinite="zero")
    assert all((leaf == 0).all() for leaf in leaves(zeroed))
    assert not np.isfinite(norm["V"] if per_leaf else norm)
    passed, _ = bptt.clip_norm(grads, 1.0, per_leaf=per_leaf, nonfinite="pass")
    assert passed is grads

    with pytest.raises(NonFiniteGradientError, match=place):
        bptt.clip_value(grads, 1.0)
    with pytest.warns(NonFiniteGradientWarning, match=place):
        assert not bptt.clip_value(grads, 1.0, nonfinite="zero").V.any()
    clipped = bptt.clip_value(grads, 1.0, nonfinite="pass").V[2, 1]
    np.testing.assert_equal(clipped, np.float32(np.clip(value, -1, 1)))


@pytest.mark.parametrize("per_leaf", [False, True])
def test_a_norm_that_float64_cannot_hold_clips_to_the_right_vector(per_leaf):
    huge = [np.array([1.5e308, 1.5e308]), np.array([-1.5e308, 1e300])]
    clipped, norm = bptt.clip_norm(huge, 3.0, per_leaf=per_leaf)
    assert math.isinf(norm["0"] if per_leaf else norm)
    length = math.sqrt(2 if per_leaf else 3)
    expected = np.array([3 / length, 3 / length])
    assert_within(clipped[0], expected, scaling_bound(expected))
    assert bptt.clip_norm(huge, math.inf, per_leaf=per_leaf)[0] is huge


def test_a_threshold_beyond_float32_clips_nothing():
    grads = np.array([3e38, -1.0], np.float32)
    np.testing.assert_array_equal(bptt.clip_value(grads, 1e300), grads)
    assert bptt.clip_value(grads, math.inf) is grads
