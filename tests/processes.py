"""Programs that are interrupted, for the tests."""

import signal
import subprocess
import sys
import time


def interrupt(code, after, timeout=60):
    """Run a program that says "ready", and interrupt it so many seconds after that.

    Assert that it found itself "usable" behind it, and return in how many seconds it
    was "interrupted", of which it says the time.
    """
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(after)
            sent = time.time()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=timeout)
        finally:
            process.kill()
    assert "usable" in output, errors
    return float(output.split()[1]) - sent
