"""No kernel touches a byte outside its arrays: they lie between unreadable pages."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bptt import _backend

PROGRAM = Path(__file__).with_name("guarded.py")
LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="mprotect of Linux"
)


def run(*arguments):
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@LINUX
@pytest.mark.parametrize("distance", ["1", "-1"])
def test_the_guards_stop_a_read_of_one_byte_too_far(distance):
    done = run("fault", distance)
    assert done.returncode == -signal.SIGSEGV
    assert len(done.stdout.splitlines()) == 1


@LINUX
@pytest.mark.skipif(_backend.backend == "numpy", reason="NumPy checks its bounds")
def test_500_shapes_between_guard_pages():
    done = run("0", "500")
    assert done.stdout == "500 shapes\n", (done.returncode, done.stderr)


@LINUX
@pytest.mark.skipif(_backend.backend == "numpy", reason="NumPy checks its bounds")
def test_batches_of_all_forms_between_guard_pages():
    done = run("runs", "0", "100")
    assert done.stdout == "100 runs\n", (done.returncode, done.stderr)
