"""Layers in both directions that keep few of their states: the bits of those that keep
all, in less memory, at the cost that the schedule tells.
"""

import numpy as np
import pytest
from few_states import (
    Case,
    check_budgets,
    check_finds,
    check_memory,
    check_plain,
    least_of,
    plain,
)

from bptt import RNN, _backend, _errors_both, _layers_both, _sides, _zigzag
from bptt._recompute import Sizes

COMPILED = _backend.backend == "compiled"
BITS = pytest.mark.skipif(not COMPILED, reason="NumPy orders its sums by the shape")
BOTH = {"bidirectional": True}


@BITS
@pytest.mark.parametrize("seed", range(60))
def test_the_gradients_have_the_bits_of_stored_states(seed):
    check_budgets(Case(seed, ["one", "array"], **BOTH))


# With so many ids the chunks of the first layer are shorter than those of the others.
WIDE = {"layers": 2, "T": 1144, "B": 4, "I": 16_240, "ids": True, **BOTH}


@BITS
def test_layers_whose_chunks_differ():
    T, B, I = WIDE["T"], WIDE["B"], WIDE["I"]
    first, second = (_backend.kernels.chunk_steps(T, B, n, 5, 8) for n in (I, 10))
    assert first != second
    schedule = check_plain(*plain(**WIDE))
    assert schedule.steps % first == schedule.steps % second == 0
    assert schedule.leaves > 2


@BITS
@pytest.mark.parametrize("T", [1, 255, 256, 512, 640, 1000])
@pytest.mark.parametrize("layers", [2, 3, 4, 5])
def test_leaves_of_the_two_directions_that_begin_at_other_steps_or_not(T, layers):
    check_plain(*plain(layers, T, **BOTH))


BUGS = {
    "chunks of the first layer alone": (_layers_both, "lcm(*chunks)", "chunks[0]"),
    "z0 of another cell": (_layers_both, "z0[cell], form", "z0[cell - 1], form"),
    "the resets of the other direction": (
        _layers_both,
        "events[cell % 2]",
        "events[1 - cell % 2]",
    ),
    "resets are late in the other direction": (
        _layers_both,
        "turned[1:] = flags[:0:-1]",
        "turned[:] = flags[::-1]",
    ),
    "a border of another cell": (
        _layers_both,
        "side.begin(self.z[cell])",
        "side.begin(self.z[cell - cell % 2])",
    ),
    "the input of another step": (
        _sides,
        "(array[::-1] if",
        "(np.roll(array, 1, 0)[::-1] if",
    ),
    "the mask of another layer": (
        _layers_both,
        "self.masks[k].rows",
        "self.masks[0].rows",
    ),
    "the mask of the first leaf": (
        _sides,
        "slice(stretch.t0 * self.form.B, stretch.t1 * self.form.B)",
        "slice(0, (stretch.t1 - stretch.t0) * self.form.B)",
    ),
    "the rows of another leaf": (
        _layers_both,
        "if self.held and self.held[0][0] == stretch and",
        "if self.held and",
    ),
    "dropout has no gradient": (
        _errors_both,
        "drop_back(error, ",
        "abs(1) or (error, ",
    ),
    "dz_last of another cell": (_errors_both, "dz_last[cell]", "dz_last[cell - 1]"),
    "dz_last at the border of every leaf": (_errors_both, "end=side.ends", "end=True"),
    "an error is not carried on": (
        _errors_both,
        "Segment(sums.steps, da is not None, da, first)",
        "Segment(sums.steps, False, None, first)",
    ),
    "the error of one direction": (_errors_both, "below += other", "pass"),
    "dx of one direction": (_sides, "mine += rows", "pass"),
    "errors of another leaf": (
        _sides,
        "return array[stretch.t0 : stretch.t1]",
        "return array[: stretch.t1 - stretch.t0]",
    ),
    "columns of the other direction": (
        _sides,
        "self.d * H : (self.d + 1) * H",
        "(1 - self.d) * H : (2 - self.d) * H",
    ),
    "inputs without dropout": (
        _errors_both,
        "dropped=not walk.found.isdisjoint(cells)",
        "dropped=False",
    ),
    "no border within a leaf": (_errors_both, "if cell > 1:", "if False:"),
    "a border is that of another leaf": (
        _sides,
        "kept[self.ground.border(self.u0)]",
        "kept[self.ground.border(self.u1)]",
    ),
    "the errors are not clipped where they are run again": (
        _errors_both,
        "da, first), self.clip,",
        "da, first), None,",
    ),
    "leaves of one direction alone": (
        _zigzag,
        "np.union1d(cuts, T - cuts)",
        "np.union1d(cuts, cuts)",
    ),
}


@BITS
@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    flags = np.random.default_rng(0).random((650, 2)) < 0.01
    cases = [
        (plain(dropout=0.3, **BOTH), {"training": True}, {}),
        (plain(T=1024, **BOTH), {}, {"clip_error": 0.1}),
        (plain(layers=2, **BOTH), {"resets": flags}, {}),
        (plain(**WIDE), {}, {}),
    ]

    def check():
        for case, options, back in cases:
            check_plain(*case, back=back, **options)

    check_finds(monkeypatch, BUGS[bug], check, (AssertionError, IndexError))


