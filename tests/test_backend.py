"""The choice of the backend, in fresh interpreters."""

import os
import subprocess
import sys

import pytest

import bptt


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


RUN = """
import numpy as np, bptt
z, tape = bptt.forward(np.ones((3, 2, 2)), np.ones((2, 2)), np.eye(2))
bptt.backward(tape, np.ones((3, 2, 2)))
bptt.show_config()
"""

# An import hook stands for a package that was installed without its extension, or
# with one that does not load.
ABSENT = """
import sys, importlib.machinery
class Hook:
    def find_spec(name, path=None, target=None):
        if name == "bptt._kernels":
            {action}
sys.meta_path.insert(0, Hook)
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: {found}
"""


def test_numpy_can_be_forced():
    done = python(RUN, BPTT_BACKEND="numpy")
    assert done.returncode == 0, done.stderr
    assert "backend   numpy (forced by BPTT_BACKEND=numpy)" in done.stdout
    assert done.stderr == ""


def test_an_unknown_backend_is_an_error():
    done = python("import bptt", BPTT_BACKEND="cuda")
    assert "BPTT_BACKEND must be one of compiled, numpy; got 'cuda'" in done.stderr
    assert done.returncode == 1


def test_absent_kernels_are_replaced_with_one_warning():
    code = "import importlib.util\n" + ABSENT.format(
        action="raise AssertionError('the kernels must not be imported')",
        found="None if name == 'bptt._kernels' else find(name)",
    )
    done = python(code + RUN + RUN, BPTT_BACKEND="")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("bptt runs without its compiled kernels") == 1
    assert "numpy (the compiled kernels are not installed)" in done.stdout


def test_broken_kernels_are_an_error_and_not_replaced():
    code = "import importlib.util\n" + ABSENT.format(
        action="raise ImportError('undefined symbol: tanhf')",
        found="object() if name == 'bptt._kernels' else find(name)",
    )
    done = python(code + RUN, BPTT_BACKEND="")
    assert done.returncode == 1
    assert "undefined symbol: tanhf" in done.stderr


def test_config_is_printed(capsys):
    bptt.show_config()
    keys = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert keys[:2] == ["bptt", "backend"]
    assert {"threads", "numpy", "python", "machine"} <= set(keys)


@pytest.mark.parametrize("name", bptt.__all__)
def test_every_public_name_is_there(name):
    assert getattr(bptt, name) is not None
    assert name in dir(bptt)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'bptt' has no attribute 'backwards'"):
        bptt.backwards  # noqa: B018
