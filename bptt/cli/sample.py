"""``bptt sample``: text from a model."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from typing import Any

from bptt.cli import options

DESCRIPTION = "Write text with a model that `bptt train` made."
EPILOG = """example:
  bptt sample model.safetensors --prompt "def " --temperature 0.7 --length 500
"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "sample",
        help="write text with a model",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="file that bptt train wrote")
    parser.add_argument(
        "--length",
        type=options.positive_int,
        default=500,
        metavar="N",
        help="characters to write (default: %(default)s)",
    )
    parser.add_argument(
        "--temperature",
        type=options.not_negative_float,
        default=1.0,
        metavar="X",
        help="below 1 safer, above 1 bolder, 0 no chance at all (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt", default="\n", metavar="TEXT", help="how the text begins"
    )
    parser.add_argument(
        "--seed",
        type=options.not_negative_int,
        metavar="N",
        help="the same seed, the same text (default: another each time)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    from bptt.cli import charmodel
    from bptt.serialization import ModelFileError

    if not args.prompt:
        raise ValueError("--prompt must have at least one character")
    network, alphabet = charmodel.load(args.model)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    characters = charmodel.sample(
        network,
        alphabet,
        prompt=args.prompt,
        length=args.length,
        temperature=args.temperature,
        seed=seed,
    )
    try:
        if args.json:
            result = {"model": args.model, "seed": seed, "prompt": args.prompt}
            print(json.dumps({**result, "text": "".join(characters)}))
        else:
            sys.stdout.write(args.prompt.lstrip("\n"))
            sys.stdout.writelines(characters)
            print()
    except FloatingPointError as error:
        raise ModelFileError(f"{args.model} is damaged: {error}") from None
