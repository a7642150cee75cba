"""Wrong calls of the network and its training, each with the message it must give."""

import numpy as np
import pytest

import bptt
from bptt import initializers, losses, optimizers, schedules

x, target = np.ones((5, 3, 4), np.float32), np.zeros((5, 3), int)
network = bptt.Network(4, 6, 2, seed=0)
adam = optimizers.Adam()


def make(*sizes, **options):
    return lambda: bptt.Network(*(sizes or (4, 6, 2)), **options)


def learn(x=x, target=target, **options):
    return lambda: network.loss_and_gradients(x, target, **options)


def train(batches=(x, target), optimizer=adam, steps=1, **options):
    return lambda: bptt.train(
        network, batches, optimizer=optimizer, steps=steps, **options
    )


def replaced(name, value):
    """Return a network with another parameter, and ways to use it."""
    other = bptt.Network(4, 6, 2, seed=0)
    other.params[name] = value
    other.predict_x = lambda: other.predict(x)
    other.learn_x = lambda: other.loss_and_gradients(x, target)
    other.evaluate_x = lambda: other.evaluate(x, target)
    other.save_x = lambda: other.save("never-written.npz")
    return other


def call(function, *args, **options):
    return lambda: function(*args, **options)


class NoBatches:
    def __len__(self):
        return 0

    def __call__(self, step):
        return x, target


