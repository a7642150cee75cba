"""Layers on lists of sequences, with states recomputed, and with the error clipped."""

import numpy as np
import pytest
from tolerances import exact_bound

import bptt
from bptt import RNN, _backend, _directions

COMPILED = _backend.backend == "compiled"
I, H = 4, 5
# In no order, one empty, one of a single step.
LENGTHS = [4, 30, 0, 1, 16]
SHAPES = [(1, False), (1, True), (2, False), (3, True)]


def make(layers=1, both=True, dtype=np.float64, **options):
    rng = np.random.default_rng(7)
    rnn = RNN(I, H, layers, bidirectional=both, seed=rng, dtype=dtype, **options)
    for p in rnn.params.values():
        p[...] = rng.normal(0, 0.4, p.shape)
    return rnn


class Case:
    """Random sequences, and gradients of a loss on their states."""

    def __init__(self, rnn, lengths, ids=False, resets=True):
        rng, dtype = np.random.default_rng(3), rnn.stack.dtype

        def array(*shape):
            return rng.standard_normal(shape).astype(dtype)

        self.lengths = lengths
        self.z0, self.dz_last = (
            array(rnn.stack.cells, len(lengths), H) for _ in range(2)
        )
        self.x = [rng.integers(0, I, n) if ids else array(n, I) for n in lengths]
        self.dz = [array(n, rnn.stack.width) for n in lengths]
        self.resets = [rng.random(n) < 0.2 for n in lengths] if resets else None

    def pad(self, items):
        return None if items is None else bptt.data.pad(items)[0]

    def join(self, items):
        return None if items is None else np.concatenate(items)


def leaves(z, tape, back):
    """Return all that came of a run by name."""
    grads, flows = back
    found = {"z": z, "z_last": tape.z_last, "z0": grads.z0, "x": grads.x}
    for cell, flow in enumerate(flows):
        found |= {f"{name}{cell}": value for name, value in flow._asdict().items()}
    return found | grads.params


def turns(case):
    """Return what brings a list into each form."""
    return {"list": list, "padded": case.pad, "values": case.join}


def in_form(rnn, case, form, **options):
    turn = turns(case)[form]
    if form == "padded":
        options["lengths"] = case.lengths
    elif form == "values":
        options["offsets"] = np.concatenate([[0], np.cumsum(case.lengths)])
    resets = None if case.resets is None else turn(case.resets)
    return rnn.forward(turn(case.x), case.z0, resets=resets, **options)


def run(rnn, case, form, **back):
    z, tape = in_form(rnn, case, form)
    dz = turns(case)[form](case.dz)
    grads = rnn.backward(tape, dz, dz_last=case.dz_last, record=True, **back)
    return leaves(z, tape, grads)


def check_forms(rnn, case):
    found = run(rnn, case, "list", clip_error=0.8)
    padded = run(rnn, case, "padded", clip_error=0.8)
    values = run(rnn, case, "values", clip_error=0.8)
    assert found.keys() == padded.keys() == values.keys()
    for name, value in found.items():
        if isinstance(value, list):
            assert [len(a) for a in value] == case.lengths
            np.testing.assert_array_equal(case.join(value), values[name], name)
            np.testing.assert_array_equal(case.pad(value), padded[name], name)
        elif value is None:
            assert padded[name] is values[name] is None
        else:
            np.testing.assert_array_equal(value, padded[name], name)
            np.testing.assert_array_equal(value, values[name], name)


@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_list_is_a_padded_batch(layers, both, dtype, ids, resets, batch_first):
    rnn = make(layers, both, dtype)
    case = Case(rnn, LENGTHS, ids, resets)
    if not batch_first:
        check_forms(rnn, case)
        return
    # Each sequence of a list is (T, I) whatever comes first in an array.
    other = make(layers, both, dtype, batch_first=True)
    for form in ("list", "values"):
        mine, theirs = run(rnn, case, form), run(other, case, form)
        for name, value in mine.items():
            if isinstance(value, list):
                value, theirs[name] = case.join(value), case.join(theirs[name])
            np.testing.assert_array_equal(value, theirs[name], name)


def wrong_end(self, array):
    return array[::-1]


def wrong_way(self, array):
    return array


