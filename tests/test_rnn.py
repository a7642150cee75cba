"""Stacked and bidirectional layers: against their definition, and against PyTorch."""

import inspect
import pickle
import sys
import types

import numpy as np
import pytest
from stack_proof import by_definition
from tolerances import STANDARD_ERRORS, assert_within

import bptt
from bptt import RNN, _both_ways, _stack
from bptt._torch_names import theirs_of
from bptt.initializers import get

T, B, I, H = 7, 3, 4, 5
SHAPES = [(layers, both) for layers in (1, 2, 3) for both in (False, True)]


def make(rng, layers=2, both=True, dtype=np.float64, **options):
    """Return an RNN, every parameter of which is random and not 0."""
    options = {"seed": rng, "dtype": dtype, **options}
    rnn = RNN(I, H, layers, bidirectional=both, **options)
    for p in rnn.params.values():
        p[...] = rng.normal(0, 0.4, p.shape)
    return rnn


def make_case(rng, rnn):
    """Return x, z0, dz and dz_last, time first."""
    s = rnn.stack

    def array(*shape):
        return rng.standard_normal(shape).astype(s.dtype)

    last = (s.cells, B, H)
    return array(T, B, I), 0.5 * array(*last), array(T, B, s.width), array(*last)


def check_stack(stack, params, case, training=False, **options):
    """Assert that states and gradients are those of the definition."""
    x, z0, dz, dz_last = case
    generator = np.random.default_rng(5) if training else None
    z, tape = stack.forward(params, x, z0, generator=generator, **options)
    grads = stack.backward(tape, dz, dz_last)
    actual = {"z": z, "z_last": tape.z_last, "z0": grads.z0, "x": grads.x}
    assert grads.params.keys() == params.keys()
    compare(stack, params, case, actual | grads.params, tape.masks, **options)


def compare(stack, params, case, actual, masks=(), **options):
    x, z0, dz, dz_last = case
    right = by_definition(stack, params, x, z0, dz, dz_last, masks, **options)
    expected = {"z": right.z, "z_last": right.z_last, **right.grads}
    for name, value in actual.items():
        desired = expected[name]
        bound = right.bounds[name] + np.finfo(stack.dtype).eps * np.abs(desired)
        assert_within(value, desired.astype(stack.dtype), bound, name)


@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
def test_it_is_what_it_is_by_definition(layers, both, dtype, activation, rng):
    rnn = make(rng, layers, both, dtype, activation=activation)
    check_stack(rnn.stack, rnn.params, make_case(rng, rnn))


@pytest.mark.parametrize("both", [False, True])
def test_without_bias(both, rng):
    rnn = make(rng, both=both, bias=False)
    assert not any(name.startswith("b") for name in rnn.params)
    check_stack(rnn.stack, rnn.params, make_case(rng, rnn))


@pytest.mark.parametrize("both", [False, True])
def test_with_dropout(both, rng):
    rnn = make(rng, layers=3, both=both, dropout=0.4)
    check_stack(rnn.stack, rnn.params, make_case(rng, rnn), training=True)


BUGS = {
    "the columns are swapped": (
        "wide[:-1, :, :H], wide[:0:-1, :, H:]",
        "wide[:-1, :, H:], wide[:0:-1, :, :H]",
    ),
    "no state at the end": ("else as_rows(", "else 0 * as_rows("),
    "a state of the other direction": (
        'as_rows("z0", z0[d]',
        'as_rows("z0", z0[d - 1]',
    ),
    "dz of the other columns": ("dz[..., :H], dz[::-1", "dz[..., H:], dz[::-1"),
    "dz is not turned in its columns": ("dz[::-1, ..., H:]", "dz[..., H:].copy()"),
    "dz_last of the other one": ("else dz_last\n", "else dz_last[::-1]\n"),
    "the directions are swapped": (
        "[z, order.reversal(new[1][0])]",
        "[order.reversal(new[1][0]), z]",
    ),
    "the states are not turned back": ("order.reversal(new[1][0])", "new[1][0]"),
    "nothing is turned round": ("order.reversal(x) if d else x", "x"),
    "dz is not turned round": ("tape.order.reversal(dz[..., H:])", "dz[..., H:]"),
    "dz of the other direction": ("mine = dz[..., :H]", "mine = dz[..., H:]"),
    "dx is not turned back": ("tape.order.reversal(new[1][0].x)", "new[1][0].x"),
    "dx of one direction": ("dz += tape.order.reversal(new[1][0].x)", "pass"),
    "z0 of another cell": ("else z0[cell],", "else z0[cell - 1],"),
    "dz0 of another cell": ("dz0[cell], flows", "dz0[cell - 1], flows"),
    "dz_last of another cell": ("dz_last[d]", "dz_last[d - 1]"),
    "dz_last is dropped": ("dz_last=dz_last, need_x", "dz_last=0 * dz_last, need_x"),
    "dropout is not scaled": ("z = drop(z, mask, self.dropout)", "z = z * mask"),
    "its gradient is not scaled": ("drop_back(dz, mask, self.dropout)", "dz *= mask"),
    "the dropped get a gradient": (
        "drop_back(dz, mask, self.dropout)",
        "dz /= 1 - self.dropout",
    ),
}


