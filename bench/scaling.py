"""Cost of a step against T, H, B and threads: `python -m bench scaling`."""

import argparse
from pathlib import Path

from bptt.bench import machine, report
from bptt.bench.cases import Shape, Task
from bptt.bench.command import file_argument, seconds_argument
from bptt.bench.runner import Entry, start

HERE = Path(__file__).parent
SERIES = {
    "T": [Shape(T, 1, 16, 64) for T in (100, 1000, 10_000, 100_000, 1_000_000)],
    "H": [Shape(100, 16, 64, H) for H in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)],
    "B": [Shape(100, B, 64, 256) for B in (1, 2, 4, 8, 16, 32, 64, 128)],
}
WIDE = Shape(50, 128, 1024, 1024)
LONGEST_CHECKED = 100_000  # the answer in float64 needs 2 kB a step
COLOURS = {"bptt": "C3", "onednn": "C0", "jax": "C2", "torch": "C1", "numpy": "C7"}


def main(arguments, targets, path):
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(
        prog="python -m bench scaling", description=__doc__
    )
    names = [name for name in targets if name not in report.YARDSTICKS]
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--series", nargs="+", choices=[*SERIES, "threads"])
    parser.add_argument(
        "--seconds", type=seconds_argument, default=4, help="for each shape"
    )
    parser.add_argument(
        "--slowest",
        type=float,
        default=5.0,
        help="leave a contender out where a step would take more seconds than this",
    )
    parser.add_argument("--json", type=file_argument, metavar="FILE")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--picture", default=str(HERE / "scaling.png"))
    options = parser.parse_args(arguments)

    described = machine.describe()
    threads = [1, machine.processors()]
    series = {}
    for letter in options.series or [*SERIES, "threads"]:
        if letter == "threads":
            counts, shapes = range(1, threads[-1] + 1), [WIDE]
        else:
            counts, shapes = sorted(set(threads)), SERIES[letter]
        entries = [
            Entry(name, targets[name], n, path)
            for name in options.contenders
            for n in counts
        ]
        series[letter] = _measure(entries, shapes, options)
        _print(letter, series[letter], options.markdown)
    if options.json:
        rows = [row for rows in series.values() for row in rows]
        report.write_json(options.json, described, rows)
    _draw(series, described, options.picture)


def _measure(entries, shapes, options):
    """Return a row a shape; a contender is left out once it would take too long."""
    rows, skip = [], set()
    with start(entries) as runner:
        for shape, following in zip(shapes, [*shapes[1:], None], strict=True):
            task = Task(shape)
            timings = runner.measure(
                task,
                seconds=options.seconds,
                check=shape.T <= LONGEST_CHECKED,
                skip=skip,
            )
            rows.append(report.Row(task, timings))
            if following is not None:
                growth = Task(following).flops() / task.flops()
                skip |= {
                    (t.name, t.threads)
                    for t in timings
                    if t.rounds and t.seconds * growth > options.slowest
                }
    return rows


def _print(letter, rows, in_markdown):
    render = report.markdown if in_markdown else report.plain
    if letter == "threads":
        header = ["contender", "threads", "ms"]
        cells = [
            [t.name, str(t.threads), f"{t.seconds * 1e3:.3g}"]
            for t in rows[0].timings
            if t.rounds
        ]
        print(f"\nagainst threads, at {WIDE}\n\n{render(header, cells)}")
    else:
        print(f"\nagainst {letter}\n\n{render(*report.table(rows))}")
    print("\n".join(["", *report.notes(rows)]), flush=True)


def _draw(series, described, path):
    try:
        import matplotlib
    except ImportError:
        print("\nno picture: matplotlib is not installed (the extra `plot`)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(series), figsize=(4.2 * len(series), 4), squeeze=False
    )
    for ax, (letter, rows) in zip(axes[0], series.items(), strict=True):
        for name in dict.fromkeys(t.name for t in rows[0].timings):
            xs, ys = _line(letter, rows, name)
            ax.plot(xs, ys, "o-", label=name, color=COLOURS.get(name), markersize=3)
        if letter == "threads":
            ax.set(xlabel="threads", title=str(WIDE), ylim=(0, None))
            ax.set_xticks(range(1, machine.processors() + 1))
        else:
            first = rows[0].task.shape
            fixed = [f"{k} {v}" for k, v in first._asdict().items() if k != letter]
            ax.set(xlabel=letter, xscale="log", yscale="log", title=", ".join(fixed))
        ax.grid(alpha=0.3)
    axes[0][0].set_ylabel("ms for one training step, float32")
    axes[0][0].legend()
    cpu, date = described["cpu"], described["date"][:10]
    figure.suptitle(f"{cpu}, {described['processors']} processors, {date}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"\npicture: {path}")


def _line(letter, rows, name):
    if letter == "threads":
        found = [t for t in rows[0].timings if t.name == name and t.rounds]
        return [t.threads for t in found], [t.seconds * 1e3 for t in found]
    found = [(row, row.best(name)) for row in rows]
    found = [(row.task.shape, best) for row, best in found if best]
    return (
        [getattr(shape, letter) for shape, _ in found],
        [best.seconds * 1e3 for _, best in found],
    )
