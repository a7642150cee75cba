"""Stacked layers on sequences of their own lengths, and with resets in the middle."""

import numpy as np
import pytest
from stack_proof import by_definition
from tolerances import assert_within

from bptt import RNN, _directions
from bptt._torch_names import theirs_of

T, B, I, H = 9, 5, 4, 3
# In no order, one whole, one empty, one of a single step.
LENGTHS = np.array([4, 9, 0, 1, 6])
SHAPES = [(1, False), (1, True), (2, False), (3, True)]


def make(rng, layers=2, both=True, dtype=np.float64, **options):
    rnn = RNN(I, H, layers, bidirectional=both, seed=rng, dtype=dtype, **options)
    for p in rnn.params.values():
        p[...] = rng.normal(0, 0.4, p.shape)
    return rnn


def make_case(rng, rnn, resets=False):
    """Return x, z0, dz, dz_last and options; what is in the padding must not matter."""
    s = rnn.stack
    last = (s.cells, B, H)
    shapes = [(T, B, I), last, (T, B, s.width), last]
    arrays = [rng.standard_normal(shape).astype(s.dtype) for shape in shapes]
    flags = rng.random((T, B)) < 0.3 if resets else None
    return arrays, {"lengths": LENGTHS, "resets": flags}


def in_padding(array, value):
    """Return a copy with another value in the padding."""
    array = array.copy()
    array[np.arange(T)[:, None] >= LENGTHS] = value
    return array


def check(rnn, case, options, training=False):
    (x, z0, dz, dz_last), stack = case, rnn.stack
    padded = options["lengths"] is not None
    dirty_x, dirty_dz = (in_padding(a, np.nan) if padded else a for a in (x, dz))
    z, tape = rnn.forward(dirty_x, z0, training=training, seed=3, **options)
    grads = rnn.backward(tape, dirty_dz, dz_last=dz_last)
    right = by_definition(stack, rnn.params, x, z0, dz, dz_last, tape.masks, **options)
    actual = {"z": z, "z_last": tape.z_last, "z0": grads.z0, "x": grads.x}
    expected = {"z": right.z, "z_last": right.z_last, **right.grads}
    for name, value in (actual | grads.params).items():
        desired = expected[name]
        bound = right.bounds[name] + np.finfo(stack.dtype).eps * np.abs(desired)
        assert_within(value, desired.astype(stack.dtype), bound, name)
    if padded:
        for array in (z, grads.x):
            assert not array[np.arange(T)[:, None] >= LENGTHS].any()


@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("resets", [True, False])
def test_it_is_what_it_is_by_definition(layers, both, dtype, padded, resets, rng):
    rnn = make(rng, layers, both, dtype)
    case, options = make_case(rng, rnn, resets)
    if not padded:
        options["lengths"] = None
    check(rnn, case, options)


def test_with_dropout(rng):
    rnn = make(rng, 3, dropout=0.4)
    check(rnn, *make_case(rng, rnn, resets=True), training=True)


def wrong_end(self, array):
    return array[::-1]


def wrong_padding(self, array):
    return array[(self._index[0] - 1) % T, self._index[1]]


def late_resets(self, resets):
    return self(resets)


def no_resets(self, resets):
    return np.zeros_like(self(resets))


BUGS = [
    ("__call__", wrong_end),
    ("__call__", wrong_padding),
    ("resets", late_resets),
    ("resets", no_resets),
]


@pytest.mark.parametrize(("name", "wrong"), BUGS)
def test_a_planted_bug_is_found(name, wrong, rng, monkeypatch):
    rnn = make(rng, layers=1)  # of which each direction reads a copy
    case, options = make_case(rng, rnn, resets=True)
    check(rnn, case, options)
    monkeypatch.setattr(_directions.Reversal, name, wrong)
    with pytest.raises(AssertionError):
        check(rnn, case, options)


