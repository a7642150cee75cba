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
from collections.abc import Callable, Iterator, Sequence
from math import comb
from typing import Any, NamedTuple, TypeVar

from bptt._parts import Layout
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
        Steps that are run forward once more, in `backward` and, through layers in both
        directions on top of each other, before it; T of them are one forward pass.
    extra_back_steps : int
        Steps that `backward` runs back once more, through such layers.
    """

    steps: int
    leaves: int
    slots: int
    peak_bytes: int
    extra_steps: int
    extra_back_steps: int = 0


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


def reach(
    leaf: int,
    slots: int,
    kept: list[tuple[int, S]],
    held: list[int],
    run_leaf: Callable[[int, S], S],
) -> None:
    """See to it that the states of a leaf are in the buffer.

    Parameters
    ----------
    leaf : int
    slots : int
        How many states may be kept.
    kept : list of (int, S)
        The leaves whose first state is kept, and that state; changed.
    held : list of one int
        The leaf whose states are in the buffer; changed.
    run_leaf : callable
        ``run_leaf(leaf, state)`` runs into the buffer from the state before a leaf, and
        returns the one before the next.
    """
    if held[0] == leaf:
        return
    held[0] = -1  # a signal may come on the way
    while kept[-1][0] > leaf:
        kept.pop()
    at, state = kept[-1]
    keep_at, end = at, leaf + 1
    while at < end:
        if at == keep_at:
            if at != kept[-1][0]:
                kept.append((at, state))
            free = slots - len(kept)
            keep_at = end
            if free and end - at > 1:
                keep_at = at + split(end - at, free + 1)
        state = run_leaf(at, state)
        at += 1
    held[0] = leaf


def reach_back(
    leaves: int,
    slots: int,
    kept: list[tuple[int, S]],
    held: list[int],
    run_leaf: Callable[[int, S], S],
) -> Iterator[int]:
    """Yield each leaf from the last to the first, with its states in the buffer."""
    before = list(kept)
    for leaf in range(leaves - 1, -1, -1):
        reach(leaf, slots, kept, held, run_leaf)
        yield leaf
    if slots == leaves:
        kept[:] = before  # for another walk


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
                f"{name} must be a number of bytes, or text such as '64MB', "
                f"got {value!r}"
            )
        value = int(float(match[1]) * _UNITS[match[2]])
    elif not hasattr(value, "__index__"):
        raise TypeError(
            f"{name} must be a number of bytes, or text such as '64MB', "
            f"got {type(value).__name__}"
        )
    return as_size(name, value)


class Sizes(NamedTuple):
    """Of a run, and what it needs for each part of it.

    Attributes
    ----------
    T, B, I, H, itemsize : int
    chunk : int
        `chunk_steps` of the run: a leaf is a multiple of it.
    layers : int
        How many are run leaf by leaf together.
    between : int
        Entries per cell of a leaf that are there beside the states.
    beside : int
        Bytes that are kept whatever the schedule.
    halves : int
        Parts of a batch that are run at once, with packed weights and sums of their
        own: 1 or 2.
    places : int
        Bytes that say where a cell of a leaf stands, and which token it is.
    starts : int
        Rows of a chunk that start anew, at most.
    """

    T: int
    B: int
    I: int
    H: int
    itemsize: int
    chunk: int
    layers: int = 1
    between: int = 0
    beside: int = 0
    halves: int = 1
    places: int = 0
    starts: int = 0

    def with_ids(self, x: Any, listed: bool = False) -> Sizes:
        """Return the sizes with what token ids take: all of them, twice where they come
        from a list, and those of a leaf as the kernels take them, twice in halves.
        """
        if isinstance(x, list) or x.ndim == 3:
            return self
        beside = self.beside + (1 + listed) * x.nbytes
        return self._replace(beside=beside, places=self.places + 8 * self.halves)

    def with_events(self, *layouts: Layout | None) -> Sizes:
        """Return the sizes with what layouts take, and the rows that start anew."""
        known = [one for one in layouts if one is not None]
        each = [one.event_bytes for one in known]
        # To find them and to put them in order takes four times as much.
        beside = self.beside + sum(each) + 4 * max(each, default=0)
        starts = max((one.most_restarts(self.chunk) for one in known), default=0)
        return self._replace(beside=beside, starts=starts)

    @property
    def start_bytes(self) -> int:
        """The bytes that a row takes that starts anew in a leaf: its numbers, and da of
        its first step and the gradient of its start, with a copy of each.
        """
        return 4 * 24 + 4 * self.H * self.itemsize

    @property
    def chunks(self) -> int:
        return -(-self.T // self.chunk)

    def chunks_of(self, steps: int) -> int:
        """Return how many chunks a leaf of so many steps has, rounded up."""
        return min(self.chunks, -(-steps // self.chunk))

    @property
    def border(self) -> int:
        """The bytes of what is kept at a border: a state of each layer."""
        return self.layers * self.B * self.H * self.itemsize

    def leaf_bytes(self, m: int) -> int:
        """Return the bytes of a leaf of m chunks: its states and what is beside."""
        cells = m * self.chunk * self.B
        entries = self.layers * self.H + self.between
        states = cells * (entries * self.itemsize + self.places)
        return states + m * self.starts * self.start_bytes

    @property
    def work_bytes(self) -> int:
        """The bytes of the workspace of the kernels."""
        I, H = self.I, self.H
        weights = 3 * self.halves * (I + H) * _panels(H)
        work = weights + (self.chunk * self.B + 1) * (_panels(I) + 4 * _panels(H))
        return work * self.itemsize

    @property
    def second_bytes(self) -> int:
        """Those of the workspace of a second run forward at the same time."""
        I, H, B = self.I, self.H, self.B
        weights, states = (I + H) * _panels(H), 2 * (B + 1) * _panels(H)
        work = weights + states + (self.chunk * B + 1) * _panels(I)
        return work * self.itemsize

    def fixed_bytes(self, m: int) -> int:
        """Return the bytes of all but what is kept at borders; leaves of m chunks."""
        around = 3 * self.border + self.beside
        return self.leaf_bytes(m) + around + self.work_bytes

    def schedule(self, m: int, slots: int) -> Schedule:
        """Return the schedule of leaves of m chunks, with so many slots."""
        steps = m * self.chunk
        leaves = -(-self.T // steps)
        peak = self.fixed_bytes(m) + slots * self.border
        # The first pass runs over all leaves as well, and the last one's states are
        # there.
        return Schedule(steps, leaves, slots, peak, advances(leaves, slots) * steps)


def plan(
    sizes: Sizes, *, memory: int | None = None, checkpoint: int | None = None
) -> Schedule:
    """Return the schedule of the fewest extra steps within a budget.

    Parameters
    ----------
    sizes : Sizes
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
    chunks = sizes.chunks
    if memory is None:
        assert checkpoint is not None
        m = sizes.chunks_of(checkpoint)
        return sizes.schedule(m, -(-chunks // m))

    found = []
    for m in candidates(chunks):
        slots = (memory - sizes.fixed_bytes(m)) // sizes.border
        if slots >= 1:
            found.append((m, sizes.schedule(m, min(slots, -(-chunks // m)))))
    if not found:
        raise BudgetError(sizes.fixed_bytes(1) + sizes.border, memory)
    once = [(m, s) for m, s in found if s.slots == s.leaves]
    if once:
        # One extra pass whatever the leaf.
        return longest_cached(sizes, once)
    return min((s for _, s in found), key=lambda s: s.extra_steps)


def longest_cached(sizes: Sizes, found: Sequence[tuple[int, Schedule]]) -> Schedule:
    """Return the schedule of the longest leaf that the caches hold, or of the shortest;
    those that are found stand with the chunks of their leaves, ascending.
    """
    cached = [one for m, one in found if sizes.leaf_bytes(m) <= LEAF_BYTES]
    return cached[-1] if cached else found[0][1]


def _panels(n: int) -> int:
    """Return n columns in whole panels, of the widest there are."""
    return -(-n // 32) * 32


def candidates(chunks: int) -> list[int]:
    """Return leaf lengths to try, in chunks: all small ones, then each 1/8 longer."""
    lengths = [1]
    while lengths[-1] < chunks:
        lengths.append(min(chunks, lengths[-1] + max(1, lengths[-1] // 8)))
    return lengths
