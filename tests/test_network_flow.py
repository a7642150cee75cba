"""The gradient flow of a network is that of its layer under its loss."""

import numpy as np
import pytest
from tolerances import exact_bound

import bptt
from bptt.flow import OmegaTerm
from bptt.network_flow import (
    layer_flows,
    layer_traces,
    network_flow,
    network_omega,
    trace,
    trace_last,
)
from bptt.optimizers import SGD

KINDS = [
    ("squared_error", "every"),
    ("squared_error", "last"),
    ("cross_entropy", "every"),
    ("cross_entropy", "last"),
]


def assert_added(grads, plain, extra, weight):
    """Assert that the gradients are the plain ones and what Omega adds to its own."""
    for name in ("W", "V", "b", "z0", "x"):
        added = getattr(extra, name)
        assert np.abs(added).max() > 0
        expected = getattr(plain, name) + weight * added
        bound = exact_bound(100) * np.abs(expected).max()
        np.testing.assert_allclose(getattr(grads, name), expected, atol=bound)
    for name in ("U", "c"):
        assert getattr(grads, name).tobytes() == getattr(plain, name).tobytes()


def batch(rng, loss, readout):
    x = rng.standard_normal((9, 4, 3))
    shape = (9, 4) if readout == "every" else (4,)
    if loss == "cross_entropy":
        return x, rng.integers(0, 2, shape)
    return x, rng.standard_normal((*shape, 2))


@pytest.mark.parametrize(("loss", "readout"), KINDS)
def test_the_trace_is_the_networks_own_loss(loss, readout, rng):
    network = bptt.Network(
        3, 6, 2, loss=loss, readout=readout, seed=0, dtype=np.float64
    )
    x, target = batch(rng, loss, readout)
    value, grads = network.loss_and_gradients(x, target, need_x_grad=True)
    one = trace(network, x, target)
    assert abs(one.loss - value) <= exact_bound(100) * value
    same = bptt.backward(one.tape, one.dz, dz_last=one.dz_last)
    for name in ("W", "V", "b", "z0", "x"):
        expected = getattr(grads, name)
        bound = exact_bound(100) * np.abs(expected).max()
        np.testing.assert_allclose(getattr(same, name), expected, atol=bound)


def test_one_sequence_of_ids_has_a_flow(rng):
    network = bptt.Network(5, 6, 5, seed=0)
    ids = rng.integers(0, 5, 20)
    flow = network_flow(network, ids[:-1], ids[1:])
    assert flow.sizes == (19, 1, 5, 6)


def test_training_with_omega_keeps_the_length_of_errors(rng):
    x = rng.standard_normal((20, 16, 3)).astype(np.float32)
    target = x.mean(axis=0)[:, :2]
    omegas = {}
    for weight in (None, 1.0):
        network = bptt.Network(3, 12, 2, loss="squared_error", readout="last", seed=0)
        bptt.train(
            network, (x, target), optimizer=SGD(0.05), steps=200, clip=1.0, omega=weight
        )
        omegas[weight] = network_omega(network, x, target)[0]
    assert omegas[1.0] < omegas[None] / 2


@pytest.mark.parametrize(("loss", "readout"), KINDS)
def test_a_network_adds_omega_to_all_its_gradients(loss, readout, rng):
    network = bptt.Network(
        3, 6, 2, loss=loss, readout=readout, seed=0, dtype=np.float64
    )
    x, target = batch(rng, loss, readout)
    z0 = rng.standard_normal((4, 6))
    value, plain = network.loss_and_gradients(x, target, z0, need_x_grad=True)
    same, grads = network.loss_and_gradients(x, target, z0, need_x_grad=True, omega=0.7)
    one = trace(network, x, target, z0)
    _, extra = bptt.flow.omega(one.tape, one.dz, dz_last=one.dz_last, need_x_grad=True)
    assert same == value
    assert_added(grads, plain, extra, 0.7)


@pytest.mark.parametrize(("loss", "readout"), KINDS)
def test_a_network_adds_the_omega_of_sequences_of_their_own_lengths(loss, readout, rng):
    network = bptt.Network(
        3, 6, 2, loss=loss, readout=readout, seed=0, dtype=np.float64
    )
    x, target = batch(rng, loss, readout)
    lengths, resets = [9, 4, 1, 7], rng.random((9, 4)) < 0.2
    given = {"lengths": lengths, "resets": resets, "need_x_grad": True}
    value, plain = network.loss_and_gradients(x, target, **given)
    same, grads = network.loss_and_gradients(x, target, omega=0.7, **given)
    assert same == value
    p = network.params
    z, tape = bptt.forward(x, p["W"], p["V"], p["b"], lengths=lengths, resets=resets)
    there = np.arange(9)[:, np.newaxis] < lengths
    rows = z[there] if readout == "every" else tape.z_last
    chosen = target[there] if readout == "every" else target
    _, df = bptt.losses.TABLE[loss](rows @ p["U"] + p["c"], chosen)
    drows = df @ p["U"].T
    if readout == "every":
        dz = np.zeros_like(z)
        dz[there] = drows
        _, extra = bptt.flow.omega(tape, dz, need_x_grad=True)
    else:
        _, extra = bptt.flow.omega(tape, dz_last=drows, need_x_grad=True)
    assert_added(grads, plain, extra, 0.7)


