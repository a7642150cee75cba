"""What stacked layers in two directions are, sequence by sequence, by the reference.

Nothing is batched, padded or turned round here but by the definition: a sequence is cut
where it is reset, and each layer walks each piece alone, from its own end where it
reads backwards.
"""

import itertools
from dataclasses import dataclass, field

import numpy as np
from tolerances import backward_bound, forward_bound

from bptt import _reference


@dataclass
class Walk:
    """Results of a cell on a sequence, or of a stack on a batch, with their bounds."""

    z: np.ndarray
    z_last: np.ndarray
    grads: dict = field(default_factory=dict)
    bounds: dict = field(default_factory=dict)

    def add(self, name, grad, bound):
        self.grads[name] = self.grads.get(name, 0) + grad
        self.bounds[name] = self.bounds.get(name, 0) + bound


def wide(value):
    return None if value is None else np.float64(value)


def by_definition(
    stack, params, x, z0, dz=None, dz_last=None, masks=None, lengths=None, resets=None
):
    """Return z, z_last, all gradients, and the bounds for the stack's dtype.

    Everything is batched and time first; x holds features, masks say what dropout kept.
    """
    params = {name: wide(p) for name, p in params.items()}
    x, z0, dz, dz_last = map(wide, (x, z0, dz, dz_last))
    T, B, I = x.shape
    L, H, width = stack.cells, stack.hidden_size, stack.width
    lengths = [T] * B if lengths is None else lengths
    total = Walk(np.zeros((T, B, width)), np.zeros((L, B, H)))
    total.grads = {
        "x": np.zeros((T, B, I)),
        "z0": np.zeros((L, B, H)),
        **{name: np.zeros_like(p) for name, p in params.items()},
    }
    total.bounds = {name: np.zeros_like(g) for name, g in total.grads.items()}
    total.bounds |= {"z": np.zeros_like(total.z), "z_last": np.zeros_like(total.z_last)}
    for row, n in enumerate(lengths):
        cuts = [] if resets is None else np.flatnonzero(resets[1:n, row]) + 1
        one = _Sequence(stack, params, [0, *cuts, n], sum(lengths))
        one.forward(
            x[:n, row : row + 1],
            z0[:, row : row + 1],
            [m if m is None else m[:n, row : row + 1] for m in masks or []],
        )
        one.backward(
            None if dz is None else dz[:n, row : row + 1],
            np.zeros((L, 1, H)) if dz_last is None else dz_last[:, row : row + 1],
        )
        at = np.s_[:n, row : row + 1]
        total.z[at], total.bounds["z"][at] = one.z, one.zb
        total.z_last[:, row : row + 1] = one.z_last
        total.bounds["z_last"][:, row : row + 1] = one.z_lastb
        for name, grad in one.walk.grads.items():
            where = {"x": at, "z0": np.s_[:, row : row + 1]}.get(name, np.s_[...])
            total.grads[name][where] += grad
            total.bounds[name][where] += one.walk.bounds[name]
    return total


