"""dz as a function of states of sequences with lengths of their own, `dz(rows, z)`: the
bits are those of dz as an array, and each state is shown once.
"""

import numpy as np
import pytest
from few_states import check_finds, least_of, peak, plant
from ragged import Batch, same_bits, some_lengths

import bptt
from bptt import _asked, _backend, _runs, _stack_inputs
from bptt.data import pad

COMPILED = _backend.backend == "compiled"
BITS = pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
FORMS = ["padded", "list", "values"]


class Asked:
    """A function that returns rows of an array, and notes what it was shown."""

    def __init__(self, rows):
        self.rows, self.seen, self.z = rows, [], np.full_like(rows, np.nan)

    def __call__(self, rows, z):
        assert z.ndim == 2
        assert len(rows) == len(z)
        assert not z.flags.writeable
        assert not rows.flags.writeable
        self.seen.append(rows)
        self.z[rows] = z
        return self.rows[rows]


class Case:
    """A ragged batch in one of the forms, through one layer or several."""

    def __init__(self, seed, form=None, lengths=None):
        rng = np.random.default_rng([seed, 23])
        self.form = form or FORMS[seed % 3]
        I, H = (int(n) for n in rng.choice([1, 5, 17], 2))
        dtype = (np.float32, np.float64)[rng.integers(2)]
        lengths = some_lengths(rng) if lengths is None else lengths
        ids = rng.integers(3) == 0
        self.batch = batch = Batch(rng, lengths, I, H, "tanh", dtype, ids)
        self.options = {}
        if rng.integers(2):
            self.options["resets"] = self.shaped(batch.resets, False)
            if rng.integers(2):
                self.options["reset_state"] = -batch.z0
        if self.form == "padded":
            self.options["lengths"] = lengths
        elif self.form == "values":
            self.options["offsets"] = np.cumsum([0, *lengths])
        self.x = self.shaped(batch.x, 0)
        self.back = {"need_x_grad": bool(rng.integers(4)), "record": True}
        if rng.integers(2):
            self.back["clip_error"] = 1.0
        if rng.integers(2):
            self.back["dz_last"] = batch.dz_last

    def shaped(self, items, fill):
        if self.form == "padded":
            return self.batch.pad(items, fill)
        return items if self.form == "list" else np.concatenate(items)

    def rows(self, items, fill=0):
        """Return sequences as rows, (T * B, H) or (N, H)."""
        if self.form == "padded":
            items = self.batch.pad(items, fill)
            return items.reshape(-1, items.shape[-1])
        return np.concatenate(items)

    def forward(self, **budget):
        b = self.batch
        return bptt.forward(
            self.x, b.W, b.V, b.b, b.z0, activation=b.activation, **self.options,
            **budget,
        )  # fmt: skip

    def backward(self, tape, dz):
        grads, flow = bptt.backward(tape, dz, **self.back)
        return [*grads, *flow]

    def check(self):
        z, tape = self.forward()
        expected = self.backward(tape, self.shaped(self.batch.dz, np.nan))
        filled = [np.full((n, 1), i) for i, n in enumerate(self.batch.lengths)]
        valid = np.flatnonzero(self.rows(filled, -1)[:, 0] >= 0)
        budgets = [{}, {"checkpoint": 1}, {"checkpoint": 90}, {"memory": 10**9}]
        budgets.append({"memory": int(1.1 * least_of(self.forward))})
        for budget in budgets:
            asked = Asked(self.rows(self.batch.dz, np.nan))
            found = self.backward(self.forward(**budget)[1], asked)
            for one, other in zip(found, expected, strict=True):
                same_bits(one, other)
            np.testing.assert_array_equal(np.sort(np.concatenate(asked.seen)), valid)
            if not isinstance(z, list):
                z = [z.reshape(-1, z.shape[-1])]
            same_bits(asked.z[valid], np.concatenate(z)[valid])
        return tape


@BITS
@pytest.mark.parametrize("seed", range(60))
def test_the_bits_are_those_of_an_array(seed):
    Case(seed).check()


