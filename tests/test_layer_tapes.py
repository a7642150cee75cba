"""Each of several layers that are recomputed together has a tape, as if kept."""

import inspect
import sys
import types

import numpy as np
import pytest
from ragged import same_bits
from tolerances import exact_bound

import bptt
from bptt import RNN, _backend, _layer_tapes, _stack, flow, plots

SEVERAL_LEAVES = pytest.mark.skipif(
    _backend.backend != "compiled", reason="one chunk of all steps"
)
T, B, I, H = 700, 3, 4, 5
BUDGETS = [{"checkpoint": 1}, {"memory": "least"}]


def layers(**options):
    """Return three layers with random parameters, an input and initial states."""
    rng = np.random.default_rng(12)
    rnn = RNN(I, H, 3, seed=rng, dtype=np.float64, **options)
    for p in rnn.params.values():
        p[...] = rng.normal(0, 0.5, p.shape)
    return rnn, rng.standard_normal((T, B, I)), rng.standard_normal((3, B, H))


def both_tapes(rnn, x, z0, budget, **options):
    """Return the tapes of layers that are kept, and of those that are recomputed."""

    def tape(**budget):
        return rnn.forward(x, z0, seed=1, **options, **budget)[1]

    if budget.get("memory") == "least":
        with pytest.raises(ValueError, match="memory must be at least") as least:
            tape(memory=1)
        budget = {"memory": int(1.02 * int(str(least.value).split()[5]))}
    kept, found = tape(), tape(**budget)
    assert found.schedule.leaves > 2
    return kept, found


def check_layer(kept, found):
    """Assert that the tapes of a layer say the same."""
    rng = np.random.default_rng(13)
    dz, dz0 = rng.standard_normal((T, B, H)), rng.standard_normal((B, H))
    dx = rng.standard_normal((T, B, len(kept.W)))
    same_bits(found.z_last, np.ascontiguousarray(kept.z_last))
    for ask in (
        lambda tape: bptt.jacobian(tape, 1),
        lambda tape: bptt.jacobian(tape, 333),
        lambda tape: bptt.jacobian_product(tape, 640, 90).matrix,
        lambda tape: flow.log_singular_values(tape, 640, 600),
        lambda tape: flow.product_norms(tape, 1)[:, :5],
        lambda tape: plots.last_steps(tape, 200).z,
    ):
        same_bits(ask(found), ask(kept))
    one, two = (
        bptt.jvp(tape, dz0=dz0, dx=dx, dparams={"W": 0.1 * tape.W})
        for tape in (kept, found)
    )
    same_bits(two, np.ascontiguousarray(one[-1]))
    for one, two in zip(*(bptt.vjp(tape, dz) for tape in (kept, found)), strict=True):
        same_bits(two, one)
    one, two = (bptt.gradient_flow(tape, dz) for tape in (kept, found))
    bound = exact_bound(T)
    for name in ("log10_norm", "log10_norm_all", "log10_decay", "log10_dV"):
        # A leaf is sent back on its own, and its sums are in another order.
        np.testing.assert_allclose(
            getattr(two, name), getattr(one, name), rtol=bound, atol=bound
        )
    for a, b in zip(one.units, two.units, strict=True):
        np.testing.assert_array_equal(a, b)


@SEVERAL_LEAVES
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("budget", BUDGETS)
def test_it_is_that_of_the_layer_when_it_is_kept(budget, dropout, resets, rng):
    options = {"training": True}
    if resets:
        options["resets"] = rng.random((T, B)) < 0.01
    kept, found = both_tapes(*layers(dropout=dropout), budget, **options)
    for _ in range(2):
        for one, two in zip(kept.tapes, found.tapes, strict=True):
            check_layer(one, two)


@SEVERAL_LEAVES
def test_exponents_are_those_of_the_layer_when_it_is_kept():
    kept, found = both_tapes(*layers(), BUDGETS[1])
    for tapes in zip(kept.tapes, found.tapes, strict=True):
        one, two = (bptt.lyapunov_exponents(tape, 2, skip=350) for tape in tapes)
        same_bits(two.exponents, one.exponents)


@SEVERAL_LEAVES
def test_all_layers_go_back_as_before_once_one_was_looked_at(rng):
    rnn, x, z0 = layers()
    dz = rng.standard_normal((T, B, H))
    kept, found = both_tapes(rnn, x, z0, BUDGETS[1])
    bptt.jacobian(found.tapes[1], 20)
    bptt.gradient_flow(found.tapes[0], dz)
    expected, grads = rnn.backward(kept, dz), rnn.backward(found, dz)
    for name, grad in expected.params.items():
        same_bits(grads.params[name], grad)
    same_bits(grads.x, expected.x)


@SEVERAL_LEAVES
def test_what_looks_at_a_layer_leaves_a_walk_on_its_way_alone(rng):
    rnn, x, z0 = layers()
    dz = rng.standard_normal((T, B, H))
    kept, found = both_tapes(rnn, x, z0, BUDGETS[0])

    def asked(start, z):
        before = z.copy()
        bptt.jacobian(found.tapes[0], 20)
        same_bits(z, before)
        return dz[start : start + len(z)]

    same_bits(
        bptt.backward(found.tapes[1], asked).V, bptt.backward(kept.tapes[1], dz).V
    )


BUGS = {
    "the state of another layer": ("layers.layers[k]", "layers.layers[k - 1]"),
    "every layer reads x": ("inputs(self.k, leaf)", "inputs(0, leaf)"),
    "states in the room of a walk": ("layers=layers, held", "held"),
}


@SEVERAL_LEAVES
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch, rng):
    old, new = BUGS[bug]
    source = inspect.getsource(_layer_tapes)
    assert source.count(old) == 1, f"{old!r} must stand once"
    module = types.ModuleType("layer_tapes_with_a_bug")
    monkeypatch.setitem(sys.modules, "layer_tapes_with_a_bug", module)
    exec(compile(source.replace(old, new), "planted", "exec"), module.__dict__)
    monkeypatch.setattr(_stack, "tapes_of", module.tapes_of)

    def check():
        test_it_is_that_of_the_layer_when_it_is_kept(BUDGETS[0], 0.0, False, rng)
        test_what_looks_at_a_layer_leaves_a_walk_on_its_way_alone(rng)

    with pytest.raises((AssertionError, ValueError)):
        check()


def test_what_is_not_kept_is_no_number():
    rnn, x, z0 = layers()
    tapes = rnn.forward(x, z0, checkpoint=1)[1].tapes
    same_bits(tapes[0].x, x)
    for tape in tapes[1:]:
        assert tape.x.shape == (T, B, H)
        assert np.isnan(tape.x).all()
        assert tape.x.strides == (0, 0, 0)


def test_sequences_of_their_own_lengths_have_tangents_and_no_flow(rng):
    rnn, x, z0 = layers()
    lengths = [T, 0, 55]
    kept, found = (
        rnn.forward(x, z0, lengths=lengths, **budget)[1]
        for budget in ({}, {"checkpoint": 1})
    )
    dz0, dz = rng.standard_normal((B, H)), rng.standard_normal((T, B, H))
    for one, two in zip(kept.tapes, found.tapes, strict=True):
        tangents = bptt.jvp(one, dz0=dz0)
        same_bits(bptt.jvp(two, dz0=dz0)[0], np.ascontiguousarray(tangents[-1, 0]))
        with pytest.raises(ValueError, match=r"^tape must hold its states where s"):
            bptt.gradient_flow(two, dz)
        with pytest.raises(ValueError, match=r"^tape must hold its states to go b"):
            bptt.backward(two, dz)
