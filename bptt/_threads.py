"""How many threads a call may use. The results do not depend on it.

The default is ``BPTT_NUM_THREADS``, else ``OMP_NUM_THREADS``, else as many processors
as this process may run on, by its affinity mask and by the quota of its control group.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from bptt._validation import as_size

# More than a pool has places for.
MOST = 1024

VARIABLES = ("BPTT_NUM_THREADS", "OMP_NUM_THREADS")

# A block of `threads` is seen by its own thread or task alone.
_in_block: ContextVar[int | None] = ContextVar("bptt_threads", default=None)


def processors() -> int:
    """Return how many processors this process may use at once."""
    if hasattr(os, "sched_getaffinity"):
        available = len(os.sched_getaffinity(0))
    else:
        available = os.cpu_count() or 1
    return max(1, math.ceil(min(available, _quota())))


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the processors' worth of time that the control group grants."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    try:
        share = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max": no limit
        return math.inf
    return share if share > 0 else math.inf


def _from_environment() -> tuple[int, str]:
    """Return the default number of threads, and where it comes from."""
    for variable in VARIABLES:
        text = os.environ.get(variable, "").split(",")[0].strip()
        if not text:
            continue
        if text.isdecimal() and int(text) > 0:
            return min(int(text), MOST), f"{variable}={text}"
        if variable == "BPTT_NUM_THREADS":
            raise ImportError(f"{variable} must be a positive integer, got {text!r}")
    return processors(), "processors of this process"


_default, reason = _from_environment()


def get_num_threads() -> int:
    """Return how many threads a call from here may use."""
    return _in_block.get() or _default


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, from now on and everywhere.

    Parameters
    ----------
    n : int
        At least 1. Results do not depend on it, to the bit.

    Raises
    ------
    TypeError, ValueError
        n is no integer, or less than 1.

    Examples
    --------
    >>> import bptt
    >>> bptt.set_num_threads(bptt.get_num_threads())
    """
    global _default, reason
    _default, reason = min(as_size("n", n), MOST), "set_num_threads"


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Let the calls in this block, and in this thread alone, use n threads.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError, ValueError
        n is no integer, or less than 1.

    Examples
    --------
    >>> import bptt
    >>> with bptt.threads(1):
    ...     bptt.get_num_threads()
    1
    """
    token = _in_block.set(min(as_size("n", n), MOST))
    try:
        yield
    finally:
        _in_block.reset(token)
