"""Wrong calls of stacked layers, each with the message it must give."""

import numpy as np
import pytest

import bptt
from bptt import RNN

T, B, I, H = 7, 3, 4, 5
x = np.ones((T, B, I), np.float32)
single, stacked = RNN(I, H, seed=0), RNN(I, H, 2, bidirectional=True, seed=0)
two = RNN(I, H, 2, seed=0)
first = RNN(I, H, batch_first=True, seed=0)
tape = stacked.forward(x)[1]
state = stacked.torch_state()
rows = [x[:, 0], x[:2, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RNN(0, 3), "input_size must be at least 1, got 0"),
        (
            lambda: RNN(2, 3, bidirectional="no"),
            "bidirectional must be True or False, got 'no'",
        ),
        (
            lambda: bptt.Network(2, 3, 1, bidirectional=1, stateful=True),
            "bidirectional must be True or False, got 1",
        ),
        (
            lambda: RNN(2, 3, batch_first="no"),
            "batch_first must be True or False, got 'no'",
        ),
        (lambda: RNN(2, 3, bias=0), "bias must be True or False, got 0"),
        (
            lambda: two.forward(x, training="no"),
            "training must be True or False, got 'no'",
        ),
        (
            lambda: stacked.backward(tape, dz_last=tape.z_last, record="no"),
            "record must be True or False, got 'no'",
        ),
        (
            lambda: stacked.backward(tape, dz_last=tape.z_last, need_x_grad=1),
            "need_x_grad must be True or False, got 1",
        ),
        (lambda: RNN(2, 3, 0), "num_layers must be at least 1, got 0"),
        (
            lambda: RNN(2, 3, 2, dropout=1.0),
            "dropout must be from 0 to below 1, got 1.0",
        ),
        (lambda: RNN(2, 3, 2, dropout="a"), "dropout must be a number, got 'a'"),
        (
            lambda: RNN(2, 3, dropout=0.5),
            "dropout is between layers and needs num_layers above 1, got 0.5 with "
            "num_layers = 1",
        ),
        (
            lambda: RNN(2, 3, init={"V_l1": "zeros"}),
            "a key of init must be one of 'W', 'V', 'b'; got 'V_l1'",
        ),
        (
            lambda: stacked.forward(x, np.ones((2, B, H), np.float32)),
            "z0 must have shape (L, B, H) = (4, 3, 5), got (2, 3, 5)",
        ),
        (
            lambda: stacked.forward(x[:, 0], np.ones((4, B, H), np.float32)),
            "z0 must have shape (L, H) = (4, 5), got (4, 3, 5)",
        ),
        (
            lambda: stacked.forward(x[..., :2]),
            "x must have shape (T, B, I) = (T, B, 4) to fit W, got (7, 3, 2)",
        ),
        (
            lambda: stacked.forward(np.ones(3, np.float32), np.ones(3, np.float32)),
            "x must have shape (T, B, I) or (T, I), got (3,)",
        ),
        (
            lambda: stacked.backward("tape", x),
            "tape must be the StackTape that RNN.forward returned, got str",
        ),
        (
            lambda: RNN(I, H, 4).backward(tape, dz_last=tape.z_last),
            "tape must be one of RNN(I=4, H=5, num_layers=4, tanh, float32), got "
            "StackTape(4 of Tape(T=7, B=3, I=4, H=5, float32, tanh))",
        ),
        (
            lambda: RNN(I, H, 3).backward(tape, dz_last=tape.z_last),
            "tape must be one of RNN(I=4, H=5, num_layers=3, tanh, float32), got "
            "StackTape(4 of Tape(T=7, B=3, I=4, H=5, float32, tanh))",
        ),
        (
            lambda: stacked.backward(tape),
            "dz or dz_last must be given: a loss needs a gradient",
        ),
        (
            lambda: stacked.backward(tape, x),
            "dz must have shape (T, B, D H) = (7, 3, 10), got (7, 3, 4)",
        ),
        (
            lambda: stacked.backward(tape, dz_last=np.ones((B, H), np.float32)),
            "dz_last must have shape (L, B, H) = (4, 3, 5), got (3, 5)",
        ),
        (
            lambda: first.backward(first.forward(x)[1], np.ones((7, 4, H), "f4")),
            "dz must have shape (B, T, D H) = (7, 3, 5), got (7, 4, 5)",
        ),
        (
            lambda: single.load_torch_state(state),
            "state must not have 'bias_hh_l0_reverse' for RNN(I=4, H=5, tanh, float32)",
        ),
        (
            lambda: stacked.load_torch_state(single.torch_state()),
            "state lacks 'bias_hh_l0_reverse' for RNN(I=4, H=5, num_layers=2, "
            "bidirectional, tanh, float32)",
        ),
        (
            lambda: stacked.load_torch_state(state | {"weight_ih_l1": np.eye(5)}),
            "weight_ih_l1 must have dtype float32 like the other arrays, got float64; "
            "pass weight_ih_l1.astype(np.float32)",
        ),
        (
            lambda: stacked.load_torch_state(state | {"weight_ih_l1": x[0]}),
            "weight_ih_l1 must have shape (H, I) = (5, 10), got (3, 4)",
        ),
        # sequences by themselves
        (
            lambda: stacked.forward(rows, lengths=[7, 2]),
            "x must be an array with lengths or offsets, got a list",
        ),
        (
            lambda: stacked.forward(x[:, 0], lengths=[7], offsets=[0, 7]),
            "lengths and offsets must not both be given",
        ),
        (
            lambda: stacked.forward(x[:, 0], offsets=[0, 6]),
            "offsets must ascend from 0 to 7, the rows of x, got 0 to 6",
        ),
        (
            lambda: stacked.forward([x[:, 0], x[:, 0, :2]]),
            "x[1] must have shape (T, I) = (T, 4) to fit W, got (7, 2)",
        ),
        (
            lambda: stacked.forward([x[:, 0], np.zeros(3, int)]),
            "x must be a list of arrays of one kind, features or ids",
        ),
        (
            lambda: stacked.forward(rows, np.ones((4, 3, H), np.float32)),
            "z0 must have shape (L, B, H) = (4, 2, 5), got (4, 3, 5)",
        ),
        (
            lambda: stacked.forward(x[:, 0], np.ones((4, H), "f4"), offsets=[0, 3, 7]),
            "z0 must have shape (L, B, H) = (4, 2, 5), got (4, 5)",
        ),
        (
            lambda: stacked.forward(x[:, 0], np.ones((4, 1, H), "f4"), offsets=[]),
            "offsets must have shape (B + 1,), got (0,)",
        ),
        (
            lambda: stacked.forward(x[:, 0], np.ones((4, 1, H), "f4"), offsets=7),
            "offsets must have shape (B + 1,), got ()",
        ),
        (
            lambda: stacked.forward(rows, resets=[np.zeros(7, bool)]),
            "resets must be a list of 2 arrays, like x; got 1",
        ),
        (
            lambda: stacked.forward(rows, resets=[np.zeros(7, bool)] * 2),
            "resets[1] must have shape (T,) = (2,), got (7,)",
        ),
        (
            lambda: stacked.forward(rows, resets=[np.zeros(7), np.zeros(2)]),
            "resets must have dtype bool, got float64",
        ),
        (
            lambda: stacked.backward(stacked.forward(rows)[1], x),
            "dz must be a list of 2 arrays, like x; got ndarray",
        ),
        (
            lambda: stacked.backward(stacked.forward(rows)[1], rows),
            "dz[0] must have shape (T, D H) = (7, 10), got (7, 4)",
        ),
        (
            lambda: stacked.forward(x, reset_state=np.ones((4, H), np.float32)),
            "reset_state needs resets, got None",
        ),
        (
            lambda: stacked.forward(x, reset_state=np.ones((4, 2, H), np.float32)),
            "reset_state must have shape (L, B, H) = (4, 3, 5), got (4, 2, 5)",
        ),
        (
            lambda: stacked.forward(x, reset_state=np.ones((B, H), np.float32)),
            "reset_state must have shape (L, H) = (4, 5), got (3, 5)",
        ),
        # what is kept, and what happens to the error
        (
            lambda: two.forward(x, checkpoint=0),
            "checkpoint must be at least 1, got 0",
        ),
        (
            lambda: two.forward(x[..., :2], checkpoint=2),
            "x must have shape (T, B, I) = (T, B, 4) to fit W, got (7, 3, 2)",
        ),
        (
            lambda: two.forward(x, checkpoint=2, resets=np.zeros((7, 2), bool)),
            "resets must have shape (T, B) = (7, 3), got (7, 2)",
        ),
        (
            lambda: two.forward(x, checkpoint=2, reset_state=np.ones((2, H), "f4")),
            "reset_state needs resets, got None",
        ),
        (
            lambda: two.backward(two.forward(x, checkpoint=2)[1], lambda start, z: x),
            "dz(start, z) must have the shape of z, (7, 3, 5), got (7, 3, 4)",
        ),
        (
            lambda: two.backward(
                two.forward(x, checkpoint=2, lengths=[7, 2, 0])[1], lambda rows, z: x
            ),
            "dz(rows, z) must have the shape of z, (9, 5), got (7, 3, 4)",
        ),
        (
            lambda: single.forward(x, memory=10**6, checkpoint=2),
            "memory and checkpoint must not both be given",
        ),
        (
            lambda: single.forward(x, memory="much"),
            "memory must be a number of bytes, or text such as '64MB', got 'much'",
        ),
        (
            lambda: stacked.backward(tape, lambda start, z: z),
            "dz must be an array for both directions, got a function",
        ),
        (
            lambda: stacked.backward(tape, tape.z_last, clip_error=0),
            "dz must have shape (T, B, D H) = (7, 3, 10), got (4, 3, 5)",
        ),
        (
            lambda: stacked.backward(tape, dz_last=tape.z_last, clip_error=0),
            "clip_error must be positive, got 0",
        ),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == message


def test_a_budget_that_is_too_small_is_told_as_it_came():
    # A direction of a single layer has half of it.
    with pytest.raises(ValueError, match=r"^memory must be at least \d+ .*, got 1$"):
        RNN(I, H, bidirectional=True, seed=0).forward(x, memory=1)
