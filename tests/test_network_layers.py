"""Networks of several layers: gradients, state, dropout, and their files."""

import numpy as np
import pytest
from stack_proof import by_definition
from tolerances import assert_within, loss_bound

import bptt
from bptt import losses
from bptt._stack_tape import StackGradients
from bptt.data import Minibatches
from bptt.network import Network
from bptt.optimizers import SGD, Adam
from bptt.serialization import ModelFileError
from bptt.training import train

T, B, I, H, O = 6, 3, 4, 5, 2
KINDS = [
    {"num_layers": 2},
    {"bidirectional": True},
    {"num_layers": 3, "bidirectional": True},
]


def make(rng, **options):
    options = {"loss": "squared_error", "dtype": np.float64, "seed": 0, **options}
    network = Network(I, H, O, **options)
    for p in network.params.values():
        p[...] = rng.normal(0, 0.4, p.shape)
    return network


def make_batch(rng, network):
    steps = () if network.readout == "last" else (T,)
    z0 = rng.normal(size=(network.stack.cells, B, H))
    return rng.normal(size=(T, B, I)), rng.normal(size=(*steps, B, O)), z0


def check_gradients(network, x, target, z0):
    """Assert that they are those of the definition of layers, readout and loss."""
    p, D = network.params, network.stack.directions
    loss, grads = network.loss_and_gradients(x, target, z0, need_x_grad=True)
    assert isinstance(grads, StackGradients)
    assert grads.params.keys() == p.keys()

    cells = {name: p[name] for name in p if name not in ("U", "c")}
    right = by_definition(network.stack, cells, x, z0)
    rows = right.z
    if network.readout == "last":
        rows = np.concatenate(list(right.z_last[-D:]), axis=-1)
    expected, df = losses.squared_error(rows @ p["U"] + p["c"], target)
    dz, dz_last = df @ p["U"].T, None
    if network.readout == "last":
        dz_last = np.zeros_like(z0)
        dz_last[-D:] = np.split(dz, D, axis=-1)
        dz = None
    right = by_definition(network.stack, cells, x, z0, dz, dz_last)

    bound = loss_bound(rows, target, np.float64) * T * H
    assert abs(loss - expected) <= bound
    actual = {**grads.params, "z0": grads.z0, "x": grads.x}
    for name, desired in right.grads.items():
        assert np.abs(desired).max() > bound, f"the gradient of {name} tests nothing"
        assert_within(actual[name], desired, right.bounds[name] + bound, name)
    flat = df.reshape(-1, O)
    assert_within(grads.params["U"], rows.reshape(-1, D * H).T @ flat, bound, "U")
    assert_within(grads.params["c"], flat.sum(axis=0), bound, "c")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("readout", ["every", "last"])
def test_gradients_are_exact(kind, readout, rng):
    network = make(rng, readout=readout, **kind)
    check_gradients(network, *make_batch(rng, network))


def test_the_last_state_of_the_direction_from_the_end_is_that_of_the_first_step(rng):
    # Or it would have seen one input alone.
    network = make(rng, bidirectional=True, readout="last")
    x, _, _ = make_batch(rng, network)
    other = x.copy()
    other[0] += 1
    changed = network.predict(other) != network.predict(x)
    network.params["U"][:H] = 0  # leaves what comes from the end
    assert changed.all()
    assert (network.predict(other) != network.predict(x)).all()
    assert network.predict(x[:, 0]).shape == (O,)


@pytest.mark.parametrize("readout", ["every", "last"])
def test_one_sequence_without_its_axis(readout, rng):
    network = make(rng, num_layers=2, bidirectional=True, readout=readout)
    x, target, z0 = make_batch(rng, network)
    one = target[:, 0] if readout == "every" else target[0]
    loss, grads = network.loss_and_gradients(x[:, 0], one, z0[:, 0])
    same, whole = network.loss_and_gradients(
        x[:, :1], target[:, :1] if readout == "every" else target[:1], z0[:, :1]
    )
    assert loss == same
    assert grads.z0.tobytes() == whole.z0.tobytes()
    assert grads.z0.shape == (4, H)


def test_a_stateful_network_reads_on_where_it_ended(rng):
    network = make(rng, num_layers=2, stateful=True)
    x, _, z0 = make_batch(rng, network)
    whole = network.predict(x, z0)
    network.reset()
    network.predict(x[:2], z0)
    assert network.state.shape == (2, B, H)
    rest = network.predict(x[2:])
    assert_within(rest, whole[2:], loss_bound(whole, whole, np.float64))
    with pytest.raises(ValueError, match=r"the state, \(3,\), got \(2,\); reset"):
        network.predict(x[:, :2])


