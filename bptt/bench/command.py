"""The command line of the benchmark: ``bptt bench`` and ``python -m bench``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bptt.bench import grid, machine, report
from bptt.bench.cases import ACTIVATIONS, SHAPES, Shape, Task
from bptt.bench.runner import BUILT_IN, Entry, Runner, Timing, start

GRID_SECONDS = 0.15


def add_arguments(parser: argparse.ArgumentParser, targets: Mapping[str, str]) -> None:
    """Add the options of the benchmark to a parser."""
    names = [name for name in targets if name not in report.YARDSTICKS]
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=shape_argument,
        metavar="T,B,I,H",
        help="the shapes to time (default: nine, from one unit's work to a machine's)",
    )
    parser.add_argument(
        "--grid",
        action="store_true",
        help="time bptt alone on a grid of H, B and T, and flag the holes",
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--activation", choices=ACTIVATIONS, default="tanh")
    parser.add_argument(
        "--forward-only", action="store_true", help="the states, without gradients"
    )
    parser.add_argument(
        "--contenders", nargs="+", choices=names, default=names, metavar="NAME"
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=count_argument,
        metavar="N",
        help="each contender runs with each (default: 1 and all processors)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds_argument,
        help="for each shape, warm-up apart (default: 10; 0.15 with --grid)",
    )
    parser.add_argument(
        "--rounds", type=count_argument, help="so many rounds, whatever they take"
    )
    parser.add_argument(
        "--json",
        type=file_argument,
        metavar="FILE",
        help="write all that was measured",
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the table in Markdown"
    )


def run(
    options: argparse.Namespace, targets: Mapping[str, str], path: str = ""
) -> list[report.Row]:
    """Measure what the options ask for, print it, and return it.

    Parameters
    ----------
    options : argparse.Namespace
        As `add_arguments` defines them.
    targets : mapping of str to str
        Module and class of each contender by name.
    path : str, optional
        A directory from which the workers may import.
    """
    described = machine.describe()
    if options.grid:
        rows = _grid(options, targets)
    else:
        rows = _compare(options, targets, path)
        print(report.show(described, rows, in_markdown=options.markdown))
    if options.json:
        report.write_json(options.json, described, rows)
    return rows


def thread_counts(options: argparse.Namespace) -> list[int]:
    """Return the numbers of threads to run with: 1 and all by default."""
    return sorted(set(options.threads or (1, machine.processors())))


def _compare(
    options: argparse.Namespace, targets: Mapping[str, str], path: str
) -> list[report.Row]:
    wanted = [
        name for name in targets if name in options.contenders or name == report.PEAK
    ]
    entries = [
        Entry(name, targets[name], threads, path)
        for name in wanted
        for threads in thread_counts(options)
    ]
    seconds = 10.0 if options.seconds is None else options.seconds
    with start(entries) as runner:
        return [
            _measure(runner, options, shape, seconds)
            for shape in options.shapes or SHAPES
        ]


def _grid(options: argparse.Namespace, targets: Mapping[str, str]) -> list[report.Row]:
    threads = max(thread_counts(options))
    seconds = GRID_SECONDS if options.seconds is None else options.seconds
    shapes = options.shapes or grid.shapes()
    with start([Entry(report.OURS, targets[report.OURS], threads)]) as runner:
        rows = [_measure(runner, options, shape, seconds) for shape in shapes]
    # A hole is a matter of the least time: a disturbed round is none.
    cost = {
        row.task.shape: t.minimum * 1e9 / row.task.flops()
        for row in rows
        for t in row.timings
        if t.minimum is not None
    }
    render = report.markdown if options.markdown else report.plain
    print(f"ns per 1000 flops with {threads} threads, {options.dtype}, least time\n")
    print(render(*grid.table(cost)), end="\n\n")
    found = grid.holes(cost)
    for shape, letter, factor in found:
        print(f"hole: {shape} costs {factor}x what its neighbours along {letter} do")
    print(f"{len(found)} holes above {grid.HOLE}x in {len(cost)} shapes")
    for row in rows:
        if any(t.agrees is False for t in row.timings):
            print(f"! wrong result at {row.task.shape}")
    return rows


def _measure(
    runner: Runner, options: argparse.Namespace, shape: Shape, seconds: float
) -> report.Row:
    task = Task(shape, options.dtype, options.activation, options.forward_only)
    timings = runner.measure(task, seconds=seconds, rounds=options.rounds)
    _progress(shape, timings)
    return report.Row(task, timings)


def _progress(shape: Shape, timings: Sequence[Timing]) -> None:
    """Say on standard error that a shape is done: a run takes minutes."""
    done = ", ".join(
        f"{t.name}/{t.threads} {t.seconds * 1e3:.3g} ms x{len(t.rounds)}"
        for t in timings
        if t.rounds and t.name not in report.YARDSTICKS
    )
    print(f"{shape}: {done}", file=sys.stderr, flush=True)


def shape_argument(text: str) -> Shape:
    """Parse a shape, for argparse."""
    try:
        return Shape.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count_argument(text: str) -> int:
    """Parse an integer of at least 1, for argparse."""
    if not (text.isdecimal() and 0 < int(text) <= sys.maxsize):
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def seconds_argument(text: str) -> float:
    """Parse a finite number above 0, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return seconds


def file_argument(text: str) -> str:
    """Parse the path of a file to be written, for argparse: minutes later is late."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"must be a file in a folder, got {text!r}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark with the contenders that need no compiler."""
    parser = argparse.ArgumentParser(prog="bptt bench", description=__doc__)
    add_arguments(parser, BUILT_IN)
    run(parser.parse_args(arguments), BUILT_IN)
    return 0
