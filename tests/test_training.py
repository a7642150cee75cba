"""Training: the loop by hand, clipping, early stopping, and the state."""

import math

import numpy as np
import pytest
from runs import STEPS, make, make_streams, same_bits

import bptt
from bptt import _backend
from bptt.clipping import NonFiniteGradientError, NonFiniteGradientWarning
from bptt.data import Batch, Minibatches, pad
from bptt.network import Network
from bptt.optimizers import SGD, Adam
from bptt.training import train


def test_the_loop_is_what_one_would_write_by_hand():
    streams, network, optimizer = make_streams(), make(), Adam(0.01)
    losses, norms = [], []
    for step in range(STEPS):
        if step % len(streams) == 0:
            network.reset()
        loss, grads = network.loss_and_gradients(*streams(step))
        clipped, norm = bptt.clip_norm(grads.params, 0.3)
        optimizer.update(network.params, clipped)
        losses.append(loss)
        norms.append(norm)

    trained = make()
    history = train(trained, streams, optimizer=Adam(0.01), steps=STEPS, clip=0.3)
    same_bits(trained, network)
    assert history.loss.tolist() == losses
    assert history.norm.tolist() == norms
    assert 0 < history.clipped_fraction < 1
    assert history.clipped_fraction == np.mean(np.array(norms) > 0.3)
    assert history.stopped == "steps"
    last = history.records[-1]
    assert (last.step, last.rate, last.clipped) == (STEPS, 0.01, norms[-1] > 0.3)


def test_epochs_are_counted_in_steps():
    streams = make_streams()
    history = train(make(), streams, optimizer=SGD(0.1), epochs=2)
    assert len(history.records) == 2 * len(streams)


def test_one_batch_for_all_steps():
    batch = make_streams()(0)
    history = train(make(), batch, optimizer=Adam(0.05), steps=60)
    assert history.loss[-1] < history.loss[0] / 2


def test_minibatches_of_sequences(rng):
    x = rng.normal(size=(5, 12, 3)).astype(np.float32)
    target = x.sum(axis=0)
    network = Network(3, 8, 3, loss="squared_error", readout="last", seed=0)
    batches = Minibatches(x, target, 4, readout="last")
    history = train(network, batches, optimizer=Adam(0.01), epochs=60)
    assert history.loss[-3:].mean() < history.loss[:3].mean() / 2


@pytest.mark.skipif(_backend.backend == "numpy", reason="it orders sums by the shape")
@pytest.mark.parametrize("both", [False, True])
def test_few_states_are_kept_within_a_budget(rng, both):
    x = rng.normal(size=(900, 5, 3)).astype(np.float32)
    options = {"loss": "squared_error", "readout": "last", "num_layers": 2}
    trained = []
    for memory in (None, "600KB"):
        network = Network(3, 8, 3, bidirectional=both, seed=0, **options)
        batch = x, x.sum(axis=0)
        train(network, batch, optimizer=Adam(0.01), steps=5, memory=memory)
        trained.append(network)
    same_bits(*trained)


def test_a_budget_that_is_too_small_is_told_of():
    with pytest.raises(ValueError, match=r"memory must be at least \d+ bytes"):
        train(make(), make_streams(), optimizer=SGD(0.1), steps=1, memory=10)


