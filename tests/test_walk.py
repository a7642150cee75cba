"""Training by truncated BPTT: what an update is, resuming, and wrong calls."""

import math

import numpy as np
import pytest
from tolerances import assert_within, loss_bound

import bptt
from bptt import losses, serialization
from bptt._walk import Walk
from bptt.clipping import NonFiniteGradientWarning
from bptt.data import Batch
from bptt.network import Network
from bptt.optimizers import SGD, Adam
from bptt.serialization import ModelFileError
from bptt.training import train
from bptt.truncation import truncated

T, B, I, H, O = 22, 3, 4, 5, 2
KINDS = [
    {},
    {"stateful": True},
    {"num_layers": 2},
    {"num_layers": 3, "dropout": 0.3, "stateful": True},
]
ERRORS = [{}, {"clip_error": 1e-2}, {"clip_error_value": 3e-3}]


def make(**options):
    options = {"loss": "squared_error", "dtype": np.float64, "seed": 0, **options}
    return Network(I, H, O, **options)


def batches(step):
    rng = np.random.default_rng(step % 3)
    return rng.normal(size=(T, B, I)), rng.normal(size=(T, B, O))


class Epochs:
    """Three batches of token ids."""

    def __len__(self):
        return 3

    def __call__(self, step):
        rng = np.random.default_rng(step % 3)
        return rng.integers(0, I, (T, B)), rng.integers(0, O, (T, B))


def same_bits(network, other):
    for name, p in network.params.items():
        assert p.tobytes() == other.params[name].tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k2", [None, T, 10 * T])
@pytest.mark.parametrize("error", ERRORS)
def test_one_piece_a_batch_is_plain_training_to_the_bit(kind, k2, error):
    plain, walked = make(**kind), make(**kind)
    options = {"steps": 5, **error}
    history = train(plain, batches, optimizer=Adam(0.01), **options)
    other = train(walked, batches, optimizer=Adam(0.01), k1=T, k2=k2, **options)
    assert other.loss.tolist() == history.loss.tolist()
    same_bits(plain, walked)
    unclipped = train(make(**kind), batches, optimizer=Adam(0.01), steps=5)
    assert (unclipped.loss[4] == history.loss[4]) == (not error)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_batch_of_whole_pieces_has_the_bits_of_calls_by_hand(kind):
    walked, network, optimizer = make(**kind), make(**kind), Adam(0.01)
    network.stateful = True
    history = train(walked, batches, optimizer=Adam(0.01), steps=6, k1=11)
    seen = []
    for step in range(6):
        batch, piece = divmod(step, 2)
        if piece == 0 and not walked.stateful:
            network.reset()
        x, target = batches(batch)
        at = slice(piece * 11, piece * 11 + 11)
        loss, grads = network.loss_and_gradients(x[at], target[at])
        optimizer.update(network.params, grads.params)
        seen.append(loss)
    assert history.loss.tolist() == seen
    same_bits(walked, network)


@pytest.mark.parametrize("k2", [4, 9, 100])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("ragged", [False, True])
def test_an_update_is_that_of_the_functional_form(k2, error, ragged, rng):
    network = make()
    p, (x, target) = network.params, batches(0)
    lengths = np.array([T, 10, 17]) if ragged else None
    resets = rng.random((T, B)) < 0.2 if ragged else None
    batch = Batch(x, target, lengths, resets)
    walk = Walk(network, lambda step: batch, 4, k2)

    def loss(z, target):
        value, df = losses.squared_error(z @ p["U"] + p["c"], target)
        return value, df @ p["U"].T

    options = {"lengths": lengths, "resets": resets, "loss": loss, "k1": 4, "k2": k2}
    if ragged:
        options["reset_state"] = np.zeros(H)
    layer = p["W"], p["V"], p["b"]
    updates = list(truncated((x, target), *layer, **options, **error))
    plain = list(truncated((x, target), *layer, **options))
    assert len(updates) == walk.pieces
    bound = loss_bound(x, target, np.float64) * T * H
    for step, update in enumerate(updates):
        value, grads = walk.loss_and_gradients(step, walk(step), None, error)
        assert abs(value - update.loss) <= bound
        for name in "WVb":
            ours, theirs = grads.params[name], getattr(update.grads, name)
            assert np.abs(theirs).max() > bound
            assert_within(ours, theirs, bound, name)
            # Or nothing was seen of the clipping.
            off = np.abs(getattr(plain[step].grads, name) - theirs).max()
            assert (off > bound) == bool(error)


