"""``bptt flow``: what becomes of the gradients of a model, in words and in pictures."""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bptt.cli import options

if TYPE_CHECKING:
    from bptt.flow import GradientFlow
    from bptt.network import Network
    from bptt.recurrence import Tape

DESCRIPTION = """\
Follow the gradient of a loss back through time, and say whether it vanishes.

The loss is that of a model on data: of characters on text, of another model on
random input. Or that of a new network on the adding problem; or the arrays x, W, V and
dz or dz_last of an .npz file, and where there are some b, z0, activation, lengths and
resets.

Of several layers, and of both directions, each is followed by itself: the gradient that
comes to it from all above, and what is left of that on the way back through its own V.
"""
EPILOG = """examples:
  bptt flow model.safetensors --text book.txt
  bptt flow --task adding --activation sigmoid --length 200
  bptt flow arrays.npz --json
"""

# Of options that may be left out, and say something only of data that are made here, or
# of a network that is.
DATA = {"length": 100, "batch_size": 8, "seed": 0}
NETWORK = {"hidden": 64, "activation": "tanh", "init": "uniform"}


class Part(NamedTuple):
    """A layer in one direction; without a name where there is no other, and with
    nothing found where no gradient comes to it.
    """

    name: str
    place: dict[str, Any]
    tape: Tape
    found: GradientFlow | None


