"""Wrong calls, each with the message it must give: what, what was expected, what came.

`test_wrong_calls_training.py` has those of the network and its training.
"""

import numpy as np
import pytest

import bptt

F32, F64 = np.float32, np.float64
rng = np.random.default_rng(0)
x, W, V, b, z0, dz = (
    (0.3 * rng.standard_normal(shape)).astype(F32)
    for shape in [(5, 3, 4), (4, 6), (6, 6), (6,), (3, 6), (5, 3, 6)]
)
ids = np.ones((5, 3), int)
z, tape = bptt.forward(x, W, V, b, z0)
_, sequence = bptt.forward(x[:, 0], W, V, b)
grads = bptt.backward(tape, dz)
_, ragged = bptt.forward(list(x), W, V, b)
_, padded = bptt.forward(x, W, V, b, lengths=[5, 4, 0])
_, recomputed = bptt.forward(x, W, V, b, memory="1MB")


def forward(x=x, W=W, V=V, b=b, z0=z0, **options):
    return lambda: bptt.forward(x, W, V, b, z0, **options)


def backward(tape=tape, *args, **options):
    return lambda: bptt.backward(tape, *args, **options)


def activation(*args, **options):
    return lambda: bptt.Activation(*args, **options)


def clip(grads=grads, h=1.0, **options):
    return lambda: bptt.clip_norm(grads, h, **options)


def clip_value(grads=grads, h=1.0, **options):
    return lambda: bptt.clip_value(grads, h, **options)


