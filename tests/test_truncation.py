"""Truncated BPTT: its definition, term by term, and its mean over all chances."""

import itertools

import numpy as np
import pytest
from proof import random_case
from tolerances import assert_within, backward_bound

import bptt
from bptt import _reference, truncation
from bptt._pieces import Pieces
from bptt.activations import Activation
from bptt.truncation import randomized, truncated

T, B, I, H = 11, 2, 3, 4
TANH = Activation("tanh")
NAMES = ("W", "V", "b")


def make(rng, dtype=np.float64, **options):
    return random_case(rng, T, B, I, H, TANH, dtype, dz="dz", **options)


def stream_of(case):
    """Return x with numbers to weigh each state with, and the loss that does so."""

    def loss(z, target):
        return float((z * target).sum()), target

    return (case.x, case.dz), loss


def states(case):
    z = np.zeros((T + 1, B, H))
    z[0] = case.z0
    _reference.forward(case.x, case.W, case.V, case.b, z, TANH)
    return z


def by_definition(case, z, n, k1, k2):
    """Return the gradients of the update after step n: a sum of paths.

    A path starts at the loss of a step s of the last k1, and runs back to a step t of
    the last k2, where a parameter has its part.
    """
    grads = {name: np.zeros_like(getattr(case, name)) for name in NAMES}
    for s in range(n - k1 + 1, n + 1):
        e = case.dz[s - 1]
        for t in range(s, max(0, n - k2), -1):
            da = e * TANH.dsigma(z[t])
            grads["W"] += case.x[t - 1].T @ da
            grads["V"] += z[t - 1].T @ da
            grads["b"] += da.sum(axis=0)
            e = da @ case.V.T
    return grads


def bounds_of(case, z, start, stop, k1, dtype=np.float64):
    """Return the bounds of the gradients of steps start + 1 to stop."""
    dz = case.dz[start:stop].copy()
    dz[: stop - k1 - start] = 0
    x, part = case.x[start:stop], z[start : stop + 1]
    return backward_bound(
        x, case.W, case.V, case.b, part, TANH, dz, None, dtype, rows=T * B
    )


def pairs(k1, k2):
    """Return the last step of each update, and how many are new."""
    ends = [*range(k1, T, k1), T]
    return zip(ends, np.diff([0, *ends]), strict=True)


@pytest.mark.parametrize(
    ("k1", "k2"), [(1, 1), (1, 4), (2, 3), (3, 3), (4, 4), (3, 7), (5, 20), (11, 11)]
)
def test_each_update_is_its_definition(k1, k2, rng):
    case = make(rng)
    z = states(case)
    stream, loss = stream_of(case)
    parameters = case.W, case.V, case.b, case.z0
    updates = list(truncated(stream, *parameters, loss=loss, k1=k1, k2=k2))
    for update, (n, new) in zip(updates, pairs(k1, k2), strict=True):
        assert update.steps == n
        bounds = bounds_of(case, z, max(0, n - k2), n, new)
        for name, expected in by_definition(case, z, n, new, k2).items():
            bound = getattr(bounds, name)
            assert_within(getattr(update.grads, name), expected, bound, name)
        assert update.grads.x is None


@pytest.mark.parametrize(("k1", "k2"), [(3, 3), (3, 7), (2, 5)])
def test_the_definition_tells_apart_what_is_often_mistaken(k1, k2, rng):
    # Other k1, other k2, and gradients of all of the window: each is something else.
    case = make(rng)
    z, n = states(case), 9
    right = by_definition(case, z, n, k1, k2)
    bounds = bounds_of(case, z, n - k2, n, k1)
    for new, back in [(k1, k2 - 1), (k1, k2 + 1), (k1 - 1, k2), (k2, k2 + 1)]:
        wrong = by_definition(case, z, n, new, back)
        with pytest.raises(AssertionError):
            assert_within(wrong["V"], right["V"], bounds.V)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("b", [True, False])
@pytest.mark.parametrize("k2", [T, 2 * T])
def test_one_piece_has_the_bits_of_plain_bptt(dtype, b, k2, rng):
    case = make(rng, dtype, b=b)
    stream, loss = stream_of(case)
    parameters = case.W, case.V, case.b, case.z0
    (update,) = truncated(stream, *parameters, loss=loss, k1=T, k2=k2)
    _, tape = bptt.forward(case.x, *parameters)
    expected = bptt.backward(tape, case.dz, need_x_grad=False)
    for ours, theirs in zip(update.grads, expected, strict=True):
        assert ours is theirs is None or ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("k1", [1, 3, 5])
