"""Ctrl-C: between two steps, with a checkpoint that continues to the same bits."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from command import WARNINGS
from processes import interrupt
from runs import make, make_streams, same_bits

from bptt.network import Network
from bptt.optimizers import SGD
from bptt.training import train

RUN = textwrap.dedent(
    """
    import sys
    import numpy as np
    from bptt.data import TokenStreams
    from bptt.network import Network
    from bptt.optimizers import Adam
    from bptt.training import train

    path, resume, slow = sys.argv[1], sys.argv[2] == "resume", sys.argv[3] == "slow"
    ids = np.random.default_rng(0).integers(0, 4, 20_000)
    network = Network(4, 6, 4, seed=0, stateful=True)
    lines = lambda record: print(record.step, flush=True) if slow else None
    try:
        train(
            network,
            TokenStreams(ids, length=50, batch_size=5),
            optimizer=Adam(0.01),
            steps=6000,
            clip=0.3,
            checkpoint=path,
            resume=resume,
            callbacks=[lines],
        )
    except KeyboardInterrupt:
        sys.exit(130)
    """
)


def start(path, *how):
    return subprocess.Popen(
        [sys.executable, *WARNINGS, "-c", RUN, str(path), *how],
        stdout=subprocess.PIPE,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        text=True,
    )


@contextlib.contextmanager
def killed_after(seconds, process):
    """End a process that has not ended by itself, so that reading from it ends too."""
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process")
def test_ctrl_c_in_a_process_and_resume_give_the_same_bits(tmp_path):
    with start(tmp_path / "whole.npz", "new", "fast") as process:
        assert process.wait(timeout=120) == 0

    stopped = tmp_path / "stopped.npz"
    with start(stopped, "new", "slow") as process, killed_after(60, process):
        while int(process.stdout.readline()) < 20:
            pass
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=120) == 130
    assert stopped.exists()
    with start(stopped, "resume", "fast") as process:
        assert process.wait(timeout=120) == 0

    assert stopped.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


def test_ctrl_c_waits_for_the_end_of_an_update(tmp_path):
    class Slow(SGD):
        def update(self, params, grads):
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.01)  # a signal is handled between two lines of Python
            super().update(params, grads)

    path, network = tmp_path / "run.npz", make()
    with pytest.raises(KeyboardInterrupt):
        train(network, make_streams(), optimizer=Slow(0.1), steps=3, checkpoint=path)
    same_bits(Network.load(path), network)
    assert (network.params["V"] != make().params["V"]).any()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_program_that_does_not_heed_the_signal_is_not_left_running():
    code = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(60)
"""
    with pytest.raises(subprocess.TimeoutExpired):
        interrupt(code, after=0, timeout=0.1)
    # Nor does it come up where the next test collects what is left.
    gc.collect()
