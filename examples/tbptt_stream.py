"""Truncated BPTT on a stream, which is learned where the gradient goes back enough.

The stream never ends. Its target at each step is the input of DELAY steps before. Every
K1 steps there is an update, from the losses of these K1 steps, whose gradient goes back
K2 steps: no way back as short as the delay can tell what to remember.

    python examples/tbptt_stream.py [STEPS]
"""

import sys

import numpy as np

from bptt.initializers import get
from bptt.optimizers import Adam
from bptt.truncation import truncated

DELAY, K1 = 8, 5
B, H = 16, 32


def stream(steps):
    """Yield chunks of x (T, B, 1) and of the target (T, B, 1), read as they come."""
    rng = np.random.default_rng(0)
    past = np.zeros((DELAY, B, 1), np.float32)
    for _ in range(steps // 1000):
        x = rng.uniform(-1, 1, (1000, B, 1)).astype(np.float32)
        both = np.concatenate([past, x])
        yield x, both[:1000]
        past = both[1000:]


def learn(steps, k2):
    """Return the mean squared error over the last fifth of the updates."""
    rng = np.random.default_rng(1)
    draw = get("uniform", limit=H**-0.5)
    shapes = {"W": (1, H), "V": (H, H), "b": (H,), "U": (H, 1), "c": (1,)}
    params = {name: draw(shape, seed=rng) for name, shape in shapes.items()}
    grads = {}

    def loss(z, target):
        error = z @ params["U"] + params["c"] - target
        df = 2 * error / error.size
        grads["U"] = np.tensordot(z, df, axes=([0, 1], [0, 1]))
        grads["c"] = df.sum(axis=(0, 1))
        return float(np.square(error).mean()), df @ params["U"].T

    layer = params["W"], params["V"], params["b"]
    adam, errors = Adam(0.003), []
    for update in truncated(stream(steps), *layer, loss=loss, k1=K1, k2=k2):
        grads |= {name: getattr(update.grads, name) for name in "WVb"}
        adam.update(params, {name: grads[name] for name in params})
        errors.append(update.loss)
    return np.mean(errors[-len(errors) // 5 :])


steps = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
print(f"target: the input of {DELAY} steps before, whose variance is {1 / 3:.3f}")
for k2 in (K1, 4 * K1):
    print(f"k1 = {K1}, k2 = {k2:2}: mean squared error {learn(steps, k2):.4f}")
