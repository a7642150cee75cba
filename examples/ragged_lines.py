"""Lines of source code as a ragged batch: no padding, no sorting.

A line is a sequence of character ids, and each next character is to be predicted. The
lines of a batch have whatever lengths they have, and a step costs their sum.

    python examples/ragged_lines.py [steps]
"""

import argparse
import string
import sys
import textwrap
from pathlib import Path

import numpy as np

import bptt

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 200
B, H = 64, 96

text = "".join(Path(m.__file__).read_text() for m in (argparse, string, textwrap))
characters = sorted(set(text))
number = {c: i for i, c in enumerate(characters)}
lines = [
    np.array([number[c] for c in line])
    for line in text.splitlines(keepends=True)
    if len(line) > 1
]
I = len(characters)

rng = np.random.default_rng(0)
params = {
    "W": rng.standard_normal((I, H), np.float32) / 4,
    "V": np.float32(0.9) * bptt.initializers.orthogonal((H, H), seed=0),
    "b": np.zeros(H, np.float32),
    "U": rng.standard_normal((H, I), np.float32) / 10,
    "c": np.zeros(I, np.float32),
}
adam = bptt.optimizers.Adam(0.003)
cells = padded = 0
for step in range(1, STEPS + 1):
    batch = [lines[i] for i in rng.integers(0, len(lines), B)]
    x, target = [line[:-1] for line in batch], [line[1:] for line in batch]
    cells += sum(map(len, x))
    padded += B * max(map(len, x))

    z, tape = bptt.forward(x, params["W"], params["V"], params["b"])
    states = np.concatenate(z)
    value, df = bptt.losses.cross_entropy(
        states @ params["U"] + params["c"], np.concatenate(target)
    )
    ends = np.cumsum([len(line) for line in x])[:-1]
    grads = bptt.backward(tape, np.split(df @ params["U"].T, ends))
    leaves = {
        "W": grads.W,
        "V": grads.V,
        "b": grads.b,
        "U": states.T @ df,
        "c": df.sum(axis=0),
    }
    leaves, norm = bptt.clip_norm(leaves, 1.0)
    adam.update(params, leaves)
    if step == 1 or step % 50 == 0:
        print(f"step {step:4}  nats per character {value:.3f}")
print(f"{cells:,} characters; padded they would be {padded:,}")