def test_layers_go_back_as_far_as_each_other(rng):
    # A loss at the end of the window, and what it says of x in its first step.
    network = make(num_layers=2)
    x, target = batches(0)
    walk = Walk(network, lambda step: (x, target), 1, 4)
    for step in range(9):
        _, grads = walk.loss_and_gradients(step, walk(step), None)
    # The same by a call on the last 4 steps from the state before, of which only the
    # loss of the last counts.
    start = make(num_layers=2, stateful=True)
    start.predict(x[:5])
    whole = start.stack.forward(network.params, x[5:9], start.state)
    z, tape = whole
    f = z[-1:] @ network.params["U"] + network.params["c"]
    _, df = losses.squared_error(f, target[8:9])
    dz = np.zeros_like(z)
    dz[-1:] = df @ network.params["U"].T
    expected = network.stack.backward(tape, dz)
    bound = loss_bound(x, target, np.float64) * T * H
    for name, grad in expected.params.items():
        assert_within(grads.params[name], grad, bound, name)
    assert_within(grads.z0, expected.z0, bound, "z0")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k1", "k2"), [(5, 5), (5, 12), (3, 50)])
@pytest.mark.parametrize("stop", [1, 7, 10])
def test_a_resumed_run_ends_with_the_same_bits(kind, k1, k2, stop, tmp_path):
    options = {"batches": Epochs(), "k1": k1, "k2": k2, "clip_error": 0.02}
    path = tmp_path / "run.npz"
    kind = {**kind, "loss": "cross_entropy"}
    whole, part = make(**kind), make(**kind)
    expected = train(whole, optimizer=Adam(0.01), steps=19, **options)
    train(part, optimizer=Adam(0.01), steps=stop, checkpoint=path, **options)
    part = make(**kind)
    history = train(
        part, optimizer=Adam(0.01), steps=19, checkpoint=path, resume=True, **options
    )
    assert history.loss.tolist() == expected.loss.tolist()
    same_bits(whole, part)


