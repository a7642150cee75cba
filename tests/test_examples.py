"""The examples run, shortened, and say what they should."""

import itertools
import math
import re
import runpy
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


def test_tbptt_stream():
    output = run("tbptt_stream.py", 20_000)
    short, long = map(float, re.findall(r"squared error (\S+)", output))
    assert long < short / 2


def test_long_term_dependencies(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    main = runpy.run_path(str(EXAMPLES / "long_term_dependencies.py"))["main"]
    output = tmp_path / "story.png"
    flows, wild, clipped, ramps, losses = main(output)
    kinds = {name: flow.kind for name, flow in flows.items()}
    assert kinds["sigmoid, orthogonal"] == kinds["tanh, uniform"] == "vanishing"
    assert kinds["relu, 1.3 orthogonal"] == "exploding"
    assert kinds["relu, identity"] == "healthy"
    assert flows["tanh, orthogonal"].horizon > 3 * flows["tanh, uniform"].horizon
    start = clipped[0, :2]
    assert abs(clipped[-1, :2] - start).max() < 2 < abs(wild[-1, :2] - start).max()
    spans = [z.max() - z.min() for z in ramps]
    assert all(after < before / 3 for before, after in itertools.pairwise(spans))
    assert losses["relu"][-1] > losses["relu"][0] / 2
    assert losses["leaky_relu"][-1] < losses["leaky_relu"][0] / 100
    assert output.stat().st_size > 0
    assert "cliff" in capsys.readouterr().out
