"""The instruction sets: each can be forced, each gives the right results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

kernels = pytest.importorskip("bptt._kernels", exc_type=ImportError)
TESTS = Path(__file__).parent
FORCED = os.environ.get("BPTT_ISA")


def run(isa, *arguments, timeout=300):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "BPTT_ISA": isa, "BPTT_BACKEND": "compiled"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def active():
    return kernels.config()["isa"].split()[0]


def test_the_forced_one_is_active():
    assert active() == (FORCED or kernels.supported_isas()[0])


@pytest.mark.parametrize("isa", kernels.supported_isas())
def test_each_can_be_forced(isa):
    code = "import json, bptt; print(json.dumps(bptt._backend.config()))"
    done = run(isa, "-c", code)
    assert json.loads(done.stdout)["isa"].split()[0] == isa, done.stderr


@pytest.mark.parametrize("isa", kernels.supported_isas())
@pytest.mark.skipif(FORCED is not None, reason="this run is of one instruction set")
def test_the_kernels_are_right_under_each(isa):
    done = run(
        isa, "-m", "pytest", "-q", "-p", "no:cacheprovider",
        TESTS / "test_kernels.py", TESTS / "test_isa.py",
        TESTS / "test_places.py", TESTS / "test_flow_tangents.py",
        TESTS / "test_flow_exponents.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("isa", kernels.supported_isas())
@pytest.mark.skipif(FORCED is not None, reason="this run is of one instruction set")
def test_the_whole_suite_under_each(isa):
    done = run(isa, "-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS, timeout=1500)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("isa", ["sse9", "AVX2", "avx512 ", "\udcff"])
def test_an_unknown_one_is_an_error_that_lists_the_others(isa):
    done = run(isa, "-c", "import bptt")
    assert done.returncode == 1
    known = ", ".join(kernels.supported_isas())
    message = f"BPTT_ISA must be one of {known} on this machine; got {isa!r}"
    assert message in done.stderr


def test_the_baseline_is_always_there():
    assert kernels.supported_isas()[-1] == "base"
    assert active() in kernels.supported_isas()