def test_all_updates_add_up_to_the_gradient_when_nothing_is_cut(k1, rng):
    case = make(rng)
    stream, loss = stream_of(case)
    parameters = case.W, case.V, case.b, case.z0
    total = [0.0] * 4
    for update in truncated(stream, *parameters, loss=loss, k1=k1, k2=T):
        total = [a + g for a, g in zip(total, update.grads[:4], strict=True)]
    _, tape = bptt.forward(case.x, *parameters)
    expected = bptt.backward(tape, case.dz)
    z = states(case)
    bounds = bounds_of(case, z, 0, T, T)
    for name, ours, theirs in zip((*NAMES, "z0"), total, expected, strict=False):
        # As many sums as there are updates, each of which may be off as much.
        bound = len(range(0, T, k1)) * getattr(bounds, name)
        assert_within(ours, theirs, bound, name)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("ids", [True, False])
@pytest.mark.parametrize("sizes", [[11], [1] * 11, [2, 7, 2], [5, 0, 6]])
def test_a_stream_may_come_in_pieces_of_any_length(batched, ids, sizes, rng):
    case = make(rng, ids=ids)
    x, dz, z0 = case.x, case.dz, case.z0
    if not batched:
        x, dz, z0 = x[:, 0], dz[:, 0], z0[0]
    _, loss = stream_of(case)
    cuts = np.cumsum(sizes)[:-1]
    chunks = zip(np.split(x, cuts), np.split(dz, cuts), strict=True)
    options = {"loss": loss, "k1": 3, "k2": 5}
    parameters = case.W, case.V, case.b, z0
    whole = list(truncated((x, dz), *parameters, **options))
    parts = list(truncated(chunks, *parameters, **options))
    assert [u.steps for u in whole] == [3, 6, 9, 11]
    for one, other in zip(whole, parts, strict=True):
        assert one.loss == other.loss
        for a, b in zip(one.grads[:4], other.grads[:4], strict=True):
            assert a.tobytes() == b.tobytes()


def test_parameters_may_change_between_two_updates(rng):
    # The states are those of the parameters at their time; the way back takes the new.
    case = make(rng)
    stream, loss = stream_of(case)
    W, V, b = (getattr(case, name).copy() for name in NAMES)
    z = np.zeros((T + 1, B, H))
    z[0] = case.z0
    for update in truncated(stream, W, V, b, case.z0, loss=loss, k1=2, k2=5):
        n, new = update.steps, 2 if update.steps < T else 1
        z_new = z[n - new : n + 1]
        _reference.forward(case.x[n - new : n], W, V, b, z_new, TANH)
        now = case.__class__(**{**vars(case), "W": W, "V": V, "b": b})
        bounds = bounds_of(now, z, max(0, n - 5), n, new)
        for name, expected in by_definition(now, z, n, new, 5).items():
            # Twice: the states may differ by what came of the gradients before.
            bound = 2 * n * getattr(bounds, name)
            assert_within(getattr(update.grads, name), expected, bound, name)
        for p, name in ((W, "W"), (V, "V"), (b, "b")):
            p -= 0.1 * getattr(update.grads, name)


def every_other(array):
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]))
    wide[..., ::2] = array
    return wide[..., ::2]


@pytest.mark.parametrize("turned", [every_other, lambda a: a.astype(">f8")])
@pytest.mark.parametrize(
    ("walk", "options"),
    [
        (truncated, {"k1": 2}),
        (truncated, {"k1": 2, "k2": 5}),
        (randomized, {"k": 2, "probability": 0.5, "seed": 0}),
    ],
)
def test_parameters_that_must_be_converted_may_change_too(walk, options, turned, rng):
    case = make(rng)
    stream, loss = stream_of(case)
    losses = []
    for kind in (np.copy, turned):
        layer = [kind(getattr(case, name)) for name in NAMES]
        for update in walk(stream, *layer, case.z0, loss=loss, **options):
            losses.append(update.loss)
            for p, grad in zip(layer, update.grads, strict=False):
                p -= 0.1 * grad
    half = len(losses) // 2
    assert losses[:half] == losses[half:]


def test_no_step_is_run_forward_twice(rng, monkeypatch):
    steps = []

    def count(x, *args, **options):
        steps.append(len(x))
        return bptt.forward(x, *args, **options)

    monkeypatch.setattr("bptt._stack.forward", count)
    case = make(rng)
    stream, loss = stream_of(case)
    list(truncated(stream, case.W, case.V, loss=loss, k1=2, k2=9))
    assert steps == [2, 2, 2, 2, 2, 1]


# -- Unbiased truncation ---------------------------------------------------------------