@pytest.mark.parametrize("readout", ["every", "last"])
def test_omega_of_a_list_is_that_of_the_padded_batch(readout, rng):
    network = bptt.Network(
        3, 6, 2, loss="squared_error", readout=readout, seed=0, dtype=np.float64
    )
    x, target = batch(rng, "squared_error", readout)
    lengths = [9, 4, 1, 7]
    _, padded = network.loss_and_gradients(
        x, target, lengths=lengths, omega=0.7, need_x_grad=True
    )
    listed = [x[:n, i] for i, n in enumerate(lengths)]
    if readout == "every":
        target = [target[:n, i] for i, n in enumerate(lengths)]
    _, grads = network.loss_and_gradients(listed, target, omega=0.7, need_x_grad=True)
    for name in ("W", "V", "b", "U", "c", "z0"):
        one, other = getattr(grads, name), getattr(padded, name)
        bound = exact_bound(1000) * np.abs(other).max()
        np.testing.assert_allclose(one, other, atol=bound)
    for i, n in enumerate(lengths):
        bound = exact_bound(1000) * np.abs(padded.x).max()
        np.testing.assert_allclose(grads.x[i], padded.x[:n, i], atol=bound)


def test_a_term_says_which_omega_is_added_and_through_what(rng):
    term = OmegaTerm(0.7, form="mean", through="V")
    x, target = batch(rng, "squared_error", "every")
    networks = [
        bptt.Network(3, 6, 2, loss="squared_error", seed=0, dtype=np.float64)
        for _ in range(2)
    ]
    _, plain = networks[0].loss_and_gradients(x, target)
    _, grads = networks[0].loss_and_gradients(x, target, omega=term)
    one = {"form": "mean", "through": "V"}
    _, extra = network_omega(networks[0], x, target, **one)
    for other in ({"form": "mean"}, {"through": "V"}):
        _, wrong = network_omega(networks[0], x, target, **other)
        assert not np.allclose(wrong["V"], extra["V"])
    expected = plain.V + 0.7 * extra["V"]
    np.testing.assert_allclose(grads.V, expected, atol=exact_bound(100))
    for name in ("W", "b", "U", "c"):
        assert getattr(grads, name).tobytes() == getattr(plain, name).tobytes()
    bptt.train(networks[1], (x, target), optimizer=SGD(0.1), steps=1, omega=term)
    expected = networks[0].params["V"] - 0.1 * grads.V
    np.testing.assert_allclose(networks[1].params["V"], expected, atol=exact_bound(100))


def test_omega_starts_where_a_stateful_network_stands(rng):
    network = bptt.Network(3, 6, 2, loss="squared_error", stateful=True, seed=0)
    x, target = batch(rng, "squared_error", "every")
    x = x.astype(np.float32)
    network.loss_and_gradients(x, target)
    z0 = network.state.copy()
    _, kept = network.loss_and_gradients(x, target, omega=2.0)
    _, given = network.loss_and_gradients(x, target, z0, omega=2.0)
    _, zero = network.loss_and_gradients(x, target, np.zeros_like(z0), omega=2.0)
    assert kept.V.tobytes() == given.V.tobytes() != zero.V.tobytes()


def test_omega_that_does_not_fit_is_refused(rng):
    x, target = batch(rng, "squared_error", "every")
    one = bptt.Network(3, 6, 2, loss="squared_error", dtype=np.float64)
    two = bptt.Network(3, 6, 2, loss="squared_error", num_layers=2, dtype=np.float64)
    with pytest.raises(ValueError, match=r"^omega must be positive, got -1$"):
        one.loss_and_gradients(x, target, omega=-1)
    with pytest.raises(ValueError, match=r"^omega needs a network of one layer, got"):
        two.loss_and_gradients(x, target, omega=1)


def test_omega_adds_its_gradient_to_that_of_the_loss(rng):
    x, target = batch(rng, "squared_error", "last")
    networks = [
        bptt.Network(
            3, 6, 2, loss="squared_error", readout="last", seed=0, dtype=np.float64
        )
        for _ in range(2)
    ]
    _, grads = networks[0].loss_and_gradients(x, target)
    _, extra = network_omega(networks[0], x, target)
    bptt.train(networks[1], (x, target), optimizer=SGD(0.1), steps=1, omega=4.0)
    for name, p in networks[0].params.items():
        expected = p - 0.1 * (getattr(grads, name) + 4.0 * extra[name])
        np.testing.assert_allclose(
            networks[1].params[name], expected, atol=exact_bound(100)
        )


