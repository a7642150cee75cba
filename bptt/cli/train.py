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
    "steps": (options.positive_int, 6000, "updates"),
    "hidden": (options.positive_int, 256, "units of the recurrent layer, H"),
    "layers": (options.positive_int, 1, "recurrent layers, one on top of the other"),
    "length": (options.positive_int, 64, "steps of time in a batch, T"),
    "batch_size": (options.positive_int, 32, "streams of text read in parallel, B"),
    "learning_rate": (options.positive_float, 0.004, "of Adam, at its highest"),
    "clip": (options.positive_float, 1.0, "threshold of the gradient's norm"),
    "clip_error": (options.threshold, None, "of the error's norm as it flows back"),
    "activation": (str, "tanh", "function of the recurrent layer"),
    "alphabet": (options.alphabet_size, 256, "characters known, by frequency"),
    "held_out": (options.fraction, 0.1, "fraction of each text to hold out"),
    "seed": (options.not_negative_int, 0, "seed of everything random"),
}

# Options that a checkpoint of before does not have: it was a run with the default.
_LATER = {name: OPTIONS[name][1] for name in ("layers", "clip_error")}

# The trigram model is tuned on a tenth of its text, and predicts from the third on.
LEAST_TRAINING, LEAST_HELD_OUT = 30, 3

