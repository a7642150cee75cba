"""The network: gradients by complex step, the state, the readout, and first values."""

import math

import numpy as np
import pytest
from tolerances import COMPLEX_STEP, assert_within, loss_bound

import bptt
from bptt._readout import PARAMETERS
from bptt.initializers import get
from bptt.network import Network, NetworkGradients

STEP = 1e-30
T, B, I, H, O = 6, 3, 4, 5, 2
LOSSES = ["squared_error", "cross_entropy", "binary_cross_entropy"]
READOUTS = ["every", "last"]


def make(rng, **options):
    """Return a float64 network, every parameter of which is random and not 0."""
    options = {"dtype": np.float64, "seed": rng, "loss": "squared_error"} | options
    every = get("normal", std=0.7)
    return Network(I, H, O, init=dict.fromkeys(PARAMETERS, every), **options)


def layer(network):
    return [network.params[name] for name in "WVb"]


def make_batch(rng, network, batched=True, tokens=False):
    batch = (B,) if batched else ()
    x = rng.integers(0, I, (T, *batch)) if tokens else rng.normal(size=(T, *batch, I))
    steps = () if network.readout == "last" else (T,)
    if network.loss == "cross_entropy":
        target = rng.integers(0, O, (*steps, *batch))
    else:
        target = rng.uniform(0, 1, (*steps, *batch, O))
    return x, target, rng.normal(size=(*batch, H))


def definition(network, p, x, target, z):
    """Return the loss of a tanh network by its definition, for complex numbers too."""
    read = []
    for step in p["W"][x] if x.dtype.kind == "i" else x @ p["W"]:
        z = np.tanh(step + z @ p["V"] + p["b"])
        read.append(z @ p["U"] + p["c"])
    f = np.array(read) if network.readout == "every" else read[-1]
    if network.loss == "squared_error":
        return np.mean((f - target) ** 2)
    if network.loss == "binary_cross_entropy":
        return np.mean(np.log(1 + np.exp(f)) - f * target)
    total = np.log(np.exp(f).sum(axis=-1))
    return np.mean(total - np.take_along_axis(f, target[..., None], -1)[..., 0])


def check_gradients(network, x, target, z0, compute=None):
    """Assert that loss and gradients are those of the definition."""
    compute = compute or network.loss_and_gradients
    need_x_grad = x.dtype.kind == "f"
    loss, grads = compute(x, target, z0, need_x_grad=need_x_grad)
    values = {**network.params, "z0": z0}
    if need_x_grad:
        values["x"] = x
    else:
        assert grads.x is None
    bound = loss_bound(z0, target, np.float64) * T * H

    def loss_with(name, value):
        new = values | {name: value}
        return definition(network, new, new.get("x", x), target, new["z0"])

    assert abs(loss - loss_with("z0", z0)) <= bound
    for name, value in values.items():
        expected = np.empty(value.shape)
        for index in np.ndindex(value.shape):
            stepped = value.astype(complex)
            stepped[index] += 1j * STEP
            expected[index] = loss_with(name, stepped).imag / STEP
        assert np.abs(expected).max() > 1e-5, f"the gradient of {name} tests nothing"
        assert_within(getattr(grads, name), expected, COMPLEX_STEP + bound, name)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("tokens", [True, False])
def test_gradients_are_exact(loss, readout, batched, tokens, rng):
    network = make(rng, loss=loss, readout=readout)
    check_gradients(network, *make_batch(rng, network, batched, tokens))


def forgets_the_last_readout(network, x, target, z0, **options):
    loss, grads = network.loss_and_gradients(x, target, z0, **options)
    z, _ = bptt.forward(x, *layer(network), z0)
    df = 2 * (network.predict(x, z0) - target) / target.size
    return loss, grads._replace(U=grads.U - z[-1].T @ df[-1])


def swaps_b_and_its_neighbour(network, x, target, z0, **options):
    loss, grads = network.loss_and_gradients(x, target, z0, **options)
    return loss, grads._replace(b=np.roll(grads.b, 1))


def drops_c(network, x, target, z0, **options):
    loss, grads = network.loss_and_gradients(x, target, z0, **options)
    return loss, grads._replace(c=0 * grads.c)