def test_epochs_are_passes_over_all_pieces():
    seen = []
    network = make(loss="cross_entropy", stateful=True)

    class Seen(Epochs):
        def __call__(self, step):
            seen.append((step, network.state is None))
            return super().__call__(step)

    history = train(network, Seen(), optimizer=SGD(0.1), epochs=2, k1=10)
    assert len(history.records) == 2 * 3 * 3
    # Each batch is asked for once, and the state is none at the first alone.
    assert seen == [(n, n == 0) for n in range(6)]
    one = train(make(), batches(0), optimizer=SGD(0.1), epochs=2, k1=10)
    assert len(one.records) == 2 * 3


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("at", [0, 11])
def test_a_piece_of_nan_that_is_passed_over_does_not_end_the_learning(stateful, at):
    x, target = batches(0)
    x[at, 0, 0] = math.nan
    network = make(stateful=stateful)
    with pytest.warns(NonFiniteGradientWarning) as warned:
        history = train(
            network,
            (x, target),
            optimizer=SGD(0.1),
            steps=12,
            k1=4,
            k2=8,
            nonfinite="zero",
        )
    assert len(warned) == 2
    assert np.isnan(history.loss).tolist() == [n % 6 == at // 4 for n in range(12)]


def test_after_a_first_piece_of_nan_a_batch_goes_on_from_its_start():
    x, target = batches(0)
    network, other = make(), make()
    x[0, 0, 0] = math.nan
    with pytest.warns(NonFiniteGradientWarning):
        # One batch is good, and leaves a state that the next must not find.
        history = train(
            network,
            lambda step: (x, target) if step else batches(1),
            optimizer=SGD(0.1),
            steps=4,
            k1=11,
            nonfinite="zero",
        )
    train(other, batches(1), optimizer=SGD(0.1), steps=2, k1=11)
    loss, _ = other.loss_and_gradients(x[11:], target[11:])
    assert history.loss[3] == loss


def test_one_sequence_without_its_axis():
    x, target = batches(0)
    one, many = make(), make()
    first = train(one, (x[:, 0], target[:, 0]), optimizer=SGD(0.1), steps=9, k1=4, k2=9)
    other = train(
        many, (x[:, :1], target[:, :1]), optimizer=SGD(0.1), steps=9, k1=4, k2=9
    )
    assert first.loss.tolist() == other.loss.tolist()
    same_bits(one, many)


@pytest.mark.parametrize("k2", [4, 9])
def test_a_batch_without_steps_changes_nothing(k2):
    network, (x, target) = make(), batches(0)
    before = make()
    history = train(
        network, (x[:0], target[:0]), optimizer=SGD(0.1), steps=3, k1=4, k2=k2
    )
    assert history.loss.tolist() == [0, 0, 0]
    same_bits(network, before)


def run(network=None, batches=batches, steps=1, **options):
    network = network or make()
    return train(network, batches, optimizer=SGD(0.1), steps=steps, **options)


def other_lengths(step):
    x, target = batches(step)
    return x[: T - step], target[: T - step]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: run(k2=3), "k2 needs k1, the steps between two updates, got 3 alone"),
        (lambda: run(k1=0), "k1 must be at least 1, got 0"),
        (lambda: run(k1=4, k2=3), "k2 must be at least k1 = 4, got 3"),
        (
            lambda: run(make(bidirectional=True), k1=4),
            "k1 must be None for a bidirectional network, got 4",
        ),
        (
            lambda: run(make(readout="last"), k1=4),
            "k1 must be None for readout='last', whose loss is on one step alone, "
            "got 4",
        ),
        (
            lambda: run(batches=other_lengths, k1=T, steps=2),
            "batches(1) must have T = 22 steps like batches(0), got 21",
        ),
        (
            lambda: run(batches=(batches(0)[0], batches(0)[1][1:]), k1=4),
            "batches(0) must have as many targets as steps, got shapes (22, 3, 4) and "
            "(21, 3, 2)",
        ),
        (
            lambda: run(batches=lambda step: None, k1=4),
            "batches(0) must return (x, target), (x, target, lengths) or a Batch, got "
            "NoneType",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message


def without(name):
    return lambda arrays: arrays.pop(name)


def changed(name, change):
    def apply(arrays):
        arrays[name] = change(arrays[name])

    return apply


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without("window.k"), "window.k must be [4, 9], k1 and k2 of the run"),
        (changed("window.k", lambda k: k + 1), "is resumed, got [5, 10]"),
        (without("window.z.1"), "window.z.1 is missing"),
        (
            changed("window.z.1", lambda z: z[1:]),
            "window.z.1 must have shape",
        ),
        (changed("window.z.0", lambda z: z[:, 1:]), "window.x.0 must have shape"),
        (changed("window.x.0", lambda x: x + I), "window.x.0 must hold token ids"),
        (changed("window.mask.0", lambda m: m * 1.0), "window.mask.0 must have"),
        (
            lambda arrays: arrays.update({"window.q": np.ones(1)}),
            "window.q is not",
        ),
    ],
)
def test_a_damaged_window_is_refused(damage, reason, tmp_path):
    path, kind = tmp_path / "run.npz", {"num_layers": 2, "dropout": 0.2}
    kind["loss"] = "cross_entropy"
    options = {"batches": Epochs(), "k1": 4, "k2": 9, "checkpoint": path}
    run(make(**kind), steps=4, **options)
    arrays, metadata = serialization.read(path)
    damage(arrays)
    serialization.write(path, arrays, metadata)
    network = make(**kind)
    before = network.params["V"].copy()
    with pytest.raises(ModelFileError) as caught:
        run(network, steps=9, resume=True, **options)
    assert reason in str(caught.value)
    assert (network.params["V"] == before).all()


@pytest.mark.parametrize("first", [{"k1": 4}, {}])
def test_a_run_with_k1_is_no_run_without(first, tmp_path):
    path = tmp_path / "run.npz"
    run(steps=2, checkpoint=path, **first)
    second = {} if first else {"k1": 4}
    with pytest.raises(ModelFileError, match=r"window.k is (missing|not wanted)"):
        run(steps=4, checkpoint=path, resume=True, **second)


def test_the_door_knows_the_module():
    assert bptt.truncation.truncated is truncated
