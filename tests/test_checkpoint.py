"""Checkpoints: a stopped run ends with the same bits; what is no checkpoint of it."""

import math
import signal

import numpy as np
import pytest
from runs import STEPS, make, make_streams, same_bits

from bptt import serialization
from bptt.network import Network
from bptt.optimizers import SGD, Adam
from bptt.serialization import ModelFileError
from bptt.training import train


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("stopped_after", "patience"), [(1, 3), (8, 3), (9, 3), (24, None)]
)
def test_a_stopped_run_ends_with_the_same_bits(
    tmp_path, suffix, stopped_after, patience
):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"run{suffix}"
    streams = make_streams()
    options = {
        "steps": STEPS,
        "clip": 0.3,
        "validation": streams(1),
        "validate_every": 4,
        "patience": patience,
        "checkpoint": path,
    }
    whole = make()
    expected = train(whole, streams, optimizer=Adam(0.01), **options)

    def interrupt(record):
        if record.step == stopped_after:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(make(), streams, optimizer=Adam(0.01), callbacks=[interrupt], **options)
    resumed = make()
    history = train(resumed, streams, optimizer=Adam(0.01), resume=True, **options)
    same_bits(resumed, whole)
    assert history.records == expected.records
    assert history.validation == expected.validation
    assert history.stopped == expected.stopped
    assert Network.load(path).params["V"].shape == (6, 6)


def test_a_finished_run_is_not_continued(tmp_path):
    path = tmp_path / "run.npz"
    first, second = make(), make()
    options = {"steps": STEPS, "checkpoint": path, "resume": True}
    train(first, make_streams(), optimizer=Adam(0.01), **options)
    written = path.stat().st_mtime_ns
    history = train(second, make_streams(), optimizer=Adam(0.01), **options)
    same_bits(first, second)
    assert len(history.records) == STEPS
    assert path.stat().st_mtime_ns == written


def test_a_run_with_an_optimizer_that_was_used_before_is_resumed(tmp_path):
    path, streams = tmp_path / "run.npz", make_streams()

    def begin():
        network, adam = make(), Adam(0.01)
        train(network, streams, optimizer=adam, steps=3)
        return network, adam

    whole, adam = begin()
    train(whole, streams, optimizer=adam, steps=6)
    stopped, adam = begin()
    train(stopped, streams, optimizer=adam, steps=2, checkpoint=path)
    second, adam = make(), Adam(0.01)
    train(second, streams, optimizer=adam, steps=6, checkpoint=path, resume=True)
    same_bits(whole, second)
    assert adam.steps == 9


def test_checkpoints_are_written_on_the_way(tmp_path):
    path = tmp_path / "run.npz"
    seen = []
    train(
        make(),
        make_streams(),
        optimizer=SGD(0.1),
        steps=9,
        checkpoint=path,
        checkpoint_every=4,
        callbacks=[lambda record: seen.append(path.exists())],
    )
    assert seen == [False] * 4 + [True] * 5


def test_a_checkpoint_of_another_run_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "run.npz"
    streams = make_streams()
    train(make(), streams, optimizer=Adam(0.01), steps=3, checkpoint=path)
    options = {"steps": 5, "checkpoint": path, "resume": True}
    network = make(activation="relu")
    before = {name: p.copy() for name, p in network.params.items()}
    with pytest.raises(ModelFileError, match="the checkpoint of another network"):
        train(network, streams, optimizer=Adam(0.01), **options)
    assert all((network.params[name] == p).all() for name, p in before.items())
    with pytest.raises(ModelFileError, match="a run with SGD: its optimizer is Adam"):
        train(make(), streams, optimizer=SGD(0.01), **options)
    make().save(path)
    with pytest.raises(ModelFileError, match="is a model and no checkpoint"):
        train(make(), streams, optimizer=Adam(0.01), **options)


def test_a_finished_run_is_not_validated_again(tmp_path):
    path, calls = tmp_path / "run.npz", []

    def validation(network):
        calls.append(network)
        return float(len(calls))

    options = {
        "steps": 8,
        "validation": validation,
        "validate_every": 4,
        "checkpoint": path,
        "resume": True,
    }
    train(make(), make_streams(), optimizer=SGD(0.1), **options)
    history = train(make(), make_streams(), optimizer=SGD(0.1), **options)
    assert history.validation == [(4, 1.0), (8, 2.0)]


def test_a_resumed_run_reads_on_whatever_validation_and_callbacks_read(tmp_path):
    path = tmp_path / "run.npz"
    x = np.zeros((3, 2), np.int64)

    def run(steps):
        network = make()
        history = train(
            network,
            make_streams(),
            optimizer=SGD(0.1),
            steps=steps,
            validation=lambda net: float(net.predict(x, z0).sum()),
            validate_every=3,
            callbacks=[lambda record: network.predict(x, z0) is None],
            checkpoint=path,
            resume=True,
        )
        return network, history

    z0 = np.ones((2, 6), np.float32)
    whole, expected = run(6)
    path.unlink()
    run(3)
    resumed, history = run(6)
    same_bits(resumed, whole)
    assert history.records == expected.records