@BITS
@pytest.mark.parametrize("lengths", [[6, 6], [0, 3], [1], [600, 599, 1]], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_lengths_that_are_the_same_or_few(form, lengths):
    for seed in range(4):
        Case(seed, form, lengths).check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("budget", [{}, {"checkpoint": 3}])
def test_without_steps_nothing_is_asked(form, budget):
    case = Case(5, form, [0, 0])
    asked = Asked(case.rows(case.batch.dz))
    grads = case.backward(case.forward(**budget)[1], asked)
    assert sum(map(len, asked.seen)) == 0
    assert not grads[0].any()


def make_layers(form, batch_first, layers, lengths=(400, 0, 3, 399)):
    """Return layers, x, dz as an array and as rows, and options."""
    rng = np.random.default_rng(3)
    rnn = bptt.RNN(4, 6, layers, batch_first=batch_first, dtype=np.float64, seed=0)
    x, dz = ([rng.standard_normal((n, K)) for n in lengths] for K in (4, 6))
    if form == "list":
        return rnn, x, dz, np.concatenate(dz), {}
    if form == "values":
        offsets = np.cumsum([0, *lengths])
        dz = np.concatenate(dz)
        return rnn, np.concatenate(x), dz, dz, {"offsets": offsets}
    x, dz = (pad(items)[0] for items in (x, dz))
    if batch_first:
        x, dz = (a.swapaxes(0, 1).copy() for a in (x, dz))
    return rnn, x, dz, dz.reshape(-1, 6), {"lengths": lengths}


def check_layers(form, batch_first, layers, *lengths):
    rnn, x, dz, rows, options = make_layers(form, batch_first, layers, *lengths)
    expected = rnn.backward(rnn.forward(x, **options)[1], dz)
    for budget in ({}, {"checkpoint": 1}, {"memory": "1MB"}):
        tape = rnn.forward(x, **options, **budget)[1]
        grads = rnn.backward(tape, lambda where, z: rows[where])
        same_bits(grads.x, expected.x)
        for name, value in expected.params.items():
            same_bits(grads.params[name], value)


@BITS
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_layers_ask_for_the_rows_of_x(form, batch_first, layers):
    check_layers(form, batch_first, layers)
    check_layers(form, batch_first, layers, (7, 7, 7))


BUGS = {
    "dz of cells in the caller's rows": (
        _asked,
        "rows[form.place] = cells",
        "rows[: len(cells)] = cells",
    ),
    "x of other cells": (_asked, "(rows[:, 0], where", "(rows[:, 0], np.sort(where)"),
    "dx of other cells": (_runs, "dx[place] = below", "dx[: len(below)] = below"),
    "rows of the first steps": (_asked, "t0 * form.B, t1", "0, (t1 - t0)"),
}


@BITS
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    def check():
        for seed in range(6):
            Case(seed).check()
            Case(seed, None, [700, 700]).check()

    check_finds(monkeypatch, BUGS[bug], check)


@BITS
def test_rows_that_are_not_turned_for_batch_first_are_found(monkeypatch):
    check_layers("padded", True, 2)
    plant(monkeypatch, _stack_inputs, "rows % B * T + rows // B", "rows")
    with pytest.raises(AssertionError):
        check_layers("padded", True, 2)


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layers", [1, 2])
def test_no_dz_of_all_steps_is_made(form, layers):
    lengths = (50_000, 49_000, 100, 30_000)
    rnn, x, dz, _, options = make_layers(form, False, layers, lengths)

    def step(given, **budget):
        tape = rnn.forward(x, **options, **budget)[1]
        rnn.backward(tape, given, need_x_grad=False)

    states = sum(lengths) * 6 * 8
    assert peak(lambda: step(dz))[1] > layers * states
    # x of a list is one array here.
    joined = sum(lengths) * 4 * 8 if form == "list" else 0
    few = peak(lambda: step(lambda where, z: z, memory="4MB"))[1]
    assert few < 4_500_000 + joined
