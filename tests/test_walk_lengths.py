"""Truncated BPTT on padded batches and through resets: each sequence by itself."""

import numpy as np
import pytest
from tolerances import assert_within, loss_bound

from bptt import _window, losses
from bptt._walk import Walk
from bptt.data import Batch
from bptt.network import Network
from bptt.optimizers import SGD, Adam
from bptt.training import train

T, B, I, H, O = 22, 5, 4, 5, 2
# Over before the last piece, at a border of pieces, at once, whole, and within one.
LENGTHS = np.array([13, 8, 0, 22, 10])
KINDS = [{}, {"stateful": True}, {"num_layers": 3}]
WINDOWS = [(4, 4), (4, 6), (4, 9), (4, 100), (22, 22), (7, 15)]


def make(**options):
    options = {"loss": "squared_error", "dtype": np.float64, "seed": 0, **options}
    return Network(I, H, O, **options)


def batch_of(step, lengths=LENGTHS, fill=np.nan):
    """Return a batch, and something in its padding that must not matter."""
    rng = np.random.default_rng(step % 3)
    x, target = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, O))
    x[np.arange(T)[:, None] >= lengths] = fill
    target[np.arange(T)[:, None] >= lengths] = fill
    return x, target, lengths


def flags_of(step):
    """Return resets, at the first step too, and at the first of a piece."""
    flags = np.random.default_rng(step).random((T, B)) < 0.2
    flags[[0, 4, 7], [0, 0, 3]] = True
    return flags


def forward(network, x, flags, z0=None):
    """Run one sequence, whose resets start from 0."""
    zeros = network.stack.zeros()
    options = {"resets": flags, "reset_state": zeros}
    return network.stack.forward(network.params, x, z0, **options)


def by_definition(network, batch, k1, k2, piece):
    """Return the loss of a piece and its gradients, sequence by sequence."""
    x, target, lengths, flags = batch
    p, first, end = network.params, piece * k1, min(T, (piece + 1) * k1)
    counts = np.clip(lengths - first, 0, end - first)
    total, grads = 0.0, {name: np.zeros_like(a) for name, a in p.items()}
    for row in np.flatnonzero(counts):
        start, stop = max(0, end - k2), first + counts[row]
        z0 = None
        if start:
            z0 = forward(network, x[:start, row], flags[:start, row])[1].z_last
        z, tape = forward(network, x[start:stop, row], flags[start:stop, row], z0)
        z = z[first - start :]
        f = z @ p["U"] + p["c"]
        value, df = losses.squared_error(f, target[first:stop, row])
        share = counts[row] / counts.sum()
        df *= share
        dz = np.zeros((stop - start, H))
        dz[first - start :] = df @ p["U"].T
        for name, grad in network.stack.backward(tape, dz).params.items():
            grads[name] += grad
        grads["U"] += z.T @ df
        grads["c"] += df.sum(axis=0)
        total += share * value
    return total, grads


