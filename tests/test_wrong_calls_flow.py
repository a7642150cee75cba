"""Wrong calls of gradient flow, each with the message it must give."""

import numpy as np
import pytest

import bptt
from bptt import flow, plots

F32 = np.float32
rng = np.random.default_rng(0)
x, W, V, b, z0, dz = (
    (0.3 * rng.standard_normal(shape)).astype(F32)
    for shape in [(5, 3, 4), (4, 6), (6, 6), (6,), (3, 6), (5, 3, 6)]
)
_, tape = bptt.forward(x, W, V, b, z0)
_, other = bptt.forward(x[:4], W, V, b, z0)
_, sequence = bptt.forward(x[:, 0], W, V, b)
_, ids = bptt.forward(np.ones((5, 3), int), W, V, b)
_, empty = bptt.forward(x[:0], W, V, b)
_, ragged = bptt.forward(x, W, V, b, z0, lengths=[5, 3, 2])
_, recomputed = bptt.forward(x, W, V, b, z0, checkpoint=2)
_, ragged_recomputed = bptt.forward(x, W, V, b, z0, lengths=[5, 3, 2], checkpoint=2)
_, no_rows = bptt.forward(x[:, :0], W, V, b)
_, no_list = bptt.forward(x[:0, 0], W, V, b, offsets=[0])
layer = flow.RTRL(W, V)
stack = bptt.RNN(4, 6, num_layers=2)
layers, layers_again = (stack.forward(x, checkpoint=n)[1] for n in (None, 2))
_, both_again = bptt.RNN(4, 6, num_layers=2, bidirectional=True).forward(
    x, checkpoint=2
)

CALLS = [
    # tapes
    (lambda: bptt.jacobian(x, 1), "tape must be the Tape that forward returned, got ndarray"),
    (lambda: bptt.jacobian_product(None, 1, 0), "tape must be the Tape that forward returned, got NoneType"),
    (lambda: bptt.gradient_flow(layers, dz), "tape must be the Tape that forward returned, got StackTape; its tapes has one for each layer"),
    (lambda: bptt.gradient_flow(layers_again, dz), "tape must be the Tape that forward returned, got StackTape; its tapes has one for each layer"),
    (lambda: bptt.gradient_flow(both_again, dz), "tape must be the Tape that forward returned, got StackTape, whose layers in both directions have none of their own; run forward without memory and checkpoint"),
    (lambda: bptt.jvp((tape,), dz0=z0), "tape must be the Tape that forward returned, got tuple"),
    (lambda: bptt.vjp(x, dz), "tape must be the Tape that forward returned, got ndarray"),
    (lambda: bptt.gradient_flow(x, dz), "tape must be the Tape that forward returned, got ndarray"),
    (lambda: flow.omega(x, dz), "tape must be the Tape that forward returned, got ndarray"),
    (lambda: bptt.lyapunov_exponents(x), "tape must be the Tape that forward returned, got ndarray"),
    (lambda: bptt.gradient_flow(ragged_recomputed, dz_last=z0), "tape must hold its states where sequences have lengths of their own; run forward without memory and checkpoint, got Tape("),
    (lambda: flow.omega(recomputed, dz), "tape must hold its states for omega, which needs those of all steps at once; run forward without memory and checkpoint, got Tape("),
    (lambda: bptt.lyapunov_exponents(ragged), "tape must be of sequences of one length, without resets; pass each one's (W, V, b, x), got Tape("),
    (lambda: bptt.gradient_flow(tape, lambda start, z: z), "dz must be an array, got a function"),
    (lambda: bptt.gradient_flow(ragged, dz[:3]), "dz must have shape (T, B, H) = (5, 3, 6), got (3, 3, 6)"),
    (lambda: bptt.jacobian(ragged, 6), "t must be from 1 to 5, got 6"),
    (lambda: bptt.jvp(recomputed, dz0=b), "dz0 must have shape (B, H) = (3, 6), got (6,)"),
    (lambda: bptt.jvp(ragged, dx=dz), "dx must have shape (T, B, I) = (5, 3, 4), got (5, 3, 6)"),
    # a tape of another run
    (lambda: bptt.gradient_flow(other, dz), "dz must have shape (T, B, H) = (4, 3, 6), got (5, 3, 6)"),
    (lambda: bptt.vjp(other, dz), "dz must have shape (T, B, H) = (4, 3, 6), got (5, 3, 6)"),
    (lambda: flow.omega(other, dz), "dz must have shape (T, B, H) = (4, 3, 6), got (5, 3, 6)"),
    (lambda: bptt.jvp(other, dx=x), "dx must have shape (T, B, I) = (4, 3, 4), got (5, 3, 4)"),
    (lambda: bptt.gradient_flow(sequence, dz), "dz must have shape (T, H) = (5, 6), got (5, 3, 6)"),
    (lambda: bptt.gradient_flow(sequence, dz_last=z0), "dz_last must have shape (H,) = (6,), got (3, 6)"),
    (lambda: bptt.gradient_flow(tape, dz.astype(float)), "dz must have dtype float32 like the other arrays, got float64"),
    (lambda: bptt.vjp(tape, dz, need_x_grad="no"), "need_x_grad must be True or False, got 'no'"),
    (lambda: flow.omega(tape, dz, need_x_grad=1), "need_x_grad must be True or False, got 1"),
    (lambda: flow.cliff.descend((1.0,)), "start must have shape (2,) = (2,), got (1,)"),
    # steps and gaps
    (lambda: bptt.jacobian(tape, 0), "t must be from 1 to 5, got 0"),
    (lambda: bptt.jacobian(tape, 6), "t must be from 1 to 5, got 6"),
    (lambda: bptt.jacobian(tape, 1.0), "t must be an integer, got float"),
    (lambda: bptt.jacobian(tape, True), "t must be an integer, got bool"),
    (lambda: bptt.jacobian(tape, 1, diagonal="no"), "diagonal must be True or False, got 'no'"),
    (lambda: bptt.jacobian(empty, 1), "tape must have a step, got T=0"),
    (lambda: bptt.jacobian_product(tape, 2, 3), "i must be at most t = 2, got 3: gaps run forwards"),
    (lambda: bptt.jacobian_product(tape, 6, 0), "t must be from 0 to 5, got 6"),
    (lambda: bptt.jacobian_product(tape, 3, -1), "i must be from 0 to 5, got -1"),
    (lambda: flow.log_singular_values(tape, 1, 2), "i must be at most t = 1, got 2: gaps run forwards"),
    (lambda: flow.log_singular_values(tape, 3, 0, 7), "k must be at most H = 6, got 7"),
    (lambda: flow.log_singular_values(tape, 3, 0, 0), "k must be at least 1, got 0"),
    (lambda: flow.split_growth(tape, 3, 4), "i must be at most t = 3, got 4: gaps run forwards"),
    (lambda: flow.split_growth(tape, 3, 0, b), "direction must have shape (B, H) = (3, 6), got (6,)"),
    (lambda: flow.split_growth(tape, 3, 0, z0 * 1j), "direction must have dtype float32 or float64, got complex64"),
    (lambda: flow.split_growth(tape, 3, 0, 0 * z0), "direction must not be 0: it has no length to grow"),
    (lambda: flow.product_norms(tape, 3), "sequence must be from 0 to 2, got 3"),
    (lambda: flow.product_norms(no_rows), "tape must have a sequence, got B=0"),
    (lambda: flow.product_norms(no_list), "tape must have a sequence, got B=0"),
    (lambda: plots.product_norms(no_rows), "tape must have a sequence, got B=0"),
    (lambda: plots.singular_values(no_rows), "tape must have a sequence, got B=0"),
    (lambda: flow.product_norms(tape, probes=7), "probes must be at most H = 6, got 7"),
    # pictures
    (lambda: plots.gradient_norms(tape), "flow must be a GradientFlow, or a dict of them by name, got Tape"),
    (lambda: plots.decay({"one": 1}), "flow must be a GradientFlow, or a dict of them by name, got int"),
    (lambda: plots.product_norms(W), "tape must have shape (T + 1, T + 1) = (4, 4), got (4, 6)"),
    (lambda: plots.product_norms(None), "tape must be an array, got None"),
    (lambda: plots.singular_values(None), "tape must be the Tape that forward returned, got NoneType"),
    (lambda: plots.singular_values(tape, points=0), "points must be at least 1, got 0"),
    (lambda: plots.eigenvalues(W), "V must have shape (H, H) = (4, 4), got (4, 6)"),
    (lambda: plots.eigenvalues(b), "V must have shape (H, H), got (6,)"),
    (lambda: plots.loss_cliff(clip=None), "clip must be a number, got None"),
    (lambda: plots.clipping(3.0), "norm must have shape (steps,), got ()"),
    (lambda: plots.clipping([1, 2], step=[1]), "step must have shape (steps,) = (2,), got (1,)"),
    (lambda: plots.clipping([1, 2], h=-1), "h must be positive, got -1"),
    # directions
    (lambda: bptt.jvp(tape), "dz0, dx or dparams must be given: a tangent has a direction"),
    (lambda: bptt.jvp(tape, dparams={}), "dz0, dx or dparams must be given: a tangent has a direction"),
    (lambda: bptt.jvp(tape, dz0=b), "dz0 must have shape (B, H) = (3, 6), got (6,)"),
    (lambda: bptt.jvp(tape, dparams={"U": V}), "a key of dparams must be 'W', 'V' or 'b', got 'U'"),
    (lambda: bptt.jvp(tape, dparams={"W": V}), "dparams['W'] must have shape (I, H) = (4, 6), got (6, 6)"),
    (lambda: bptt.jvp(tape, dparams={"V": V.astype(float)}), "dparams['V'] must have dtype float32 like the other arrays, got float64"),
    (lambda: bptt.jvp(tape, dparams=V), "dparams must be a dict or Gradients, got ndarray"),
    (lambda: bptt.jvp(ids, dx=x), "dx must be None where x holds token ids, got an array"),
    # losses
    (lambda: bptt.gradient_flow(tape), "dz or dz_last must be given: a loss needs a gradient"),
    (lambda: bptt.gradient_flow(tape, 0 * dz), "dz must not be 0 everywhere: the loss has no gradient"),
    (lambda: bptt.gradient_flow(tape, dz_last=0 * z0), "dz_last must not be 0 everywhere: the loss has no gradient"),
    (lambda: bptt.gradient_flow(empty, dz[:0]), "tape must have a step and a sequence, got T=0, B=3"),
    (lambda: flow.omega(tape), "dz or dz_last must be given: a loss needs a gradient"),
    (lambda: flow.omega(tape, dz, through="W"), "through must be one of 'everything', 'V'; got 'W'"),
    (lambda: flow.omega(tape, dz, form="max"), "form must be one of 'sum', 'mean'; got 'max'"),
    (lambda: flow.OmegaTerm(0), "weight must be positive, got 0"),
    (lambda: flow.OmegaTerm(np.inf), "weight must be finite, got inf"),
    (lambda: flow.OmegaTerm(1, form="max"), "form must be one of 'sum', 'mean'; got 'max'"),
    (lambda: flow.OmegaTerm(1, through="W"), "through must be one of 'everything', 'V'; got 'W'"),
    # exponents
    (lambda: bptt.lyapunov_exponents(tape, 7), "k must be at most H = 6, got 7"),
    (lambda: bptt.lyapunov_exponents(tape, 0), "k must be at least 1, got 0"),
    (lambda: bptt.lyapunov_exponents(tape, skip=5), "skip must be below T = 5, got 5: no step to count"),
    (lambda: bptt.lyapunov_exponents(tape, skip=True), "skip must be an integer, got bool"),
    (lambda: bptt.lyapunov_exponents(tape, seed=-1), "seed must be a non-negative integer"),
    (lambda: bptt.lyapunov_exponents(empty), "skip must be below T = 0, got 0: no step to count"),
    (lambda: bptt.lyapunov_exponents((W, V, x)), "a tuple must be (W, V, b, x), got 3 entries"),
    (lambda: bptt.lyapunov_exponents((W, W, b, x)), "V must have shape (H, H) = (6, 6), got (4, 6)"),
    (lambda: bptt.lyapunov_exponents(tape, activation="tanh"), "a tape has its activation and z0; pass neither"),
    (lambda: bptt.lyapunov_exponents(tape, activation="relu"), "a tape has its activation and z0; pass neither"),
    # RTRL
    (lambda: flow.RTRL(W, W), "V must have shape (H, H) = (6, 6), got (4, 6)"),
    (lambda: flow.RTRL(W[:0], V), "W must have I >= 1, got I = 0"),
    (lambda: flow.RTRL(W[:, :0], V[:0, :0]), "W must have H >= 1, got H = 0"),
    (lambda: flow.RTRL(W, V, b[:5]), "b must have shape (H,) = (6,), got (5,)"),
    (lambda: layer.step(x[0]), "x must have shape (I,) = (4,), got (3, 4)"),
    (lambda: layer.add_loss(z0), "dz must have shape (H,) = (6,), got (3, 6)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[m for _, m in CALLS])
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
