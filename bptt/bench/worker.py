"""The process of one contender: requests and replies, one line of JSON each.

``python -m bptt.bench.worker MODULE:CLASS`` reads from standard input:

- ``{"op": "prepare", "task": {...}, "answer": PATH or null}``: build the contender,
  warm it up, compare its result with the arrays of a .npz file.
- ``{"op": "run", "seconds": S}``: take steps for about S seconds, at least one, and
  say how long each took.

An environment that the parent sets before the process starts is the only honest way to
fix the number of threads of every library.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from bptt.bench.cases import Shape, Task, arrays, deviation, tolerance
from bptt.bench.contenders import Contender, UnableError, Yardstick


class Worker:
    """Answers requests about one contender.

    Parameters
    ----------
    target : str
        Module and class, "bptt.bench.contenders:NumPy".
    """

    def __init__(self, target: str) -> None:
        module, _, name = target.partition(":")
        self.kind: type[Contender] = getattr(importlib.import_module(module), name)
        self.contender: Contender | None = None
        self.typical = 0.0

    def prepare(self, task: dict[str, Any], answer: str | None) -> dict[str, Any]:
        """Build the contender, warm it up and check it."""
        self.contender = None  # frees the arrays of the case before
        task_ = Task(**{**task, "shape": Shape(*task["shape"])})
        try:
            self.contender = self.kind(task_, arrays(task_))
        except (ImportError, UnableError) as reason:
            return {"absent": str(reason)}
        self.contender.step()
        reply: dict[str, Any] = {"version": self.contender.version}
        if isinstance(self.contender, Yardstick):
            reply["work"] = self.contender.work()
        result = self.contender.result()
        if answer is not None and result is not None:
            with np.load(answer) as right:
                off = deviation(result, dict(right))
            reply |= {"deviation": off, "agrees": off <= tolerance(task_)}
        self.typical = min(self.time(0.0))
        return reply

    def run(self, seconds: float) -> dict[str, Any]:
        """Take steps for about that long."""
        assert self.contender is not None, "prepare comes first"
        if self.typical < seconds / 4:
            self.contender.step()  # caches and threads are awake again
        times = self.time(seconds)
        self.typical = min(times)
        return {"times": times}

    def time(self, seconds: float) -> list[float]:
        """Return the duration of each step."""
        assert self.contender is not None
        step, times = self.contender.step, []
        gc.disable()
        try:
            end = perf_counter() + seconds
            while True:
                start = perf_counter()
                step()
                stop = perf_counter()
                times.append(stop - start)
                if stop >= end:
                    return times
        finally:
            gc.enable()


def main() -> None:
    """Answer until the requests end."""
    # What a library prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(sys.argv[1])
    answers: dict[str, Callable[..., dict[str, Any]]] = {
        "prepare": worker.prepare,
        "run": worker.run,
    }
    for line in sys.stdin:
        request = json.loads(line)
        reply = answers[request.pop("op")](**request)
        print(json.dumps(reply), file=replies)


if __name__ == "__main__":
    main()