def padded(rng, readout):
    """Return sequences of their own lengths, side by side with NaN after their ends."""
    lengths = rng.permutation(13)  # one has no step
    x = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    target = [a.cumsum(axis=0) for a in x]
    if readout == "last":
        target = np.array([a.sum(axis=0) for a in x])
    else:
        target, _ = pad(target)
        target[np.arange(12)[:, None] >= lengths] = np.nan
    x, _ = pad(x)
    x[np.arange(12)[:, None] >= lengths] = np.nan
    return x, target, lengths


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("kind", [{}, {"num_layers": 2, "bidirectional": True}])
def test_sequences_of_their_own_lengths_and_resets(kind, readout, rng):
    def fresh():
        return Network(3, 8, 3, loss="squared_error", readout=readout, seed=0, **kind)

    x, target, lengths = padded(rng, readout)
    resets = rng.random(x.shape[:2]) < 0.1
    batches = Minibatches(x, target, 4, lengths=lengths, readout=readout)
    network, trained, optimizer = fresh(), fresh(), Adam(0.01)
    losses = []
    for step in range(20):
        x_n, target_n, n = batches(step)
        flags = resets[:, :4] if step % 2 else None
        loss, grads = network.loss_and_gradients(x_n, target_n, lengths=n, resets=flags)
        optimizer.update(network.params, grads.params)
        losses.append(loss)

    def with_resets(step):
        if step % 2 == 0:
            return batches(step)
        return Batch(*batches(step), resets[:, :4])

    history = train(
        trained,
        with_resets,
        optimizer=Adam(0.01),
        steps=20,
        validation=(x, target, lengths),
        validate_every=20,
    )
    assert history.loss.tolist() == losses
    same_bits(trained, network)
    loss = network.evaluate(x, target, lengths=lengths)
    assert history.validation == [(20, loss)]
    listed = [x[:n, row] for row, n in enumerate(lengths)]
    targets = target
    if readout == "every":
        targets = [target[:n, row] for row, n in enumerate(lengths)]
    by_lists = fresh()
    history = train(by_lists, (listed, targets), optimizer=SGD(0.1), steps=1)
    first, _ = fresh().loss_and_gradients(listed, targets)
    assert history.loss.tolist() == [first]
    whole = Batch(x, target, lengths, resets)
    history = train(fresh(), whole, optimizer=Adam(0.01), epochs=1, validation=whole)
    first, _ = fresh().loss_and_gradients(x, target, lengths=lengths, resets=resets)
    assert history.loss.tolist() == [first]


def test_callbacks_see_every_step_and_may_stop():
    seen = []

    def stop_at_seven(record):
        seen.append(record.step)
        return record.step == 7

    after = []
    history = train(
        make(),
        make_streams(),
        optimizer=SGD(0.1),
        steps=STEPS,
        callbacks=[stop_at_seven, after.append],
    )
    assert seen == list(range(1, 8))
    assert len(after) == 7
    assert history.stopped == "callback"


def test_patience_stops():
    # An equal loss, here the second 1.0, is no new lowest one.
    losses = iter([3.0, 2.0, 2.5, 1.0, 1.0, 5.0, 4.0, 0.0])
    history = train(
        make(),
        make_streams(),
        optimizer=SGD(0.1),
        steps=100,
        validation=lambda network: next(losses),
        validate_every=2,
        patience=3,
    )
    assert history.stopped == "patience"
    steps, values = zip(*history.validation, strict=True)
    assert steps == (2, 4, 6, 8, 10, 12, 14)
    assert values == (3, 2, 2.5, 1, 1, 5, 4)
    assert len(history.records) == 14


def test_the_best_parameters_are_those_of_the_lowest_loss():
    network, kept = make(), []
    losses = [2.0, 1.0, 3.0, 4.0]

    def validation(net):
        kept.append(net.params["V"].copy())
        return losses[len(kept) - 1]

    train(
        network,
        make_streams(),
        optimizer=SGD(0.5),
        steps=100,
        validation=validation,
        validate_every=1,
        patience=2,
    )
    assert (network.params["V"] == kept[1]).all()


def test_validation_on_data_leaves_the_state_alone():
    streams, plain, validated = make_streams(), make(), make()
    train(plain, streams, optimizer=SGD(0.1), steps=STEPS)
    history = train(
        validated,
        streams,
        optimizer=SGD(0.1),
        steps=STEPS,
        validation=streams(3),
        validate_every=10,
    )
    same_bits(plain, validated)
    assert [step for step, _ in history.validation] == [10, 20, 25]
    assert history.validation[-1][1] == validated.evaluate(*streams(3))