@pytest.fixture
def with_bug(monkeypatch):
    """Return a function that returns the stack with one place of its text changed, or
    of the text that it has both directions from.
    """

    def planted(old, new):
        texts = [inspect.getsource(module) for module in (_both_ways, _stack)]
        assert sum(text.count(old) for text in texts) == 1, f"{old!r} must stand once"
        modules = [types.ModuleType(f"stack_with_a_bug_{i}") for i in range(2)]
        for module, text in zip(modules, texts, strict=True):
            monkeypatch.setitem(sys.modules, module.__name__, module)
            exec(compile(text.replace(old, new), "planted", "exec"), module.__dict__)
        both_ways, stack = modules
        stack._both_ways = both_ways
        return stack.Stack

    return planted


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug, with_bug, rng):
    # Of the same size in and out: what is swapped still fits.
    rnn = RNN(H, H, 3, bidirectional=True, dropout=0.4, seed=rng, dtype=np.float64)
    parts = [getattr(rnn.stack, name) for name in rnn.stack.__slots__]
    case = make_case(rng, rnn)
    case = (rng.standard_normal((T, B, H)), *case[1:])
    wrong = with_bug(*BUGS[bug])(*parts)
    # Directions of sequences with resets do not share an array: both ways are checked.
    ways = {}, {"resets": rng.random((T, B)) < 0.3}
    for options in ways:
        check_stack(rnn.stack, rnn.params, case, training=True, **options)

    def check():
        for options in ways:
            check_stack(wrong, rnn.params, case, training=True, **options)

    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_against_pytorch(layers, both, activation, batch_first, batched, rng):
    torch = pytest.importorskip("torch")
    theirs = torch.nn.RNN(
        I,
        H,
        layers,
        nonlinearity=activation,
        batch_first=batch_first,
        bidirectional=both,
        dtype=torch.float64,
    )
    rnn = make(rng, layers, both, activation=activation, batch_first=batch_first)
    rnn.load_torch_state({n: p.detach() for n, p in theirs.state_dict().items()})
    case = make_case(rng, rnn)
    x, z0, dz, dz_last = (a if batched else a[:, 1] for a in case)
    if batch_first and batched:
        x, dz = x.swapaxes(0, 1), dz.swapaxes(0, 1)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, z0)]
    out, h_n = theirs(*leaves)
    ((out * torch.tensor(dz)).sum() + (h_n * torch.tensor(dz_last)).sum()).backward()

    z, tape = rnn.forward(x, z0)
    grads = rnn.backward(tape, dz, dz_last=dz_last)
    if not batched:
        case = tuple(a[:, 1:2] for a in case)
    right = by_definition(rnn.stack, rnn.params, *case)

    def close(name, ours, expected):
        bound = right.bounds[name]
        if batch_first and batched and name in ("x", "z"):
            bound = bound.swapaxes(0, 1)
        ours = np.asarray(ours)
        assert_within(ours, expected.numpy(), bound.reshape(ours.shape), name)

    close("z", z, out.detach())
    close("z_last", tape.z_last, h_n.detach())
    close("x", grads.x, leaves[0].grad)
    close("z0", grads.z0, leaves[1].grad)
    gradients = {n: p.grad for n, p in theirs.named_parameters()}
    for name in rnn.params:
        for other in theirs_of(name):
            swapped = gradients[other].swapaxes(0, -1)
            close(name, grads.params[name], swapped)


@pytest.mark.parametrize("batch_first", [False, True])
def test_token_ids_are_one_hot_rows(batch_first, rng):
    rnn = make(rng, batch_first=batch_first)
    _, z0, dz, dz_last = make_case(rng, rnn)
    ids = rng.integers(0, I, (T, B))

    def turned(array):
        return array.swapaxes(0, 1) if batch_first else array

    z, tape = rnn.forward(turned(ids), z0)
    grads = rnn.backward(tape, turned(dz), dz_last=dz_last)
    assert grads.x is None
    actual = {"z": turned(z), "z0": grads.z0, **grads.params}
    compare(rnn.stack, rnn.params, (np.eye(I)[ids], z0, dz, dz_last), actual)


