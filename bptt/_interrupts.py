"""Ctrl-C at a moment of our choosing: never in the middle of an update."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType


class Interrupts:
    """A context in which SIGINT waits while a block marked by `held` runs.

    Outside of such blocks it does what it did before, at once. In threads other than
    the main one, which get no signals, and where SIGINT is ignored, nothing changes.
    """

    def __init__(self) -> None:
        self._holding = False
        self._pending: tuple[int, FrameType | None] | None = None

    def __enter__(self) -> Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self._previous = signal.getsignal(signal.SIGINT) if main else None
        if callable(self._previous):
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if callable(self._previous):
            signal.signal(signal.SIGINT, self._previous)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let a block run to its end; a SIGINT that came meanwhile acts after it."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._pass_on(*pending)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding:
            self._pending = (number, frame)
        else:
            self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._previous):
            self._previous(number, frame)