class Subject(NamedTuple):
    """What is looked at."""

    name: str
    parts: list[Part]
    training: dict[str, Any]


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "flow",
        help="show whether gradients vanish or explode",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="model file, or .npz file of arrays",
    )
    parser.add_argument(
        "--task", choices=["adding"], help="a new network on a task instead"
    )
    parser.add_argument(
        "--text",
        action="append",
        metavar="FILE",
        help="what a model of characters reads (default: Python's standard library)",
    )
    parser.add_argument(
        "--length",
        type=options.positive_int,
        metavar="N",
        help=f"steps of time, T (default: {DATA['length']})",
    )
    parser.add_argument(
        "--batch-size",
        type=options.positive_int,
        metavar="N",
        help=f"sequences, B (default: {DATA['batch_size']})",
    )
    parser.add_argument(
        "--hidden",
        type=options.positive_int,
        metavar="N",
        help=f"units of the network of a task, H (default: {NETWORK['hidden']})",
    )
    parser.add_argument(
        "--activation",
        metavar="NAME",
        help=f"of the network of a task (default: {NETWORK['activation']})",
    )
    parser.add_argument(
        "--init",
        metavar="NAME",
        help=f"of V of the network of a task (default: {NETWORK['init']})",
    )
    parser.add_argument(
        "--seed",
        type=options.not_negative_int,
        metavar="N",
        help=f"of the data, and of that network (default: {DATA['seed']})",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="REPORT",
        help="HTML file to write (default: flow.html, where matplotlib is installed)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, write no report"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import importlib.util

    if (args.model is None) == (args.task is None):
        raise ValueError("one of MODEL and --task must be given")
    if args.json and args.output:
        raise ValueError("--json writes no report; leave out --output")
    drawing = importlib.util.find_spec("matplotlib") is not None
    if args.output and not drawing:
        raise ImportError("the report needs matplotlib: pip install 'bptt[plot]'")
    subject = _task(args) if args.task else _file(args)
    if args.json:
        print(json.dumps({"subject": subject.name, **_results(subject.parts)}))
        return
    for part in subject.parts:
        heading = f"{part.name}\n\n" if part.name else ""
        print(f"{heading}{verdict(part.found)}\n")
        if part.found is not None:
            print(f"{table(part.found)}\n")
    if drawing:
        from bptt.cli import report

        output = Path(args.output or "flow.html")
        output.write_text(report.page(subject), encoding="utf-8")
        print(f"written  {output}")
    else:
        print("no report: it needs matplotlib, pip install 'bptt[plot]'")


def verdict(found: GradientFlow | None) -> str:
    """Return what is the matter, in a sentence."""
    return "No gradient: none comes to this layer." if found is None else found.verdict


def _results(parts: list[Part]) -> dict[str, Any]:
    """Return what JSON has: what was found, or a list of it where there are layers."""
    nothing = {"kind": "no gradient", "verdict": verdict(None)}
    found = [nothing if p.found is None else p.found.to_dict() for p in parts]
    if len(found) == 1:
        return found[0]
    both = zip(parts, found, strict=True)
    return {"layers": [{**part.place, **one} for part, one in both]}


def _settle(args: argparse.Namespace, apart: str, idle: Iterable[str]) -> None:
    """Fill in what was left out, and refuse what would say nothing here."""
    for name in idle:
        if getattr(args, name) is not None:
            raise ValueError(f"--{name.replace('_', '-')} is {apart}")
    for name, value in (DATA | NETWORK).items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def rows(found: GradientFlow) -> list[tuple[str, str]]:
    """Return what the table shows, by name."""
    from bptt.flow._verdict import power, steps_of

    T, B, I, H = found.sizes
    steps = len(found.log10_decay) - 1
    horizon = "not finite" if math.isnan(found.horizon) else f"beyond {steps_of(steps)}"
    if math.isfinite(found.horizon):
        horizon = f"{steps_of(found.horizon)} to 1 % (of {steps})"
    units = found.units
    dead = ", ".join(
        f"{unit} since step {units.dead_since[unit]}" for unit in units.dead[:4]
    )
    return [
        ("sizes", f"T={T} B={B} I={I} H={H}, {found.activation}"),
        ("horizon", horizon),
        *(
            (f"after {steps_of(k)}", f"{power(found.log10_decay[k])} is left")
            for k in _gaps(steps)
        ),
        ("spectral radius", f"{found.spectral_radius:.4g}"),
        ("||V||", f"{found.largest_singular_value:.4g}"),
        ("gamma ||V||", f"{found.gamma * found.largest_singular_value:.4g}"),
        (
            "saturated",
            f"{100 * units.saturated:.1f} % of the units, "
            f"{100 * units.zero:.1f} % at 0",
        ),
        (
            "dead",
            f"{len(units.dead)} of {H} units"
            + (f": {dead}" if dead else "")
            + (", ..." if len(units.dead) > 4 else ""),
        ),
    ]


def table(found: GradientFlow) -> str:
    """Return the table as lines of text."""
    return "\n".join(f"{name:16} {value}" for name, value in rows(found))


def _gaps(steps: int) -> list[int]:
    return [k for k in (1, 10, 100, 1000, 10_000) if k <= steps]


def _task(args: argparse.Namespace) -> Subject:
    """Return a new network on the adding problem."""
    import numpy as np

    from bptt.network import Network

    _settle(args, f"for models of characters, got --task {args.task}", ["text"])
    network = Network(
        2,
        args.hidden,
        1,
        activation=args.activation,
        loss="squared_error",
        readout="last",
        init=args.init,
        seed=args.seed,
    )
    T, B = args.length, args.batch_size
    if T < 2:
        raise ValueError(f"--length must be at least 2 for the adding problem, got {T}")
    rng = np.random.default_rng(args.seed)
    x = np.zeros((T, B, 2), np.float32)
    x[..., 0] = rng.uniform(size=(T, B))
    first, second = rng.integers(0, T // 2, B), rng.integers(T // 2, T, B)
    x[first, np.arange(B), 1] = x[second, np.arange(B), 1] = 1
    target = (x[..., 0] * x[..., 1]).sum(axis=0)[:, np.newaxis]
    return _subject(f"adding problem, {args.activation}", network, x, target)


def _file(args: argparse.Namespace) -> Subject:
    """Return a model on text or on random input, or the arrays of a file."""
    from bptt import serialization
    from bptt.network import Network

    if args.model.endswith(".npz"):
        arrays = _arrays(args.model)
        if arrays is not None:
            apart = f"for a model or --task, got the arrays of {args.model}"
            _settle(args, apart, ["text", *DATA, *NETWORK])
            return arrays
    _settle(args, f"for --task, got {args.model}", NETWORK)
    network = Network.from_contents(args.model, *serialization.read(args.model))
    x, target = _data(args, network)
    return _subject(args.model, network, x, target)


def _subject(name: str, network: Network, x: Any, target: Any) -> Subject:
    from bptt.network_flow import flows_of, layer_traces

    D, parts, traces = network.stack.directions, [], layer_traces(network, x, target)
    for cell, found in enumerate(flows_of(traces)):
        place = {"layer": cell // D + 1, "direction": ("forward", "reverse")[cell % D]}
        heading = f"Layer {place['layer']}"
        if D == 2:
            heading += (", from the first step", ", from the end")[cell % D]
        if network.stack.cells == 1:
            heading = ""
        parts.append(Part(heading, place, traces[cell].tape, found))
    training = network.metadata.get("training")
    return Subject(name, parts, training if isinstance(training, dict) else {})


def _data(args: argparse.Namespace, network: Network) -> tuple[Any, Any]:
    """Return input and target: text for a model of characters, else random numbers."""
    import numpy as np

    T, B, rng = args.length, args.batch_size, np.random.default_rng(args.seed)
    if isinstance(network.metadata.get("alphabet"), str):
        from bptt.cli import text
        from bptt.data import TokenStreams

        alphabet = text.Alphabet(network.metadata["alphabet"])
        ids = alphabet.encode("".join(text.read_texts(args.text or [], lambda _: None)))
        return TokenStreams(ids, T, B, seed=args.seed)(0)
    if args.text:
        raise ValueError(f"--text is for models of characters, got {args.model}")
    x = rng.standard_normal((T, B, network.input_size)).astype(network.dtype)
    shape = (T, B) if network.readout == "every" else (B,)
    if network.loss == "cross_entropy":
        return x, rng.integers(0, network.output_size, shape)
    target = rng.standard_normal((*shape, network.output_size))
    if network.loss == "binary_cross_entropy":
        target = (target > 0).astype(float)
    return x, target


def _arrays(path: str) -> Subject | None:
    """Return the arrays of an .npz file, or None where it is a model."""
    import numpy as np

    from bptt.flow import gradient_flow
    from bptt.recurrence import forward
    from bptt.serialization import reading

    data = io.BytesIO(Path(path).read_bytes())
    with reading(path), np.load(data, allow_pickle=False) as file:
        if "x" not in file:
            return None
        given = {name: file[name] for name in file.files}
    optional = {"b", "z0", "activation", "lengths", "resets"}
    needed, losses = {"x", "W", "V"}, {"dz", "dz_last"}
    if not (
        needed <= given.keys() <= needed | losses | optional and losses & given.keys()
    ):
        raise ValueError(
            f"{path} must hold x, W, V and dz or dz_last, and may hold b, z0, "
            f"activation, lengths and resets, got {', '.join(sorted(given))}"
        )
    activation = str(given.pop("activation", NETWORK["activation"]))
    dz, dz_last = given.pop("dz", None), given.pop("dz_last", None)
    _, tape = forward(**given, activation=activation)
    found = gradient_flow(tape, dz, dz_last=dz_last)
    return Subject(path, [Part("", {}, tape, found)], {})
