"""``python -m bptt.cli``: the command where no script was installed."""

import sys

from bptt.cli import main

if __name__ == "__main__":
    sys.exit(main())