@pytest.mark.parametrize("readout", ["every", "last"])
def test_the_last_layer_is_that_of_the_stack(readout, rng):
    x, target = batch(rng, "squared_error", readout)
    two = bptt.Network(
        3, 6, 2, loss="squared_error", readout=readout, num_layers=2, dtype=np.float64
    )
    one = trace_last(two, x, target)
    loss, grads = two.loss_and_gradients(x, target)
    assert one.loss == loss
    last = bptt.backward(one.tape, one.dz, dz_last=one.dz_last)
    np.testing.assert_array_equal(last.V, grads.params["V_l1"])
    both = bptt.Network(3, 6, 2, loss="squared_error", bidirectional=True)
    with pytest.raises(ValueError, match=r"^network must have one direction, got"):
        trace_last(both, x, target)


LENGTHS = [9, 0, 4, 7]


def in_form(form, x, target, readout, rng):
    """Return a batch in a form, with the options that go with it."""
    if form == "one":
        return x[:, 0], target[:, 0] if readout == "every" else target[0], {}
    if form == "list":
        if readout == "every":
            target = [target[:n, i] for i, n in enumerate(LENGTHS)]
        return [x[:n, i] for i, n in enumerate(LENGTHS)], target, {}
    options = {
        "array": {},
        "lengths": {"lengths": LENGTHS},
        "lengths and resets": {"lengths": LENGTHS, "resets": rng.random((9, 4)) < 0.3},
    }
    return x, target, options[form]


IN_FORMS = pytest.mark.parametrize(
    "form", ["array", "one", "list", "lengths", "lengths and resets"]
)


@IN_FORMS
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize(("loss", "readout"), KINDS)
def test_the_traces_are_the_networks_own_loss(
    loss, readout, num_layers, bidirectional, form, rng
):
    network = bptt.Network(
        3, 6, 2, loss=loss, readout=readout, num_layers=num_layers,
        bidirectional=bidirectional, seed=0, dtype=np.float64,
    )  # fmt: skip
    x, target, options = in_form(form, *batch(rng, loss, readout), readout, rng)
    z0 = rng.standard_normal((network.stack.cells, 4, 6))
    z0 = z0[:, 0] if form == "one" else z0
    z0 = z0[0] if network.stack.cells == 1 else z0
    value, grads = network.loss_and_gradients(x, target, z0, **options)
    traces = layer_traces(network, x, target, z0, **options)
    dz0 = []
    for one, names in zip(traces, network.stack.names(), strict=True):
        assert one.loss == value
        back = bptt.backward(one.tape, one.dz, dz_last=one.dz_last)
        dz0.append(back.z0)
        for name, grad in zip(names, back[:3], strict=True):
            expected = grads.params[name]
            bound = exact_bound(1000) * np.abs(expected).max()
            np.testing.assert_allclose(grad, expected, atol=bound)
    expected = grads.z0.reshape(np.shape(dz0))
    bound = exact_bound(1000) * np.abs(expected).max()
    np.testing.assert_allclose(dz0, expected, atol=bound)
    flows = layer_flows(network, x, target, z0, **options)
    for flow, one in zip(flows, dz0, strict=True):
        if "resets" in options:
            continue  # z0 has a part in later steps too
        # e[0] is the gradient by z0, so the flow begins where the gradients end.
        with np.errstate(divide="ignore"):
            ends = np.log10(np.linalg.norm(one, axis=-1))
        bound = exact_bound(1000)
        np.testing.assert_allclose(flow.log10_norm[0], ends, rtol=bound, atol=bound)


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("single", [False, True])
def test_the_traces_of_recomputed_layers_are_those_of_kept_ones(
    single, num_layers, readout, rng
):
    network = bptt.Network(
        3, 6, 2, loss="squared_error", readout=readout, num_layers=num_layers,
        seed=0, dtype=np.float64,
    )  # fmt: skip
    x = rng.standard_normal((600, 2, 3))
    target = rng.standard_normal((600, 2, 2) if readout == "every" else (2, 2))
    if single:
        x, target = x[:, 0], target[:, 0] if readout == "every" else target[0]
    bound = exact_bound(10_000)
    for kept, found in zip(
        layer_traces(network, x, target),
        layer_traces(network, x, target, checkpoint=1),
        strict=True,
    ):
        assert found.tape.schedule is not None
        assert abs(found.loss - kept.loss) <= bound * kept.loss
        for one, two in ((found.dz, kept.dz), (found.dz_last, kept.dz_last)):
            assert (one is None) == (two is None)
            if one is not None:
                np.testing.assert_allclose(one, two, atol=bound * np.abs(two).max())
    for kept, found in zip(
        layer_flows(network, x, target),
        layer_flows(network, x, target, checkpoint=1),
        strict=True,
    ):
        for name in ("log10_norm", "log10_decay", "log10_dV"):
            one, two = getattr(found, name), getattr(kept, name)
            np.testing.assert_allclose(one, two, rtol=bound, atol=bound)


