"""The command line: its options, and what runs each command."""

from __future__ import annotations

import argparse
from typing import NoReturn

from bptt import __version__
from bptt.cli import EXIT_ERROR, bench, flow, info, sample, train


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


def make() -> argparse.ArgumentParser:
    """Return the parser; what it parsed has the function ``run``."""
    parser = _Parser(
        prog="bptt",
        description="Exact backpropagation through time.",
        epilog="bptt COMMAND --help says more, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"bptt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, sample, flow, bench, info):
        command.add_parser(commands)
    return parser
