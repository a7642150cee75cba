"""The two directions of a layer, both walked at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from bptt import _backend
from bptt._threads import threads

R = TypeVar("R")

# Multiplications of one direction below which a thread of Python's costs more than it
# brings: to start and end takes it 0.1 ms, in which a core does a million or two.
WORTH_A_THREAD = 1e7


def both(run: Callable[[int], R], rows: int, width: int, work: float) -> list[R]:
    """Return [run(0), run(1)], at once where two threads are better spent so.

    Parameters
    ----------
    run : callable
        Computes one direction; its result does not depend on the number of threads.
    rows, width : int
        B and H. A call shares many rows, or columns of a wide layer, by itself.
    work : float
        Multiplications of one direction.
    """
    if work < WORTH_A_THREAD or not _backend.kernels.side_by_side(rows, width, work):
        return [run(0), run(1)]
    results: list[R] = []
    errors: list[BaseException] = []

    def other() -> None:
        try:
            with threads(1):
                results.append(run(1))
        except BaseException as error:
            errors.append(error)

    # One thread for one call: what is kept in a pool would not survive a fork.
    worker = threading.Thread(target=other, name="bptt-direction")
    try:
        worker.start()
    except RuntimeError:  # no more threads are to be had
        return [run(0), run(1)]
    try:
        with threads(1):
            first = run(0)
    finally:
        worker.join()
    if errors:
        raise errors[0]
    return [first, *results]
