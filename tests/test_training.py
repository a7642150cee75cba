"""Training: the loop by hand, clipping, early stopping, checkpoints, and Ctrl-C."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import bptt
from bptt.clipping import NonFiniteGradientError
from bptt.data import Minibatches, TokenStreams
from bptt.network import Network
from bptt.optimizers import SGD, Adam
from bptt.serialization import ModelFileError
from bptt.training import train

STEPS = 25


def make(**options):
    return Network(4, 6, 4, seed=0, stateful=True, **options)


def make_streams():
    ids = np.random.default_rng(0).integers(0, 4, 400)
    return TokenStreams(ids, length=8, batch_size=5, seed=2)


def same_bits(network, other):
    assert network.params.keys() == other.params.keys()
    for name, p in network.params.items():
        assert p.tobytes() == other.params[name].tobytes(), name


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
    with pytest.raises(ModelFileError, match="its optimizer is None"):
        train(make(), streams, optimizer=Adam(0.01), **options)


def test_a_gradient_that_is_not_finite_stops_before_its_step():
    network = make()
    network.params["V"][0, 0] = math.nan
    before = network.params["V"].copy()
    with pytest.raises(NonFiniteGradientError, match="the gradient is not finite"):
        train(network, make_streams(), optimizer=SGD(0.1), steps=3, clip=1.0)
    assert network.params["V"].tobytes() == before.tobytes()


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


RUN = textwrap.dedent(
    """
    import sys
    import numpy as np
    from bptt.data import TokenStreams
    from bptt.network import Network
    from bptt.optimizers import Adam
    from bptt.training import train

    path, resume, slow = sys.argv[1], sys.argv[2] == "resume", sys.argv[3] == "slow"
    ids = np.random.default_rng(0).integers(0, 4, 20_000)
    network = Network(4, 6, 4, seed=0, stateful=True)
    lines = lambda record: print(record.step, flush=True) if slow else None
    try:
        train(
            network,
            TokenStreams(ids, length=50, batch_size=5),
            optimizer=Adam(0.01),
            steps=400,
            clip=0.3,
            checkpoint=path,
            resume=resume,
            callbacks=[lines],
        )
    except KeyboardInterrupt:
        sys.exit(130)
    """
)


def start(path, *how):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", RUN, str(path), *how],
        stdout=subprocess.PIPE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process")
def test_ctrl_c_in_a_process_and_resume_give_the_same_bits(tmp_path):
    with start(tmp_path / "whole.npz", "new", "fast") as process:
        assert process.wait(timeout=120) == 0

    stopped = tmp_path / "stopped.npz"
    with start(stopped, "new", "slow") as process:
        while int(process.stdout.readline()) < 20:
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=120) == 130
    assert stopped.exists()
    with start(stopped, "resume", "fast") as process:
        assert process.wait(timeout=120) == 0

    assert stopped.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_ctrl_c_waits_for_the_end_of_an_update(tmp_path):
    class Slow(SGD):
        def update(self, params, grads):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)  # a signal is handled between two lines of Python
            super().update(params, grads)

    path, network = tmp_path / "run.npz", make()
    with pytest.raises(KeyboardInterrupt):
        train(network, make_streams(), optimizer=Slow(0.1), steps=3, checkpoint=path)
    same_bits(Network.load(path), network)
    assert (network.params["V"] != make().params["V"]).any()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


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
            "validation must be (x, target) or a function of the network, got int",
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
