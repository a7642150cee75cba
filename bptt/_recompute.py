"""Which states of a long run are kept, and in which order the others come back.

A run is cut into `leaves` of the same length, whole chunks each. The states at some of
their borders are kept, as many as there are slots; backwards each leaf is run forward
once more, into a buffer, from the nearest state that is kept. Where there is a slot for
each border that makes one extra forward pass. Where there are fewer, the slots that
became free are used again for states between two others, by the binomial schedule of
Griewank and Walther, which takes the fewest extra steps for the number of slots.

References
----------
A. Griewank and A. Walther, "Algorithm 799: revolve: an implementation of checkpointing
for the reverse or adjoint mode of computational differentiation", ACM Transactions on
Mathematical Software 26 (2000) 19-45.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import comb
from typing import Any, NamedTuple, TypeVar

from bptt._validation import as_size

S = TypeVar("S")

# Bytes of a leaf's states that the caches hold, where the budget leaves the choice.
LEAF_BYTES = 1 << 20

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class BudgetError(ValueError):
    """A budget is below the least that a run takes."""

    def __init__(self, least: int, memory: int) -> None:
        self.least, self.memory = least, memory
        super().__init__(
            f"memory must be at least {least} bytes for this batch, got {memory}"
        )


class Schedule(NamedTuple):
    """How a run is kept and recomputed.

    Attributes
    ----------
    steps : int
        Steps of a leaf, all but the last.
    leaves : int
    slots : int
        States that are kept at the same time, the initial one among them.
    peak_bytes : int
        Of those states, the states of a leaf and the workspace of the kernels.
    extra_steps : int
        Steps that `backward` runs forward once more; T of them are one forward pass.
    """

    steps: int
    leaves: int
    slots: int
    peak_bytes: int
    extra_steps: int


def advances(n: int, s: int) -> int:
    """Return the fewest leaves to run over, to reverse n of them with s slots.

    Counted are runs whose states are thrown away, not the n that are reversed at once.

    Examples
    --------
    >>> advances(10, 10), advances(10, 3), advances(10, 1)
    (9, 15, 45)
    """
    if n <= 1:
        return 0
    if s == 1:
        return n * (n - 1) // 2
    r = _repetitions(n, s)
    return r * n - comb(s + r, s + 1)


def split(n: int, s: int) -> int:
    """Return how many of n leaves to run over before the second of s >= 2 slots.

    Examples
    --------
    >>> split(10, 10), split(10, 3)
    (1, 4)
    """
    # Both parts, with s and s - 1 slots, stay where one more leaf costs r more runs.
    r = _repetitions(n, s)
    return max(1, min(comb(s + r - 1, s), n - comb(s + r - 2, s - 1)))


def walk_up(
    kept: list[tuple[int, S]], slots: int, end: int, run_leaf: Callable[[int, S], S]
) -> None:
    """Run from the last state that is kept up to the end of leaf end - 1, and keep more
    states on the way where there is room.

    Parameters
    ----------
    kept : list of (int, S)
        The leaves whose first state is kept, and that state.
    slots : int
        How many states may be kept.
    end : int
    run_leaf : callable
        ``run_leaf(leaf, state)`` runs from the state before a leaf, and returns the one
        before the next.
    """
    leaf, state = kept[-1]
    keep_at = leaf
    while leaf < end:
        if leaf == keep_at:
            if leaf != kept[-1][0]:
                kept.append((leaf, state))
            free = slots - len(kept)
            keep_at = end
            if free and end - leaf > 1:
                keep_at = leaf + split(end - leaf, free + 1)
        state = run_leaf(leaf, state)
        leaf += 1


def _repetitions(n: int, s: int) -> int:
    r = 0
    while comb(s + r, s) < n:
        r += 1
    return r


def as_bytes(name: str, value: Any) -> int:
    """Return a number of bytes, given as a number or as text such as "64MB"."""
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?B?)\s*", value.upper())
        if match is None or match[2] not in _UNITS:
            raise ValueError(
                f"{name} must be bytes, or text such as '64MB', got {value!r}"
            )
        value = int(float(match[1]) * _UNITS[match[2]])
    return as_size(name, value)


def plan(
    T: int,
    B: int,
    I: int,
    H: int,
    itemsize: int,
    chunk: int,
    *,
    memory: int | None = None,
    checkpoint: int | None = None,
) -> Schedule:
    """Return the schedule of the fewest extra steps within a budget.

    Parameters
    ----------
    T, B, I, H, itemsize : int
    chunk : int
        `chunk_steps` of the run: a leaf is a multiple of it.
    memory : int, optional
        Bytes there are.
    checkpoint : int, optional
        Steps between states that are kept, rounded up to whole chunks; with it there is
        a slot for each.

    Raises
    ------
    BudgetError
        The budget is below what the shortest leaf and one state take.
    """
    chunks = -(-T // chunk)
    if memory is None:
        assert checkpoint is not None
        m = min(chunks, -(-checkpoint // chunk))
        leaves = -(-chunks // m)
        return _schedule(T, B, I, H, itemsize, chunk, m, leaves)

    state = B * H * itemsize
    found = []
    for m in _candidates(chunks):
        slots = (memory - _fixed_bytes(B, I, H, itemsize, chunk, m)) // state
        if slots >= 1:
            slots = min(slots, -(-chunks // m))
            found.append(_schedule(T, B, I, H, itemsize, chunk, m, slots))
    if not found:
        least = _fixed_bytes(B, I, H, itemsize, chunk, 1) + state
        raise BudgetError(least, memory)
    once = [s for s in found if s.slots == s.leaves]
    if once:
        # One extra pass whatever the leaf: the longest, then, that the caches hold.
        return [s for s in once if s.steps * state <= LEAF_BYTES or s is once[0]][-1]
    return min(found, key=lambda s: s.extra_steps)


def _candidates(chunks: int) -> list[int]:
    """Return leaf lengths to try, in chunks: all small ones, then each 1/8 longer."""
    lengths = [1]
    while lengths[-1] < chunks:
        lengths.append(min(chunks, lengths[-1] + max(1, lengths[-1] // 8)))
    return lengths


def _fixed_bytes(B: int, I: int, H: int, itemsize: int, chunk: int, m: int) -> int:
    """Return the bytes of a leaf's states, and of the workspace of the kernels."""
    state = B * H * itemsize

    def panels(n: int) -> int:
        return -(-n // 32) * 32

    weights = 3 * (I + H) * panels(H)
    work = weights + (chunk * B + 1) * (panels(I) + 4 * panels(H))
    return (m * chunk + 1) * state + 2 * state + work * itemsize


def _schedule(
    T: int, B: int, I: int, H: int, itemsize: int, chunk: int, m: int, slots: int
) -> Schedule:
    leaves = -(-T // (m * chunk))
    peak = _fixed_bytes(B, I, H, itemsize, chunk, m) + slots * B * H * itemsize
    # The first pass runs over all leaves as well, and the last one's states are there.
    extra = advances(leaves, slots) * m * chunk
    return Schedule(m * chunk, leaves, slots, peak, extra)
