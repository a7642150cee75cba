"""The examples run, and show what they say they show."""

import itertools
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    path = EXAMPLES / f"{name}.py"
    if not path.exists():
        pytest.skip("the examples are not installed with the package")
    return runpy.run_path(str(path))


def test_long_term_dependencies(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "story.png"
    flows, wild, clipped, ramps, losses = load("long_term_dependencies")["main"](output)
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