CALLS = [
    # x
    (forward(x[..., :3]), "x must have shape (T, B, I) = (T, B, 4) to fit W, got (5, 3, 3)"),
    (forward(x[0, 0]), "x must have shape (T, B, I) or (T, I), got (4,)"),
    (forward(x[None]), "x must have shape (T, B, I) or (T, I), got (1, 5, 3, 4)"),
    (forward(np.float32(1)), "x must have shape (T, B, I) or (T, I), got ()"),
    (forward(x[:, 0, :2], z0=None), "x must have shape (T, I) = (T, 4) to fit W, got (5, 2)"),
    (forward(x.astype(F64)), "x must have dtype float32 like the other arrays, got float64; pass x.astype(np.float32)"),
    (forward(x.astype(np.float16)), "x must have dtype float32 or float64, got float16; pass x.astype(np.float32)"),
    (forward(x.astype(np.longdouble)), f"x must have dtype float32 or float64, got {np.dtype(np.longdouble)}; pass x.astype(np.float32)"),
    (forward(x.astype(bool), W.astype(F64), V.astype(F64), b.astype(F64)), "x must have dtype float32 or float64, got bool; pass x.astype(np.float64)"),
    (forward(x.astype(complex)), "x must have dtype float32 or float64, got complex128"),
    (forward(x.astype(bool)), "x must have dtype float32 or float64, got bool; pass x.astype(np.float32)"),
    (forward(x.astype(object)), "x must have dtype float32 or float64, got object"),
    (forward("text"), "x must have dtype float32 or float64, got <U4"),
    (forward(None), "x must be an array, got None"),
    (forward(a for a in x), "x must be an array, got generator"),
    (forward({0: x}), "x must be an array, got dict"),
    (backward(ragged, (a for a in dz)), "dz must be a list of 5 arrays, like x; got generator"),
    (forward([[1.0], [1.0, 2.0]]), "x must be an array: setting an array element with a sequence"),
    (forward(np.ma.masked_array(x)), "x is a masked array, whose mask would be ignored; pass x.filled(value)"),
    (forward(x.astype(int)), "x of integers must have shape (T, B) or (T,): token ids; got (5, 3, 4); one-hot or real features must be floats"),
    (forward(np.int64(1)), "x of integers must have shape (T, B) or (T,): token ids; got ()"),
    (forward(ids + 3), "x must hold token ids from 0 to I - 1 = 3, got 4"),
    (forward(ids - 2), "x must hold token ids from 0 to I - 1 = 3, got -1"),
    (forward(np.full((5, 3), 2**63, np.uint64)), "x must hold token ids from 0 to I - 1 = 3, got 9223372036854775808"),
    # W and V
    (forward(W=W[0]), "W must have shape (I, H), got (6,)"),
    (forward(W=W[:, :0]), "W must have H >= 1, got H = 0"),
    (forward(W=W[:0]), "W must have I >= 1, got I = 0"),
    (forward(W=None), "W must be an array, got None"),
    (forward(W=W.astype(int)), "W must have dtype float32 or float64, got int64; pass W.astype(np.float32)"),
    (forward(W=W.T), "V must have shape (H, H) = (4, 4), got (6, 6)"),
    (forward(V=V[:, :5]), "V must have shape (H, H) = (6, 6), got (6, 5)"),
    (forward(V=V[0]), "V must have shape (H, H) = (6, 6), got (6,)"),
    (forward(V=V.astype(F64)), "V must have dtype float32 like the other arrays, got float64; pass V.astype(np.float32)"),
    (forward(V=None), "V must be an array, got None"),
    # b and z0
    (forward(b=b[:5]), "b must have shape (H,) = (6,), got (5,)"),
    (forward(b=b[None]), "b must have shape (H,) = (6,), got (1, 6)"),
    (forward(b=0.5), "b must have dtype float32 like the other arrays, got float64"),
    (forward(b=b.astype(F64)), "b must have dtype float32 like the other arrays, got float64"),
    (forward(z0=z0[0]), "z0 must have shape (B, H) = (3, 6), got (6,)"),
    (forward(z0=z0[:2]), "z0 must have shape (B, H) = (3, 6), got (2, 6)"),
    (forward(z0=z0[None]), "z0 must have shape (B, H) = (3, 6), got (1, 3, 6)"),
    (forward(z0=z0.astype(F64)), "z0 must have dtype float32 like the other arrays, got float64"),
    (forward(x[:, 0]), "z0 must have shape (H,) = (6,), got (3, 6)"),
    # the activation
    (forward(activation="tan"), "activation must be one of identity, sigmoid, tanh, relu, leaky_relu, elu, softplus, softsign, hard_sigmoid, scaled_tanh, thresholded_relu, affine; got 'tan'"),
    (forward(activation=None), "activation must be a name or a bptt.Activation, got None"),
    (forward(activation=np.tanh), "activation must be a name or a bptt.Activation, got <ufunc 'tanh'>"),
    (activation("tanh", 1.0), "activation 'tanh' has no parameter alpha or beta"),
    (activation("elu", beta=1.0), "activation 'elu' has no parameter beta"),
    (activation("elu", alpha=-1.0), "alpha of elu must be >= 0, for the state must tell sigma'; got -1.0"),
    (activation("leaky_relu", -0.1), "alpha of leaky_relu must be >= 0, for the state must tell sigma'; got -0.1"),
    (activation("affine", np.nan), "alpha of affine must be finite, got nan"),
    (activation("affine", 10**400), "alpha of affine must be finite, got 1000"),
    (activation("affine", 1.0, np.inf), "beta of affine must be finite, got inf"),
    (activation("affine", "1"), "alpha of affine must be a number, got '1'"),
    (activation("scaled_tanh", 0.0), "alpha of scaled_tanh must not be 0, got 0"),
    # backward
    (backward(), "dz or dz_last must be given: a loss needs a gradient"),
    (backward(z, dz), "tape must be the Tape that forward returned, got ndarray"),
    (backward((z, tape), dz), "tape must be the Tape that forward returned, got tuple"),
    (backward(tape, dz[:4]), "dz must have shape (T, B, H) = (5, 3, 6), got (4, 3, 6)"),
    (backward(tape, dz[-1]), "dz must have shape (T, B, H) = (5, 3, 6), got (3, 6)"),
    (backward(tape, 1.0), "dz must have dtype float32 like the other arrays, got float64"),
    (backward(tape, dz.astype(F64)), "dz must have dtype float32 like the other arrays, got float64; pass dz.astype(np.float32)"),
    (backward(tape, dz_last=dz), "dz_last must have shape (B, H) = (3, 6), got (5, 3, 6)"),
    (backward(tape, dz_last=dz[0, 0]), "dz_last must have shape (B, H) = (3, 6), got (6,)"),
    (backward(sequence, dz), "dz must have shape (T, H) = (5, 6), got (5, 3, 6)"),
    (backward(sequence, dz_last=z0), "dz_last must have shape (H,) = (6,), got (3, 6)"),
    # out
    (forward(out=z), "out must be a Tape of forward, got ndarray"),
    (forward(out=sequence), "out.z must have shape (T + 1, B, H) = (6, 3, 6), got (6, 1, 6)"),
    (backward(tape, dz, out=z), "out must be Gradients of backward, got ndarray"),
    (backward(tape, dz, out=grads, need_x_grad=False), "out.x must have shape None, got (5, 3, 4)"),
    (backward(tape, dz, out=grads._replace(b=None)), "out.b must have shape (6,), got None"),
    (backward(tape, dz, out=grads._replace(V=V[:5])), "out.V must have shape (6, 6), got (5, 6)"),
    (backward(tape, dz, out=grads._replace(V=V.astype(F64))), "out.V must have dtype float32, got float64"),
    (backward(tape, dz, out=grads._replace(V=np.asfortranarray(V))), "out.V must be contiguous and writeable"),
    (backward(tape, dz, out=grads._replace(z0=np.broadcast_to(F32(0), (3, 6)))), "out.z0 must be contiguous and writeable"),
    # lengths, offsets, resets
    (forward(lengths=[5, 6, 0]), "lengths must be from 0 to T = 5, got 6"),
    (forward(lengths=[5, -1, 0]), "lengths must be from 0 to T = 5, got -1"),
    (forward(lengths=[5, 5]), "lengths must have shape (B,) = (3,), got (2,)"),
    (forward(lengths={5, 4, 3}), "lengths must be an array, got set"),
    (forward(lengths=[5.0, 4.0, 3.0]), "lengths must hold integers, got float64"),
    (forward(lengths=[5, 5, 5], offsets=[0, 5]), "lengths and offsets must not both be given"),
    (forward(x[:, 0], lengths=[5], z0=z0[0]), "x must have shape (T, B, I) or (T, B) with lengths"),
    (forward(list(x), lengths=[1]), "x must be an array with lengths or offsets, got a list"),
    (forward(list(x[..., :3])), "x[0] must have shape (T, I) = (T, 4) to fit W, got (3, 3)"),
    (forward([x[0], ids[0]]), "x must be a list of arrays of one kind, features or ids"),
    (forward([ids]), "x[0] of integers must have shape (T,): token ids; got (5, 3)"),
    (forward([ids[0] + 3]), "x[0] must hold token ids from 0 to I - 1 = 3, got 4"),
    (forward(offsets=[0, 5]), "x must have shape (T, I) = (T, 4) to fit W, got (5, 3, 4)"),
    (forward(x[0], offsets=[0, 2]), "offsets must ascend from 0 to 3, the rows of x, got 0 to 2"),
    (forward(x[0], offsets=[0, 2, 1, 3]), "offsets must ascend from 0 to 3, the rows of x, got 1 after 2"),
    (forward(lengths=np.full(3, 2**63, np.uint64)), "lengths must fit int64, got 9223372036854775808"),
    (forward(x[0], offsets=3), "offsets must have shape (B + 1,), got ()"),
    (forward(list(x)), "z0 must have shape (B, H) = (5, 6), got (3, 6)"),
    (forward(resets=np.zeros((5, 2), bool)), "resets must have shape (T, B) = (5, 3), got (5, 2)"),
    (forward(resets=np.zeros((5, 3))), "resets must have dtype bool, got float64"),
    (forward(reset_state=np.zeros(6, np.float32)), "reset_state needs resets, got None"),
    (forward(resets=np.zeros(5, bool), reset_state=np.zeros(5, np.float32)), "reset_state must have shape (B, H) = (3, 6), got (5,)"),
    (forward(list(x), z0=None, resets=[True]), "resets must be a list of 5 arrays, like x; got 1"),
    (forward(list(x), z0=None, resets=[np.ones(2, bool)] * 5), "resets[0] must have shape (T,) = (3,), got (2,)"),
    # memory
    (forward(memory=1), "memory must be at least "),
    (forward(memory="much"), "memory must be a number of bytes, or text such as '64MB', got 'much'"),
    (forward(memory=-1), "memory must be at least 1, got -1"),
    (forward(memory=1.5), "memory must be a number of bytes, or text such as '64MB', got float"),
    (forward(memory=[1]), "memory must be a number of bytes, or text such as '64MB', got list"),
    (forward(memory=True), "memory must be at least 1, got True"),
    (forward(checkpoint=0), "checkpoint must be at least 1, got 0"),
    (forward(memory=2**30, checkpoint=2), "memory and checkpoint must not both be given"),
    (forward(memory=2**30, out=tape), "out must be None with a list, memory or checkpoint"),
    (forward(list(x), z0=None, out=ragged), "out must be None with a list, memory or checkpoint"),
    (forward(out=recomputed), "out must be a tape that keeps all states, got Tape(T=5, B=3"),
    (forward(lengths=[5, 4, 3], out=tape.z), "out must be a Tape of forward, got ndarray"),
    (forward(lengths=[5, 4, 3], out=sequence), "out.z must have shape (T + 1, B, H) = (6, 3, 6), got (6, 1, 6)"),
    (forward(x[:4], lengths=[4, 4, 3], out=padded), "out.z must have shape (T, B, H) = (4, 3, 6), got (5, 3, 6)"),
    (forward(x[:4], lengths=[4, 4, 4], out=padded), "out.z must have shape (T, B, H) = (4, 3, 6), got (5, 3, 6)"),
    (forward(x.swapaxes(0, 1), z0=None, lengths=[3, 3, 3, 3, 2], out=padded), "out.z must have shape (T, B, H) = (3, 5, 6), got (5, 3, 6)"),
    (forward(x[0], z0=None, offsets=[0, 3], out=padded), "out.z must have shape (N, H) = (3, 6), got (5, 3, 6)"),
    (backward(ragged, dz), "dz must be a list of 5 arrays, like x; got ndarray"),
    (backward(ragged, list(dz[:4])), "dz must be a list of 5 arrays, like x; got 4"),
    (backward(ragged, list(dz[..., :4])), "dz[0] must have shape (T, H) = (3, 6), got (3, 4)"),
    (backward(ragged, lambda rows, z: z[1:]), "dz(rows, z) must have the shape of z, (15, 6), got (14, 6)"),
    (backward(ragged, lambda rows, z: z.astype(int)), "dz(rows, z) must have dtype float32 or float64, got int64"),
    (backward(ragged, dz_last=z0), "dz_last must have shape (B, H) = (5, 6), got (3, 6)"),
    (backward(ragged, list(dz), out=grads), "out must be None where x was a list"),
    (backward(padded, dz, out=grads._replace(x=grads.x[:4])), "out.x must have shape (5, 3, 4), got (4, 3, 4)"),
    (backward(padded, dz, out=grads, need_x_grad=False), "out.x must have shape None, got (5, 3, 4)"),
    (backward(recomputed, lambda start, z: z[1:]), "dz(start, z) must have the shape of z, (5, 3, 6), got (4, 3, 6)"),
    (backward(recomputed, lambda start, z: None), "dz(start, z) must be an array, got None"),
    (backward(tape, lambda start, z: z[1:]), "dz(start, z) must have the shape of z, (5, 3, 6), got (4, 3, 6)"),
    (backward(tape, lambda start, z: None), "dz(start, z) must be an array, got None"),
    (backward(recomputed, dz[1:]), "dz must have shape (T, B, H) = (5, 3, 6), got (4, 3, 6)"),
    # the error
    (backward(tape, dz, clip_error=0), "clip_error must be positive, got 0"),
    (backward(tape, dz, clip_error=np.nan), "clip_error must be positive, got nan"),
    (backward(tape, dz, clip_error_value="1"), "clip_error_value must be a number, got '1'"),
    (backward(tape, dz, record="no"), "record must be True or False, got 'no'"),
    (backward(tape, dz, need_x_grad=0), "need_x_grad must be True or False, got 0"),
    (backward(recomputed, dz, need_x_grad="no"), "need_x_grad must be True or False, got 'no'"),
    (backward(recomputed, dz, record=1), "record must be True or False, got 1"),
    # threads
    (lambda: bptt.set_num_threads(0), "n must be at least 1, got 0"),
    (lambda: bptt.set_num_threads(2.0), "n must be an integer, got float"),
    (lambda: bptt.threads(-1).__enter__(), "n must be at least 1, got -1"),
    # clipping
    (clip(h=0), "h must be positive, got 0"),
    (clip(h=-1.0), "h must be positive, got -1.0"),
    (clip(h=np.nan), "h must be positive, got nan"),
    (clip(h=None), "h must be a number, got None"),
    (clip(h="one"), "h must be a number, got 'one'"),
    (clip(h=10**400), "h must fit a float64, got 1000"),
    (clip(nonfinite="ignore"), "nonfinite must be one of 'raise', 'zero', 'pass'; got 'ignore'"),
    (clip(nonfinite="ignore", h=1e-3), "nonfinite must be one of 'raise', 'zero', 'pass'; got 'ignore'"),
    (clip(1.0), "grads must be Gradients, a tuple, a list, a dict or an array, got float"),
    (clip([1, 2]), "grads['0'] must have dtype float32 or float64, got int64; pass grads['0'].astype(np.float32)"),
    (clip({"V": V.astype(complex)}), "grads['V'] must have dtype float32 or float64, got complex128"),
    (clip(np.array([1.0, np.inf])), "the gradient is not finite: leaf 'gradient' holds inf at index (1,)"),
    (clip_value(h=-0.5), "h must be positive, got -0.5"),
    (clip_value(nonfinite=None), "nonfinite must be one of 'raise', 'zero', 'pass'; got None"),
    (clip_value(None), "grads must be Gradients, a tuple, a list, a dict or an array, got NoneType"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[m for _, m in CALLS])
def test_a_wrong_call_says_what_is_wrong(call, message):
    with pytest.raises((TypeError, ValueError)) as raised:
        call()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)
