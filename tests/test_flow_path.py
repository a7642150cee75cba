"""The flow of gradients in ragged, reset and recomputed runs, as of one sequence each.

A sequence that starts anew is several of them, from one reset to the next; between
those there is no Jacobian. From a state that resets have of their own it does so at its
first step too, and z0 has no part in it.
"""

import inspect
import itertools
import types

import numpy as np
import pytest
from paths import FORMS, LENGTHS, RESETS, a_batch, a_tape, as_form, pieces
from ragged import close, same_bits
from tolerances import exact_bound

import bptt
from bptt import _backend, flow
from bptt.flow import _path, tangents

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


class Plain:
    """What gradient_flow says, from the errors of single sequences."""

    def __init__(self, batch, resets, dz, dz_last):
        T, S, H = max(batch.lengths), len(batch.lengths), len(batch.V)
        e, self.dV = np.zeros((T + 1, S, H)), np.zeros((T, H, H))
        self.slopes, self.gaps = {}, {}
        for s, n in enumerate(batch.lengths):
            g = np.zeros((n + 1, H))
            if dz is not None:
                g[1:] += dz[s]
            if dz_last is not None:
                g[n] += dz_last[s]
            e[: n + 1, s] = g
            for t0, t1, anew, tape in pieces(batch, s, resets):
                D = tape.activation.dsigma(np.float64(tape.z[:, 0]))
                for t in range(t1, t0, -1):
                    self.slopes[t, s] = D[t - t0]
                    da = e[t, s] * D[t - t0]
                    self.dV[t - 1] += np.outer(tape.z[t - t0 - 1, 0], da)
                    if t > t0 + 1 or not anew:
                        e[t - 1, s] += da @ batch.V.T
                    alone = g[t]
                    for i in range(t, t0 - (not anew), -1):
                        if g[t].any():
                            left = np.linalg.norm(alone) / np.linalg.norm(g[t])
                            self.gaps.setdefault(t - i, []).append(np.log10(left))
                        if i > t0:
                            alone = (alone * D[i - t0]) @ batch.V.T
        with np.errstate(divide="ignore"):
            self.norm = np.log10(np.linalg.norm(e, axis=2))
            self.norm_all = np.log10(np.linalg.norm(e.reshape(T + 1, -1), axis=1))
            self.dV = np.log10(np.linalg.norm(self.dV, axis=(1, 2)))


def check_flow(form, resets, loss, seed):
    """Assert that gradient_flow is that of a loop over sequences."""
    batch = a_batch(seed, resets=resets)
    # Eight steps have a loss at most, so that all of them are sent back alone.
    given = [a * (np.arange(len(a)) % 3 == 2)[:, np.newaxis] for a in batch.dz]
    given = given if loss != "dz_last" else None
    last = batch.dz_last if loss != "dz" else None
    tape = a_tape(batch, form, resets)
    found = bptt.gradient_flow(
        tape, None if given is None else as_form(batch, form, given), dz_last=last
    )
    plain = Plain(batch, resets, given, last)
    bound = exact_bound(1000)
    for actual, desired in (
        (found.log10_norm, plain.norm),
        (found.log10_norm_all, plain.norm_all),
        (found.log10_dV, plain.dV),
        (found.log10_decay, [np.mean(plain.gaps[k]) for k in sorted(plain.gaps)]),
    ):
        np.testing.assert_allclose(actual, desired, rtol=bound, atol=bound)
    slopes = np.array([plain.slopes[key] for key in sorted(plain.slopes)])
    assert found.sizes == (12, 7, 3, 5)
    assert found.units.saturated == (slopes < 0.05).mean()
    np.testing.assert_array_equal(
        found.units.saturated_by_unit, (slopes < 0.05).mean(axis=0)
    )
    return found


@FORMS
@RESETS
@pytest.mark.parametrize("loss", ["dz", "dz_last", "dz and dz_last"])
def test_gradient_flow_is_that_of_single_sequences(form, resets, loss):
    for seed in range(3):
        found = check_flow(form, resets, loss, seed)
        assert np.isneginf(found.log10_norm[8:, 0]).all()
        if resets not in (False, True):
            assert np.isneginf(found.log10_norm[0, 2])


def put_nothing_back(self, tape, begin=_path.Path.__init__):
    begin(self, tape)
    self.row = np.arange(self.B)