def all_chances(case, k, c, weight=None):
    """Return the mean of the gradients over every pattern of cuts, by its chance."""
    stream, loss = stream_of(case)
    borders = -(-T // k) - 1
    mean = [0.0] * 3
    for cuts in itertools.product([True, False], repeat=borders):
        chance = np.prod([c if cut else 1 - c for cut in cuts])
        layer = case.W, case.V, case.b
        pieces = Pieces(stream, k, layer, case.z0, loss, None, None, None)
        weights = c if weight is None else weight
        updates = truncation._at_cuts(
            pieces, layer, case.z0, weights, iter(cuts).__next__, TANH, {}
        )
        updates = list(updates)
        assert len(updates) == 1 + sum(cuts)
        for update in updates:
            new = update.grads[:3]
            mean = [m + chance * g for m, g in zip(mean, new, strict=True)]
    return mean


@pytest.mark.parametrize(("k", "c"), [(2, 0.3), (3, 0.5), (1, 0.1), (4, 0.9)])
def test_the_mean_over_all_chances_is_the_gradient(k, c, rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    expected = bptt.backward(tape, case.dz)
    bounds = bounds_of(case, states(case), 0, T, T)
    # The mean of 2^n gradients, in each of which errors are magnified by what is
    # 1 on average, adds a term for each pattern.
    terms = 2 ** (-(-T // k) - 1)
    for name, mean, grad in zip(NAMES, all_chances(case, k, c), expected, strict=False):
        assert_within(mean, grad, terms * getattr(bounds, name), name)


def test_without_its_weights_the_mean_is_biased(rng):
    case = make(rng)
    _, tape = bptt.forward(case.x, case.W, case.V, case.b, case.z0)
    expected = bptt.backward(tape, case.dz)
    bounds = bounds_of(case, states(case), 0, T, T)
    for weight in (0.0, 0.5, 0.29):
        _, mean, _ = all_chances(case, 2, 0.3, weight)
        with pytest.raises(AssertionError):
            assert_within(mean, expected.V, 2**5 * bounds.V)


def test_chance_comes_from_a_seed(rng):
    case = make(rng)
    stream, loss = stream_of(case)

    def run(seed, probability=0.5):
        return list(
            randomized(
                stream,
                case.W,
                case.V,
                loss=loss,
                k=1,
                probability=probability,
                seed=seed,
            )
        )

    steps = [u.steps for u in run(3)]
    assert steps == [u.steps for u in run(3)]
    assert len({tuple(u.steps for u in run(seed)) for seed in range(9)}) > 5
    (whole,) = run(3, probability=0)
    _, tape = bptt.forward(case.x, case.W, case.V)
    expected = bptt.backward(tape, case.dz, need_x_grad=False)
    bounds = bounds_of(make(rng), states(case), 0, T, T)
    assert_within(whole.grads.V, expected.V, bounds.V)


def loss_of(z, target):
    return 0.0, target


x, target = np.ones((T, B, I)), np.ones((T, B, H))
W, V = np.ones((I, H)), np.eye(H)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: truncated((x, target), W, V, loss=loss_of, k1=0),
            "k1 must be at least 1, got 0",
        ),
        (
            lambda: truncated((x, target), W, V, loss=loss_of, k1=4, k2=3),
            "k2 must be at least k1 = 4, got 3",
        ),
        (
            lambda: truncated((x, target), W[0], V, loss=loss_of, k1=4),
            "W must have shape (I, H), got (4,)",
        ),
        (
            lambda: next(truncated((x, target[1:]), W, V, loss=loss_of, k1=4)),
            "x and target must have as many steps, got shapes (11, 2, 3) and "
            "(10, 2, 4)",
        ),
        (
            lambda: next(truncated((x, x), W, V, loss=loss_of, k1=4)),
            "dz must have the shape of z, (4, 2, 4), got (4, 2, 3)",
        ),
        (
            lambda: truncated((x, target), W, V[1:], loss=loss_of, k1=4),
            "V must have shape (H, H) = (4, 4), got (3, 4)",
        ),
        (
            lambda: next(truncated((x, target), W, V, None, V, loss=loss_of, k1=4)),
            "z0 must have shape (B, H) = (2, 4), got (4, 4)",
        ),
        (
            lambda: randomized((x, target), W, V, loss=loss_of, k=1, probability=1),
            "probability must be from 0 to below 1, got 1",
        ),
        (
            lambda: next(truncated((x, target, x), W, V, loss=loss_of, k1=4)),
            "stream must give pairs (x, target), got tuple of 3",
        ),
        (
            lambda: next(truncated([x], W, V, loss=loss_of, k1=4)),
            "chunk 0: stream must give pairs (x, target), got ndarray",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message