@pytest.fixture
def stopped(tmp_path):
    """A run that ended by patience: its best parameters are the second of four."""
    losses = iter([2.0, 1.0, 3.0, 4.0])
    network, kept = make(), []

    def validation(net):
        kept.append(net.params["V"].copy())
        return next(losses)

    train(
        network,
        make_streams(),
        optimizer=Adam(0.1),
        steps=100,
        validation=validation,
        validate_every=1,
        patience=2,
        checkpoint=tmp_path / "run.npz",
    )
    return tmp_path / "run.npz", network, kept


def test_the_file_of_an_early_stopped_run_has_the_best_parameters(stopped):
    path, network, kept = stopped
    assert (network.params["V"] == kept[1]).all()
    same_bits(Network.load(path), network)


def test_an_early_stopped_run_goes_on_from_its_last_parameters(stopped):
    path, network, _ = stopped
    more = make()
    options = {"optimizer": Adam(0.1), "checkpoint": path, "resume": True}
    seen = []

    def validation(net):
        seen.append(net.params["V"].copy())
        return 5.0

    def run(network, steps, patience):
        return train(
            network,
            make_streams(),
            steps=steps,
            validation=validation,
            validate_every=1,
            patience=patience,
            **options,
        )

    history = run(more, 100, 2)
    assert (len(history.records), history.stopped, seen) == (4, "patience", [])
    same_bits(more, network)
    history = run(more, 5, 9)
    assert len(history.records) == 5
    same_bits(more, network)  # nothing was better
    straight = make()
    train(straight, make_streams(), optimizer=Adam(0.1), steps=5)
    assert (seen[0] == straight.params["V"]).all()


def test_a_run_without_patience_is_not_continued_with_it(tmp_path):
    options = {
        "optimizer": SGD(0.1),
        "validation": lambda network: 1.0,
        "validate_every": 1,
        "checkpoint": tmp_path / "run.npz",
    }
    train(make(), make_streams(), steps=2, **options)
    with pytest.raises(ModelFileError, match=r"run.npz .* a run without patience"):
        train(make(), make_streams(), steps=4, patience=2, resume=True, **options)


def without(name):
    return lambda arrays: arrays.pop(name)


def changed(name, change):
    def apply(arrays):
        arrays[name] = change(np.array(arrays[name]))

    return apply


def first(value):
    def set_first(array):
        array.flat[0] = value
        return array

    return set_first


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without("optimizer.mean.V"), "optimizer.mean.V is missing"),
        (without("optimizer.square.c"), "optimizer.square.c is missing"),
        (changed("optimizer.mean.V", lambda a: a[:5]), r"V must have shape \(6, 6\)"),
        (changed("optimizer.mean.V", np.float64), "optimizer.mean.V must .* float64"),
        (lambda a: a.update({"optimizer.mean.R": a["V"]}), "mean.R is not wanted"),
        (without("optimizer.steps"), "optimizer.steps must be 4"),
        (changed("optimizer.steps", lambda a: a - 1), "optimizer.steps must be 4"),
        (changed("history.steps", lambda a: a[:3]), "history.validation must hold"),
        (changed("history.steps", lambda a: a[:, :3]), "history.steps must have shape"),
        (changed("history.steps", np.float32), "history.steps must have dtype float64"),
        (changed("history.validation", first(math.inf)), "history.validation must"),
        (changed("history.validation", first(math.nan)), "history.validation must"),
        (changed("history.validation", first(2.5)), "history.validation must hold"),
        (without("history.validation"), "validation"),
        (without("run.state"), "run.state is missing"),
        (changed("run.state", lambda a: a[:, :5]), r"run.state must have shape"),
        (changed("run.state", np.float64), r"run.state must .* float64"),
        (without("best.V"), "best.V is missing"),
        (changed("best.V", lambda a: a[0]), "best.V must have shape"),
        (without("last.W"), "last.W is missing"),
        (changed("last.b", np.float64), "last.b must have shape .* float64"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_changes_nothing(stopped, damage, reason):
    path, _, _ = stopped
    arrays, metadata = serialization.read(path)
    damage(arrays)
    serialization.write(path, arrays, metadata)
    network, optimizer = make(), Adam(0.1)
    with pytest.raises(ModelFileError, match=reason) as caught:
        train(
            network,
            make_streams(),
            optimizer=optimizer,
            steps=9,
            validation=lambda network: 1.0,
            patience=9,
            checkpoint=path,
            resume=True,
        )
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    same_bits(network, make())
    assert network.state is None
    assert list(optimizer.state) == ["steps"]


def test_a_state_that_is_not_wanted_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    options = {"optimizer": SGD(0.1), "steps": 2, "checkpoint": path}
    stateless = Network(4, 6, 4, seed=0)
    train(stateless, make_streams(), **options)
    arrays, metadata = serialization.read(path)
    arrays["run.state"] = np.zeros((5, 6), np.float32)
    serialization.write(path, arrays, metadata)
    with pytest.raises(ModelFileError, match=r"run.state is not wanted"):
        train(stateless, make_streams(), resume=True, **options)


def test_momentum_that_was_not_saved_is_missed(tmp_path):
    options = {"steps": 2, "checkpoint": tmp_path / "run.npz"}
    train(make(), make_streams(), optimizer=SGD(0.1), **options)
    momentum = SGD(0.1, momentum=0.9)
    with pytest.raises(ModelFileError, match=r"optimizer.momentum.U is missing"):
        train(make(), make_streams(), optimizer=momentum, resume=True, **options)
