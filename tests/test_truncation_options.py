"""Truncated BPTT by definition: through resets, in padding, with a clipped error."""

import itertools
import weakref
from dataclasses import replace

import numpy as np
import pytest
from proof import random_case
from ragged import close, same_bits
from tolerances import exact_bound, normwise_bound

import bptt
from bptt import _backend, _pieces, _window
from bptt._inputs import as_error_clip
from bptt._pieces import Pieces
from bptt.activations import Activation
from bptt.truncation import _at_cuts, randomized, truncated

T, B, I, H = 11, 5, 3, 4
TANH = Activation("tanh")
NAMES = ("W", "V", "b", "z0")
# Over before the last piece, at a border of pieces, at once, whole, and within one.
LENGTHS = np.array([7, 6, 0, T, 10])
WINDOWS = [(1, 4), (2, 3), (3, 3), (3, 7), (5, 20), (4, 11), (11, 11)]
# A sum of so many terms is every gradient of this size.
TERMS = T * B * (I + H) + T * H


def loss(z, target):
    """Return a loss that weighs every state, whatever steps there are."""
    return float((z * target).sum()), target


class Run:
    """A case and options, and what truncated BPTT is, sequence by sequence."""

    def __init__(self, rng, *, dtype=np.float64, ids=False, **what):
        case = random_case(rng, T, B, I, H, TANH, dtype, dz="dz", ids=ids)
        # So that an error is still as large when it has gone back through a window.
        self.case = replace(case, V=3 * case.V)
        self.flags = rng.random((T, B)) < 0.25
        # At the first step too, where a piece begins, and one after another.
        self.flags[[0, 3, 4, 8], [0, 0, 0, 3]] = True
        self.again = (0.5 * rng.standard_normal((B, H))).astype(dtype)
        self.what, self.options = what, {}
        self.lengths = LENGTHS if what.get("lengths") else np.full(B, T)
        if what.get("lengths"):
            self.options["lengths"] = LENGTHS
        if not what.get("resets"):
            self.flags[...] = False
        else:
            self.options["resets"] = self.flags
        if what.get("reset_state"):
            self.options["reset_state"] = self.again
        self.error = {k: v for k, v in what.items() if k.startswith("clip")}

    @property
    def parameters(self):
        return self.case.W, self.case.V, self.case.b, self.case.z0

    def stream(self, fill=np.nan):
        """Return x and what weighs states, with something in the padding."""
        padding = np.arange(T)[:, np.newaxis] >= self.lengths
        x, dz = self.case.x.copy(), self.case.dz.copy()
        x[padding] = 10**9 if x.ndim == 2 else fill
        dz[padding] = fill
        return x, dz

    def truncated(self, k1, k2, **options):
        options = {**self.options, **self.error, **options}
        return list(
            truncated(
                self.stream(), *self.parameters, loss=loss, k1=k1, k2=k2, **options
            )
        )

    def path(self, row):
        """Return the states of a sequence, and the one before each step, in float64."""
        case, z, before = self.case, [], []
        start = self.again[row] if self.what.get("reset_state") else case.z0[row]
        state = case.z0[row]
        x = case.x[:, row]
        for t in range(self.lengths[row]):
            before.append(start if self.flags[t, row] else state)
            first = case.W[x[t]] if x.ndim == 1 else x[t] @ case.W
            state = TANH.sigma(first + before[-1] @ case.V + case.b)
            z.append(state)
        return z, before

    def clipped(self, e):
        norm = np.linalg.norm(e)
        h, limit = (self.error.get(n) for n in ("clip_error", "clip_error_value"))
        if h is not None and norm > h:
            e = e * (h / norm)
        return e if limit is None else np.clip(e, -limit, limit)

    def definition(self, n, k1, k2, weight=lambda t: 1.0):
        """Return the terms of the loss and the gradients of the update after step n.

        The error of a sequence flows back from its last step of the window, is clipped
        step by step, and ends at a reset; that from after step t is weighted.
        """
        case, terms = self.case, []
        grads = {name: np.zeros_like(getattr(case, name)) for name in NAMES}
        one_hot = np.eye(I, dtype=case.W.dtype)
        for row, length in enumerate(self.lengths):
            (z, before), e = self.path(row), np.zeros(H, case.W.dtype)
            for t in range(min(n, length) - 1, max(0, n - k2) - 1, -1):
                e = e * weight(t + 1)
                if t >= n - k1:
                    e = e + case.dz[t, row]
                    terms.append(z[t] * case.dz[t, row])
                da = self.clipped(e) * TANH.dsigma(z[t])
                x = case.x[t, row] if case.x.ndim == 3 else one_hot[case.x[t, row]]
                grads["W"] += np.outer(x, da)
                grads["V"] += np.outer(before[t], da)
                grads["b"] += da
                anew = self.flags[t, row] and (t or self.what.get("reset_state"))
                e = np.zeros(H, case.W.dtype) if anew else da @ case.V.T
            grads["z0"][row] = e
        return np.array(terms), grads