@pytest.mark.parametrize("readout", ["every", "last"])
def test_the_flow_of_lengths_is_that_of_each_sequence(readout, rng):
    network = bptt.Network(
        3, 6, 2, loss="squared_error", readout=readout, seed=0, dtype=np.float64
    )
    x, target = batch(rng, "squared_error", readout)
    lengths = [9, 3, 5, 7]
    found = network_flow(network, x, target, lengths=lengths)
    # A mean over all steps, or all sequences, and here over those of one.
    steps = sum(lengths) if readout == "every" else 4
    for i, n in enumerate(lengths):
        one = target[:n, i] if readout == "every" else target[i]
        alone = network_flow(network, x[:n, i], one)
        share = np.log10(steps / (n if readout == "every" else 1))
        np.testing.assert_allclose(
            found.log10_norm[: n + 1, i],
            alone.log10_norm[:, 0] - share,
            rtol=exact_bound(1000),
            atol=exact_bound(1000),
        )
        assert np.isneginf(found.log10_norm[n + 1 :, i]).all()


def test_omega_of_lengths_is_what_the_network_adds(rng):
    network = bptt.Network(3, 6, 2, loss="squared_error", seed=0, dtype=np.float64)
    x, target = batch(rng, "squared_error", "every")
    options = {"lengths": [9, 3, 5, 7], "resets": rng.random((9, 4)) < 0.2}
    _, plain = network.loss_and_gradients(x, target, **options)
    _, grads = network.loss_and_gradients(x, target, omega=0.7, **options)
    _, extra = network_omega(network, x, target, **options)
    for name in ("W", "V", "b"):
        expected = plain.params[name] + 0.7 * extra[name]
        bound = exact_bound(1000) * np.abs(expected).max()
        np.testing.assert_allclose(grads.params[name], expected, atol=bound)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 2}, "; layer_traces and layer_flows are for more, got num_l"),
        ({"bidirectional": True}, "; layer_traces and layer_flows are for more, got b"),
    ],
)
def test_a_trace_is_of_one_cell(options, message):
    network = bptt.Network(3, 6, 2, loss="squared_error", **options)
    x, target = np.ones((4, 2, 3), np.float32), np.zeros((4, 2, 2))
    for call in (trace, network_flow, network_omega):
        with pytest.raises(ValueError, match=r"^network must have one layer in one di"):
            call(network, x, target)
        with pytest.raises(ValueError, match=message):
            call(network, x, target)


def test_a_layer_that_no_gradient_comes_to_has_no_flow(rng):
    network = bptt.Network(
        3, 6, 2, loss="squared_error", num_layers=2, activation="relu",
        dtype=np.float64,
    )  # fmt: skip
    x, target = batch(rng, "squared_error", "every")
    network.params["b_l1"][...] = -100
    below, above = layer_flows(network, x, target)
    assert below is None
    assert above.kind == "dead"
    network.params["U"][...] = 0
    with pytest.raises(ValueError, match=r"^dz must not be 0 everywhere"):
        layer_flows(network, x, target)


def test_wrong_traces(rng):
    network = bptt.Network(
        3, 6, 2, loss="squared_error", readout="last", num_layers=2, dtype=np.float64
    )
    both = bptt.Network(
        3, 6, 2, loss="squared_error", readout="last", num_layers=2,
        bidirectional=True, dtype=np.float64,
    )  # fmt: skip
    x, target = batch(rng, "squared_error", "last")
    for wrong, message in (
        (
            lambda: layer_traces(network.stack, x, target),
            r"^network must be a bptt\.Net",
        ),
        (
            lambda: layer_flows(network, x, target, lengths=[9, 9]),
            r"^lengths must have shape",
        ),
        (
            lambda: layer_flows(network, x, target, lengths=[9, 3, 5, 7], checkpoint=2),
            r"^tape must hold its states",
        ),
        (lambda: layer_traces(network, x, target[:2]), r"^target must have shape"),
        (
            lambda: layer_flows(network, x, target, memory=1),
            r"^memory must be at least",
        ),
        (lambda: layer_flows(network, x, target, length=[1]), "argument 'length'"),
        (
            lambda: layer_flows(both, x, target, checkpoint=4),
            r"^checkpoint must be None for layers that are run together in both dir",
        ),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            wrong()