def test_a_gradient_that_is_not_finite_stops_before_its_step():
    network = make()
    network.params["V"][0, 0] = math.nan
    before = network.params["V"].copy()
    with pytest.raises(NonFiniteGradientError, match="the gradient is not finite"):
        train(network, make_streams(), optimizer=SGD(0.1), steps=3, clip=1.0)
    assert network.params["V"].tobytes() == before.tobytes()


@pytest.mark.parametrize("options", [{}, {"memory": "1MB"}, {"k1": 2, "k2": 3}])
def test_a_run_that_diverges_ends_with_its_gradient_not_with_a_warning(options, rng):
    network = Network(2, 4, 1, loss="squared_error", seed=0)
    x, target = rng.standard_normal((2, 6, 3, 2), np.float32)
    batch = x, target[..., :1]
    with pytest.raises(NonFiniteGradientError):
        train(network, batch, optimizer=SGD(1e30), steps=9, **options)


def test_a_bar_where_one_is_wanted(capsys):
    pytest.importorskip("tqdm")
    options = {"optimizer": SGD(0.1), "steps": 3}
    train(make(), make_streams(), progress=True, **options)
    assert "loss 1." in capsys.readouterr().err
    train(make(), make_streams(), **options)
    assert capsys.readouterr().err == ""


def test_a_wanted_bar_without_tqdm_is_told_of(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'bptt\[train\]'"):
        train(make(), make_streams(), optimizer=SGD(0.1), steps=3, progress=True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {},
            ValueError,
            "one of steps and epochs must be given, got None and None",
        ),
        (
            {"steps": 1, "epochs": 1},
            ValueError,
            "one of steps and epochs must be given, got 1 and 1",
        ),
        ({"steps": 0}, ValueError, "steps must be at least 1, got 0"),
        ({"steps": 1, "clip": -1}, ValueError, "clip must be positive, got -1"),
        (
            {"steps": 1, "patience": 2},
            ValueError,
            "patience needs a validation to watch, got None",
        ),
        (
            {"steps": 1, "memory": "1MB", "k1": 2},
            ValueError,
            "memory must be None with k1, for it looks at whole batches; got 1MB",
        ),
        (
            {"steps": 1, "memory": "much"},
            ValueError,
            "memory must be a number of bytes, or text such as '64MB', got 'much'",
        ),
        (
            {"steps": 1, "resume": True},
            ValueError,
            "resume needs the name of a checkpoint, got None",
        ),
        (
            {"steps": 1, "checkpoint": "run.pt"},
            ValueError,
            "checkpoint must end in .safetensors or .npz, got 'run.pt'",
        ),
        (
            {"steps": 1, "validation": 3},
            TypeError,
            "validation must be a batch (x, target) or a function of the network, got "
            "int",
        ),
        (
            {"steps": 1, "nonfinite": "ignore"},
            ValueError,
            "nonfinite must be one of 'raise', 'zero', 'pass'; got 'ignore'",
        ),
    ],
)
def test_bad_input_is_told_of_in_one_line(options, error, message):
    with pytest.raises(error) as caught:
        train(make(), make_streams(), optimizer=SGD(0.1), **options)
    assert str(caught.value) == message


def test_network_and_optimizer_must_be_such():
    with pytest.raises(TypeError, match=r"network must be a bptt.Network, got 'rnn'"):
        train("rnn", make_streams(), optimizer=SGD(0.1), steps=1)
    with pytest.raises(TypeError, match=r"as Adam\(\), got <class '.*Adam'>"):
        train(make(), make_streams(), optimizer=Adam, steps=1)


def test_batches_must_be_a_function_or_a_pair():
    with pytest.raises(TypeError, match=r"batches must be .* got list"):
        train(make(), [1, 2], optimizer=SGD(0.1), steps=1)
    with pytest.raises(ValueError, match="epochs needs batches that have a length"):
        train(make(), lambda step: None, optimizer=SGD(0.1), epochs=1)


