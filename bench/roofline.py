"""Draw the roofline of this machine with bptt's steps below it.

The roof is the measured rate of multiply-adds and the measured rate of reading memory,
with all processors. A step's place on the axis is its flops per byte that has to move
at least: each array once.
"""

import argparse
from pathlib import Path

from bptt.bench import machine, report
from bptt.bench.cases import SHAPES, Task
from bptt.bench.command import seconds_argument, shape_argument
from bptt.bench.runner import Entry, start

HERE = Path(__file__).parent
PEERS = ("bptt", "onednn", "jax")
MARKS = {"bptt": ("o", "C3"), "onednn": ("s", "C0"), "jax": ("^", "C2")}


def main(arguments, targets, path):
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(
        prog="python -m bench roofline", description=__doc__
    )
    parser.add_argument("--shapes", nargs="+", type=shape_argument, default=SHAPES)
    parser.add_argument(
        "--seconds", type=seconds_argument, default=5, help="for each shape"
    )
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--picture", default=str(HERE / "roofline.png"))
    options = parser.parse_args(arguments)

    described, threads = machine.describe(), machine.processors()
    yardsticks = {"peak": "bench.drivers:Peak", "bandwidth": "bench.drivers:Bandwidth"}
    counts = sorted({1, threads})
    entries = [Entry(name, targets[name], n, path) for name in PEERS for n in counts]
    entries += [Entry(n, t, threads, path) for n, t in yardsticks.items()]
    with start(entries) as runner:
        rows = []
        for shape in options.shapes:
            task = Task(shape, options.dtype)
            rows.append(report.Row(task, runner.measure(task, seconds=options.seconds)))
    roof = {name: max(_rates(rows, name), default=None) for name in yardsticks}
    if None in roof.values():
        print("\n".join(report.notes(rows)))
        raise SystemExit("no roof without the C driver")
    print(report.plain(*_table(rows, roof)))
    print(f"peak {roof['peak']:.0f} GFLOP/s, memory {roof['bandwidth']:.1f} GB/s")
    _draw(rows, roof, described, options)


def _rates(rows, name):
    """Return the rate of a yardstick beside each shape, in 1e9 per second."""
    return [
        t.work / t.seconds / 1e9
        for row in rows
        for t in row.timings
        if t.name == name and t.rounds
    ]


def _intensity(task):
    return task.flops() / task.bytes()


def _table(rows, roof):
    cells = []
    for row in rows:
        place = _intensity(row.task)
        limit = min(roof["peak"], place * roof["bandwidth"])
        rate = row.gflops()
        cells.append(
            [str(row.task.shape), f"{place:.3g}", f"{rate:.3g}", f"{rate / limit:.0%}"]
        )
    return ["T, B, I, H", "flop/byte", "GFLOP/s", "of roof"], cells


def _draw(rows, roof, described, options):
    try:
        import matplotlib
    except ImportError:
        print("no picture: matplotlib is not installed (the extra `plot`)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(7.5, 5))
    ridge = roof["peak"] / roof["bandwidth"]
    xs = [0.5, ridge, 4096]
    ax.plot(
        xs,
        [min(roof["peak"], x * roof["bandwidth"]) for x in xs],
        "k-",
        label=f"{roof['peak']:.0f} GFLOP/s, {roof['bandwidth']:.0f} GB/s from memory",
    )
    for name in PEERS:
        mark, colour = MARKS[name]
        points = [
            (_intensity(row.task), row.task.flops() / best.seconds / 1e9)
            for row in rows
            if (best := row.best(name))
        ]
        if points:
            ax.plot(*zip(*points, strict=True), mark, color=colour, label=name)
    for row in rows:
        ax.annotate(
            str(row.task.shape),
            (_intensity(row.task), row.gflops()),
            fontsize=6,
            xytext=(4, 4),
            textcoords="offset points",
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="flop per byte that has to move",
        ylabel="GFLOP/s",
        title=f"One training step, {options.dtype}: {described['cpu']}, "
        f"{described['processors']} processors, {described['date'][:10]}",
    )
    ax.title.set_fontsize(9)
    ax.grid(alpha=0.3, which="both")
    ax.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(options.picture, dpi=110)
    print(f"picture: {options.picture}")
