"""Batches: a function of the step, each sequence or chunk once an epoch."""

import numpy as np
import pytest

from bptt.data import Minibatches, TokenStreams, pad


def test_each_sequence_comes_once_an_epoch_with_its_target(rng):
    x = rng.normal(size=(7, 12, 2))
    batches = Minibatches(x, 2 * x, 4, seed=3)
    assert len(batches) == 3
    for epoch in range(2):
        seen = []
        for step in range(3 * epoch, 3 * epoch + 3):
            a, b = batches(step)
            assert a.shape == (7, 4, 2)
            assert (b == 2 * a).all()
            seen.extend(a[0, :, 0])
        assert sorted(seen) == sorted(x[0, :, 0])


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_padding_goes_after_the_end(shape, rng):
    sequences = [rng.normal(size=(n, *shape)) for n in (4, 0, 7)]
    padded, lengths = pad(sequences)
    assert padded.shape == (7, 3, *shape)
    assert lengths.tolist() == [4, 0, 7]
    for n, sequence in enumerate(sequences):
        assert (padded[: len(sequence), n] == sequence).all()
        assert not padded[len(sequence) :, n].any()


def test_lengths_go_with_their_sequences(rng):
    lengths = np.arange(1, 13)
    x, _ = pad([np.full(n, n) for n in lengths])
    batches = Minibatches(x, x, 5, lengths=lengths)
    for step in range(6):
        x_n, target, n = batches(step)
        assert (x_n.max(axis=0) == n).all()
        assert ((x_n > 0).sum(axis=0) == n).all()
        assert (target == x_n).all()


def test_the_order_is_a_function_of_seed_and_step(rng):
    ids, target = rng.integers(0, 9, (5, 20)), np.arange(20)
    make = {
        seed: Minibatches(ids, target, 6, readout="last", seed=seed) for seed in (0, 1)
    }
    again = Minibatches(ids, target, 6, readout="last", seed=0)
    for step in (7, 2, 0, 7):
        x, chosen = make[0](step)
        assert (again(step)[1] == chosen).all()
        assert (ids[:, chosen] == x).all()
    assert (make[0](0)[1] != make[1](0)[1]).any()
    assert (make[0](0)[1] != make[0](3)[1]).any()


def test_streams_read_on_and_targets_are_what_follows():
    ids = np.arange(1000)
    streams = TokenStreams(ids, length=10, batch_size=4, seed=1)
    assert len(streams) == 24
    x = np.concatenate([streams(step)[0] for step in range(24)])
    assert (np.diff(x, axis=0) == 1).all()
    assert len(np.unique(x)) == x.size
    for step in range(100):
        a, b = streams(step)
        assert a.shape == (10, 4)
        assert (b == a + 1).all()


def test_an_epoch_starts_at_another_offset():
    streams = TokenStreams(np.arange(1000), length=10, batch_size=4, seed=1)
    starts = {int(streams(24 * epoch)[0][0, 0]) for epoch in range(20)}
    assert len(starts) > 1
    assert max(starts) < 10


def test_the_shortest_text_that_is_long_enough():
    streams = TokenStreams(np.arange(15), length=3, batch_size=4)
    assert len(streams) == 1
    assert max(streams(step)[1].max() for step in range(50)) <= 14


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: TokenStreams(np.arange(14), 3, 4),
            ValueError,
            "ids must be at least (batch_size + 1) length = 15 long, got 14",
        ),
        (
            lambda: TokenStreams(np.ones(14), 3, 4),
            TypeError,
            "ids must be integers of shape (N,), got float64 of shape (14,)",
        ),
        (
            lambda: TokenStreams(np.arange(14), 0, 4),
            ValueError,
            "length must be at least 1, got 0",
        ),
        (
            lambda: Minibatches(np.ones((3, 4, 2)), np.ones((3, 5, 2)), 2),
            ValueError,
            "target must have N = 4 on axis 1, got shape (3, 5, 2)",
        ),
        (
            lambda: Minibatches(np.ones((3, 4, 2)), np.ones(4), 5, readout="last"),
            ValueError,
            "batch_size must be at most N = 4, got 5",
        ),
        (
            lambda: Minibatches(np.ones(3), np.ones(3), 1),
            ValueError,
            "x must have shape (T, N, I) or (T, N) and target an axis N too, "
            "got (3,) and (3,)",
        ),
    ],
)
def test_bad_input_is_told_of_in_one_line(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message
