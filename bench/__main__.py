"""Time a training step beside NumPy, PyTorch, JAX and oneDNN, and the machine's peak.

``python -m bench`` prints the table, ``python -m bench scaling`` the cost against T, H,
B and threads, ``python -m bench roofline`` draws the roofline, ``python -m bench
sequences`` has long, ragged, truncated and stacked runs beside plain ones, ``python -m
bench sequence-peers`` long and ragged ones beside JAX and PyTorch.
"""

import argparse
import sys
from pathlib import Path

from bench import roofline, scaling, sequence_peers, sequences
from bptt.bench import command
from bptt.bench.runner import BUILT_IN

ROOT = str(Path(__file__).parent.parent)
TARGETS = BUILT_IN | {
    "onednn": "bench.drivers:OneDNN",
    "peak": "bench.drivers:Peak",
}
COMMANDS = {
    "scaling": scaling,
    "roofline": roofline,
    "sequences": sequences,
    "sequence-peers": sequence_peers,
}


def main(arguments):
    """Run one of the commands."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser, TARGETS)
    other = COMMANDS.get(*arguments[:1] or [""])
    if other is None:
        command.run(parser.parse_args(arguments), TARGETS, ROOT)
    else:
        other.main(arguments[1:], TARGETS, ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