def transposes_v(network, x, target, z0, **options):
    loss, grads = network.loss_and_gradients(x, target, z0, **options)
    return loss, grads._replace(V=grads.V.T)


def starts_at_zero(network, x, target, z0, **options):
    return network.loss_and_gradients(x, target, 0 * z0, **options)


def truncates(network, x, target, z0, **options):
    # As if the gradient did not pass from the last step to the one before.
    z, _ = bptt.forward(x[:-1], *layer(network), z0)
    loss, whole = network.loss_and_gradients(x, target, z0, **options)
    _, last = network.loss_and_gradients(x[-1:], target[-1:], z[-1], **options)
    _, rest = network.loss_and_gradients(x[:-1], target[:-1], z0, **options)
    n = len(x)
    return loss, whole._replace(V=last.V / n + rest.V * (n - 1) / n)


@pytest.mark.parametrize(
    "wrong",
    [
        forgets_the_last_readout,
        swaps_b_and_its_neighbour,
        drops_c,
        transposes_v,
        starts_at_zero,
        truncates,
    ],
)
def test_a_planted_mistake_is_found(wrong, rng):
    network = make(rng)
    x, target, z0 = make_batch(rng, network)

    def compute(*args, **options):
        return wrong(network, *args, **options)

    with pytest.raises(AssertionError, match=r"^(?!the gradient of)"):
        check_gradients(network, x, target, z0, compute)


@pytest.mark.parametrize("readout", READOUTS)
def test_against_torch(readout, rng):
    torch = pytest.importorskip("torch")
    network = make(rng, loss="cross_entropy", readout=readout)
    x, target, z0 = make_batch(rng, network)
    rnn = torch.nn.RNN(I, H, dtype=torch.float64)
    linear = torch.nn.Linear(H, O, dtype=torch.float64)
    p = {name: torch.tensor(value) for name, value in network.params.items()}
    with torch.no_grad():
        rnn.weight_ih_l0.copy_(p["W"].T)
        rnn.weight_hh_l0.copy_(p["V"].T)
        rnn.bias_ih_l0.copy_(p["b"])
        rnn.bias_hh_l0.zero_()
        linear.weight.copy_(p["U"].T)
        linear.bias.copy_(p["c"])
    z, _ = rnn(torch.tensor(x), torch.tensor(z0)[None])
    f = linear(z if readout == "every" else z[-1])
    expected = torch.nn.functional.cross_entropy(
        f.reshape(-1, O), torch.tensor(target).reshape(-1)
    )
    expected.backward()
    loss, grads = network.loss_and_gradients(x, target, z0)
    bound = loss_bound(z0, target, np.float64) * T * H
    assert abs(loss - expected.item()) <= bound
    for name, theirs in {
        "W": rnn.weight_ih_l0.grad.T,
        "V": rnn.weight_hh_l0.grad.T,
        "b": rnn.bias_ih_l0.grad,
        "U": linear.weight.grad.T,
        "c": linear.bias.grad,
    }.items():
        assert_within(getattr(grads, name), theirs.numpy(), bound, name)


def test_gradients_of_the_parameters_alone(rng):
    network = make(rng)
    _, grads = network.loss_and_gradients(*make_batch(rng, network))
    assert isinstance(grads, NetworkGradients)
    assert list(grads.params) == list(network.params) == list(PARAMETERS)
    assert all(grads.params[n].shape == p.shape for n, p in network.params.items())


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("batched", [True, False])
def test_a_stateful_network_reads_on_where_it_ended(readout, batched, rng):
    network = make(rng, readout=readout, stateful=True)
    x, _, z0 = make_batch(rng, network, batched)
    whole = network.predict(x, z0)
    network.reset()
    assert network.state is None
    network.predict(x[:2], z0)
    assert network.state.shape == z0.shape
    assert network.state.base is None
    rest = network.predict(x[2:])
    same = whole[2:] if readout == "every" else whole
    assert_within(rest, same, loss_bound(whole, whole, np.float64))


