"""The command ``bptt``: train a character model, sample from it, show the set-up.

Results go to stdout, everything else to stderr. An error is one line and exit code 2,
Ctrl-C is 130, and a reader that went away (``bptt sample m | head -1``) is 141.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"{self.prog}: error: {message} (see {self.prog} -h)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; the default is those of the process.

    Returns
    -------
    int

    Examples
    --------
    >>> main(["info", "--json"])  # doctest: +ELLIPSIS
    {"bptt": "...", "backend": "...", ...}
    0
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character of a sample gets "?" for it.
        sys.stdout.reconfigure(errors="replace")
    try:
        args = _parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        _complain(str(interrupt) or "interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # What is still buffered has no reader: without this, exit would flush it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        _complain(f"error: {_one_line(error)}")
        return EXIT_ERROR
    return 0


def _parser() -> argparse.ArgumentParser:
    from bptt import __version__
    from bptt.cli import bench, info, sample, train

    parser = _Parser(
        prog="bptt",
        description="Exact backpropagation through time.",
        epilog="bptt COMMAND --help says more, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"bptt {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, sample, bench, info):
        command.add_parser(commands)
    return parser


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _complain(message: str) -> None:
    print(f"bptt: {message}", file=sys.stderr)