@BITS
@pytest.mark.parametrize("shape", [(0, 3), (7, 0), (0, 0)])
def test_without_steps_or_sequences(shape):
    check_plain(*plain(T=shape[0], B=shape[1], **BOTH))


@BITS
def test_sequences_whose_lengths_are_all_the_same():
    rnn, x, z0, dz, dz_last = plain(batch_first=False, **BOTH)
    check_plain(rnn, x, z0, dz, dz_last, lengths=[len(x)] * 2)


class Counted:
    """The kernels, and the steps or the cells that they were told to run of a layer."""

    counts = staticmethod(len)

    def __init__(self, kernels):
        self.kernels, self.steps, self.back = kernels, 0, 0

    def __getattr__(self, name):
        return getattr(self.kernels, name)

    def forward(self, x, *rest):
        self.steps += self.counts(x)
        self.kernels.forward(x, *rest)

    def forward_both(self, first, second):
        self.forward(*first)
        self.forward(*second)

    def backward(self, x, *rest):
        self.back += self.counts(x)
        self.kernels.backward(x, *rest)


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("T", [1000, 1024])
def test_the_schedule_tells_what_it_costs(layers, T, monkeypatch):
    rnn, x, z0, dz, _ = plain(layers, T, **BOTH)
    kernels = Counted(_backend.kernels)
    monkeypatch.setattr(_backend, "kernels", kernels)
    tape = rnn.forward(x, z0, checkpoint=1)[1]
    rnn.backward(tape, dz)
    cells, schedule = 2 * layers, tape.schedule
    # Where one pass turns into the next the states of a leaf are there.
    turns = (layers + 1) * schedule.steps
    saved = T + schedule.extra_steps - kernels.steps // cells
    assert 0 <= saved <= turns
    assert kernels.back // cells == T + schedule.extra_back_steps
    # L^2 + 2 L - 1 and 2 L (L + 1) - 1 runs of a cell, and L^2 + 2 L - 1 back.
    ahead, back = {2: (18, 7), 3: (37, 14), 4: (62, 23)}[layers]
    assert ahead * T - turns * cells <= kernels.steps <= ahead * T
    assert back * T <= kernels.back < (back + cells) * T


def test_a_budget_for_all_states_costs_nothing(monkeypatch):
    rnn, x, z0, dz, _ = plain(**BOTH)
    kernels = Counted(_backend.kernels)
    monkeypatch.setattr(_backend, "kernels", kernels)
    tape = rnn.forward(x, z0, memory="1GB")[1]
    rnn.backward(tape, dz)
    assert kernels.steps == kernels.back == rnn.stack.cells * len(x)
    schedule = tape.schedule
    assert schedule.extra_steps == schedule.extra_back_steps == 0


def test_the_least_budget_is_the_least():
    rng = np.random.default_rng(5)
    for _ in range(30):
        T, chunk = int(rng.integers(1, 50_000)), int(rng.integers(1, 300))
        L, between = 2 * int(rng.integers(1, 5)), int(rng.integers(0, 300))
        sizes = Sizes(T, 2, 64, 32, 4, min(T, chunk), L, between)
        least = least_of(lambda sizes=sizes, **budget: _zigzag.plan(sizes, **budget))
        schedule = _zigzag.plan(sizes, memory=least)
        assert schedule.peak_bytes == least
        assert schedule.slots == len(_zigzag.borders_of(T, schedule.steps))
        assert schedule.leaves == -(-T // schedule.steps)
        with pytest.raises(ValueError, match=f"must be at least {least} bytes"):
            _zigzag.plan(sizes, memory=least - 1)


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("T", [6000, 6144])
def test_it_takes_no_more_memory_than_it_may(T, dropout):
    check_memory(plain(3, T, 4, 24, 24, np.float32, dropout=dropout, **BOTH))


def test_a_tape_says_what_it_is():
    rnn, x, *_ = plain(T=9, **BOTH)
    tape = rnn.forward(x, checkpoint=4)[1]
    expected = "StackTape(LayersBoth(L=6, T=9, B=2, I=5, H=5, float64, tanh))"
    assert repr(tape) == expected


rnn = RNN(4, 5, 2, bidirectional=True)
x = np.ones((7, 3, 4), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: rnn.forward(x[..., :2], checkpoint=2),
            "x must have shape (T, B, I) = (T, B, 4) to fit W, got (7, 3, 2)",
        ),
        (
            lambda: rnn.forward(x, checkpoint=2, resets=np.zeros((7, 2), bool)),
            "resets must have shape (T, B) = (7, 3), got (7, 2)",
        ),
        (
            lambda: rnn.forward(x, checkpoint=2, reset_state=np.ones((4, 5), "f4")),
            "reset_state needs resets, got None",
        ),
        (
            lambda: rnn.backward(rnn.forward(x, checkpoint=2)[1], x),
            "dz must have shape (T, B, D H) = (7, 3, 10), got (7, 3, 4)",
        ),
        (
            lambda: rnn.backward(rnn.forward(x, checkpoint=2)[1], lambda start, z: z),
            "dz must be an array for both directions, got a function",
        ),
        (
            lambda: rnn.backward(
                rnn.forward(x, memory="1MB")[1], dz_last=np.ones((4, 3, 5), "f4"),
                clip_error=0,
            ),
            "clip_error must be positive, got 0",
        ),
    ],
)  # fmt: skip
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=r"^[a-z]") as caught:
        call()
    assert str(caught.value) == message
