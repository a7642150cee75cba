"""The examples run, shortened, and say what they should."""

import math
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


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_long_sequence():
    output = run("long_sequence.py", 30_000)
    assert "30,000 steps in" in output
    # No more than ln 4 and no less than the coin that decides, ln 2.
    loss = float(re.search(r"loss (\S+),", output)[1])
    assert loss > math.log(2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_a_million_steps_under_64_mb():
    output = run("long_sequence.py")
    assert int(re.search(r"extra memory (\d+) MB", output)[1]) <= 64


def test_ragged_lines():
    output = run("ragged_lines.py", 50)
    losses = [float(v) for v in re.findall(r"per character (\S+)", output)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    real, padded = re.search(r"([\d,]+) characters; .* ([\d,]+)", output).groups()
    assert int(real.replace(",", "")) < int(padded.replace(",", ""))