@pytest.mark.parametrize("bug", [wrong_end, wrong_way])
def test_a_planted_bug_is_found(bug, monkeypatch):
    rnn = make()  # a single layer, of which each direction reads a copy
    case = Case(rnn, LENGTHS)
    right = _directions.Reversal.__call__

    def call(self, array):
        listed = len(array) == sum(LENGTHS)
        return (bug if listed else right)(self, array)

    monkeypatch.setattr(_directions.Reversal, "__call__", call)
    with pytest.raises(AssertionError):
        check_forms(rnn, case)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [650, 400, 0]])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
def test_recomputed_gradients_have_the_bits_of_stored_ones(
    dtype, both, lengths, batch_first
):
    rnn = make(1, both, dtype, batch_first=batch_first)
    case = Case(rnn, lengths or [650] * 3)

    def turned(items):
        return case.pad(items).swapaxes(0, int(batch_first))

    options = {"lengths": lengths, "resets": turned(case.resets)}
    dz, last = turned(case.dz), {"dz_last": case.dz_last}
    back = {"record": True, "clip_error": 1.0, "clip_error_value": 0.3}
    z, tape = rnn.forward(turned(case.x), case.z0, **options)
    stored = leaves(z, tape, rnn.backward(tape, dz, **last, **back))
    with pytest.raises(ValueError, match=r"^memory must be at least \d+ bytes") as low:
        rnn.forward(turned(case.x), **options, memory=1000)
    assert str(low.value).endswith("for this batch, got 1000")
    least = int(str(low.value).split()[5])
    for budget in ({"checkpoint": 1}, {"checkpoint": 200}, {"memory": least}):
        z_last, tape = rnn.forward(turned(case.x), case.z0, **options, **budget)
        assert len(tape.tapes[0].z.reshape(-1, H)) < z.size // H
        found = leaves(None, tape, rnn.backward(tape, dz, **last, **back))
        np.testing.assert_array_equal(z_last, stored["z_last"])
        for name, value in stored.items():
            if name != "z":
                np.testing.assert_array_equal(found[name], value, name)
        # The states of the list form are recomputed as well.
    z, tape = rnn.forward(case.x, case.z0, resets=case.resets, checkpoint=150)
    grads = rnn.backward(tape, case.dz, **last, **{**back, "record": False})
    if lengths is not None:
        for name, grad in grads.params.items():
            np.testing.assert_array_equal(grad, stored[name], name)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_gradient_may_be_asked_for_part_by_part(batch_first):
    rnn = make(1, both=False, batch_first=batch_first)
    rng = np.random.default_rng(0)
    axis = int(batch_first)
    x, target = (rng.standard_normal((650, 3, n)).swapaxes(0, axis) for n in (I, H))
    z, tape = rnn.forward(x)
    stored = rnn.backward(tape, z - target)

    def dz(start, part):
        steps = part.shape[axis]
        return part - target.take(np.arange(start, start + steps), axis)

    _, tape = rnn.forward(x, checkpoint=1)
    for grads in (rnn.backward(tape, dz), rnn.backward(rnn.forward(x)[1], dz)):
        np.testing.assert_allclose(grads.x, stored.x)
        for name, grad in grads.params.items():
            np.testing.assert_allclose(grad, stored.params[name])


