"""A network that reads sequences of different lengths within a budget, each step's loss
taken leaf by leaf: the gradients are those of stored states, but for rounding.
"""

import numpy as np
import pytest
from few_states import check_finds, least_of, peak
from ragged import close, same_bits
from test_readout import LOSSES, leaves_of
from tolerances import FIVE_UPDATES

from bptt import Network, _asked, _backend, _readout, network, optimizers, train
from bptt.data import pad
from bptt.network_flow import layer_traces

COMPILED = _backend.backend == "compiled"
SHAPES = [(1, False), (3, False), (1, True), (2, True), (3, True)]


class Case:
    """A network and a random batch of sequences of different lengths."""

    def __init__(self, seed, listed=None, lengths=None, **options):
        rng = self.rng = np.random.default_rng([seed, 17])
        layers, both = SHAPES[seed % len(SHAPES)]
        I, H, O = (int(n) for n in rng.choice([1, 4, 17], 3))
        options = {
            "num_layers": layers,
            "bidirectional": both,
            "dropout": float(layers > 1) * float(rng.choice([0, 0.4])),
            "loss": LOSSES[seed // len(SHAPES) % 3],
            "dtype": (np.float32, np.float64)[rng.integers(2)],
            **options,
        }
        self.network = net = Network(I, H, O, seed=rng, **options)
        for p in net.params.values():
            p[...] = rng.normal(0, 0.6 / np.sqrt(len(p)), p.shape)
        if lengths is None:
            S, longest = int(rng.integers(1, 9)), int(rng.choice([3, 400, 900]))
            lengths = rng.integers(0, longest + 1, S)
            lengths[rng.integers(S)] = longest
        self.lengths = [int(n) for n in lengths]
        S, L = len(self.lengths), net.stack.cells
        ids = rng.integers(3) == 0
        self.x = [
            rng.integers(0, I, n) if ids else self.array(n, I) for n in self.lengths
        ]
        classes = net.loss == "cross_entropy"
        self.target = [
            rng.integers(0, O, n) if classes else rng.random((n, O))
            for n in self.lengths
        ]
        resets = [rng.random(n) < 0.02 for n in self.lengths]
        self.z0 = self.array(*((L,) if L > 1 else ()), S, net.hidden_size)
        self.options = {"need_x_grad": bool(rng.integers(4)), "seed": seed}
        self.listed = bool(rng.integers(2)) if listed is None else listed
        if not self.listed:
            self.x, self.target, resets = (
                self.padded(items) for items in (self.x, self.target, resets)
            )
            self.options["lengths"] = self.lengths
        if rng.integers(2):
            self.options["resets"] = resets
        if rng.integers(2):
            self.options["clip_error"] = 1e-4
        if rng.integers(2):
            self.options["clip_error_value"] = 1e-4

    def array(self, *shape):
        return self.rng.standard_normal(shape).astype(self.network.dtype)

    def padded(self, items):
        """Return sequences side by side; what is behind them must have no effect."""
        padded = pad(items)[0]
        ends = np.arange(len(padded))[:, np.newaxis] >= np.array(self.lengths)
        padded[ends] = {"b": True, "i": 0, "u": 0, "f": np.nan}[padded.dtype.kind]
        return padded

    def run(self, **budget):
        return self.network.loss_and_gradients(
            self.x, self.target, self.z0, **self.options, **budget
        )

    def check(self, stored, **budget):
        """Assert that a budget gives the loss and the gradients of stored states."""
        (loss, grads), (found, others) = stored, self.run(**budget)
        terms = max(1, sum(self.lengths)) * self.network.stack.cells
        dtype = self.network.dtype
        close(np.array(found, dtype), np.array(loss, dtype), terms)
        others = leaves_of(others)
        for name, value in leaves_of(grads).items():
            if value is None:
                assert others[name] is None
            elif isinstance(value, list):
                assert [g.shape for g in others[name]] == [g.shape for g in value]
                close(np.concatenate(others[name]), np.concatenate(value), terms)
            else:
                other = others[name]
                assert (other.shape, other.dtype) == (value.shape, value.dtype)
                close(other, value, terms * self.network.hidden_size)


@pytest.mark.parametrize("seed", range(75))
def test_the_gradients_are_those_of_stored_states(seed, monkeypatch):
    case = Case(seed)
    stored = case.run()
    case.check(stored, checkpoint=1)
    monkeypatch.setattr(_readout, "BLOCK", 300)
    steps = 1 + int(1.5 * max(case.lengths) * case.rng.random() ** 3)
    case.check(stored, checkpoint=steps)
    least = least_of(case.run)
    for factor in (1, 1.3, 10):
        case.check(stored, memory=int(least * factor))


@pytest.mark.parametrize("lengths", [[0, 0], [5, 5], [1], [0, 3]], ids=str)
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_lengths_that_are_the_same_or_none(lengths, listed, shape):
    case = Case(shape, listed, lengths)
    case.check(case.run(), checkpoint=1)


@pytest.mark.parametrize("shape", range(len(SHAPES)))
def test_the_padding_is_never_read(shape):
    case = Case(shape, False, [300, 20, 0, 299])
    for name in ("x", "target"):
        array = getattr(case, name)
        other = array.copy()
        other[np.arange(300)[:, np.newaxis] >= np.array(case.lengths)] = 0
        found, grads = case.run(checkpoint=1)
        setattr(case, name, other)
        again, others = case.run(checkpoint=1)
        assert found == again
        for leaf, value in leaves_of(grads).items():
            if COMPILED:
                same_bits(leaves_of(others)[leaf], value)


def test_the_targets_of_a_list_are_of_one_type():
    case = Case(1, True, [400, 3, 0, 222], loss="squared_error", dtype=np.float64)
    case.target[0] = case.target[0].round().astype(int)
    case.target[1] = case.target[1].astype(np.float32)
    case.check(case.run(), checkpoint=1)


@pytest.mark.parametrize("listed", [False, True])
def test_a_state_that_goes_on(listed):
    case = Case(1, listed, [400, 3, 0, 222], stateful=True, dropout=0.0)
    case.z0, states = None, []
    for budget in ({}, {"checkpoint": 100}):
        case.network.reset()
        case.run(**budget)
        case.run(**budget)
        states.append(case.network.state)
    if COMPILED:
        same_bits(*states)


@pytest.mark.parametrize("listed", [False, True])
def test_a_training_within_a_budget(listed):
    histories = []
    for memory in (None, "1MB"):
        case = Case(3, listed, [500, 30, 444], loss="squared_error", dtype=np.float64)
        ends = () if listed else (case.lengths,)
        batch = case.x, case.target, *ends
        adam = optimizers.Adam(0.01)
        done = train(
            case.network, lambda step, b=batch: b, optimizer=adam, steps=5,
            memory=memory,
        )  # fmt: skip
        histories.append(np.array(done.loss))
    np.testing.assert_allclose(*histories, rtol=FIVE_UPDATES)
    assert histories[1][-1] < histories[1][0]


@pytest.mark.parametrize("listed", [False, True])
def test_the_trace_of_a_layer_is_that_of_stored_states(listed):
    case = Case(0, listed, [500, 20, 0, 311], dtype=np.float64)
    ends = {} if listed else {"lengths": case.lengths}
    kept, found = (
        layer_traces(case.network, case.x, case.target, **ends, **budget)[0]
        for budget in ({}, {"checkpoint": 1})
    )
    assert found.tape.schedule is not None
    close(np.array(found.loss), np.array(kept.loss), sum(case.lengths))
    assert found.dz.shape == kept.dz.shape
    close(found.dz, kept.dz, case.network.output_size)


FIRST = "where[: len(where[part])]"

BUGS = {
    "the mean of all steps": (_readout, "int(valid.sum())", "valid.size"),
    "targets of the first block": (_readout, "where[part], self.B", f"{FIRST}, self.B"),
    "targets of the first block of a list": (
        _readout,
        "self.before, where[part]",
        f"self.before, {FIRST}",
    ),
    "a target of the next sequence": (
        _readout,
        "np.divmod(where",
        "np.divmod(1 + where",
    ),
    "rows of another leaf": (
        _asked,
        "form.offsets[t0] : form.offsets[t1]",
        ": form.offsets[t1] - form.offsets[t0]",
    ),
    "rows of another array": (_asked, '"right") - 1', '"left") - 1'),
    "rows counted from another array": (_asked, "[mine] - before[i]", "[mine]"),
    "rows in another order": (_asked, "[mine] =", "[np.sort(order)[: len(mine)]] ="),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, monkeypatch):
    def check():
        for seed, listed in ((1, False), (1, True), (3, False), (3, True)):
            case = Case(seed, listed, [700, 300, 0, 350], dtype=np.float64)
            # Of the module with the mistake.
            monkeypatch.setitem(network.learn.__globals__, "BLOCK", 300)
            case.check(case.run(), checkpoint=1)

    check_finds(monkeypatch, BUGS[bug], check)


def long_case(shape, listed, O, loss):
    """Return a network, and arguments: four sequences, 50,000 steps in all."""
    layers, both = shape
    rng = np.random.default_rng(2)
    net = Network(2, 8, O, num_layers=layers, bidirectional=both, loss=loss, seed=0)
    lengths = [20_000, 19_000, 1000, 10_000]
    x = [rng.standard_normal((n, 2), np.float32) for n in lengths]
    if loss == "cross_entropy":
        target = [rng.integers(0, O, n) for n in lengths]
    else:
        target = [rng.random((n, O), np.float32) for n in lengths]
    if listed:
        return net, (x, target), {}
    return net, (pad(x)[0], pad(target)[0]), {"lengths": lengths}


@pytest.mark.skipif(not COMPILED, reason="NumPy has arrays of its own for all steps")
@pytest.mark.parametrize(("O", "loss"), [(3, "squared_error"), (64, "cross_entropy")])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_takes_no_more_memory_than_it_may(shape, listed, O, loss):
    net, batch, options = long_case(shape, listed, O, loss)

    def step(**budget):
        net.loss_and_gradients(*batch, **options, **budget)

    N = 50_000
    states, logits = N * net.stack.width * 4, N * O * 4
    if O == 3:
        assert peak(step)[1] > net.stack.num_layers * states + logits
    # Beside the budget: x of a list as one array, which steps there are, or a block of
    # the readout and of the loss on it, in double precision.
    beside = N * 2 * 4 * listed + 2 * 8 * _readout.BLOCK
    for memory in (int(1.1 * least_of(step)), 4_000_000):
        most = peak(lambda memory=memory: step(memory=memory))[1]
        assert most <= memory + beside


ragged = Case(1, False, [9, 3, 5], loss="squared_error", dtype=np.float64)
listed = Case(3, True, [9, 3, 5], loss="cross_entropy", dtype=np.float64)
wide = Case(2, True, [9, 3, 5], loss="squared_error", dtype=np.float64)


def call(case, **arguments):
    arguments = {"x": case.x, "target": case.target, **case.options, **arguments}
    return lambda: case.network.loss_and_gradients(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (call(ragged, memory=10), "memory must be at least "),
        (call(listed, memory=10), "memory must be at least "),
        (
            call(ragged, checkpoint=2, target=ragged.target[:-1]),
            "target must have shape (T, B, ..) = (9, 3), got (8, 3, ",
        ),
        (
            call(listed, checkpoint=2, target=listed.target[:-1]),
            "target must be a list of 3 arrays, like x; got 2",
        ),
        (
            call(listed, checkpoint=2, target=[t[:3] for t in listed.target]),
            "target[0] must have shape (T, ..) = (9,), got (3,)",
        ),
        (
            call(wide, checkpoint=2, target=[t[..., :1] for t in wide.target]),
            "target must have shape f.shape = ",
        ),
        (
            call(wide, checkpoint=2, target=[*wide.target[:2], wide.target[2][:, :1]]),
            "target[2] must have shape (T, ..) = (5, ",
        ),
        (
            call(listed, checkpoint=2, target=[t[:, None] for t in listed.target]),
            "target must have shape f.shape[:-1] = ",
        ),
        (
            call(listed, checkpoint=2, target=[t + 0.5 for t in listed.target]),
            "target must hold integer class ids for cross_entropy, got float64",
        ),
        (
            call(ragged, checkpoint=2, lengths=[9, 3, 10]),
            "lengths must be from 0 to T = 9, got 10",
        ),
        (
            call(ragged, checkpoint=2, omega=1.0),
            "checkpoint must be None with omega, which needs all states, got 2",
        ),
        (
            call(ragged, checkpoint=2, memory=3),
            "memory and checkpoint must not both be given",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value).startswith(message)