def test_a_single_layer_has_the_bits_of_forward_and_backward(rng):
    rnn = make(rng, layers=1, both=False)
    x, z0, dz, dz_last = make_case(rng, rnn)
    z, tape = rnn.forward(x, z0)
    grads = rnn.backward(tape, dz, dz_last=dz_last)
    p = rnn.params
    same, one = bptt.forward(x, p["W"], p["V"], p["b"], z0[0])
    expected = bptt.backward(one, dz, dz_last=dz_last[0])
    assert z.tobytes() == same.tobytes()
    assert grads.x.tobytes() == expected.x.tobytes()
    assert grads.z0[0].tobytes() == expected.z0.tobytes()
    for name in "WVb":
        assert grads.params[name].tobytes() == getattr(expected, name).tobytes()


@pytest.mark.parametrize("given", ["dz", "dz_last"])
def test_either_gradient_may_be_missing(given, rng):
    rnn = make(rng)
    x, z0, dz, dz_last = make_case(rng, rnn)
    _, tape = rnn.forward(x, z0)
    if given == "dz":
        dz_last = np.zeros_like(dz_last)
        grads = rnn.backward(tape, dz)
    else:
        dz = np.zeros_like(dz)
        grads = rnn.backward(tape, dz_last=dz_last)
    actual = {"z0": grads.z0, "x": grads.x, **grads.params}
    compare(rnn.stack, rnn.params, (x, z0, dz, dz_last), actual)


def test_the_gradient_of_x_alone_may_be_left_out(rng):
    rnn = make(rng)
    x, z0, dz, _ = make_case(rng, rnn)
    _, tape = rnn.forward(x, z0)
    grads, whole = rnn.backward(tape, dz, need_x_grad=False), rnn.backward(tape, dz)
    assert grads.x is None
    for name, g in whole.params.items():
        assert g.tobytes() == grads.params[name].tobytes()


def test_dropout_is_of_its_share_and_repeatable():
    rnn = RNN(I, 200, 3, dropout=0.3, seed=0)
    x = np.random.default_rng(0).standard_normal((50, 4, I), np.float32)
    z, tape = rnn.forward(x, training=True, seed=1)
    again, _ = rnn.forward(x, training=True, seed=1)
    other, _ = rnn.forward(x, training=True, seed=2)
    plain, silent = rnn.forward(x)
    assert z.tobytes() == again.tobytes()
    assert (z != other).any()
    assert silent.masks == (None, None)
    assert plain.tobytes() == rnn.forward(x, seed=1)[0].tobytes()
    first, second = tape.masks  # and none after the last layer
    assert (first != second).any()
    for mask in tape.masks:
        error = np.sqrt(0.3 * 0.7 / mask.size)
        assert abs(mask.mean() - 0.7) < STANDARD_ERRORS * error
    assert z.all()


@pytest.mark.parametrize(("steps", "batch"), [(0, B), (T, 0)])
def test_no_steps_and_no_sequences_are_legal(steps, batch, rng):
    rnn = make(rng)
    z, tape = rnn.forward(np.empty((steps, batch, I)))
    assert z.shape == (steps, batch, 2 * H)
    grads = rnn.backward(tape, z, dz_last=np.ones((4, batch, H)))
    assert not any(g.any() for g in grads.params.values())
    assert grads.z0.shape == (4, batch, H)
    assert grads.z0.all() == (steps == 0 or batch == 0)


def test_first_values_by_letter_or_name():
    init = {"V": "identity", "W_l1_reverse": "zeros", "b": get("normal", std=1.0)}
    rnn = RNN(I, H, 2, bidirectional=True, init=init, seed=0)
    for end in ("", "_reverse", "_l1", "_l1_reverse"):
        assert (rnn.params["V" + end] == np.eye(H)).all()
        assert rnn.params["b" + end].all()
        assert rnn.params["W" + end].any() == (end != "_l1_reverse")
    assert rnn.params["W_l1"].shape == (2 * H, H)


def test_torch_names_there_and_back(rng):
    rnn, other = make(rng, 2), make(rng, 2)
    state = rnn.torch_state()
    assert state["weight_ih_l1_reverse"].shape == (H, 2 * H)
    state["bias_hh_l1"] = state["bias_hh_l1"] + 0.25
    other.load_torch_state(state)
    for name, p in rnn.params.items():
        shift = 0.25 if name == "b_l1" else 0
        assert (other.params[name] == p + shift).all()


def bits(rnn, case):
    x, z0, dz, dz_last = case
    z, tape = rnn.forward(x, z0)
    grads = rnn.backward(tape, dz, dz_last=dz_last)
    return [a.tobytes() for a in (z, grads.z0, grads.x, *grads.params.values())]


def test_it_can_be_pickled(rng):
    rnn = make(rng)
    case = make_case(rng, rnn)
    assert bits(pickle.loads(pickle.dumps(rnn)), case) == bits(rnn, case)


def test_its_name_says_what_it_is():
    rnn = RNN(2, 3, 2, bidirectional=True, dropout=0.5, activation="relu")
    assert repr(rnn) == (
        "RNN(I=2, H=3, num_layers=2, bidirectional, dropout=0.5, relu, float32)"
    )
