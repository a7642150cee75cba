"""``bptt train``: a model of characters (Karpathy 2015), from real text."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bptt.cli import options

if TYPE_CHECKING:
    from bptt.history import Record
    from bptt.network import Network

DESCRIPTION = """\
Learn to write like a text, character by character, and say how well.

The end of each text is held out. At the end its bits per character are printed
beside those of a trigram model of the same training text.
"""
EPILOG = """examples:
  bptt train                                the source of Python's standard library
  bptt train book.txt -o book.safetensors   a text of your own
  cat *.txt | bptt train -                  standard input
  bptt train --resume book.txt -o book.safetensors    go on after Ctrl-C
"""

# What a run depends on besides the text: saved with it, and taken from there to resume.
_Option = tuple[Callable[[str], Any], Any, str]
OPTIONS: dict[str, _Option] = {
    "steps": (options.positive_int, 3000, "updates"),
    "hidden": (options.positive_int, 128, "units of the recurrent layer, H"),
    "length": (options.positive_int, 64, "steps of time in a batch, T"),
    "batch_size": (options.positive_int, 32, "streams of text read in parallel, B"),
    "learning_rate": (options.positive_float, 0.008, "of Adam, at its highest"),
    "clip": (options.positive_float, 1.0, "threshold of the gradient's norm"),
    "activation": (str, "tanh", "function of the recurrent layer"),
    "alphabet": (options.positive_int, 256, "characters known, by frequency"),
    "held_out": (options.fraction, 0.1, "fraction of each text to hold out"),
    "seed": (options.not_negative_int, 0, "seed of everything random"),
}

_METAVARS = {
    options.positive_int: "N",
    options.not_negative_int: "N",
    options.positive_float: "X",
    options.fraction: "X",
    str: "NAME",
}


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "train",
        help="learn a model of characters from text",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="text in UTF-8, - is standard input (default: the source of Python's "
        "standard library)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="MODEL",
        help="file to write, .safetensors or .npz (default: model.safetensors, or "
        "model.npz without the package safetensors)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run whose checkpoint is in MODEL, with its options",
    )
    for name, (kind, default, text) in OPTIONS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            type=kind,
            default=argparse.SUPPRESS,
            metavar=_METAVARS[kind],
            help=f"{text} (default: {default})",
        )
    parser.add_argument(
        "--sample-length",
        type=options.positive_int,
        default=400,
        metavar="N",
        help="characters to print at the end (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    import numpy as np

    from bptt.cli import charmodel, text
    from bptt.cli.trigram import Trigram
    from bptt.data import TokenStreams
    from bptt.optimizers import Adam
    from bptt.schedules import cosine, linear_warmup
    from bptt.serialization import check_path
    from bptt.training import train

    start = time.monotonic()
    output = check_path("--output", args.output or _default_output())
    chosen = _options(args, output)
    texts = text.read_texts(args.files)
    training, held_out = text.split(texts, chosen["held_out"])
    alphabet = text.Alphabet.of(training, chosen["alphabet"])
    ids, rest = alphabet.encode(training), alphabet.encode(held_out)
    rest = rest[: charmodel.read_length(len(rest))]
    network = _network(len(alphabet), chosen)
    network.metadata = {
        "alphabet": alphabet.characters,
        "options": chosen,
        "text": f"{zlib.crc32(np.concatenate([ids, rest]).data):08x}",
    }
    if args.resume:
        _check_text(output, network)
    _note(
        f"{len(texts)} texts, {len(ids):,} characters to train on, "
        f"{len(rest):,} held out, alphabet of {len(alphabet)}"
    )

    steps = chosen["steps"]
    rate = linear_warmup(cosine(chosen["learning_rate"], steps), min(100, steps))
    optimizer = Adam(rate)
    try:
        history = train(
            network,
            TokenStreams(
                ids, chosen["length"], chosen["batch_size"], seed=chosen["seed"]
            ),
            optimizer=optimizer,
            steps=steps,
            clip=chosen["clip"],
            checkpoint=output,
            resume=args.resume,
            progress=_describe,
            callbacks=() if _has_bar() else (_Lines(steps),),
        )
    except KeyboardInterrupt:
        saved = "; to go on, add --resume" if optimizer.steps else ""
        raise KeyboardInterrupt(f"interrupted{saved}") from None

    bits, trigram = charmodel.bits(network, rest), Trigram.tuned(ids, len(alphabet))
    written = charmodel.sample(
        network,
        alphabet,
        prompt="\n",
        length=args.sample_length,
        temperature=0.7,
        seed=chosen["seed"],
    )
    network.save(output)
    result = {
        "bits_per_character": bits,
        "trigram_bits_per_character": trigram.bits(rest),
        "training_bits_per_character": _bits(history.records[-1].loss),
        "training_characters": len(ids),
        "held_out_characters": len(rest),
        "parameters": sum(p.size for p in network.params.values()),
        "clipped_fraction": history.clipped_fraction,
        "options": chosen,
        "seconds": round(time.monotonic() - start, 3),
        "sample": written,
        "output": str(output),
    }
    print(json.dumps(result) if args.json else _report(result))


def _report(result: dict[str, Any]) -> str:
    better = result["bits_per_character"] < result["trigram_bits_per_character"]
    return (
        f"{result['sample'].strip()}\n\n"
        f"held-out text   {result['bits_per_character']:.3f} bits per character\n"
        f"trigram model   {result['trigram_bits_per_character']:.3f} bits per "
        f"character{'' if better else ', which is better'}\n"
        f"written         {result['output']} ({result['parameters']:,} parameters, "
        f"{result['seconds']:.0f} s)"
    )


def _options(args: argparse.Namespace, output: Path) -> dict[str, Any]:
    """Return the options of the run: given, default, or those of the checkpoint."""
    from bptt.network import Network

    given = {name: getattr(args, name) for name in OPTIONS if hasattr(args, name)}
    if not args.resume:
        return {name: given.get(name, row[1]) for name, row in OPTIONS.items()}
    saved = Network.load(output).metadata.get("options")
    if not isinstance(saved, dict) or saved.keys() != OPTIONS.keys():
        raise ValueError(f"{output} is not the checkpoint of a run of bptt train")
    for name, value in given.items():
        if value != saved[name]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"a resumed run keeps its options: {option} was {saved[name]}, "
                f"got {value}"
            )
    return saved


def _network(O: int, chosen: dict[str, Any]) -> Network:
    from bptt.network import Network

    return Network(
        O,
        chosen["hidden"],
        O,
        activation=chosen["activation"],
        init="orthogonal",
        stateful=True,
        seed=chosen["seed"],
    )


def _check_text(output: Path, network: Network) -> None:
    from bptt.network import Network

    if Network.load(output).metadata != network.metadata:
        raise ValueError(f"{output} is the checkpoint of a run on another text")


def _default_output() -> str:
    installed = importlib.util.find_spec("safetensors") is not None
    return "model.safetensors" if installed else "model.npz"


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _describe(record: Record) -> str:
    return f"{_bits(record.loss):.3f} bits/char, |g| {record.norm:.2f}"


def _has_bar() -> bool:
    return sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None


def _note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


class _Lines:
    """Ten lines of progress, where there is no bar."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, record: Record) -> None:
        if record.step == 1 or record.step * 10 % self.steps < 10:
            _note(f"step {record.step} of {self.steps}: {_describe(record)}")
