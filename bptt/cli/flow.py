"""``bptt flow``: what becomes of the gradients of a model, in words and in pictures."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bptt.cli import options

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bptt.flow import GradientFlow
    from bptt.network import Network
    from bptt.recurrence import Tape

DESCRIPTION = """\
Follow the gradient of a loss back through time, and say whether it vanishes.

The loss is that of a model on data: of characters on text, of another model on
random input. Or that of a new network on the adding problem; or the arrays x, W, V and
dz or dz_last of an .npz file.
"""
EPILOG = """examples:
  bptt flow model.safetensors --text book.txt
  bptt flow --task adding --activation sigmoid --length 200
  bptt flow arrays.npz --json
"""


class Subject(NamedTuple):
    """What is looked at."""

    name: str
    tape: Tape
    dz: NDArray[Any] | None
    dz_last: NDArray[Any] | None
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
        default=100,
        metavar="N",
        help="steps of time, T (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=options.positive_int,
        default=8,
        metavar="N",
        help="sequences, B (default: %(default)s)",
    )
    parser.add_argument(
        "--hidden",
        type=options.positive_int,
        default=64,
        metavar="N",
        help="units of the network of a task, H (default: %(default)s)",
    )
    parser.add_argument(
        "--activation", default="tanh", metavar="NAME", help="of the network of a task"
    )
    parser.add_argument(
        "--init",
        default="uniform",
        metavar="NAME",
        help="of V of the network of a task",
    )
    parser.add_argument("--seed", type=options.not_negative_int, default=0, metavar="N")
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

    from bptt.flow import gradient_flow

    if (args.model is None) == (args.task is None):
        raise ValueError("one of MODEL and --task must be given")
    if args.json and args.output:
        raise ValueError("--json writes no report; leave out --output")
    drawing = importlib.util.find_spec("matplotlib") is not None
    if args.output and not drawing:
        raise ImportError("the report needs matplotlib: pip install 'bptt[plot]'")
    subject = _task(args) if args.task else _file(args)
    found = gradient_flow(subject.tape, subject.dz, dz_last=subject.dz_last)
    if args.json:
        print(json.dumps({"subject": subject.name, **found.to_dict()}))
        return
    print(f"{found.verdict}\n\n{table(found)}")
    if drawing:
        from bptt.cli import report

        output = Path(args.output or "flow.html")
        output.write_text(report.page(subject, found), encoding="utf-8")
        print(f"\nwritten  {output}")
    else:
        print("\nno report: it needs matplotlib, pip install 'bptt[plot]'")


def rows(found: GradientFlow) -> list[tuple[str, str]]:
    """Return what the table shows, by name."""
    from bptt.flow._verdict import power, steps_of

    T, B, I, H = found.sizes
    steps = len(found.log10_decay) - 1
    units = found.units
    dead = ", ".join(
        f"{unit} since step {units.dead_since[unit]}" for unit in units.dead[:4]
    )
    return [
        ("sizes", f"T={T} B={B} I={I} H={H}, {found.activation}"),
        ("horizon", f"{found.horizon:.0f} steps to 1 % (of {steps})"),
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
            return arrays
    network = Network.from_contents(args.model, *serialization.read(args.model))
    x, target = _data(args, network)
    return _subject(args.model, network, x, target)


def _subject(name: str, network: Network, x: Any, target: Any) -> Subject:
    from bptt.network_flow import trace

    one = trace(network, x, target)
    training = network.metadata.get("training")
    return Subject(
        name,
        one.tape,
        one.dz,
        one.dz_last,
        training if isinstance(training, dict) else {},
    )


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

    from bptt.recurrence import forward
    from bptt.serialization import reading

    data = io.BytesIO(Path(path).read_bytes())
    with reading(path), np.load(data, allow_pickle=False) as file:
        if "x" not in file:
            return None
        given = {name: file[name] for name in file.files}
    known = {"x", "W", "V", "b", "z0", "dz", "dz_last", "activation"}
    missing = {"W", "V"} - given.keys()
    if missing or not given.keys() <= known:
        raise ValueError(
            f"{path} must hold x, W, V and dz or dz_last, and may hold b, z0 and "
            f"activation, got {', '.join(sorted(given))}"
        )
    activation = str(given.pop("activation", "tanh"))
    dz, dz_last = given.pop("dz", None), given.pop("dz_last", None)
    _, tape = forward(
        given["x"],
        given["W"],
        given["V"],
        given.get("b"),
        given.get("z0"),
        activation=activation,
    )
    return Subject(path, tape, dz, dz_last, {})