def test_a_state_of_other_sequences_is_told_of(rng):
    network = make(rng, stateful=True)
    x, _, _ = make_batch(rng, network)
    network.predict(x)
    for other, found in [(x[:, :2], r"\(2,\)"), (x[:, 0], r"\(\)")]:
        with pytest.raises(ValueError, match=rf"the state, \(3,\), got {found}; reset"):
            network.predict(other)
    with pytest.raises(ValueError, match="as many sequences as the state"):
        network.predict(np.zeros((T, 2), int))


def test_evaluate_neither_uses_nor_changes_the_state(rng):
    network = make(rng, stateful=True)
    x, target, z0 = make_batch(rng, network)
    fresh = network.evaluate(x, target)
    network.predict(x, z0)
    kept = network.state.copy()
    assert network.evaluate(x, target) == fresh
    assert (network.state == kept).all()
    loss, _ = network.loss_and_gradients(x, target, np.zeros_like(z0))
    assert loss == fresh


def test_a_stateless_network_keeps_no_state(rng):
    network = make(rng)
    x, target, z0 = make_batch(rng, network)
    network.loss_and_gradients(x, target, z0)
    assert network.state is None


@pytest.mark.parametrize("readout", READOUTS)
def test_no_steps_and_no_sequences_are_legal(readout, rng):
    network = make(rng, readout=readout)
    for steps, batch in [(0, B), (T, 0)]:
        shape = (steps, batch, O) if readout == "every" else (batch, O)
        loss, grads = network.loss_and_gradients(
            np.empty((steps, batch, I)), np.zeros(shape)
        )
        assert math.isfinite(loss)
        assert not grads.W.any()
        assert not grads.V.any()


def test_token_ids_are_one_hot_rows(rng):
    network = make(rng, loss="cross_entropy")
    ids, _, z0 = make_batch(rng, network, tokens=True)
    assert (network.predict(ids, z0) == network.predict(np.eye(I)[ids], z0)).all()


def test_the_default_first_values():
    network = Network(3, 16, 2, seed=0)
    for name in ("W", "V", "U"):
        assert 0.2 < np.abs(network.params[name]).max() <= 0.25
    assert not network.params["b"].any()
    assert not network.params["c"].any()
    assert all(p.dtype == np.float32 for p in network.params.values())
    again = Network(3, 16, 2, seed=0)
    assert all((again.params[n] == p).all() for n, p in network.params.items())


def test_init_for_v_alone_or_by_letter():
    assert (Network(2, 3, 1, init="identity").params["V"] == np.eye(3)).all()
    network = Network(2, 3, 1, init={"b": get("normal", std=1.0)}, seed=0)
    assert network.params["b"].all()
    assert not network.params["c"].any()


def test_its_name_says_what_it_is():
    assert repr(Network(2, 3, 1, activation="relu")) == (
        "Network(I=2, H=3, O=1, relu, cross_entropy, readout='every', float32)"
    )