_METAVARS = {
    options.positive_int: "N",
    options.alphabet_size: "N",
    options.not_negative_int: "N",
    options.positive_float: "X",
    options.threshold: "X",
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
    from bptt.cli.watch import Watch
    from bptt.data import TokenStreams
    from bptt.optimizers import Adam
    from bptt.schedules import cosine, linear_warmup
    from bptt.serialization import check_path
    from bptt.training import train

    start = time.monotonic()
    output = check_path("--output", args.output or _default_output())
    chosen = _options(args, output)
    texts = text.read_texts(args.files, _note)
    training, held_out = text.split(texts, chosen["held_out"])
    names = text.naming(args.files)
    _check_texts(names, training, held_out)
    if not args.resume:
        _shrink(chosen, _given(args), len(training))
    _check_size(names, chosen, len(training))
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
        _check_same(output, network)
    _note(
        f"{len(texts)} texts, {len(ids):,} characters to train on, "
        f"{len(rest):,} held out, alphabet of {len(alphabet)}"
    )
    # Before the training, which is lost where something cannot be done with the texts.
    trigram = Trigram.tuned(ids, len(alphabet)).bits(rest)

    steps = chosen["steps"]
    rate = linear_warmup(cosine(chosen["learning_rate"], steps), min(100, steps))
    optimizer = Adam(rate)
    batches = TokenStreams(
        ids, chosen["length"], chosen["batch_size"], seed=chosen["seed"]
    )
    watch = Watch(network, batches)
    try:
        history = train(
            network,
            batches,
            optimizer=optimizer,
            steps=steps,
            clip=chosen["clip"],
            clip_error=chosen["clip_error"],
            checkpoint=output,
            resume=args.resume,
            progress=watch,
            callbacks=() if _has_bar() else (_Lines(steps, watch),),
        )
    except KeyboardInterrupt:
        saved = "; to go on, add --resume" if optimizer.steps else ""
        raise KeyboardInterrupt(f"interrupted{saved}") from None

    network.metadata["training"] = watch.kept(history, chosen["clip"])
    network.save(output)
    written = charmodel.sample(
        network,
        alphabet,
        prompt="\n",
        length=args.sample_length,
        temperature=0.7,
        seed=chosen["seed"],
    )
    result = {
        "bits_per_character": charmodel.bits(network, rest),
        "trigram_bits_per_character": trigram,
        "training_bits_per_character": _bits(history.records[-1].loss),
        "training_characters": len(ids),
        "held_out_characters": len(rest),
        "parameters": sum(p.size for p in network.params.values()),
        "clipped_fraction": history.clipped_fraction,
        "options": chosen,
        "sample": "".join(written),
        "seconds": round(time.monotonic() - start, 3),
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
    given = _given(args)
    if not args.resume:
        return {name: given.get(name, row[1]) for name, row in OPTIONS.items()}
    saved = _saved_options(output)
    for name, value in given.items():
        if value != saved[name]:
            raise ValueError(
                f"a resumed run keeps its options: {_flag(name)} was {saved[name]}, "
                f"got {value}"
            )
    return saved


def _given(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in OPTIONS if hasattr(args, name)}


def _saved_options(output: Path) -> dict[str, Any]:
    from bptt.network import Network
    from bptt.serialization import ModelFileError, read

    arrays, metadata = read(output)
    saved = Network.from_contents(output, arrays, metadata).metadata.get("options")
    if isinstance(saved, dict):
        saved = _LATER | saved
    if not isinstance(saved, dict) or saved.keys() != OPTIONS.keys():
        raise ModelFileError(f"{output} is not the checkpoint of a run of bptt train")
    if "optimizer" not in metadata:
        raise ModelFileError(f"the run of {output} is finished: nothing to resume")
    for name, (kind, _, _) in OPTIONS.items():
        try:
            valid = kind(str(saved[name])) == saved[name]
        except argparse.ArgumentTypeError:
            valid = False
        if not valid:
            raise ModelFileError(
                f"{output} is damaged: its option {name} is {saved[name]!r}"
            )
    return {name: saved[name] for name in OPTIONS}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_texts(names: str, training: str, held_out: str) -> None:
    """Refuse texts from which nothing can be learned, or on which nothing measured."""
    if len(training) < LEAST_TRAINING or len(held_out) < LEAST_HELD_OUT:
        raise ValueError(
            f"{names}: too little text; {LEAST_TRAINING} characters to train on and "
            f"{LEAST_HELD_OUT} held out are needed, got {len(training)} and "
            f"{len(held_out)}"
        )
    if len(set(training)) < 2:
        raise ValueError(
            f"{names}: the text to train on must have at least 2 different characters, "
            f"got only {training[0]!r}"
        )


def _shrink(chosen: dict[str, Any], given: dict[str, Any], count: int) -> None:
    """Make batches smaller where a text is too small for the default ones."""
    for name in ("batch_size", "length"):
        default = chosen[name]
        while name not in given and chosen[name] > 1 and _chunks(chosen, count) < 4:
            chosen[name] //= 2
        if chosen[name] != default:
            _note(f"a small text: {_flag(name)} {chosen[name]} instead of {default}")


def _check_size(names: str, chosen: dict[str, Any], count: int) -> None:
    T, B = chosen["length"], chosen["batch_size"]
    if _chunks(chosen, count) < 1:
        raise ValueError(
            f"{names}: --length {T} and --batch-size {B} need at least {T * (B + 1):,} "
            f"characters to train on, got {count:,}"
        )


def _chunks(chosen: dict[str, Any], count: int) -> int:
    """Return how many batches a text makes, as in `TokenStreams`."""
    chunks: int = (count - chosen["length"]) // chosen["batch_size"] // chosen["length"]
    return chunks


def _network(O: int, chosen: dict[str, Any]) -> Network:
    from bptt.network import Network

    return Network(
        O,
        chosen["hidden"],
        O,
        num_layers=chosen["layers"],
        activation=chosen["activation"],
        init="orthogonal",
        stateful=True,
        seed=chosen["seed"],
    )


def _check_same(output: Path, network: Network) -> None:
    from bptt.network import Network

    saved = Network.load(output).metadata
    saved["options"] = _LATER | saved["options"]
    if saved != network.metadata:
        raise ValueError(f"{output} is the checkpoint of a run on another text")


def _default_output() -> str:
    installed = importlib.util.find_spec("safetensors") is not None
    return "model.safetensors" if installed else "model.npz"


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _has_bar() -> bool:
    shown = sys.stderr is not None and sys.stderr.isatty()
    return shown and importlib.util.find_spec("tqdm") is not None


def _note(message: str) -> None:
    if sys.stderr is not None:  # else print would take stdout for it
        print(message, file=sys.stderr, flush=True)


class _Lines:
    """Ten lines of progress, where there is no bar."""

    def __init__(self, steps: int, describe: Callable[[Record], str]) -> None:
        self.steps = steps
        self.describe = describe

    def __call__(self, record: Record) -> None:
        line = self.describe(record)
        if record.step == 1 or record.step * 10 % self.steps < 10:
            _note(f"step {record.step} of {self.steps}: {line}")
