"""``bptt info``: which backend runs and why, and the versions."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bptt import _backend

DESCRIPTION = "Show which backend runs and why, and the versions it runs with."
EPILOG = """example:
  bptt info --json
"""


def add_parser(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "info",
        help="show which backend runs and why",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.json:
        print(json.dumps(_backend.config()))
    else:
        _backend.show_config()