def check(updates, run, k1, k2):
    ends = [*range(k1, T, k1), T]
    assert [u.steps for u in updates] == ends
    for update, new in zip(updates, np.diff([0, *ends]), strict=True):
        terms, expected = run.definition(update.steps, new, k2)
        off = abs(update.loss - terms.sum())
        assert off <= normwise_bound(TERMS, np.float64) * np.abs(terms).sum()
        for name, grad in expected.items():
            close(getattr(update.grads, name), grad, TERMS)


KINDS = [
    {"resets": True},
    {"resets": True, "reset_state": True},
    {"lengths": True},
    {"lengths": True, "resets": True, "reset_state": True},
    {"clip_error": 0.9},
    {"clip_error_value": 0.3},
    {"lengths": True, "resets": True, "clip_error": 0.3, "clip_error_value": 0.1},
]


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(("k1", "k2"), WINDOWS)
@pytest.mark.parametrize("what", KINDS)
def test_an_update_is_that_of_each_sequence(what, k1, k2, ids, rng):
    run = Run(rng, ids=ids, **what)
    check(run.truncated(k1, k2), run, k1, k2)


def without_reset_state(monkeypatch):
    right = _window._with_resets
    monkeypatch.setattr(
        _window,
        "_with_resets",
        lambda tape, flags, again: right(tape, flags, 0 * again),
    )


def unclipped_before_the_piece(monkeypatch):
    right = _window.Window._back

    def back(self, tape, dz, dz_last, error):
        return right(self, tape, dz, dz_last, {} if dz is None else error)

    monkeypatch.setattr(_window.Window, "_back", back)


def lengths_of_the_stream(monkeypatch):
    monkeypatch.setattr(
        _pieces,
        "lengths_of_piece",
        lambda lengths, start, steps: np.minimum(lengths, steps),
    )


def reset_in_the_first_step(monkeypatch):
    right = Pieces.__init__

    def init(self, *args):
        right(self, *args)
        self._from_z0 = False

    monkeypatch.setattr(Pieces, "__init__", init)


