"""Why long-term dependencies are hard: the textbook story in six pictures.

    python examples/long_term_dependencies.py [long_term_dependencies.png]

1. The gradient over a gap of k steps vanishes or explodes, as the activation and the
   first values of V have it.
2. The singular values of the product of Jacobians, which it is made of.
3. A cliff in the loss, and gradient descent that is thrown far away by it, or, clipped,
   stays.
4. Sigmoids on top of each other squash their input to a point.
5. A dead ReLU layer never recovers; one with leaky_relu does.

It takes some seconds, prints what it found, and needs matplotlib.
"""

import argparse
from functools import partial

import numpy as np

import bptt
from bptt import initializers, plots
from bptt.flow import cliff

T, B, I, H = 120, 16, 4, 64

# Activation and first V, and what they do to the gradient.
LAYERS = {
    "sigmoid, orthogonal": ("sigmoid", initializers.orthogonal),
    "tanh, uniform": ("tanh", initializers.uniform),
    "tanh, orthogonal": ("tanh", initializers.orthogonal),
    "relu, identity": ("relu", initializers.identity),
    "relu, 1.3 orthogonal": ("relu", partial(initializers.orthogonal, gain=1.3)),
    "tanh, 2 orthogonal": ("tanh", partial(initializers.orthogonal, gain=2.0)),
}


def gradients_over_gaps(seed=0):
    """Return the gradient flow of each layer, for a loss on the last state."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((T, B, I))
    W = 0.1 * rng.standard_normal((I, H))
    dz_last = rng.standard_normal((B, H))
    flows = {}
    for name, (activation, init) in LAYERS.items():
        V = init((H, H), seed=seed, dtype=np.float64)
        _, tape = bptt.forward(x, W, V, activation=activation)
        flows[name] = bptt.gradient_flow(tape, dz_last=dz_last)
    return flows


def squashed_sigmoids(layers=6):
    """Return a ramp after each of several sigmoids, the first of them the ramp."""
    z = [np.linspace(-6, 6, 200)]
    for _ in range(layers):
        # A layer without recurrence: V = 0, one step per value.
        states, _ = bptt.forward(
            z[-1][:, np.newaxis],
            np.ones((1, 1)),
            np.zeros((1, 1)),
            activation="sigmoid",
        )
        z.append(states[:, 0])
    return z


def after_a_bad_step(activation, steps=300):
    """Return the loss of each step for a layer whose bias a bad step made too low."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((10, 32, 2)).astype(np.float32)
    target = x[-3:].sum(axis=(0, 2))[:, np.newaxis] / 2
    network = bptt.Network(
        2,
        16,
        1,
        activation=activation,
        loss="squared_error",
        readout="last",
        init="orthogonal",
        seed=1,
    )
    network.params["b"][...] = -4.0
    adam = bptt.optimizers.Adam(0.02)
    batch = x, target
    return bptt.train(network, batch, optimizer=adam, steps=steps, clip=1.0).loss


def draw(ax, flows, wild, clipped, ramps, losses):
    """Draw the pictures."""
    plots.decay(flows, ax[0])
    ax[0].set_ylim(-20, 15)
    rng = np.random.default_rng(0)
    V = initializers.orthogonal((H, H), seed=0, dtype=np.float64)
    x, W = rng.standard_normal((T, I)), 0.1 * rng.standard_normal((I, H))
    plots.singular_values(bptt.forward(x, W, V)[1], ax=ax[1])
    plots.loss_cliff(ax[2])
    # Each in the colour that it has on the cliff.
    for name, path, colour in (
        ("clipped at h = 0.1", clipped, plots.SKY),
        ("without clipping", wild, plots.VERMILION),
    ):
        ax[3].semilogy(path[:, 2], label=name, color=colour, lw=1)
    ax[3].set(xlabel="step", ylabel="loss", title="Descent at the cliff")
    ax[3].legend()
    for (n, z), colour in zip(enumerate(ramps[1:], 1), plots.COLOURS, strict=True):
        ax[4].plot(ramps[0], z, label=f"{n}", color=colour)
    ax[4].set(xlabel="input", ylabel="output", title="Sigmoids on top of each other")
    ax[4].legend(title="layers")
    for (name, loss), colour in zip(losses.items(), plots.COLOURS, strict=False):
        ax[5].semilogy(loss, label=name, color=colour)
    ax[5].set(xlabel="step", ylabel="loss", title="After a step that set b to -4")
    ax[5].legend()


def main(output=None):
    """Compute all, print it, and draw it into a file if one is named."""
    flows = gradients_over_gaps()
    print(f"{'layer':22} {'per step':>9} {'horizon':>8}  verdict")
    for name, flow in flows.items():
        print(f"{name:22} {flow.growth[-1]:9.3f} {flow.horizon:8.0f}  {flow.kind}")

    wild, clipped = cliff.descend(), cliff.descend(clip=0.1)
    print(f"\ncliff: the gradient's norm reaches {wild[:, 3].max():.0f}")
    for name, path in (("without clipping", wild), ("clipped at h = 0.1", clipped)):
        w, b, loss, _ = path[-1]
        print(f"  {name:18} descent ends at w={w:5.2f}, b={b:5.2f}, loss {loss:.4f}")

    ramps = squashed_sigmoids()
    spans = ", ".join(f"{np.ptp(z):.2g}" for z in ramps)
    print(f"\nspan of a ramp after 0, 1, 2, .. sigmoids: {spans}")

    leaky = bptt.Activation("leaky_relu", alpha=0.2)
    losses = {"relu": after_a_bad_step("relu"), "leaky_relu": after_a_bad_step(leaky)}
    print("\nafter a step that set b to -4, loss at first and in the end:")
    for name, loss in losses.items():
        print(f"  {name:10} {loss[0]:.4f}  {loss[-1]:.4f}")

    if output is not None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(15, 8), layout="constrained")
        draw(figure.subplots(2, 3).ravel(), flows, wild, clipped, ramps, losses)
        figure.savefig(output, dpi=110)
        print(f"\nwritten {output}")
    return flows, wild, clipped, ramps, losses


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", nargs="?", default="long_term_dependencies.png")
    main(parser.parse_args().output)