class _Sequence:
    """One sequence, of which piece i is the steps from borders[i] to borders[i + 1]."""

    def __init__(self, stack, params, borders, rows):
        self.stack, self.params, self.rows = stack, params, rows
        self.pieces = [slice(*pair) for pair in itertools.pairwise(borders)]
        self.walk = Walk(None, None)

    def names(self, cell):
        layer, direction = divmod(cell, self.stack.directions)
        end = (f"_l{layer}" if layer else "") + ("_reverse" if direction else "")
        return [letter + end for letter in ("W", "V", "b")]

    def forward(self, x, z0, masks):
        stack = self.stack
        self.runs, self.keep = {}, []
        self.z0, self.z_last = z0, np.zeros_like(z0)
        self.z_lastb = np.zeros_like(z0)
        z, zb = x, np.zeros_like(x)
        for layer in range(stack.num_layers):
            if layer:
                mask = masks[layer - 1] if masks else None
                keep = 1.0 if mask is None else mask / (1 - stack.dropout)
                eps = np.finfo(stack.dtype).eps
                z, zb = z * keep, keep * (zb + 2 * eps * abs(z))
                self.keep.append(keep)
            outs, bounds = [], []
            for d in range(stack.directions):
                out, bound = self.forward_cell(layer * stack.directions + d, d, z, zb)
                outs.append(out)
                bounds.append(bound)
            z, zb = np.concatenate(outs, -1), np.concatenate(bounds, -1)
        self.z, self.zb = z, zb

    def forward_cell(self, cell, direction, x, xb):
        stack, p = self.stack, [self.params.get(n) for n in self.names(cell)]
        out = np.zeros((len(x), 1, stack.hidden_size))
        outb = np.zeros_like(out)
        way = slice(None, None, -1 if direction else 1)
        for i, piece in enumerate(self.pieces):
            inputs, inputsb = x[piece][way], xb[piece][way]
            z = np.zeros((len(inputs) + 1, 1, stack.hidden_size))
            z[0] = self.z0[cell]
            _reference.forward(inputs, *p, z, stack.activation)
            zb = forward_bound(inputs, *p, z, stack.activation, stack.dtype, inputsb)
            self.runs[cell, i] = inputs, inputsb, z
            out[piece], outb[piece] = z[1:][way], zb[1:][way]
            if i == (0 if direction else len(self.pieces) - 1):
                self.z_last[cell], self.z_lastb[cell] = z[-1], zb[-1]
        return out, outb

    def backward(self, dz, dz_last):
        stack, D, H = self.stack, self.stack.directions, self.stack.hidden_size
        dz = np.zeros_like(self.z) if dz is None else dz
        dzb = np.zeros_like(dz)
        dz0, dz0b = np.zeros_like(self.z0), np.zeros_like(self.z0)
        for layer in range(stack.num_layers - 1, -1, -1):
            I = stack.width if layer else stack.input_size
            dx, dxb = np.zeros((len(dz), 1, I)), np.zeros((len(dz), 1, I))
            for d in range(D):
                cell, mine = layer * D + d, np.s_[..., d * H : d * H + H]
                results = self.backward_cell(cell, d, dz[mine], dzb[mine], dz_last)
                for total, part in zip(
                    (dz0[cell], dz0b[cell], dx, dxb), results, strict=True
                ):
                    total += part
            eps = np.finfo(stack.dtype).eps
            dxb += 2 * eps * abs(dx)
            if layer:
                keep = self.keep[layer - 1]
                dx, dxb = dx * keep, keep * (dxb + 2 * eps * abs(dx))
            dz, dzb = dx, dxb
        self.walk.add("z0", dz0, dz0b)
        self.walk.add("x", dz, dzb)

    def backward_cell(self, cell, direction, dz, dzb, dz_last):
        stack, names = self.stack, self.names(cell)
        p = [self.params.get(n) for n in names]
        way = slice(None, None, -1 if direction else 1)
        dz0, dz0b, dx, dxb = 0.0, 0.0, [], []
        for i, piece in enumerate(self.pieces):
            inputs, inputsb, z = self.runs[cell, i]
            ends = i == (0 if direction else len(self.pieces) - 1)
            last = dz_last[cell] if ends else np.zeros_like(dz_last[cell])
            g, gb = dz[piece][way], dzb[piece][way]
            grads = [np.zeros_like(q) for q in (*p[:2], z[0][0], z[0], inputs)]
            dW, dV, db, start, back = grads
            _reference.backward(
                inputs, *p[:2], z, stack.activation, g, last, dW, dV, db, start, back
            )
            bounds = backward_bound(
                inputs,
                *p,
                z,
                stack.activation,
                g,
                last,
                stack.dtype,
                inputsb,
                gb,
                self.rows,
            )
            for name, grad, bound in zip(names, (dW, dV, db), bounds[:3], strict=True):
                if name in self.params:
                    self.walk.add(name, grad, bound)
            dz0, dz0b = dz0 + start, dz0b + bounds.z0
            dx.append(back[way])
            dxb.append(bounds.x[way])
        return dz0, dz0b, np.concatenate(dx), np.concatenate(dxb)