@pytest.mark.parametrize(
    ("bug", "what"),
    [
        (without_reset_state, KINDS[0]),
        (unclipped_before_the_piece, KINDS[6]),
        (lengths_of_the_stream, KINDS[2]),
        (reset_in_the_first_step, KINDS[0]),
    ],
)
def test_a_planted_bug_is_found(bug, what, monkeypatch, rng):
    bug(monkeypatch)
    run = Run(rng, **what)
    with pytest.raises(AssertionError):
        check(run.truncated(3, 7), run, 3, 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k2", [T, 2 * T])
@pytest.mark.parametrize("what", KINDS)
def test_one_piece_has_the_bits_of_plain_bptt(what, k2, dtype, rng):
    run = Run(rng, dtype=dtype, **what)
    (update,) = run.truncated(T, k2)
    x, dz = run.stream()
    options = dict(run.options)
    if what.get("resets"):  # what they start from is a constant
        options.setdefault("reset_state", run.case.z0)
        options["resets"] = run.flags.copy()
        options["resets"][0] &= what.get("reset_state", False)
    _, tape = bptt.forward(x, *run.parameters, **options)
    expected = bptt.backward(tape, dz, need_x_grad=False, **run.error)
    same_bits(list(update.grads[:4]), list(expected[:4]))
    (whole,) = randomized(
        (x, dz), *run.parameters, loss=loss, k=T, probability=0.0, **run.options,
        **run.error,
    )  # fmt: skip
    same_bits(list(whole.grads[:4]), list(expected[:4]))
    assert whole.loss == update.loss


@pytest.mark.parametrize("k1", [1, 3, 5])
@pytest.mark.parametrize("what", KINDS[:4])
def test_all_updates_add_up_to_the_gradient_when_nothing_is_cut(what, k1, rng):
    run = Run(rng, **what)
    updates = run.truncated(k1, T)
    options = dict(run.options)
    _, tape = bptt.forward(run.stream()[0], *run.parameters, **options)
    expected = bptt.backward(tape, run.stream()[1], need_x_grad=False)
    for name in ("W", "V", "b"):
        total = sum(getattr(u.grads, name) for u in updates)
        close(total, getattr(expected, name), len(updates) * TERMS)


@pytest.mark.skipif(
    _backend.backend != "compiled", reason="NumPy orders its sums by the shape"
)
@pytest.mark.parametrize(("k1", "k2"), WINDOWS)
def test_options_that_say_nothing_change_no_bit(k1, k2, rng):
    run = Run(rng)
    plain = run.truncated(k1, k2)
    for options in (
        {"lengths": np.full(B, T)},
        {"resets": np.zeros(T, bool), "reset_state": run.again},
        {"resets": np.zeros((T, B), bool), "lengths": [T] * B},
        {"clip_error": np.inf},
        {"clip_error_value": np.inf},
    ):
        for one, other in zip(plain, run.truncated(k1, k2, **options), strict=True):
            assert one.loss == pytest.approx(other.loss, rel=exact_bound(T * B * H))
            same_bits(list(one.grads[:4]), list(other.grads[:4]))


@pytest.mark.parametrize("sizes", [[11], [1] * 11, [2, 7, 2], [5, 0, 6]])
def test_options_go_with_steps_however_they_come(sizes, rng):
    run = Run(rng, lengths=True, resets=True, clip_error=0.9)
    expected = run.truncated(3, 5)
    chunks = zip(
        *(np.split(a, np.cumsum(sizes)[:-1]) for a in run.stream()), strict=True
    )
    asked = []

    def resets(start, x):
        asked.append((start, x.shape))
        return run.flags[start : start + len(x)]

    updates = truncated(
        chunks, *run.parameters, loss=loss, k1=3, k2=5, lengths=list(LENGTHS),
        resets=resets, clip_error=0.9,
    )  # fmt: skip
    for one, other in zip(expected, updates, strict=True):
        assert one.loss == other.loss
        same_bits(list(one.grads[:4]), list(other.grads[:4]))
    steps = [(0, 3), (3, 3), (6, 3), (9, 2)]
    assert asked == [(start, (n, B, I)) for start, n in steps]


def test_one_sequence_with_resets_is_a_batch_of_one(rng):
    run = Run(rng, resets=True)
    x, dz = run.stream()
    layer = run.parameters[:3]
    options = {"loss": loss, "k1": 3, "k2": 7, "clip_error": 0.9}
    for again in (None, run.again[0]):
        one = truncated(
            (x[:, 0], dz[:, 0]), *layer, run.case.z0[0], resets=run.flags[:, 0],
            reset_state=again, **options,
        )  # fmt: skip
        batch = truncated(
            (x[:, :1], dz[:, :1]), *layer, run.case.z0[:1], resets=run.flags[:, :1],
            reset_state=again, **options,
        )  # fmt: skip
        for a, b in zip(one, batch, strict=True):
            assert a.loss == b.loss
            same_bits(list(a.grads[:3]), list(b.grads[:3]))
            same_bits(a.grads.z0, b.grads.z0[0])


def test_the_loss_sees_no_padding(rng):
    run, seen = Run(rng, lengths=True), []

    def shapes(z, target):
        seen.append((z.shape, target.shape))
        assert np.isfinite(target).all()
        return loss(z, target)

    x, target = run.stream()
    short = np.minimum(LENGTHS, 7)
    options = {"loss": shapes, "lengths": short}
    updates = list(truncated((x, target), *run.parameters, k1=3, **options))
    counts = [sum(np.clip(short - start, 0, 3)) for start in (0, 3, 6)]
    assert seen == [((n, H), (n, H)) for n in counts]
    # The last piece is nothing else, and an update all the same.
    assert updates[-1].loss == 0
    assert all(not g.any() for g in updates[-1].grads[:4])
    seen.clear()
    total = randomized((x, target), *run.parameters, k=3, probability=0, **options)
    assert sum(u.loss for u in total) == pytest.approx(sum(u.loss for u in updates))
    assert len(seen) == 3


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("what", KINDS[:4])
def test_the_mean_over_all_chances_is_the_gradient(what, k, rng):
    run, c = Run(rng, **what), 0.3
    options = [run.options.get(n) for n in ("lengths", "resets", "reset_state")]
    layer, z0 = run.parameters[:3], run.case.z0
    mean, borders = [0.0] * 3, -(-T // k) - 1
    for cuts in itertools.product([True, False], repeat=borders):
        chance = np.prod([c if cut else 1 - c for cut in cuts])
        pieces = Pieces(run.stream(), k, layer, z0, loss, *options)
        for update in _at_cuts(pieces, layer, z0, c, iter(cuts).__next__, TANH, {}):
            new = update.grads[:3]
            mean = [m + chance * g for m, g in zip(mean, new, strict=True)]
    _, expected = run.definition(T, T, T)
    for name, total in zip(NAMES, mean, strict=False):
        close(total, expected[name], 2**borders * TERMS)


@pytest.mark.parametrize("what", KINDS)
def test_without_a_cut_each_border_is_weighted(what, rng):
    run, k, c = Run(rng, **what), 3, 0.5
    options = [run.options.get(n) for n in ("lengths", "resets", "reset_state")]
    layer, z0 = run.parameters[:3], run.case.z0
    pieces = Pieces(run.stream(), k, layer, z0, loss, *options)
    error = as_error_clip(what.get("clip_error"), what.get("clip_error_value"))
    (update,) = _at_cuts(pieces, layer, z0, c, lambda: False, TANH, error)
    border = lambda t: 1 / (1 - c) if t % k == 0 and t < T else 1.0  # noqa: E731
    _, expected = run.definition(T, T, T, border)
    for name, grad in expected.items():
        close(getattr(update.grads, name), grad, TERMS)


def test_no_piece_is_kept_that_is_behind_the_window():
    alive = []

    def chunks():
        for start in range(0, 30, 5):
            chunk = np.ones((5, B, I))
            alive.append(weakref.ref(chunk))
            yield chunk, np.full((5, B, H), start / 10)
            del chunk
            assert sum(ref() is not None for ref in alive) == 1

    arguments = np.ones((I, H)), np.eye(H) / 2
    for k2 in (5, 8):
        alive.clear()
        options = {"loss": loss, "k1": 5, "k2": k2, "lengths": [30] * B}
        updates = list(truncated(chunks(), *arguments, **options))
        assert len(updates) == 6


x, target = np.ones((T, B, I)), np.ones((T, B, H))
W, V = np.ones((I, H)), np.eye(H)
chunks = [(x[:5], target[:5]), (x[5:], target[5:])]
flags = np.zeros((T, B), bool)


def walk(stream=(x, target), loss=loss, k1=4, **options):
    return lambda: list(truncated(stream, W, V, loss=loss, k1=k1, **options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (walk(lengths=[1, 2, 3]), "lengths must have shape (B,) = (5,), got (3,)"),
        (walk(lengths=5), "lengths must have shape (B,) = (5,), got ()"),
        (walk(lengths=[1.0] * B), "lengths must hold integers, got float64"),
        (walk(lengths=[T + 1] * B), "lengths must be from 0 to T = 11, got 12"),
        (walk(lengths=[-1] * B), "lengths must be from 0 to T = 11, got -1"),
        (walk(chunks, lengths=[-1] * B), "lengths must be at least 0, got -1"),
        (walk(chunks, lengths=[T + 1] * B), "lengths must be from 0 to T = 11, got 12"),
        (walk((x[:, 0], target[:, 0]), lengths=[T]), "x must have shape (T, B, I) or (T, B) with lengths, got (4, 3)"),
        (walk((x, target[:, :4]), lengths=[T] * B), "target must have shape (T, B, ..) = (4, 5), got (4, 4, 4)"),
        (walk((list(x.swapaxes(0, 1)), target)), "x must be an array, got a list of sequences; bptt.data.pad puts them side by side"),
        (walk(resets=flags[1:]), "resets must have as many steps as the stream, 11, got 10"),
        (walk(chunks, resets=flags[1:]), "resets must have as many steps as the stream, 11 or more, got 10"),
        (walk(chunks, resets=np.concatenate([flags, flags])), "resets must have as many steps as the stream, 11, got 22"),
        (walk(resets=flags[:, 1:]), "resets must have shape (T, B) = (11, 5), got (11, 4)"),
        (walk(chunks, resets=flags[0]), "resets must have as many steps as the stream, 8 or more, got 5"),
        (walk(resets=flags * 1.0), "resets must have dtype bool, got float64"),
        (walk(resets=True), "resets must have shape (T, B) or (T,), got ()"),
        (walk(resets=lambda start, x: [start]), "resets(start, x) must have dtype bool, got int64"),
        (walk(resets=lambda start, x: flags), "resets(start, x) must have shape (T, B) = (4, 5), got (11, 5)"),
        (walk(reset_state=V[0]), "reset_state needs resets, got None"),
        (walk(resets=flags, reset_state=V), "reset_state must have shape (B, H) = (5, 4), got (4, 4)"),
        (walk(resets=flags, reset_state=0), "reset_state must have dtype float32 or float64, got int64; pass reset_state.astype"),
        (walk(clip_error=0), "clip_error must be positive, got 0"),
        (walk(clip_error=True), "clip_error must be a number, got True"),
        (walk(clip_error=[1.0]), "clip_error must be a number, got [1.0]"),
        (walk(clip_error_value=-1), "clip_error_value must be positive, got -1"),
        (walk(clip_error_value="1"), "clip_error_value must be a number, got '1'"),
        (walk(loss=lambda z, target: 1.0), "loss(z, target) must return (value, dz), got float"),
        (walk(loss=lambda z, target: (z, z)), "the value of loss(z, target) must be a number, got an array of shape (4, 5, 4)"),
        (walk(loss=lambda z, target: (0.0, None)), "dz must be an array, got None"),
        (walk(loss=lambda z, target: (0.0, z[1:])), "dz must have the shape of z, (4, 5, 4), got (3, 5, 4)"),
        (walk(loss=lambda z, target: (0.0, x), lengths=[T] * B), "dz must have the shape of z without padding, (20, 4), got (11, 5, 3)"),
        (walk(None), "stream must be a pair (x, target) or give such pairs, got NoneType"),
        (walk([(x, target), (x[:, 1:], target[:, 1:])]), "chunk 1: x must go on as it began, features of shape (t, 5, 3), got features of shape (t, 4, 3)"),
        (walk([(x, target), (x, target[:, 0])]), "chunk 1: target must go on as it began, shape (t, 5, 4), got shape (t, 4)"),
        (walk([(x[:1], target[:1]), (np.ones((1, B, I), int), target[:1])]), "chunk 1: x must go on as it began, features of shape (t, 5, 3), got token ids of shape (t, 5, 3)"),
        (walk(loss="squared_error"), "loss must be a function of z and target, got str"),
    ],
)  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