@pytest.mark.parametrize("batch_first", [False, True])
def test_resets_and_ids_come_in_the_form_of_x(batch_first, rng):
    rnn = make(rng, batch_first=batch_first)

    def turned(array):
        return array.swapaxes(0, 1) if batch_first else array

    ids, flags = rng.integers(0, I, (T, B)), rng.random((T, B)) < 0.3
    z0, dz = rng.normal(size=(4, B, H)), rng.normal(size=(T, B, 2 * H))
    options = {"lengths": LENGTHS, "resets": flags}
    z, tape = rnn.forward(turned(ids), z0, lengths=LENGTHS, resets=turned(flags))
    grads = rnn.backward(tape, turned(dz))
    right = by_definition(rnn.stack, rnn.params, np.eye(I)[ids], z0, dz, **options)
    assert_within(turned(z), right.z, right.bounds["z"], "z")
    for name, g in grads.params.items():
        assert_within(g, right.grads[name], right.bounds[name], name)


@pytest.mark.parametrize("batched", [True, False])
def test_resets_of_one_row_are_for_all(batched, rng):
    rnn = make(rng)
    (x, z0, _, _), _ = make_case(rng, rnn)
    flags = rng.random(T) < 0.4
    if batched:
        every = np.repeat(flags[:, None], B, axis=1)
    else:
        x, z0, every = x[:, 0], z0[:, 0], flags
    z, _ = rnn.forward(x, z0, resets=flags)
    same, _ = rnn.forward(x, z0, resets=every)
    plain, _ = rnn.forward(x, z0)
    assert z.tobytes() == same.tobytes() != plain.tobytes()


@pytest.mark.parametrize(("layers", "both"), SHAPES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_against_packed_sequences_of_pytorch(layers, both, batch_first, rng):
    torch = pytest.importorskip("torch")
    lengths = np.maximum(LENGTHS, 1)  # PyTorch refuses an empty one
    rnn = make(rng, layers, both, batch_first=batch_first)
    theirs = torch.nn.RNN(
        I, H, layers, batch_first=batch_first, bidirectional=both, dtype=torch.float64
    )
    theirs.load_state_dict({n: torch.tensor(p) for n, p in rnn.torch_state().items()})
    (x, z0, dz, dz_last), _ = make_case(rng, rnn)
    right = by_definition(rnn.stack, rnn.params, x, z0, dz, dz_last, lengths=lengths)
    if batch_first:
        x, dz = x.swapaxes(0, 1), dz.swapaxes(0, 1)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, z0)]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        leaves[0], torch.tensor(lengths), batch_first, enforce_sorted=False
    )
    out, h_n = theirs(packed, leaves[1])
    out, _ = torch.nn.utils.rnn.pad_packed_sequence(out, batch_first, total_length=T)
    ((out * torch.tensor(dz)).sum() + (h_n * torch.tensor(dz_last)).sum()).backward()

    z, tape = rnn.forward(x, z0, lengths=lengths)
    grads = rnn.backward(tape, dz, dz_last=dz_last)

    def close(name, ours, expected):
        bound = right.bounds[name]
        if batch_first and name in ("x", "z"):
            bound = bound.swapaxes(0, 1)
        expected = expected.detach().numpy()
        assert_within(ours, expected, bound, name)

    close("z", z, out)
    close("z_last", tape.z_last, h_n)
    close("x", grads.x, leaves[0].grad)
    close("z0", grads.z0, leaves[1].grad)
    gradients = dict(theirs.named_parameters())
    for name, grad in grads.params.items():
        for other in theirs_of(name):
            close(name, grad, gradients[other].grad.swapaxes(0, -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": LENGTHS[1:]}, "lengths must have shape (B,) = (5,), got (4,)"),
        ({"lengths": LENGTHS + 1}, "lengths must be from 0 to T = 9, got 10"),
        ({"lengths": LENGTHS / 2}, "lengths must hold integers, got float64"),
        (
            {"resets": np.zeros((T, B), int)},
            "resets must have dtype bool, got int64",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(options, message):
    x = np.ones((T, B, I), np.float32)
    for both in (False, True):
        with pytest.raises((TypeError, ValueError)) as caught:
            RNN(I, H, 2, bidirectional=both).forward(x, **options)
        assert str(caught.value) == message