def reads(network):
    """Read with a network, as a function of the user's may: its state moves."""
    network.predict(np.zeros((3, 2), np.int64), np.ones((2, 6), np.float32))


@pytest.mark.parametrize("who", ["validation", "callback", "batches"])
def test_what_reads_with_the_network_leaves_its_state_alone(who):
    def validation(net):
        if who == "validation":
            reads(net)
        return 1.0

    def callback(record):
        if who == "callback":
            reads(network)

    def batches(step):
        if who == "batches":
            reads(network)
        return streams(step)

    streams, plain, network = make_streams(), make(), make()
    train(plain, streams, optimizer=SGD(0.1), steps=6)
    train(
        network,
        batches,
        optimizer=SGD(0.1),
        steps=6,
        validation=validation,
        validate_every=2,
        callbacks=[callback],
    )
    same_bits(network, plain)
    assert network.state.tobytes() == plain.state.tobytes()


def test_a_run_begins_in_the_state_of_the_network():
    streams, network, other = make_streams(), make(), make()
    other.state = network.state = np.full((5, 6), 0.5, np.float32)
    expected, _ = other.loss_and_gradients(*streams(0))
    history = train(network, lambda step: streams(step), optimizer=SGD(0.1), steps=1)
    assert history.loss.tolist() == [expected]


def nan_at(wrong, streams):
    """Return batches of numbers, of which one is not."""

    def batches(step):
        ids, target = streams(step)
        x = np.eye(4, dtype=np.float32)[ids]
        return (x * np.float32(math.nan) if step == wrong else x), target

    return batches


def test_a_step_that_fails_leaves_the_state_of_the_one_before():
    streams, network, other = make_streams(), make(), make()
    train(other, nan_at(9, streams), optimizer=SGD(0.1), steps=3)
    with pytest.raises(NonFiniteGradientError):
        train(network, nan_at(3, streams), optimizer=SGD(0.1), steps=9)
    same_bits(network, other)
    assert network.state.tobytes() == other.state.tobytes()


@pytest.mark.parametrize("wrong", [0, 3])
def test_a_batch_of_nan_that_is_passed_over_does_not_end_the_learning(wrong):
    network, states = make(), []
    with pytest.warns(NonFiniteGradientWarning) as warned:
        history = train(
            network,
            nan_at(wrong, make_streams()),
            optimizer=SGD(0.1),
            steps=8,
            nonfinite="zero",
            callbacks=[lambda record: states.append(network.state)],
        )
    assert len(warned) == 1
    assert np.isnan(history.loss).tolist() == [step == wrong for step in range(8)]
    assert all(np.isfinite(state).all() for state in states)  # a None is none


def test_a_validation_of_nan_is_never_the_best():
    losses = iter([math.nan, 3.0, math.nan, 2.0, math.nan, 2.0])
    network, kept = make(), []

    def validation(net):
        kept.append(net.params["V"].copy())
        return next(losses)

    history = train(
        network,
        make_streams(),
        optimizer=SGD(0.5),
        steps=100,
        validation=validation,
        validate_every=1,
        patience=2,
    )
    assert len(history.validation) == 6
    assert (network.params["V"] == kept[3]).all()


@pytest.mark.parametrize(
    ("batches", "came"),
    [
        (lambda step: None, "NoneType"),
        (lambda step: make_streams()(step)[0], "ndarray"),
        (lambda step: (*make_streams()(step), 1, 1), "tuple of 4"),
    ],
)
def test_what_batches_return_is_told_of(batches, came):
    with pytest.raises(TypeError) as caught:
        train(make(), batches, optimizer=SGD(0.1), steps=1)
    message = "batches(0) must return (x, target), (x, target, lengths) or a Batch"
    assert str(caught.value) == f"{message}, got {came}"


def test_a_run_without_stderr_has_no_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    for progress in (None, True):
        train(make(), make_streams(), optimizer=SGD(0.1), steps=1, progress=progress)
