"""Let contenders take turns at a task, each in a process of its own.

Turns alternate in short slices, so that a neighbour who takes the machine for a while
takes it from all of them. A round is one slice of each; the order rotates from round
to round. The median is over the medians of the rounds, the minimum over every step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np

from bptt.bench.cases import Task, answer

ROUNDS = 9  # so many fit the budget of a shape, if steps are short
LEAST_ROUNDS = 3
PAUSE = 0.005  # the OpenMP threads of the one before spin on for some milliseconds


@dataclass(frozen=True)
class Entry:
    """One contender with one number of threads.

    Attributes
    ----------
    name : str
    target : str
        Module and class, for the worker.
    threads : int
    path : str
        A directory to import the module from, or "".
    """

    name: str
    target: str
    threads: int
    path: str = ""

    def environment(self) -> dict[str, str]:
        """Return the environment of its process."""
        n = str(self.threads)
        env = dict(os.environ) | {
            "BPTT_NUM_THREADS": n,
            "OMP_NUM_THREADS": n,
            "OPENBLAS_NUM_THREADS": n,
            "MKL_NUM_THREADS": n,
            "NPROC": n,  # the size of XLA's thread pool
            "JAX_PLATFORMS": "cpu",
        }
        if self.threads == 1:
            flags = env.get("XLA_FLAGS", "")
            env["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        if self.path:
            paths = [self.path, env.get("PYTHONPATH", "")]
            env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        return env


# Those that the installed package can run; the repository's `bench` adds to them.
BUILT_IN = {
    "bptt": "bptt.bench.contenders:Bptt",
    "numpy": "bptt.bench.contenders:NumPy",
    "torch": "bptt.bench.contenders:Torch",
    "jax": "bptt.bench.contenders:Jax",
}


@dataclass
class Timing:
    """How one contender did at one task.

    Attributes
    ----------
    name : str
    threads : int
    version : str
    deviation : float or None
        Of its result from the answer, relative in norm; None if it was not checked.
    agrees : bool or None
        Whether that is within the tolerance.
    rounds : list of float
        The median of each round, in seconds.
    minimum : float or None
        The shortest step, in seconds.
    work : float or None
        Flops or bytes of one step, of a yardstick.
    absent : str
        Why it was not timed, or "".
    """

    name: str
    threads: int
    version: str = ""
    deviation: float | None = None
    agrees: bool | None = None
    rounds: list[float] = field(default_factory=list)
    minimum: float | None = None
    work: float | None = None
    absent: str = ""

    @property
    def seconds(self) -> float:
        """The median over the rounds."""
        return median(self.rounds)

    def add(self, times: Sequence[float]) -> None:
        """Take note of the steps of one round."""
        self.rounds.append(median(times))
        least = min(times)
        self.minimum = least if self.minimum is None else min(self.minimum, least)

    def as_json(self) -> dict[str, Any]:
        """Return everything, and the median."""
        return asdict(self) | {"median": self.seconds if self.rounds else None}


class WorkerError(RuntimeError):
    """A worker ended before it replied."""


class Process:
    """The parent's end of one worker."""

    def __init__(self, entry: Entry, directory: Path) -> None:
        self.entry = entry
        self.log = directory / f"{entry.name}-{entry.threads}.log"
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "bptt.bench.worker", self.entry.target],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.entry.environment(),
                text=True,
                bufsize=1,
            )

    def restart_if_dead(self) -> None:
        """Begin anew after a failure: another task may go well."""
        if self.process.poll() is not None:
            self.close()
            self.process = self._start()

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Send one request and wait for the reply."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **request}) + "\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            said = self.log.read_text(errors="replace").strip().splitlines()
            raise WorkerError(said[-1] if said else "ended without a word")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def close(self) -> None:
        """End the worker."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone already
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Runner:
    """The workers of all contenders, ready for one task after another.

    Made by `start`.
    """

    def __init__(self, processes: Sequence[Process], directory: Path) -> None:
        self.processes = processes
        self.directory = directory

    def measure(
        self,
        task: Task,
        *,
        seconds: float = 10.0,
        rounds: int | None = None,
        check: bool = True,
        skip: Sequence[tuple[str, int]] = (),
    ) -> list[Timing]:
        """Time every contender at one task.

        Parameters
        ----------
        task : Task
        seconds : float, default 10
            For the rounds of all contenders together, once they are warm. At least
            three rounds are run.
        rounds : int, optional
            So many rounds instead.
        check : bool, default True
            Whether to compare the results with the reference.
        skip : sequence of (name, threads)
            Contenders to leave out.

        Returns
        -------
        list of Timing
            In the order of the entries.
        """
        path = self._answer(task) if check else None
        timings, ready = [], []
        for process in self.processes:
            entry = process.entry
            timing = Timing(entry.name, entry.threads)
            timings.append(timing)
            if (entry.name, entry.threads) in skip:
                timing.absent = "left out: too slow"
                continue
            process.restart_if_dead()
            try:
                reply = process.ask(
                    "prepare", task=asdict(task), answer=path and str(path)
                )
            except WorkerError as error:
                timing.absent = str(error)
                continue
            vars(timing).update(reply)
            if not timing.absent:
                ready.append((process, timing))
        if path is not None:
            path.unlink()
        self._rounds(ready, seconds, rounds)
        return timings

    def _rounds(
        self,
        ready: list[tuple[Process, Timing]],
        seconds: float,
        rounds: int | None,
    ) -> None:
        if not ready:
            return
        share = max(0.005, seconds / (ROUNDS * len(ready))) if rounds is None else 0
        start, done = perf_counter(), 0
        while done < (rounds or LEAST_ROUNDS) or (
            rounds is None and perf_counter() - start < seconds
        ):
            first = done % len(ready)
            for process, timing in ready[first:] + ready[:first]:
                sleep(PAUSE)
                try:
                    timing.add(process.ask("run", seconds=share)["times"])
                except WorkerError as error:
                    timing.absent = str(error)
                    timing.rounds.clear()
            ready = [(p, t) for p, t in ready if not t.absent]
            done += 1
            if not ready:
                return

    def _answer(self, task: Task) -> Path:
        path = self.directory / "answer.npz"
        # A dict of arrays is what savez takes; its stub has a flag among the names.
        np.savez(path, **answer(task))  # type: ignore[arg-type]
        return path


@contextmanager
def start(entries: Sequence[Entry]) -> Iterator[Runner]:
    """Start the workers, and end them when the block ends."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        processes = []
        for entry in entries:
            process = Process(entry, directory)
            stack.callback(process.close)
            processes.append(process)
        yield Runner(processes, directory)