def cell(rnn, name):
    return [rnn.params[letter + name] for letter in "WVb"]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    "clip", [{}, {"clip_error": 0.4}, {"clip_error": 2.0, "clip_error_value": 0.15}]
)
def test_the_error_of_each_cell_is_clipped_and_measured(clip, batch_first):
    rnn = make(2, both=True, batch_first=batch_first)
    rng, T, B = np.random.default_rng(1), 20, 3
    x, dz = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, 2 * H))

    def turned(array):
        return array.swapaxes(0, 1) if batch_first else array

    # The same by hand, cell by cell.
    tapes, z = [], x
    for layer in ("", "_l1"):
        left, one = bptt.forward(z, *cell(rnn, layer))
        right, other = bptt.forward(z[::-1], *cell(rnn, layer + "_reverse"))
        tapes += [one, other]
        z = np.concatenate([left, right[::-1]], axis=-1)
    expected, flows, up = {}, [None] * 4, dz
    for layer, name in ((2, "_l1"), (0, "")):
        one, flows[layer] = bptt.backward(
            tapes[layer], up[..., :H], record=True, **clip
        )
        other, flow = bptt.backward(
            tapes[layer + 1], up[::-1, :, H:], record=True, **clip
        )
        flows[layer + 1] = flow._replace(
            norms=flow.norms[::-1], saturated=flow.saturated[::-1]
        )
        up = one.x + other.x[::-1]
        for end, grads in ((name, one), (name + "_reverse", other)):
            expected |= {n + end: getattr(grads, n) for n in "WVb"}

    z_found, tape = rnn.forward(turned(x))
    grads, found = rnn.backward(tape, turned(dz), record=True, **clip)
    np.testing.assert_array_equal(z_found, turned(z))
    np.testing.assert_array_equal(grads.x, turned(up))
    for name, grad in grads.params.items():
        np.testing.assert_array_equal(grad, expected[name], name)
    assert len(found) == 4
    for flow, wanted in zip(found, flows, strict=True):
        np.testing.assert_array_equal(flow.norms, turned(wanted.norms))
        np.testing.assert_array_equal(flow.saturated, turned(wanted.saturated))
        np.testing.assert_array_equal(flow.dead, wanted.dead)
    if COMPILED or clip:  # the reference has a text of its own for a plain call
        plain = rnn.backward(tape, turned(dz), **clip)
        assert all((plain.params[n] == g).all() for n, g in grads.params.items())
    if clip:
        unclipped = rnn.backward(tape, turned(dz))
        assert (unclipped.x != grads.x).any()


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_resets_may_have_a_state_of_their_own(both, shared):
    rnn = make(2, both)
    rng, T, B, cut = np.random.default_rng(2), 9, 3, 4
    L = rnn.stack.cells
    x, dz = rng.standard_normal((T, B, I)), rng.standard_normal((T, B, rnn.stack.width))
    z0, again = (rng.standard_normal((L, B, H)) for _ in range(2))
    given = again
    if shared:
        given = again[:, 0].copy()
        again[...] = given[:, None]
    flags = np.zeros(T, bool)
    flags[cut] = True
    z, tape = rnn.forward(x, z0, resets=flags, reset_state=given)
    grads = rnn.backward(tape, dz)
    # The direction that reads from the end comes to the earlier part last.
    starts = [z0.copy(), again.copy()]
    if both:
        starts[0][1::2], starts[1][1::2] = again[1::2], z0[1::2]
    parts = []
    for start, at in zip(starts, (slice(cut), slice(cut, T)), strict=True):
        z_part, tape = rnn.forward(x[at], start)
        parts.append((z_part, rnn.backward(tape, dz[at])))
    bound = exact_bound(T * B * (H + I) * 10)
    np.testing.assert_allclose(z, np.concatenate([p[0] for p in parts]), atol=bound)
    for name, grad in grads.params.items():
        total = sum(p[1].params[name] for p in parts)
        np.testing.assert_allclose(grad, total, atol=bound * np.abs(total).max())
    expected = parts[0][1].z0
    if both:
        expected[1::2] = parts[1][1].z0[1::2]
    np.testing.assert_allclose(grads.z0, expected, atol=bound)


@pytest.mark.parametrize("form", ["list", "padded", "values"])
def test_a_reset_at_a_first_step_is_none_of_the_next_sequence(form):
    rnn = make()
    case = Case(rnn, LENGTHS)
    for flags in case.resets:
        flags[:1] = True
    z, tape = in_form(rnn, case, form, reset_state=case.dz_last)
    ends = np.cumsum(case.lengths)
    for s, n in enumerate(case.lengths):
        one, alone = rnn.forward(
            [case.x[s]], case.z0[:, s : s + 1], resets=[case.resets[s]],
            reset_state=case.dz_last[:, s : s + 1],
        )  # fmt: skip
        if form == "values":
            found = z[ends[s] - n : ends[s]]
        else:
            found = z[s] if form == "list" else z[:n, s]
        bound = exact_bound(n + I + H)
        np.testing.assert_allclose(found, one[0], bound, bound)
        last = alone.z_last[:, 0]
        np.testing.assert_allclose(tape.z_last[:, s], last, bound, bound)


def test_one_sequence_has_a_flow_without_the_axis():
    rnn = make(2)
    z, tape = rnn.forward(np.ones((6, I)))
    _, flows = rnn.backward(tape, z, record=True)
    assert [flow.norms.shape for flow in flows] == [(6,)] * 4