BUGS = {
    "a reset is overlooked": (_path.Path, "cuts", lambda self, t: _path._NONE),
    "rows are not put back": (_path.Path, "__init__", put_nothing_back),
    "a start of zeros": (_path.Path, "_starts", lambda self: np.zeros((7, 5))),
    "the loss of the step before": (
        _path.Loss,
        "at",
        lambda self, t, at=_path.Loss.at: at(self, t - (t > 1))[: self.path.rows(t)],
    ),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_of_gradient_flow_finds(bug, monkeypatch):
    monkeypatch.setattr(*BUGS[bug])
    with pytest.raises(AssertionError):
        check_flow("list", True, "dz and dz_last", 0)


@DTYPES
def test_no_sequence_is_lost_beside_a_larger_one(dtype):
    V = np.diag([1e-2, 1e2]).astype(dtype)
    x = [np.zeros((400, 1), dtype), np.zeros((300, 1), dtype)]
    _, tape = bptt.forward(x, np.ones((1, 2), dtype), V, activation="identity")
    found = bptt.gradient_flow(tape, dz_last=np.eye(2, dtype=dtype))
    small, large = (float(np.log10(np.float64(v))) for v in np.diag(V))
    np.testing.assert_allclose(
        found.log10_norm[0], [400 * small, 300 * large], rtol=exact_bound(400)
    )
    np.testing.assert_allclose(
        found.log10_norm_all[[0, 350]],
        [300 * large, 50 * small],
        rtol=exact_bound(400),
    )


def test_a_reset_is_not_taken_for_a_vanished_gradient(rng):
    V = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    _, tape = bptt.forward(
        np.zeros((40, 1)), np.ones((1, 4)), V, resets=np.arange(40) % 10 == 0
    )
    found = bptt.gradient_flow(tape, dz_last=rng.standard_normal(4))
    assert np.isneginf(found.log10_norm_all[:31]).all()
    assert len(found.log10_decay) == 10  # from step 40 back to step 31
    assert found.kind == "healthy"
    assert flow.horizon(tape, dz_last=np.ones(4)) == np.inf


@FORMS
@DTYPES
@RESETS
def test_jacobians_are_those_of_single_sequences(resets, form, dtype):
    batch = a_batch(1, dtype, resets=resets)
    tape = a_tape(batch, form, resets)
    assert any(r[1:].any() for r in batch.resets)
    for t in range(1, 13):
        all_of = bptt.jacobian(tape, t)
        slopes = bptt.jacobian(tape, t, diagonal=True)
        assert all_of.dtype == dtype
        for s in range(len(LENGTHS)):
            expected, slope = np.zeros((5, 5)), np.zeros(5)
            for t0, t1, anew, one in pieces(batch, s, resets):
                if t0 < t <= t1:
                    slope = bptt.jacobian(one, t - t0, diagonal=True)
                    if t > t0 + 1 or not anew:
                        expected = bptt.jacobian(one, t - t0)
            close(slopes[s], slope.astype(dtype), 1000)
            close(all_of[s], expected.astype(dtype), 1000)


@FORMS
@RESETS
def test_products_are_those_of_single_sequences(resets, form):
    batch = a_batch(1, resets=resets)
    tape = a_tape(batch, form, resets)
    # The logarithms are those of up to 500 iterations, through a gap and back.
    bound, iterated = exact_bound(1000), exact_bound(100_000)
    growths = 0
    for t, i in ((12, 0), (12, 9), (7, 5), (3, 0), (2, 1), (4, 4)):
        product = bptt.jacobian_product(tape, t, i).dense()
        logs = flow.log_singular_values(tape, t, i, 2)
        split = flow.split_growth(tape, t, i, np.ones((7, 5)))
        for s in range(len(LENGTHS)):
            one = [
                (one, t0)
                for t0, t1, anew, one in pieces(batch, s, resets)
                if t0 <= i - anew and t <= t1
            ]
            if not one:
                assert (product[s] == 0).all()
                assert np.isneginf(logs[s]).all()
                assert np.isnan(split.V[-1:, s]).all()
                continue
            one, t0 = one[0]
            expected = bptt.jacobian_product(one, t - t0, i - t0).dense()
            np.testing.assert_allclose(product[s], expected, rtol=0, atol=bound)
            expected = flow.log_singular_values(one, t - t0, i - t0, 2)
            np.testing.assert_allclose(logs[s], expected, rtol=0, atol=iterated)
            alone = flow.split_growth(one, t - t0, i - t0, np.ones(5))
            for values, wanted in zip(split, alone, strict=True):
                np.testing.assert_allclose(values[:, s], wanted, rtol=0, atol=bound)
            growths += 1
    assert growths > 5


@RESETS
def test_norms_of_the_products_of_one_sequence(resets):
    batch = a_batch(1, resets=resets)
    tape = a_tape(batch, "list", resets)
    for s in (0, 2, 4):
        norms = flow.product_norms(tape, s, probes=5)
        assert norms.shape == (batch.lengths[s] + 1,) * 2
        for t, i in itertools.combinations(range(batch.lengths[s], -1, -1), 2):
            product = bptt.jacobian_product(tape, t, i).dense()[s]
            with np.errstate(divide="ignore"):
                expected = np.log10(np.linalg.norm(product) / np.sqrt(5))
            if np.isinf(expected):
                assert norms[t, i] == expected
                continue
            bound = float(np.finfo(np.float32).eps) * 4 * (1 + abs(expected))
            assert abs(norms[t, i] - expected) <= bound


def some_direction(batch, seed):
    rng = np.random.default_rng(seed)

    def like(a):
        return rng.standard_normal(a.shape).astype(batch.W.dtype)

    dparams = {name: like(getattr(batch, name)) for name in "WVb"}
    dx = None
    if batch.x[0].dtype.kind == "f":
        dx = [like(x) for x in batch.x]
    return like(batch.z0), dx, dparams


def check_tangents(jvp, batch, form, resets, seed):
    """Assert that tangents are those of a loop over sequences."""
    dz0, dx, dparams = some_direction(batch, seed)
    tape = a_tape(batch, form, resets)
    given = None if dx is None else as_form(batch, form, dx)
    actual = jvp(tape, dz0=dz0, dx=given, dparams=dparams)
    alone = []
    for s in range(len(batch.lengths)):
        alone.append(np.zeros((0, 5), batch.W.dtype))
        for t0, t1, anew, one in pieces(batch, s, resets):
            dx_s = None if dx is None else dx[s][t0:t1]
            # A state that resets have of their own is constant.
            start = 0 * dz0[s] if anew and batch.reset_state is not None else dz0[s]
            tangent = bptt.jvp(one, dz0=start, dx=dx_s, dparams=dparams)
            alone[-1] = np.concatenate([alone[-1], tangent])
    desired = batch.pad(alone, 0) if form == "padded" else as_form(batch, form, alone)
    if form == "list":
        assert [len(a) for a in actual] == batch.lengths
        actual, desired = np.concatenate(actual), np.concatenate(desired)
    close(actual, desired, 1000)


@FORMS
@DTYPES
@pytest.mark.parametrize("ids", [False, True])
@RESETS
def test_tangents_are_those_of_single_sequences(resets, ids, dtype, form):
    for seed in range(4):
        batch = a_batch(seed, dtype, resets=resets, ids=ids)
        check_tangents(bptt.jvp, batch, form, resets, seed)


TANGENT_BUGS = {
    "a tangent goes on through a reset": ("] = tangent", "]"),
    "z before a reset is the old one": ("] = layout.starts[sequence]", "]"),
    "the row beside": ("(first - n)] = tangent", "(first - n) - 1] = tangent"),
    "dx of the leaf's first steps": ("[o0:o1]", "[: o1 - o0]"),
}


@pytest.mark.parametrize("bug", TANGENT_BUGS)
def test_the_check_of_tangents_finds(bug):
    source, (old, new) = inspect.getsource(tangents), TANGENT_BUGS[bug]
    assert old in source
    wrong = types.ModuleType("wrong")
    exec(source.replace(old, new), vars(wrong))
    with pytest.raises(AssertionError):
        check_tangents(wrong.jvp, a_batch(0), "list", True, 0)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("budget", [{}, {"checkpoint": 2}, {"memory": "least"}])
def test_jvp_and_vjp_are_transposes(budget, ragged, resets):
    batch = a_batch(2, lengths=[40, 700, 0, 300] if ragged else [700] * 4)
    arguments = {"resets": resets, **enough(batch, budget)}
    tape = a_tape(batch, "padded", **arguments)
    dz0, dx, dparams = some_direction(batch, 2)
    dx = as_form(batch, "padded", dx)
    dz = bptt.jvp(tape, dz0=dz0, dx=dx, dparams=dparams)
    if budget:
        grads, pairs = bptt.vjp(tape, dz_last=batch.dz_last), [(dz, batch.dz_last)]
    else:
        weights = batch.pad(batch.dz, 0)
        grads, pairs = bptt.vjp(tape, weights), [(dz, weights)]
    pairs += [(grads.z0, dz0), (grads.x, dx)]
    pairs += [(getattr(grads, name), dparams[name]) for name in "WVb"]
    left, *right = ((a * b).sum() for a, b in pairs)
    size = sum(np.abs(a * b).sum() for a, b in pairs)
    assert abs(left - sum(right)) <= exact_bound(1000) * size


def enough(batch, budget, resets=True):
    """Return the options of a budget, the least there may be where that is asked."""
    if budget.get("memory") != "least":
        return budget
    with pytest.raises(ValueError, match="memory must be at least") as least:
        a_tape(batch, "padded", resets, memory=1)
    return {"memory": int(1.02 * int(str(least.value).split()[5]))}


@DTYPES
@RESETS
@pytest.mark.parametrize("budget", [{"checkpoint": 2}, {"memory": "least"}])
@pytest.mark.skipif(_backend.backend != "compiled", reason="one chunk of all steps")
def test_a_recomputed_run_has_the_bits_of_one_that_is_kept(budget, resets, dtype):
    batch = a_batch(3, dtype, [700] * 3, resets)
    kept = a_tape(batch, "padded", resets)
    options = {"resets": resets, **enough(batch, budget, resets)}
    other = a_tape(batch, "padded", **options)
    assert other.schedule.leaves > 2
    dz = batch.pad(batch.dz, 0)
    for _ in range(2):
        one, two = (bptt.gradient_flow(tape, dz) for tape in (kept, other))
        for name in ("log10_norm", "log10_norm_all", "log10_decay", "log10_dV"):
            # A leaf is sent back on its own, and its sums are in another order.
            np.testing.assert_allclose(
                getattr(one, name),
                getattr(two, name),
                rtol=exact_bound(700),
                atol=exact_bound(700),
            )
        for a, b in zip(one.units, two.units, strict=True):
            np.testing.assert_array_equal(a, b)
        for ask in (
            lambda tape: bptt.jacobian(tape, 1),
            lambda tape: bptt.jacobian(tape, 333),
            lambda tape: bptt.jacobian(tape, 700),
            lambda tape: bptt.jacobian_product(tape, 640, 90).matrix,
            lambda tape: flow.log_singular_values(tape, 640, 600),
            lambda tape: flow.product_norms(tape, 1)[:, :5],
            lambda tape: bptt.vjp(tape, dz).V,
        ):
            same_bits(ask(kept), ask(other))
    dz0, _, dparams = some_direction(batch, 3)
    one, two = (bptt.jvp(tape, dz0=dz0, dparams=dparams) for tape in (kept, other))
    same_bits(np.ascontiguousarray(one[-1]), two)
    if not resets:
        spectra = [bptt.lyapunov_exponents(tape, 2, skip=350) for tape in (kept, other)]
        same_bits(spectra[0].exponents, spectra[1].exponents)


def test_a_run_without_batch_axis(rng):
    x, resets = rng.standard_normal((600, 3)), rng.random(600) < 0.01
    W, V = rng.standard_normal((3, 5)), rng.standard_normal((5, 5)) / 2
    many = bptt.forward(x[:, np.newaxis], W, V, resets=resets)[1]
    for budget in ({}, {"checkpoint": 1}):
        one = bptt.forward(x, W, V, resets=resets, **budget)[1]
        dz0 = rng.standard_normal(5)
        expected = bptt.jvp(many, dz0=dz0[np.newaxis])[:, 0]
        actual = bptt.jvp(one, dz0=dz0)
        close(actual, expected[-1] if budget else expected, 1000)
        for t in (1, 300, 600):
            same_bits(bptt.jacobian(one, t), bptt.jacobian(many, t)[0])
        same_bits(
            bptt.gradient_flow(one, dz_last=dz0).log10_norm,
            bptt.gradient_flow(many, dz_last=dz0[np.newaxis]).log10_norm,
        )