def check_pieces(kind, k1, k2, lengths=LENGTHS, resets=False):
    network = make(**kind)
    x, target, _ = batch_of(0, lengths)
    flags = flags_of(0) if resets else np.zeros((T, B), bool)
    given = None if (lengths == T).all() else lengths
    batch = Batch(x, target, given, flags if resets else None)
    walk = Walk(network, lambda step: batch, k1, k2)
    for step in range(walk.pieces):
        loss, grads = walk.loss_and_gradients(step, walk(step), None)
        whole = Batch(x, target, lengths, flags)
        value, expected = by_definition(network, whole, k1, k2, step)
        bound = loss_bound(np.ones((T, B, I)), np.ones(1), np.float64) * T * H
        assert abs(loss - value) <= bound
        assert grads.params.keys() == expected.keys()
        for name, grad in expected.items():
            if name in "Uc" or not resets:
                assert (np.abs(grad).max() > bound) == (step * k1 < max(lengths))
            assert_within(grads.params[name], grad, bound, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k1", "k2"), WINDOWS)
def test_a_piece_is_that_of_each_sequence(kind, k1, k2):
    check_pieces(kind, k1, k2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k1", "k2"), WINDOWS)
@pytest.mark.parametrize("lengths", [LENGTHS, np.full(B, T)])
def test_no_error_goes_back_over_a_reset(kind, k1, k2, lengths):
    check_pieces(kind, k1, k2, lengths, resets=True)


def state_too_late(monkeypatch):
    right = _window._steps_of

    def steps_of(tape):
        x, z = right(tape)
        return x, np.roll(z, 1, axis=0)

    monkeypatch.setattr(_window, "_steps_of", steps_of)


def window_too_short(monkeypatch):
    right = _window.Window._kept_tape

    def kept_tape(self, before=0):
        steps = len(self._kept["x.0"].last())
        return right(self, min(before + 1, steps))

    monkeypatch.setattr(_window.Window, "_kept_tape", kept_tape)


def lengths_of_the_batch(monkeypatch):
    right = Walk.__call__

    def call(self, step):
        piece = right(self, step)
        return piece._replace(lengths=np.minimum(LENGTHS, len(piece.x)))

    monkeypatch.setattr(Walk, "__call__", call)


def window_without_resets(monkeypatch):
    monkeypatch.setattr(_window, "_with_resets", lambda tape, flags, again: tape)


def resets_late(monkeypatch):
    right = _window._with_resets
    monkeypatch.setattr(
        _window,
        "_with_resets",
        lambda tape, flags, again: right(tape, np.roll(flags, 1, axis=0), again),
    )


BUGS = [
    state_too_late,
    window_too_short,
    lengths_of_the_batch,
    window_without_resets,
    resets_late,
]


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    bug(monkeypatch)
    with pytest.raises(AssertionError):
        check_pieces({}, 4, 9, resets=True)


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_what_one_would_write_by_hand(kind):
    trained, network, optimizer = make(**kind), make(**kind), Adam(0.01)
    network.stateful = True
    history = train(trained, batch_of, optimizer=Adam(0.01), steps=8, k1=11)
    seen = []
    for step in range(8):
        batch, piece = divmod(step, 2)
        if piece == 0 and not trained.stateful:
            network.reset()
        x, target, lengths = batch_of(batch)
        at = slice(11 * piece, 11 * piece + 11)
        n = np.clip(lengths - 11 * piece, 0, 11)
        loss, grads = network.loss_and_gradients(x[at], target[at], lengths=n)
        optimizer.update(network.params, grads.params)
        seen.append(loss)
    assert history.loss.tolist() == seen
    for name, p in network.params.items():
        assert p.tobytes() == trained.params[name].tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_whole_lengths_have_the_bits_of_none(kind):
    plain, other = make(**kind), make(**kind)
    full = np.full(B, T)
    for network, count in ((plain, 2), (other, 3)):
        train(
            network,
            lambda step, n=count: batch_of(step, full)[:n],
            optimizer=SGD(0.1),
            steps=9,
            k1=4,
            k2=9,
        )
    for name, p in plain.params.items():
        assert p.tobytes() == other.params[name].tobytes(), name


@pytest.mark.parametrize("kind", [*KINDS, {"num_layers": 2, "dropout": 0.3}])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_resumed_run_ends_with_the_same_bits(kind, resets, stop, tmp_path):
    def batches(step):
        return Batch(*batch_of(step), flags_of(step) if resets else None)

    options = {"batches": batches, "k1": 4, "k2": 9}
    path = tmp_path / "run.npz"
    whole, part = make(**kind), make(**kind)
    expected = train(whole, optimizer=Adam(0.01), steps=15, **options)
    train(part, optimizer=Adam(0.01), steps=stop, checkpoint=path, **options)
    part = make(**kind)
    history = train(
        part, optimizer=Adam(0.01), steps=15, checkpoint=path, resume=True, **options
    )
    assert history.loss.tolist() == expected.loss.tolist()
    for name, p in whole.params.items():
        assert p.tobytes() == part.params[name].tobytes(), name


def test_a_run_with_resets_is_not_resumed_without(tmp_path):
    path, options = tmp_path / "run.npz", {"optimizer": SGD(0.1), "k1": 4, "k2": 9}
    batch = Batch(*batch_of(0), flags_of(0))
    train(make(), batch, steps=2, checkpoint=path, **options)
    with pytest.raises(ValueError, match="resets must come with all pieces"):
        train(make(), batch[:3], steps=3, checkpoint=path, resume=True, **options)


def test_a_piece_of_padding_alone_changes_nothing():
    network = make()
    lengths = np.full(B, 9)
    history = train(
        network, batch_of(0, lengths), optimizer=SGD(0.1), steps=6, k1=4, k2=8
    )
    assert history.loss[3:].tolist() == [0, 0, 0]
    assert history.norm[3:].tolist() == [0, 0, 0]
    assert (history.norm[:3] > 0).all()


def test_ids_in_the_padding_may_be_anything():
    rng = np.random.default_rng(0)
    ids, target = rng.integers(0, I, (T, B)), rng.integers(0, O, (T, B))
    outside = np.arange(T)[:, None] >= LENGTHS
    one, other = (make(loss="cross_entropy") for _ in range(2))
    for network, fill in ((one, 0), (other, -9)):
        ids[outside] = target[outside] = fill
        batch = Batch(ids.copy(), target.copy(), LENGTHS)
        train(network, batch, optimizer=SGD(0.1), steps=6, k1=4, k2=9)
    for name, p in one.params.items():
        assert p.tobytes() == other.params[name].tobytes(), name


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (batch_of(0, LENGTHS[:4].repeat([1, 1, 1, 2]) + 1), "lengths must be from 0 to T = 22, got 23"),
        ((*batch_of(0)[:2], LENGTHS[:3]), "lengths must have shape (B,) = (5,), got (3,)"),
        ((np.ones((T, I)), np.ones((T, O)), [3]), "x must have shape (T, B, I) or (T, B) with lengths, got (22, 4) in batches(0)"),
        (([np.ones((3, I))] * 2, [np.ones((3, O))] * 2), "k1 must be None for lists of sequences, got 4; bptt.data.pad puts them side by side"),
        (Batch(*batch_of(0), np.zeros((T, 2), bool)), "resets must have shape (T, B) = (22, 5), got (22, 2)"),
        (Batch(*batch_of(0), np.zeros((T, B))), "resets must have dtype bool, got float64"),
    ],
)  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(batch, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        train(make(), batch, optimizer=SGD(0.1), steps=1, k1=4)
    assert str(caught.value) == message
