"""The command ``bptt``: train a character model, sample from it, show the set-up.

Results go to stdout, everything else to stderr. An error is one line and exit code 2,
Ctrl-C is 130, and a reader that went away (``bptt sample m | head -1``) is 141.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_ERRORS = (OSError, ValueError, TypeError, ImportError, MemoryError, ArithmeticError)


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
    if sys.stdout is None:
        _complain("error: standard output is closed")
        return EXIT_ERROR
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character of a sample gets "?" for it.
        sys.stdout.reconfigure(errors="replace")
    try:
        # Here, where Ctrl-C is caught: imports take a while.
        from bptt.cli import parser

        args = parser.make().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        _complain(str(interrupt) or "interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return EXIT_BROKEN_PIPE
    except _ERRORS as error:
        _complain(f"error: {_one_line(error)}")
        return EXIT_ERROR
    return 0


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _forget_output() -> None:
    # What is still buffered has no reader: without this, exit would flush it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    if sys.stderr is not None:  # else print would take stdout for it
        print(f"bptt: {message}", file=sys.stderr)
