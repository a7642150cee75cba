"""The command as a process, for the tests."""

import os
import subprocess
import sys

TEXT = "the quick brown fox jumps over the lazy dog; " * 120
SMALL = ["--steps", "30", "--hidden", "8", "--length", "10", "--batch-size", "4"]
# A package without its compiled kernels says so, once, and that is no error here.
WARNINGS = ["-W", "error", "-W", "ignore:bptt runs without:RuntimeWarning"]
BPTT = [sys.executable, *WARNINGS, "-m", "bptt.cli"]
ENVIRONMENT = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONUTF8": "1"}


def bptt(folder, *args, code=0, stdin="", timeout=120):
    """Run the command in a folder, assert its exit code, and return its output."""
    done = subprocess.run(
        [*BPTT, *map(str, args)],
        cwd=folder,
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT,
        timeout=timeout,
        encoding="utf-8",
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr
