"""``bptt bench``: one training step beside the same step of other libraries."""

from __future__ import annotations

import argparse
from typing import Any

from bptt.bench import command
from bptt.bench.runner import BUILT_IN

DESCRIPTION = """Time one training step, forward and backward with all gradients, beside
NumPy, and PyTorch and JAX where they are installed, alternating."""
EPILOG = """example:
  bptt bench --shapes 1000,1,16,64 --seconds 5
"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "bench",
        help="time a training step beside other libraries",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser, BUILT_IN)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    command.run(args, BUILT_IN)
