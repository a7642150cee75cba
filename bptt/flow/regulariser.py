"""The regulariser of Pascanu et al. (2013): an error should keep its length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bptt._validation import as_positive, check_choice
from bptt.flow._arguments import as_held
from bptt.flow._path import Loss, Path
from bptt.recurrence import Gradients, Tape, backward

Array = NDArray[Any]

FORMS = ("sum", "mean")
THROUGH = ("everything", "V")
VANISHED = 1e-20  # the ||e||^2 from which the mean has a term, as in its program


@dataclass(frozen=True, slots=True)
class OmegaTerm:
    """What `train` and `Network.loss_and_gradients` add to a loss: weight * Omega.

    Attributes
    ----------
    weight : float
        Above 0.
    form : {"sum", "mean"}, default "sum"
        As in `omega`.
    through : {"everything", "V"}, default "everything"
        As in `omega`.

    Raises
    ------
    TypeError, ValueError
        weight is no positive number, or another attribute none of its choices.

    Examples
    --------
    That of the program of Pascanu et al. (2013), by default:

    >>> OmegaTerm(2, form="mean", through="V")
    OmegaTerm(weight=2.0, form='mean', through='V')
    """

    weight: float
    form: str = "sum"
    through: str = "everything"

    def __post_init__(self) -> None:
        weight = as_positive("weight", self.weight)
        if weight == math.inf:
            raise ValueError("weight must be finite, got inf")
        object.__setattr__(self, "weight", weight)
        check_choice("form", self.form, FORMS)
        check_choice("through", self.through, THROUGH)


def as_term(omega: float | OmegaTerm | None) -> OmegaTerm | None:
    """Return the term an argument stands for: a number is a weight of the sum."""
    if omega is None or isinstance(omega, OmegaTerm):
        return omega
    return OmegaTerm(as_positive("omega", omega))


@np.errstate(over="ignore", invalid="ignore", under="ignore")
def omega(
    tape: Tape,
    dz: ArrayLike | None = None,
    *,
    dz_last: ArrayLike | None = None,
    form: str = "sum",
    through: str = "everything",
    need_x_grad: bool = False,
) -> tuple[float, Gradients]:
    """Return Omega, which is 0 where errors keep their length, and its gradients.

    With e[t] = dL/dz[t] in total, of which a step back makes r[t] = e[t] D[t] V^T::

        Omega = sum_t (||r[t]|| / ||e[t]|| - 1)^2          t = 1..T

    in the mean over the sequences of the batch. Where e[t] is 0 a step has no term. An
    error that comes to a step with which its sequence starts anew goes no further.
    That is the paper's equation. Its authors' program, where a weight of 2 is the
    default, has the mean of another term over all steps and sequences::

        Omega = mean (||r[t]||^2 / ||e[t]||^2 - 1)^2       where ||e[t]||^2 >= 1e-20

    Near a ratio of 1 that term is 4 times the other, so that a weight of the mean over
    T steps is like one of 4 / T times it for the sum.

    Parameters
    ----------
    tape : Tape
        From `bptt.forward`, without memory and checkpoint.
    dz, dz_last : array_like
        The gradient of the loss, as in `bptt.backward`. It is taken as given: that it
        depends on the states itself is not differentiated.
    form : {"sum", "mean"}, default "sum"
        Which of the two.
    through : {"everything", "V"}, default "everything"
        "everything" differentiates the factor V^T, the errors e and the slopes D, and
        through them all states. "V" is the paper's choice: the gradient with respect to
        the factor V^T alone, e and D taken as constants; the other gradients are 0.
    need_x_grad : bool, default False
        Whether to compute the gradient with respect to x.

    Returns
    -------
    value : float
    gradients : Gradients
        Of Omega with respect to W, V, b, z0 and x.

    Raises
    ------
    TypeError, ValueError
        As in `bptt.backward`, or form or through is none of its choices.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013, equations 9 and 10; the program in
    github.com/pascanur/trainingRNNs.

    Examples
    --------
    An orthogonal V keeps the length of an error, where the states are 0:

    >>> import numpy as np, bptt
    >>> x, W = np.zeros((5, 1)), np.ones((1, 2))
    >>> _, tape = bptt.forward(x, W, np.array([[0.0, 1.0], [-1.0, 0.0]]))
    >>> omega(tape, dz_last=np.ones(2))[0]
    0.0
    >>> _, tape = bptt.forward(x, W, 0.5 * np.eye(2))
    >>> value, gradients = omega(tape, dz_last=np.ones(2))
    >>> value, bool(gradients.V[0, 0] < 0)
    (1.25, True)
    """
    path = Path(as_held(tape, "omega"))
    check_choice("form", form, FORMS)
    check_choice("through", through, THROUGH)
    loss = Loss(path, dz, dz_last)
    T, B, H = path.T, path.B, path.H
    V = tape.V.astype(np.float64)
    z = path.states()
    slope = tape.activation.dsigma(z)

    # Backwards, as in BPTT: e[t] = dz[t] + r[t+1], da[t] = e[t] D[t], r[t] = da[t] V^T.
    # Beyond the end of a sequence they are 0, and where it starts anew r goes nowhere.
    e, da, r = (np.zeros((T, B, H)) for _ in range(3))
    carried = np.zeros((B, H))
    for t in range(T - 1, -1, -1):
        n = path.rows(t + 1)
        e[t, :n] = carried[:n] + loss.at(t + 1)
        da[t] = e[t] * slope[t]
        r[t] = da[t] @ V.T
        carried = r[t].copy()
        carried[path.cuts(t + 1)] = 0
    e_length, r_length = _lengths(e), _lengths(r)
    e_unit, r_unit = _units(e, e_length), _units(r, r_length)
    # Of what is not finite there is a term too, so that it shows.
    gone = e_length == 0 if form == "sum" else np.square(e_length) < VANISHED
    there = ~gone
    ratio = np.divide(r_length, e_length, where=there, out=np.ones_like(e_length))
    if form == "sum":
        terms, slopes, count = np.square(ratio - 1), 2 * (ratio - 1), B
    else:
        excess = np.square(ratio) - 1
        terms, slopes, count = np.square(excess), 4 * ratio * excess, there.sum()
    value = float(terms.sum() / max(1, count))

    # The derivative of the terms by r and by e, each taken directly.
    outer = slopes / max(1, count)
    outer = np.divide(outer, e_length, where=there, out=np.zeros_like(outer))
    of_r, of_e = outer * r_unit, -outer * ratio * e_unit
    dV = np.zeros((H, H))
    if through == "V":
        dV += of_r.reshape(-1, H).T @ da.reshape(-1, H)
        dz_omega = np.zeros_like(z)
    else:
        # Backwards was t = T..1, so now forwards: what comes later depends on e[t-1].
        dz_omega = np.empty_like(z)
        later = np.zeros((B, H))  # dOmega / de[t-1] in total
        for t in range(T):
            later[path.cuts(t + 1)] = 0
            of_r[t] += later
            of_da = of_r[t] @ V
            later = of_da * slope[t] + of_e[t]
            dz_omega[t] = of_da * e[t]
        dV += of_r.reshape(-1, H).T @ da.reshape(-1, H)
        dz_omega *= tape.activation.curvature(z)
    dtype = tape.z.dtype
    grads = backward(tape, path.spread(dz_omega.astype(dtype)), need_x_grad=need_x_grad)
    return value, grads._replace(V=(grads.V + dV).astype(dtype))


def _lengths(rows: Array) -> Array:
    lengths: Array = np.linalg.norm(rows, axis=-1, keepdims=True)
    return lengths


def _units(rows: Array, lengths: Array) -> Array:
    return np.divide(rows, lengths, where=lengths != 0, out=np.zeros_like(rows))
