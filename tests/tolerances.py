"""Every tolerance of the tests, with where it comes from.

Two computations of the same thing in floating point may differ by rounding. How much is
derived here from the arithmetic, as a bound for each entry: a sum of K products errs by
at most (K + 2) eps sum |a||b| in whatever order it is taken, with or without fused
multiply-add (Higham 2002, section 3.1), and an error in a state is carried on by what
the recurrence does to it. The bounds are evaluated in float64 by running the recurrence
on magnitudes; the reference is only used for the values themselves.
"""

import numpy as np

from bptt.recurrence import Gradients

# Complex-step differentiation has no truncation error; what is left is the rounding of
# float64 (2e-16) through a few hundred operations and the loss of digits in a sigma'
# taken from a nearly saturated state. Relative to the sum of magnitudes.
COMPLEX_STEP = 1e-11

# A vector function is at most 4 units in the last place off, and so is NumPy's.
ACTIVATION_ULPS = 4

# What tests/csrc/test_ulp.c finds in all float32 and millions of float64, rounded up.
# The promise is 2 for tanh and sigmoid; the others come out of a few more roundings.
VECTOR_ULPS = {
    "tanh": 2,
    "sigmoid": 2,
    "exp": 1,
    "expm1": 3,
    "elu": 3,
    "softplus": 3,
}


def assert_within(actual, desired, bound, what=""):
    """Assert that each entry of actual is within its bound of desired.

    NaN stands for NaN, and an infinity for itself.
    """
    assert actual.shape == desired.shape, (what, actual.shape, desired.shape)
    assert actual.dtype == desired.dtype, (what, actual.dtype, desired.dtype)
    actual, desired = np.float64(actual), np.float64(desired)
    with np.errstate(invalid="ignore"):
        close = np.abs(actual - desired) <= bound
    same = (actual == desired) | (np.isnan(actual) & np.isnan(desired))
    wrong = np.argwhere(~(close | same))
    if len(wrong):
        index = tuple(wrong[0])
        raise AssertionError(
            f"{what}{list(map(int, index))}: {actual[index]!r} is not within "
            f"{np.broadcast_to(bound, actual.shape)[index]:.2e} of {desired[index]!r}; "
            f"{len(wrong)} of {actual.size} entries are off"
        )


def forward_bound(x, W, V, b, z, activation, dtype, xb=0.0):
    """Return the bound (T + 1, B, H) of the difference between two forward passes.

    z are the states in float64; token ids must come as one-hot rows. The inputs of the
    two may differ by xb.
    """
    eps = float(np.finfo(dtype).eps)
    x, W, V = np.float64(x), np.float64(W), np.float64(V)
    b = np.zeros(len(V)) if b is None else np.float64(b)
    K = x.shape[-1] + len(V) + 2
    bound = np.zeros_like(z)
    carried = np.broadcast_to(xb, x.shape) @ np.abs(W)
    for t in range(1, len(z)):
        a = x[t - 1] @ W + z[t - 1] @ V + b
        magnitude = np.abs(x[t - 1]) @ np.abs(W) + np.abs(z[t - 1]) @ np.abs(V)
        da = bound[t - 1] @ np.abs(V) + (K + 2) * eps * (magnitude + np.abs(b))
        da += carried[t - 1]
        bound[t] = _spread(activation.sigma, a, da) + eps * ACTIVATION_ULPS * (
            np.abs(z[t]) + np.finfo(dtype).smallest_normal / eps
        )
    return 2 * bound


