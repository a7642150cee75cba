"""How large the Jacobian of every gap is, all gaps at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bptt.flow._arguments import as_count, as_step
from bptt.flow._measures import lengths
from bptt.flow._path import Path
from bptt.recurrence import Tape

Array = NDArray[Any]


def product_norms(tape: Tape, sequence: int = 0, *, probes: int | None = None) -> Array:
    """Return log10 of the size of dz[t]/dz[i] for every gap of one sequence.

    The size is the root mean square of the singular values, ||.||_F / sqrt(H), which is
    1 for an orthogonal matrix: what the Jacobian does to a random gradient's length. It
    is estimated with so many orthonormal probes, which go back from every t at once;
    with as many probes as units it is exact.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`.
    sequence : int, default 0
        Which one of the batch.
    probes : int, optional
        Directions to go back from each t, at most H; 8 by default. The estimate of the
        square is unbiased, and its relative deviation at most sqrt(2 / probes).

    Returns
    -------
    ndarray of shape (T + 1, T + 1), float32
        Row t, column i; 0 on the diagonal, NaN where i > t, minus infinity for 0, as
        where the sequence starts anew in between. T is the length of this sequence.

    Raises
    ------
    TypeError, ValueError
        tape is none or has no sequence, there is none of this number, or probes is
        above H.

    References
    ----------
    M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix",
    Communications in Statistics 19 (1990) 433-450.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> _, tape = bptt.forward(np.zeros((9, 1)), np.ones((1, 2)), 0.1 * np.eye(2))
    >>> product_norms(tape, probes=2)[9, [9, 8, 4]].round(3)
    array([ 0., -1., -5.], dtype=float32)
    """
    path = Path(tape)
    path.check_sequences()
    H = path.H
    sequence = as_step("sequence", sequence, 0, path.B - 1)
    probes = as_count("probes", min(8, H) if probes is None else probes, H, "H")
    dtype = tape.z.dtype
    D = _slopes(path, int(path.row[sequence]))
    T = len(D) - 1
    V_T = np.ascontiguousarray(tape.V.T)
    gaussian = np.random.default_rng(0).standard_normal((H, probes))
    # Of unit mean square, so that the identity has size 1.
    start = (np.linalg.qr(gaussian)[0].T / math.sqrt(probes)).astype(dtype)
    rows = np.empty((T, probes, H), dtype)
    buffer = np.empty_like(rows)
    log_scale, gone = np.zeros(T, np.float32), np.zeros(T, bool)
    norms = np.full((T + 1, T + 1), np.nan, np.float32)
    np.fill_diagonal(norms, 0)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore", over="ignore"):
        for i in range(T - 1, -1, -1):
            rows[i] = start
            active = buffer[i:]
            np.multiply(rows[i:], D[i + 1], out=active)
            np.matmul(active.reshape(-1, H), V_T, out=rows[i:].reshape(-1, H))
            flat = rows[i:].reshape(T - i, -1)
            size = np.sqrt(np.einsum("tk,tk->t", flat, flat))
            # Squares leave the range of float32 before the entries do.
            lost = np.flatnonzero(((size == 0) & ~gone[i:]) | (size == np.inf))
            if len(lost):
                size[lost] = lengths(flat[lost])
                gone[i + lost] = size[lost] == 0
            norms[i + 1 :, i] = np.log10(size) + log_scale[i:]
            off = (size > 0) & np.isfinite(size) & ((size < 1e-6) | (size > 1e6))
            if off.any():
                which = np.flatnonzero(off)
                rows[i + which] /= size[which, np.newaxis, np.newaxis]
                log_scale[i + which] += np.log10(size[which])
    return norms


def _slopes(path: Path, row: int) -> Array:
    """Return sigma' of a sequence, (T + 1, H), 0 where it starts anew; no entry 0."""
    T = int(path.lengths[row])
    D = np.zeros((T + 1, path.H), path.tape.z.dtype)
    for stretch in path.forward(0, T):
        slopes = path.tape.activation.dsigma(stretch.z[1:, row])
        D[stretch.t0 + 1 : stretch.t1 + 1] = slopes
        if row in stretch.cut:
            D[stretch.t0 + 1] = 0
    return D