def network_call(**options):
    return lambda: Network(2, 3, 1, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: Network(0, 3, 1),
            ValueError,
            "input_size must be at least 1, got 0",
        ),
        (
            lambda: Network(2, 3.5, 1),
            TypeError,
            "hidden_size must be an integer, got float",
        ),
        (
            network_call(loss="hinge"),
            ValueError,
            "loss must be one of 'squared_error', 'cross_entropy', "
            "'binary_cross_entropy'; got 'hinge'",
        ),
        (
            network_call(readout="first"),
            ValueError,
            "readout must be one of 'every', 'last'; got 'first'",
        ),
        (
            network_call(dtype=int),
            TypeError,
            "dtype must be float32 or float64, got int64",
        ),
        (
            network_call(init={"R": "identity"}),
            ValueError,
            "a key of init must be one of 'W', 'V', 'b', 'U', 'c'; got 'R'",
        ),
        (
            network_call(init=lambda shape, *, seed, dtype: np.eye(2, dtype=dtype)),
            ValueError,
            "V must have shape (H, H) = (3, 3), got (2, 2)",
        ),
        (
            network_call(init=lambda shape, *, seed, dtype: np.eye(3)),
            TypeError,
            "V must have dtype float32, got float64",
        ),
        (
            lambda: Network(2, 3, 1).predict(np.zeros((4, 2))),
            TypeError,
            "x must have dtype float32 like the other arrays, got float64; "
            "pass x.astype(np.float32)",
        ),
        (
            lambda: Network(2, 3, 4).loss_and_gradients([0, 1], [0, 4]),
            ValueError,
            "target must hold class ids from 0 to O - 1 = 3, got 4",
        ),
    ],
)
def test_bad_input_is_told_of_in_one_line(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


# -- The error on its way back ---------------------------------------------------------

CLIPS = [{"clip_error": 0.05}, {"clip_error_value": 0.02}]
CLIPS += [{**CLIPS[0], "clip_error_value": 0.04}]


@pytest.mark.parametrize("error", CLIPS)
@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("batched", [True, False])
def test_a_clipped_error_is_that_of_backward(error, readout, batched, rng):
    network = make(rng, readout=readout)
    x, target, z0 = make_batch(rng, network, batched)
    plain, all_of = network.loss_and_gradients(x, target, z0, need_x_grad=True)
    loss, grads = network.loss_and_gradients(x, target, z0, need_x_grad=True, **error)
    z, tape = bptt.forward(x, *layer(network), z0)
    p, rows = network.params, z[-1] if readout == "last" else z
    f = rows.reshape(-1, H) @ p["U"] + p["c"]
    _, df = bptt.losses.squared_error(f, target.reshape(-1, O))
    dz = (df @ p["U"].T).reshape(rows.shape)
    given = {"dz_last": dz} if readout == "last" else {"dz": dz}
    expected = bptt.backward(tape, **given, **error)
    # The loss and what comes before the layer are as they were.
    assert loss == plain
    for name in ("U", "c"):
        assert getattr(grads, name).tobytes() == getattr(all_of, name).tobytes()
    for name in expected._fields:
        ours, theirs = getattr(grads, name), getattr(expected, name)
        bound = loss_bound(f, target, np.float64) * T * B
        assert_within(ours, theirs, bound, name)
        assert np.abs(ours - getattr(all_of, name)).max() > bound


@pytest.mark.parametrize("error", CLIPS)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_error_of_each_cell_is_clipped(bidirectional, listed, error, rng):
    network = Network(
        I, H, O, num_layers=2, bidirectional=bidirectional, loss="squared_error",
        dtype=np.float64, seed=0,
    )  # fmt: skip
    x, target, _ = make_batch(rng, network)
    lengths, resets = np.array([T, 2, 4]), rng.random((T, B)) < 0.3
    options = {"lengths": lengths, "resets": resets}
    _, plain = network.loss_and_gradients(x, target, **options)
    rnn = bptt.RNN(I, H, 2, bidirectional=bidirectional, dtype=np.float64)
    rnn.params = {name: network.params[name] for name in rnn.params}
    z, tape = rnn.forward(x, **options)
    valid = np.arange(T)[:, np.newaxis] < lengths
    dz = np.zeros_like(z)
    f = z[valid] @ network.params["U"] + network.params["c"]
    _, df = bptt.losses.squared_error(f, target[valid])
    dz[valid] = df @ network.params["U"].T
    expected = rnn.backward(tape, dz, **error).params
    if listed:
        options = {"resets": [resets[:n, i] for i, n in enumerate(lengths)]}
        x, target = ([a[:n, i] for i, n in enumerate(lengths)] for a in (x, target))
    _, grads = network.loss_and_gradients(x, target, **options, **error)
    for name, ours in grads.params.items():
        bound = loss_bound(f, np.ones(1), np.float64) * T * B
        wanted = expected.get(name, plain.params[name])
        assert_within(ours, wanted, bound, name)
        off = np.abs(ours - plain.params[name]).max() > bound
        assert off == (name in expected)


def test_omega_looks_at_the_error_as_it_was(rng):
    network = make(rng)
    x, target, z0 = make_batch(rng, network)
    options = [{}, {"omega": 0.3}, CLIPS[0], {"omega": 0.3, **CLIPS[0]}]
    none, omega, clip, both = (
        network.loss_and_gradients(x, target, z0, **option)[1] for option in options
    )
    for name in "WVbUc":
        parts = [getattr(grads, name) for grads in (none, omega, clip, both)]
        bound = loss_bound(x, target, np.float64) * T * B
        assert_within(parts[3] - parts[2], parts[1] - parts[0], bound, name)