CALLS = [
    # the network
    (make(0, 6, 2), "input_size must be at least 1, got 0"),
    (make(4, -6, 2), "hidden_size must be at least 1, got -6"),
    (make(4, 6, 2.5), "output_size must be an integer, got float"),
    (make(True, 6, 2), "input_size must be at least 1, got True"),
    (make(activation="softmax"), "activation must be one of identity, sigmoid"),
    (make(loss="mse"), "loss must be one of 'squared_error', 'cross_entropy', 'binary_cross_entropy'; got 'mse'"),
    (make(readout="first"), "readout must be one of 'every', 'last'; got 'first'"),
    (make(dtype=np.float16), "dtype must be float32 or float64, got float16"),
    (make(dtype="foo"), "dtype must be float32 or float64, got 'foo'"),
    (make(dtype=None), "dtype must be float32 or float64, got None"),
    (make(2, 2**62, 1), "input_size, hidden_size and output_size must make arrays of less than 2**63 bytes, got W (I, H) = (2, 4611686018427387904)"),
    (replaced("U", np.ones((6, 3), np.float32)).predict_x, "U must have shape (H, O) = (6, 2), got (6, 3)"),
    (replaced("U", np.ones((6, 2))).predict_x, "U must have dtype float32, got float64"),
    (replaced("W", np.ones((5, 6), np.float32)).predict_x, "W must have shape (I, H) = (4, 6), got (5, 6)"),
    (replaced("c", None).learn_x, "c must be an array, got NoneType"),
    (replaced("U", np.ones(2)).evaluate_x, "U must have shape (H, O) = (6, 2), got (2,)"),
    (replaced("b", [0.0]).save_x, "b must be an array, got list"),
    (make(stateful="no"), "stateful must be True or False, got 'no'"),
    (make(init="he"), "initializer must be one of 'zeros', 'uniform'"),
    (make(seed=-1), "seed must be a non-negative integer"),
    (learn(x[..., :3]), "x must have shape (T, B, I) = (T, B, 4) to fit W, got (5, 3, 3)"),
    (learn(x.astype(float)), "x must have dtype float32 like the other arrays, got float64"),
    (learn(target=target[:4]), "target must have shape f.shape[:-1] = (5, 3), got (4, 3)"),
    (learn(target=target + 2), "target must hold class ids from 0 to O - 1 = 1, got 2"),
    (learn(target=target - 1), "target must hold class ids from 0 to O - 1 = 1, got -1"),
    (learn(target=target + 0.5), "target must hold integer class ids for cross_entropy, got float64"),
    (learn(clip_error=0), "clip_error must be positive, got 0"),
    (learn(clip_error=True), "clip_error must be a number, got True"),
    (learn(clip_error="1"), "clip_error must be a number, got '1'"),
    (learn(clip_error=np.ones((2, 2))), "clip_error must be a number, got an array of shape (2, 2)"),
    (learn(clip_error_value=-1.0), "clip_error_value must be positive, got -1.0"),
    (learn(clip_error_value=np.nan), "clip_error_value must be positive, got nan"),
    (learn(clip_error_value=10**400), "clip_error_value must fit a float64, got 1000"),
    (train(clip_error=0), "clip_error must be positive, got 0"),
    (train(clip_error=-1, k1=2), "clip_error must be positive, got -1"),
    (train(clip_error=(1.0, 2.0)), "clip_error must be a number, got (1.0, 2.0)"),
    (train(clip_error_value=False), "clip_error_value must be a number, got False"),
    (train(clip_error_value=[]), "clip_error_value must be a number, got []"),
    (train(clip=True), "clip must be a number, got True"),
    (learn(z0=np.ones((3, 5), np.float32)), "z0 must have shape (B, H) = (3, 6), got (3, 5)"),
    # losses
    (call(losses.squared_error, x, target), "target must have shape f.shape = (5, 3, 4), got (5, 3)"),
    (call(losses.binary_cross_entropy, x, x + 1), "target must be from 0 to 1 for binary_cross_entropy, got values from 2 to 2"),
    (call(losses.squared_error, target, target), "f must have dtype float32 or float64, got int64"),
    # optimisers and schedules
    (call(optimizers.SGD, -0.1), "learning_rate must be positive, got -0.1"),
    (call(optimizers.SGD, 0.1, momentum=1.0), "momentum must be from 0 to below 1, got 1.0"),
    (call(optimizers.SGD, 0.1, momentum=0.9, nesterov="no"), "nesterov must be True or False, got 'no'"),
    (call(optimizers.Adam, 0.1, beta2=1.0), "beta2 must be from 0 to below 1, got 1.0"),
    (train(optimizer=optimizers.SGD(lambda step: "0.1")), "what a schedule returns must be a number, got '0.1'"),
    (train(optimizer=optimizers.SGD(lambda step: None)), "what a schedule returns must be a number, got None"),
    (train(optimizer=optimizers.SGD(lambda step: np.nan)), "what a schedule returns must be at least 0 and finite, got nan at step 0"),
    (train(optimizer=optimizers.SGD(lambda step: -1.0)), "what a schedule returns must be at least 0 and finite, got -1.0 at step 0"),
    (call(schedules.linear_warmup(lambda step: "0.1", 2), 0), "what a schedule returns must be a number, got '0.1'"),
    (call(schedules.cosine, 0.1, 5, floor="0"), "floor must be a number, got '0'"),
    (call(schedules.cosine, 0.1, 0), "steps must be at least 1, got 0"),
    # initialisers
    (call(initializers.get, "he"), "initializer must be one of 'zeros', 'uniform'"),
    (call(initializers.spectral_radius, (3, 4), rho=0.9), "shape must be square, got (3, 4)"),
    (call(initializers.normal, (3, 4), std=-1.0), "std must be positive, got -1.0"),
    # training
    (lambda: bptt.train("net", (x, target), optimizer=adam, steps=1), "network must be a bptt.Network, got 'net'"),
    (train(optimizer="adam"), "optimizer must be one of bptt.optimizers, as Adam(), got 'adam'"),
    (train(steps=0), "steps must be at least 1, got 0"),
    (train(steps=None), "one of steps and epochs must be given, got None and None"),
    (train(epochs=1), "one of steps and epochs must be given, got 1 and 1"),
    (train(NoBatches(), steps=None, epochs=2), "epochs needs at least one batch, got batches of length 0"),
    (train(clip=-1.0), "clip must be positive, got -1.0"),
    (train(clip="1"), "clip must be a number, got '1'"),
    (call(bptt.clip_norm, [x], 1.0, per_leaf="no"), "per_leaf must be True or False, got 'no'"),
    (train(nonfinite="skip"), "nonfinite must be one of 'raise', 'zero', 'pass'; got 'skip'"),
    (train(patience=3), "patience needs a validation to watch, got None"),
    (train(resume=True), "resume needs the name of a checkpoint, got None"),
    (train(resume="no"), "resume must be True or False, got 'no'"),
    (train(checkpoint="run.txt"), "checkpoint must end in .safetensors or .npz, got 'run.txt'"),
    (train(callbacks=3), "callbacks must be a list of functions, got 3"),
    (train(callbacks=print), "callbacks must be a list of functions, got <built-in function print>"),
    (train(callbacks=[3]), "callbacks must be a list of functions, got one with 3"),
    (train(validation=lambda network: None, validate_every=1), "validation must be a number, got None"),
    (train(batches=(x,)), "batches must be (x, target), (x, target, lengths) or a Batch, got tuple of 1"),
    (train(batches=(x, target, [5, 5])), "lengths must have shape (B,) = (3,), got (2,)"),
    (train(batches=(x, target, [5, 5, 6])), "lengths must be from 0 to T = 5, got 6"),
    (train(validation=(x, target, [5], 1)), "validation must be (x, target), (x, target, lengths) or a Batch, got tuple of 4"),
    (call(bptt.data.pad, []), "sequences must not be empty, got none"),
    (call(bptt.data.pad, [x, x[:, 1:]]), "sequences[1] must be like sequences[0] but for its length, got float32 (5, 2, 4) and float32 (5, 3, 4)"),
    (call(bptt.data.pad, [x[0, 0, 0]]), "sequences[0] must be like sequences[0]"),
    (call(bptt.data.Minibatches, x, target, 2, lengths=[1.0]), "lengths must hold integers, got float64"),
    (call(bptt.data.Minibatches, x, target, 2, lengths=[1]), "lengths must have shape (N,) = (3,), got (1,)"),
    (train(batches=x), "batches must be a batch (x, target) or a function from the step to one, got ndarray"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "message"), CALLS)
def test_a_wrong_call_says_what_is_wrong(wrong, message):
    with pytest.raises((TypeError, ValueError)) as raised:
        wrong()
    assert message in str(raised.value)
    assert str(raised.value).startswith(message.split()[0])
    assert "\n" not in str(raised.value)
