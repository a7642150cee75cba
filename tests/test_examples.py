"""The examples run, shortened, and say what they should."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="no examples here")


def run(name, *arguments, timeout=240):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_tbptt_stream():
    output = run("tbptt_stream.py", 20_000)
    short, long = map(float, re.findall(r"squared error (\S+)", output))
    assert long < short / 2