def backward_bound(
    x, W, V, b, z, activation, dz, dz_last, dtype, xb=0.0, dzb=0.0, rows=None
):
    """Return the bounds of the difference between two backward passes, as Gradients.

    The states of the two may differ by `forward_bound`, their inputs by xb and what
    they get as dz by dzb. A sum over time and batch may be a part of one over so many
    rows.
    """
    eps = float(np.finfo(dtype).eps)
    tiny = float(np.finfo(dtype).smallest_normal)
    x, W, V = np.float64(x), np.float64(W), np.float64(V)
    T, B, H = len(z) - 1, z.shape[1], len(V)
    zb = forward_bound(x, W, V, b, z, activation, dtype, xb)
    xb, dzb = np.broadcast_to(xb, x.shape), np.broadcast_to(dzb, (T, B, H))
    rows = T * B if rows is None else rows
    dz = np.zeros((T, B, H)) if dz is None else np.float64(dz)
    e = np.zeros((B, H)) if dz_last is None else np.float64(dz_last)
    eb = np.zeros((B, H))
    da, dab = np.zeros((T, B, H)), np.zeros((T, B, H))
    for t in range(T, 0, -1):
        e = e + dz[t - 1]
        eb = eb + dzb[t - 1] + 2 * eps * np.abs(e)
        slope = activation.dsigma(z[t])
        # sigma' is a difference like 1 - z z: it errs by eps of 1, not of itself.
        db = _spread(activation.dsigma, z[t], zb[t]) + 4 * ACTIVATION_ULPS * eps * (
            np.abs(slope) + activation.gamma
        )
        da[t - 1] = e * slope
        dab[t - 1] = np.abs(e) * db + (np.abs(slope) + db) * eb + tiny
        e = da[t - 1] @ V.T
        eb = dab[t - 1] @ np.abs(V).T + (H + 4) * eps * np.abs(da[t - 1]) @ np.abs(V).T
    das, dasb = da.reshape(-1, H), dab.reshape(-1, H)

    def product(left, leftb):
        left, leftb = (
            np.abs(left.reshape(-1, left.shape[-1])),
            leftb.reshape(-1, left.shape[-1]),
        )
        each = dasb + (rows + 4) * eps * np.abs(das)
        return (left + leftb).T @ each + leftb.T @ np.abs(das)

    sums = (dasb + (rows + 4) * eps * np.abs(das)).sum(axis=0)
    dx = (dab + (H + 4) * eps * np.abs(da)) @ np.abs(W).T
    bounds = Gradients(
        W=product(x, xb),
        V=product(z[:-1], zb[:-1]),
        b=sums,
        z0=eb,
        x=dx,
    )
    return Gradients(*(2 * bound + tiny for bound in bounds))


def normwise_bound(terms, dtype):
    """Return the relative bound, in the Euclidean norm, of sums of so many terms.

    The entrywise bounds are for the worst case and grow with the number of terms;
    rounding errors are as good as independent, so that theirs grows with its root
    (Higham 2002, section 2.8). Eight standard deviations.
    """
    return 8 * np.sqrt(terms) * float(np.finfo(dtype).eps)


def sum_bound(values):
    """Return numpy.testing tolerances for sums of at most 64 products of order 1."""
    eps = float(np.finfo(values.dtype).eps)
    return {"rtol": 64 * eps, "atol": 64 * eps}


def scaling_bound(values):
    """Return the bound of a number that was scaled twice, denormal or not."""
    info = np.finfo(values.dtype)
    return 4 * float(info.eps) * np.abs(values) + float(info.smallest_subnormal)


def norm_bound(leaves, dtype):
    """Return the relative bound of a Euclidean norm taken in float64 and rounded."""
    size = sum(leaf.size for leaf in leaves)
    return size * float(np.finfo(np.float64).eps) + 2 * float(np.finfo(dtype).eps)


def _spread(function, at, by):
    """Return how far a function may move when its argument moves by up to `by`."""
    middle = function(at)
    return np.maximum(
        np.abs(function(at + by) - middle), np.abs(function(at - by) - middle)
    )


def loss_bound(f, target, dtype):
    """Return the bound of a loss of terms of order 1, and of N times its derivative.

    A logit that errs by eps of the largest moves its exponential by as much,
    relatively; O exponentials are summed; a dozen operations come on top.
    """
    largest = max(np.abs(f).max(initial=0), np.abs(target).max(initial=0))
    return (f.shape[-1] + 16) * float(np.finfo(dtype).eps) * (1 + largest) ** 2


def optimizer_bound(steps, dtype):
    """Return the bound of the difference of parameters of order 1 after some steps.

    A step has about 16 operations on numbers of order 1, and an error in a parameter is
    carried on as it is: gradients are given, not computed from it.
    """
    return 16 * steps * float(np.finfo(dtype).eps)


def orthogonality_bound(size, dtype):
    """Return the bound of the entries of Q^T Q - I, of a QR decomposition, rounded.

    The decomposition is backward stable with an error of size eps (Higham 2002, theorem
    19.4); rounding to dtype moves each of the `size` terms by eps of it.
    """
    return 4 * size * float(np.finfo(dtype).eps)


def eigenvalue_bound(size):
    """Return the relative bound of the spectral radius of a random float64 matrix.

    Eigenvalues move by the condition number of their vectors, about sqrt(size) for a
    normal matrix of random entries, times the backward error, size eps.
    """
    return 10 * size**1.5 * float(np.finfo(np.float64).eps)


def sampling_bound(count):
    """Return the relative bound of the standard deviation of so many normal draws.

    Its standard error is 1 / sqrt(2 count).
    """
    return STANDARD_ERRORS / np.sqrt(2 * count)


# A mean of many draws is further from its expectation once in two million times.
STANDARD_ERRORS = 5


# The adding problem is solved: always answering 1 gives a mean squared error of .167.
ADDING_PROBLEM_SOLVED = 0.01


def exact_bound(operations):
    """Return the relative bound of a float64 result of so many operations in a row."""
    return 4 * operations * float(np.finfo(np.float64).eps)


def power_bound(bound, logs):
    """Return the relative bound of 10**log, of logs that err by `bound` of 1 + |log|.

    An error d of the logarithm is a factor of 10**d, which is 1 + d ln 10.
    """
    return np.log(10) * bound * (1 + np.abs(logs).max())


# What the exact cases of gradient flow are asked to, and RTRL == BPTT; a few thousand
# operations of float64 are behind either.
EXACT_CASE = 1e-12
RTRL_IS_BPTT = 1e-11

# The losses of five updates of Adam in float64, from gradients that differ by their
# rounding, relative. Its first update divides a gradient by its own size, and so makes
# as much of the rounding of a small one as of a large one.
FIVE_UPDATES = 1e-9

# The sum of all Lyapunov exponents against the mean log-determinant, absolute.
SUM_OF_EXPONENTS = 1e-9

# Lyapunov exponents of random networks of N = 512 against the limit of infinitely many
# units: what is asked of their expectation. A sample is off by its own error as well.
MEAN_FIELD = 0.01


def jvp_bound(x, W, V, z, activation, dx, dW, dV, db, dz, dtype):
    """Return the bound (T + 1, B, H) of a tangent; all arguments in float64.

    dz are the tangents themselves; z is the same for both computations.
    """
    eps = float(np.finfo(dtype).eps)
    tiny = float(np.finfo(dtype).smallest_normal)
    bound = np.zeros_like(dz)
    for t in range(1, len(z)):
        direct, magnitude = np.zeros_like(z[0]), np.zeros_like(z[0])
        terms = [(dz[t - 1], V)]
        terms += [] if dx is None else [(dx[t - 1], W)]
        terms += [] if dW is None else [(x[t - 1], dW)]
        terms += [] if dV is None else [(z[t - 1], dV)]
        for left, right in terms:
            direct += left @ right
            magnitude += np.abs(left) @ np.abs(right)
        if db is not None:
            direct, magnitude = direct + db, magnitude + np.abs(db)
        K = sum(len(right) for _, right in terms) + 4
        wrong = K * eps * magnitude + bound[t - 1] @ np.abs(V)
        slope = np.abs(activation.dsigma(z[t]))
        slope_wrong = 4 * ACTIVATION_ULPS * eps * (slope + activation.gamma)
        bound[t] = np.abs(direct) * slope_wrong + (slope + slope_wrong) * wrong + tiny
    return 2 * bound


def frame_bound(factors, dtype):
    """Return the bound of a sum of logarithms of what orthonormal rows grow by.

    factors are the Jacobians. A step of Gram-Schmidt errs by H eps of the largest
    length, and so by the condition number of its Jacobian of the smallest.
    """
    eps, H = float(np.finfo(dtype).eps), factors.shape[-1]
    return 16 * H * eps * sum(np.linalg.cond(factor) for factor in factors)


def difference_bound(h):
    """Return the error of a central difference of step h, of functions of order 1.

    h^2 is cut off, and the rounding of the function is divided by h.
    """
    return 10 * (h**2 + float(np.finfo(np.float64).eps) / h)
