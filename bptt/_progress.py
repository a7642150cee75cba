"""The bar that shows how far a run is."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from typing import Any

from bptt.history import Record

Progress = bool | Callable[[Record], str] | None
Callback = Callable[[Record], Any]


@contextlib.contextmanager
def bar(progress: Progress, total: int, start: int) -> Iterator[Callback]:
    """Give what shows a record: a tqdm bar, or nothing."""
    installed = importlib.util.find_spec("tqdm") is not None
    # stderr is None where the process was started without one.
    wanted = sys.stderr is not None and (
        progress is True or (progress is not False and sys.stderr.isatty())
    )
    if not wanted or not (installed or progress is True):
        yield lambda record: None
        return
    if not installed:
        raise ImportError("a progress bar needs tqdm: pip install 'bptt[train]'")
    from tqdm import tqdm

    describe = progress if callable(progress) else _describe
    with tqdm(total=total, initial=start, unit="step", file=sys.stderr) as shown:

        def show(record: Record) -> None:
            shown.set_postfix_str(describe(record), refresh=False)
            shown.update()

        yield show


def _describe(record: Record) -> str:
    return (
        f"loss {record.loss:.4g}, |g| {record.norm:.3g}, "
        f"clipped {record.clipped_fraction:.0%}"
    )