def test_dropout_is_for_gradients_alone_and_repeatable(rng):
    network = make(rng, num_layers=2, dropout=0.5)
    plain = make(rng, num_layers=2)
    for name, p in plain.params.items():
        p[...] = network.params[name]
    x, target, z0 = make_batch(rng, network)
    assert network.predict(x, z0).tobytes() == plain.predict(x, z0).tobytes()
    assert network.evaluate(x, target, z0) == plain.evaluate(x, target, z0)
    loss, grads = network.loss_and_gradients(x, target, z0, seed=3)
    again, same = network.loss_and_gradients(x, target, z0, seed=3)
    assert loss == again != network.evaluate(x, target, z0)
    assert grads.params["W"].tobytes() == same.params["W"].tobytes()
    assert network.loss_and_gradients(x, target, z0, seed=4)[0] != loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_gives_the_network_back(kind, suffix, rng, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    kind = {"dropout": 0.25, **kind} if kind.get("num_layers") else kind
    network = make(rng, **kind)
    path = tmp_path / f"model{suffix}"
    network.save(path)
    again = Network.load(path)
    assert repr(again) == repr(network)
    x, _, z0 = make_batch(rng, network)
    assert again.predict(x, z0).tobytes() == network.predict(x, z0).tobytes()
    arrays, metadata = network.contents()
    del arrays["V_l1" if "num_layers" in kind else "V_reverse"]
    with pytest.raises(ModelFileError, match=r"damaged: '(V_l1|V_reverse)'"):
        Network.from_contents(path, arrays, metadata)


@pytest.mark.parametrize("kind", [{}, *KINDS])
@pytest.mark.parametrize("readout", ["every", "last"])
def test_lengths_are_those_of_single_sequences(kind, readout, rng):
    network = make(rng, readout=readout, **kind)
    x, target, z0 = make_batch(rng, network)
    lengths, cells = np.array([4, 1, 6]), network.stack.cells
    if cells == 1:
        z0 = z0[0]
    dirty = x.copy()
    dirty[np.arange(T)[:, None] >= lengths] = np.nan
    loss, grads = network.loss_and_gradients(
        dirty, target, z0, lengths=lengths, need_x_grad=True
    )
    f = network.predict(dirty, z0, lengths=lengths)
    assert network.evaluate(dirty, target, z0, lengths=lengths) == loss

    terms = lengths if readout == "every" else np.ones(B)
    share = terms / terms.sum()  # of a sequence in the mean over all steps
    bound = loss_bound(x, target, np.float64) * T * H
    total, expected = 0.0, dict.fromkeys(network.params, 0.0)
    for row, n in enumerate(lengths):
        one = target[:n, row] if readout == "every" else target[row]
        start = z0[row] if cells == 1 else z0[:, row]
        alone, g = network.loss_and_gradients(x[:n, row], one, start, need_x_grad=True)
        total += share[row] * alone
        for name, grad in g.params.items():
            expected[name] = expected[name] + share[row] * grad
        assert_within(grads.x[:n, row], share[row] * g.x, bound, "x")
        assert not grads.x[n:, row].any()
        mine = f[:n, row] if readout == "every" else f[row]
        assert_within(mine, network.predict(x[:n, row], start), bound, "f")
        if readout == "every":
            assert not f[n:, row].any()
    assert abs(loss - total) <= bound
    for name, grad in grads.params.items():
        assert_within(grad, expected[name], bound, name)


@pytest.mark.parametrize("kind", [{}, *KINDS])
@pytest.mark.parametrize("readout", ["every", "last"])
def test_a_list_is_a_padded_batch(kind, readout, rng):
    network = make(rng, readout=readout, **kind)
    x, target, z0 = make_batch(rng, network)
    lengths, cells = np.array([4, 1, 6]), network.stack.cells
    z0 = z0[0] if cells == 1 else z0
    flags = rng.random((T, B)) < 0.3

    def listed(array):
        return [array[:n, row].copy() for row, n in enumerate(lengths)]

    targets = listed(target) if readout == "every" else target
    padded = {"lengths": lengths, "resets": flags}
    mine = {"resets": listed(flags)}
    bound = loss_bound(x, target, np.float64) * T * H
    loss, grads = network.loss_and_gradients(
        listed(x), targets, z0, need_x_grad=True, seed=0, **mine
    )
    value, expected = network.loss_and_gradients(
        x, target, z0, need_x_grad=True, seed=0, **padded
    )
    if "dropout" not in kind:  # which is drawn for padding too
        assert abs(loss - value) <= bound
        for name, grad in grads.params.items():
            assert np.abs(grad).max() > bound
            assert_within(grad, expected.params[name], bound, name)
        assert_within(grads.z0, expected.z0, bound, "z0")
        for one, other in zip(grads.x, listed(expected.x), strict=True):
            assert_within(one, other, bound, "x")
    value = network.evaluate(x, target, z0, **padded)
    assert abs(network.evaluate(listed(x), targets, z0, **mine) - value) <= bound
    f = network.predict(listed(x), z0, **mine)
    whole = network.predict(x, z0, **padded)
    if readout == "last":
        assert_within(f, whole, bound, "f")
    else:
        for one, other in zip(f, listed(whole), strict=True):
            assert_within(one, other, bound, "f")


@pytest.mark.parametrize("kind", [{}, {"num_layers": 2}])
def test_resets_cut_a_stateful_network_too(kind, rng):
    network = make(rng, **kind, stateful=True)
    x, target, z0 = make_batch(rng, network)
    z0 = z0 if kind else z0[0]
    flags = np.zeros((T, B), bool)
    flags[4] = True
    loss, _ = network.loss_and_gradients(x, target, z0, resets=flags)
    first, _ = network.loss_and_gradients(x[:4], target[:4], z0)
    second, _ = network.loss_and_gradients(x[4:], target[4:], z0)
    bound = loss_bound(x, target, np.float64) * T * H
    assert abs(loss - (4 * first + 2 * second) / 6) <= bound
    assert network.evaluate(x, target, z0, resets=flags) == loss
    kept = network.state.copy()
    network.predict(x, z0, resets=flags)
    assert_within(network.state, kept, bound, "state")


@pytest.mark.parametrize("kind", [{}, {"num_layers": 2}])
@pytest.mark.parametrize("listed", [False, True])
def test_resets_of_a_network_that_goes_on_start_from_nothing(kind, listed, rng):
    network = make(rng, **kind, stateful=True)
    x, target, z0 = make_batch(rng, network)
    kept = z0 if kind else z0[0]
    flags = np.zeros((T, B), bool)
    flags[4] = flags[0, 1] = True
    start = kept.copy()
    start[..., 1, :] = 0
    first, _ = network.loss_and_gradients(x[:4], target[:4], start)
    network.reset()
    second, _ = network.loss_and_gradients(x[4:], target[4:])
    network.state = kept
    if listed:
        x, target, flags = (list(a.swapaxes(0, 1)) for a in (x, target, flags))
    loss, _ = network.loss_and_gradients(x, target, resets=flags)
    bound = loss_bound(np.array(x), np.array(target), np.float64) * T * H
    assert abs(loss - (4 * first + 2 * second) / 6) <= bound


def test_targets_of_a_padded_batch_are_padded_like_it(rng):
    network = make(rng)
    x, target, _ = make_batch(rng, network)
    with pytest.raises(ValueError, match=r"target must have shape .* got \(5, 3, 2\)"):
        network.loss_and_gradients(x, target[1:], lengths=[4, 1, 6])


def test_targets_of_a_list_are_listed_like_it(rng):
    network = make(rng)
    x, target, _ = make_batch(rng, network)
    sequences = [x[:, 0], x[:2, 1]]
    with pytest.raises(ValueError, match=r"target must be a list of 2 arrays, like x"):
        network.loss_and_gradients(sequences, target)
    with pytest.raises(ValueError, match=r"target\[1\] must have shape \(T, \.\.\)"):
        network.loss_and_gradients(sequences, [target[:, 0], target[:, 1]])


def test_the_file_of_a_single_layer_is_what_it_was():
    arrays, metadata = Network(I, H, O, seed=0).contents()
    assert list(arrays) == ["W", "V", "b", "U", "c"]
    assert metadata["network"] == (
        '{"sizes": [4, 5, 2], "activation": ["tanh"], "loss": "cross_entropy", '
        '"readout": "every", "stateful": false, "dtype": "float32"}'
    )


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns(kind):
    x = np.random.default_rng(0).normal(size=(12, 20, 2)).astype(np.float32)
    target = x[::-1].cumsum(axis=0)[::-1] / 4  # of the steps to come
    network = Network(2, 12, 2, loss="squared_error", seed=0, **kind)
    history = train(network, (x, target), optimizer=Adam(0.01), steps=150)
    share = history.loss[-1] / history.loss[0]
    # What is to come is seen by the direction from the end alone.
    assert (share < 0.1) == (network.stack.directions == 2)


def streams(network, **options):
    x = np.random.default_rng(1).normal(size=(T, 8, I)).astype(np.float32)
    target = np.random.default_rng(2).normal(size=(T, 8, O)).astype(np.float32)
    return train(
        network, Minibatches(x, target, 4), optimizer=Adam(0.01), clip=1.0, **options
    )


@pytest.mark.parametrize("stateful", [False, True])
def test_a_resumed_run_has_the_same_dropout_and_state(stateful, tmp_path):
    def fresh():
        return Network(
            I,
            H,
            O,
            num_layers=2,
            dropout=0.3,
            loss="squared_error",
            stateful=stateful,
            seed=0,
        )

    whole, part, path = fresh(), fresh(), tmp_path / "run.npz"
    streams(whole, steps=9)
    streams(part, steps=5, checkpoint=path)
    part = fresh()
    streams(part, steps=9, checkpoint=path, resume=True)
    for name, p in whole.params.items():
        assert p.tobytes() == part.params[name].tobytes(), name
    other = fresh()
    streams(other, steps=9, seed=1)
    assert (other.params["V"] != whole.params["V"]).any()


def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    network = make(rng, num_layers=2, bidirectional=True, loss="cross_entropy")
    x, _, z0 = make_batch(rng, network)
    target = rng.integers(0, O, (T, B))
    theirs = torch.nn.RNN(I, H, 2, bidirectional=True, dtype=torch.float64)
    linear = torch.nn.Linear(2 * H, O, dtype=torch.float64)
    layers = bptt.RNN(I, H, 2, bidirectional=True, dtype=np.float64)
    for name, p in layers.params.items():
        p[...] = network.params[name]
    state = {n: torch.tensor(p) for n, p in layers.torch_state().items()}
    theirs.load_state_dict(state)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(network.params["U"].T))
        linear.bias.copy_(torch.tensor(network.params["c"]))
    f = linear(theirs(torch.tensor(x), torch.tensor(z0))[0])
    expected = torch.nn.functional.cross_entropy(
        f.reshape(-1, O), torch.tensor(target).reshape(-1)
    )
    expected.backward()
    loss, grads = network.loss_and_gradients(x, target, z0)
    bound = loss_bound(z0, target, np.float64) * T * H
    assert abs(loss - expected.item()) <= bound
    names = {"W_l1_reverse": "weight_ih_l1_reverse", "V": "weight_hh_l0"}
    for name, other in names.items():
        grad = getattr(theirs, other).grad.numpy().T
        assert_within(grads.params[name], grad, bound, name)
    assert_within(grads.params["U"], linear.weight.grad.numpy().T, bound, "U")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: Network(I, H, O, bidirectional=True, stateful=True),
            "stateful must be False for a bidirectional network, which reads from the "
            "end too, got True",
        ),
        (
            lambda: Network(I, H, O, num_layers=0),
            "num_layers must be at least 1, got 0",
        ),
        (
            lambda: Network(I, H, O, dropout=0.5),
            "dropout is between layers and needs num_layers above 1, got 0.5 with "
            "num_layers = 1",
        ),
        (
            lambda: Network(I, H, O, num_layers=2).predict(
                np.ones((T, B, I), np.float32), np.ones((B, H), np.float32)
            ),
            "z0 must have shape (L, B, H) = (2, 3, 5), got (3, 5)",
        ),
        (
            lambda: train(
                Network(I, H, O), (None, None), optimizer=SGD(0.1), steps=1, seed="a"
            ),
            "seed must be a non-negative integer, got 'a'",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message


def test_its_name_says_what_it_is():
    assert repr(Network(2, 3, 1, num_layers=2, dropout=0.5)) == (
        "Network(I=2, H=3, O=1, num_layers=2, dropout=0.5, tanh, cross_entropy, "
        "readout='every', float32)"
    )
