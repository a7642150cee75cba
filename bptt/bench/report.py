"""From timings to a table: plain text, Markdown, and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bptt.bench.cases import Task
from bptt.bench.machine import summary
from bptt.bench.runner import Timing

OURS = "bptt"
PEAK = "peak"
YARDSTICKS = (PEAK, "bandwidth")


@dataclass
class Row:
    """One task and how everybody did."""

    task: Task
    timings: list[Timing]

    def best(self, name: str) -> Timing | None:
        """Return the timing of a contender at its faster number of threads."""
        timed = [t for t in self.timings if t.name == name and t.rounds]
        return min(timed, key=lambda t: t.seconds, default=None)

    def ours(self) -> Timing | None:
        """Return bptt's timing with all threads: it decides how many of them to use."""
        timed = [t for t in self.timings if t.name == OURS and t.rounds]
        return max(timed, key=lambda t: t.threads, default=None)

    def ratio(self, name: str) -> float | None:
        """Return how many times as long as bptt a contender takes at its best."""
        ours, theirs = self.ours(), self.best(name)
        return theirs.seconds / ours.seconds if ours and theirs else None

    def gflops(self) -> float | None:
        """Return the rate of bptt."""
        ours = self.ours()
        return self.task.flops() / ours.seconds / 1e9 if ours else None

    def peak(self) -> float | None:
        """Return the rate of multiply-adds with as many threads, in GFLOP/s."""
        ours = self.ours()
        for t in self.timings:
            if ours and t.name == PEAK and t.rounds and t.threads == ours.threads:
                return (t.work or 0.0) / t.seconds / 1e9
        return None

    def nanoseconds(self) -> float | None:
        """Return what bptt takes for one time step of the batch."""
        ours = self.ours()
        return ours.seconds / self.task.shape.T * 1e9 if ours else None

    def as_json(self) -> dict[str, Any]:
        """Return the task, the timings and what the table shows of them."""
        task, gflops, peak = self.task, self.gflops(), self.peak()
        names = dict.fromkeys(t.name for t in self.timings)
        return {
            "shape": task.shape._asdict(),
            "dtype": task.dtype,
            "activation": task.activation,
            "forward_only": task.forward_only,
            "flops": task.flops(),
            "bytes": task.bytes(),
            "gflops": gflops,
            "ns_per_time_step": self.nanoseconds(),
            "peak_gflops": peak,
            "share_of_peak": gflops / peak if gflops and peak else None,
            "ratios": {n: self.ratio(n) for n in names if n not in (OURS, *YARDSTICKS)},
            "timings": [t.as_json() for t in self.timings],
        }


def table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the cells.

    Milliseconds are medians; the number in brackets is of threads, where it is not
    the larger one.
    """
    names = list(dict.fromkeys(t.name for row in rows for t in row.timings))
    peers = [n for n in names if n not in (OURS, *YARDSTICKS)]
    header = ["T, B, I, H", "bptt ms", "least", *(f"{n} ms" for n in peers)]
    header += [f"vs {n}" for n in peers] + ["GFLOP/s", "ns/step", "of peak"]
    return header, [_cells(row, peers) for row in rows]


def _cells(row: Row, peers: Sequence[str]) -> list[str]:
    most = max(t.threads for t in row.timings)
    ours, gflops, peak = row.ours(), row.gflops(), row.peak()
    least = ours.minimum if ours else None
    cells = [str(row.task.shape), _milliseconds(ours, most)]
    cells.append(f"{least * 1e3:.3g}" if least else "-")
    cells += [_milliseconds(row.best(n), most) for n in peers]
    ratios = (row.ratio(n) for n in peers)
    cells += [f"{ratio:.3g}x" if ratio else "-" for ratio in ratios]
    cells.append(f"{gflops:.3g}" if gflops else "-")
    nanoseconds = row.nanoseconds()
    cells.append(f"{nanoseconds:,.0f}" if nanoseconds else "-")
    cells.append(f"{gflops / peak:.0%}" if gflops and peak else "-")
    return cells


def _milliseconds(timing: Timing | None, most: int) -> str:
    if timing is None:
        return "-"
    threads = "" if timing.threads == most else f" ({timing.threads})"
    wrong = " !" if timing.agrees is False else ""
    return f"{timing.seconds * 1e3:.3g}{threads}{wrong}"


def plain(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table in columns.

    Examples
    --------
    >>> print(plain(["H", "ms"], [["16", "0.04"], ["1024", "180"]]))
       H    ms
      16  0.04
    1024   180
    """
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in (header, *cells)
    )


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown.

    Examples
    --------
    >>> print(markdown(["H", "ms"], [["16", "0.04"]]))
    | H | ms |
    |---|---|
    | 16 | 0.04 |
    """
    lines = [header, *cells]
    text = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(header), *text[1:]])


def notes(rows: Sequence[Row]) -> list[str]:
    """Return who was absent and why, versions, and whether the results agreed."""
    absent: dict[tuple[str, str], None] = {}
    versions: dict[str, str] = {}
    worst: dict[str, float] = {}
    wrong = []
    for row in rows:
        for t in row.timings:
            if t.absent:
                absent[t.name, t.absent] = None
                continue
            versions[t.name] = t.version
            if t.deviation is not None:
                worst[t.name] = max(worst.get(t.name, 0.0), t.deviation)
            if t.agrees is False:
                wrong.append(f"{t.name} with {t.threads} threads at {row.task.shape}")
    lines = [f"without {name}: {reason}" for name, reason in absent]
    lines.append("versions: " + ", ".join(f"{n} {v}" for n, v in versions.items()))
    if worst:
        lines.append(
            "largest relative deviation from the reference in float64: "
            + ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
        )
    lines += [f"! wrong result: {who}" for who in wrong]
    return lines


def write_json(path: str, machine: dict[str, Any], rows: Sequence[Row]) -> None:
    """Write everything that was measured."""
    content = {"machine": machine, "rows": [row.as_json() for row in rows]}
    Path(path).write_text(json.dumps(content, indent=1) + "\n")


def show(machine: dict[str, Any], rows: Sequence[Row], *, in_markdown: bool) -> str:
    """Return the whole report."""
    task = rows[0].task
    what = "forward" if task.forward_only else "forward + backward, all gradients"
    title = f"One step, {what}, {task.dtype}, {task.activation}; ms are medians,"
    title += " (n) with n threads where that is faster"
    render = markdown if in_markdown else plain
    lines = [title, "", render(*table(rows)), "", *notes(rows)]
    return "\n".join([*lines, f"machine: {summary(machine)}"])
