"""In which order layers in both directions are walked where few states are kept.

(a) A stretch of time can be run through all layers, in both directions, from the states
    at its two borders: that before it of each direction that reads from the first step,
    and that behind it of each that reads from the end. So states are kept at borders
    alone, of each layer and direction, and a stretch is run where it is needed.
(b) The borders of a direction become known in one pass over time, in its own order. The
    passes go back and forth. Each finds the second direction of one layer, and with
    both there the first direction of the next: L + 1 passes for L layers, where one for
    each layer and direction would be 2 L. A stretch of the pass that finds layer k is
    run through all layers below.
(c) Backwards the same with errors, from the last layer down. The error of a layer in a
    stretch comes from the one above, for which da at both borders is enough. Each pass
    runs all layers forward again, and back those above the layer that it finds.
(d) Sums over time are those of a run whose states are all kept, so a direction's own
    errors are found in leaves of whole chunks, which begin at its own first step. Where
    the leaves of the other direction have other borders, states and errors are kept at
    both. Over sequences of different lengths both have the same leaves.
(e) Where all steps are a single leaf, one pass finds everything.

Runs of a layer in one direction are 2 L each way where all states are kept. Here they
are L^2 + 2 L - 1 to find the states, as many to find the errors, and 2 L (L + 1) - 1
for (c).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bptt._recompute import BudgetError, Schedule, Sizes, candidates, longest_cached

Array = NDArray[Any]


class Pass(NamedTuple):
    """One walk over all leaves.

    Attributes
    ----------
    direction : int
        In whose order of time: 0 of that which reads from the first step.
    found : set of int
        The cells, 2 k + d of layer k and direction d, that become known.
    needed : set of int
        Those that are run, the ones that are found among them.
    """

    direction: int
    found: set[int]
    needed: set[int]


def passes(L: int, leaves: int) -> Iterator[Pass]:
    """Yield the passes through L layers, from the first to the last.

    Examples
    --------
    >>> [sorted(one.found) for one in passes(3, 2)]
    [[0], [1, 3], [2, 4], [5]]
    """
    if leaves < 2:
        everything = set(range(2 * L))
        yield Pass(0, everything, everything)
        return
    for number in range(L + 1):
        d, last = number % 2, min(number, L - 1)
        found = {2 * k + d for k in (number - 1, number) if 0 <= k < L}
        yield Pass(d, found, {*range(2 * last), 2 * last + d})


def passes_back(L: int, leaves: int) -> Iterator[Pass]:
    """Yield the passes of the errors, from the last layer to the first.

    Examples
    --------
    >>> [sorted(one.found) for one in passes_back(3, 2)]
    [[4], [3, 5], [0, 2], [1]]
    """

    def turned(cells: set[int]) -> set[int]:
        return {2 * (L - 1 - cell // 2) + cell % 2 for cell in cells}

    for d, found, needed in passes(L, leaves):
        yield Pass(d, turned(found), turned(needed))


def run_again(L: int, needed: set[int]) -> set[int]:
    """Return the cells that are run forward where these are run back: all of the layers
    below the last one.
    """
    return set(range(2 * L - 2)) | {cell for cell in needed if cell >= 2 * L - 2}


def borders_of(T: int, steps: int) -> Array:
    """Return the borders of leaves that begin at the first step and at the last one.

    They are the same in both orders of time.

    Examples
    --------
    >>> borders_of(10, 4), borders_of(8, 4)
    (array([ 0,  2,  4,  6,  8, 10]), array([0, 4, 8]))
    """
    cuts = np.append(np.arange(0, T, steps), T)
    return np.union1d(cuts, T - cuts)


def plan(
    sizes: Sizes,
    *,
    memory: int | None = None,
    checkpoint: int | None = None,
    shared: bool = False,
) -> Schedule:
    """Return the schedule of leaves that a budget holds; see `_recompute.plan`.

    Parameters
    ----------
    sizes : Sizes
        With as many layers as there are cells.
    memory, checkpoint : int, optional
    shared : bool
        Whether both directions have the same leaves, so that of (d) nothing is done.

    Raises
    ------
    BudgetError
        The budget is below what the best length of a leaf takes.
    """
    if memory is None:
        assert checkpoint is not None
        return _schedule(sizes, sizes.chunks_of(checkpoint), shared)
    found = [(m, _schedule(sizes, m, shared)) for m in candidates(sizes.chunks)]
    fit = [(m, one) for m, one in found if one.peak_bytes <= memory]
    if not fit:
        raise BudgetError(min(one.peak_bytes for _, one in found), memory)
    if fit[-1][1].leaves == 1:
        return fit[-1][1]
    # The passes are as many whatever the leaf.
    return longest_cached(sizes, fit)


def _schedule(sizes: Sizes, m: int, shared: bool) -> Schedule:
    """Return the schedule of leaves of m chunks."""
    steps, T, L = m * sizes.chunk, sizes.T, sizes.layers // 2
    leaves, shared = -(-T // steps), shared or T % steps == 0
    borders = 2 if leaves == 1 else leaves + 1 if shared else 2 * leaves
    # A state and da at each; both directions of a layer run at the same time.
    peak = sizes.fixed_bytes(m) + sizes.second_bytes + 2 * borders * sizes.border
    extra = extra_back = 0
    if leaves > 1:
        runs = sum(len(one.needed) for one in passes(L, leaves))
        back = [one.needed for one in passes_back(L, leaves)]
        again = sum(len(run_again(L, needed)) for needed in back)
        # Of each whole leaf the steps behind the border of the other direction.
        twice = 0 if shared else (leaves - 1) * (-T % steps) * 2 * (L - 1)
        extra = T * (runs + again - 2 * L) // (2 * L)
        extra_back = (T * (runs - 2 * L) + twice) // (2 * L)
    return Schedule(steps, leaves, borders, peak, extra, extra_back)
