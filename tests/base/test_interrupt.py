"""Ctrl-C: one line, code 130, within two seconds, while threads build data, pip runs and the main
thread is in compiled code.
"""

import os
import signal
import subprocess
import sys
import time

import pytest

# A main thread that does not come back to Python (a compilation), or that waits for a build which
# nothing stops.
SCRIPT = """
import concurrent.futures, os, sys, time
from qoq_jax.base import interrupt

def build():
    sleep = "import sys, time; open(sys.argv[1], 'w'); time.sleep(60)"
    interrupt.run([sys.executable, "-c", sleep, sys.argv[1]], timeout=60)

if sys.argv[2] == "overtaken":  # the main thread is faster than the thread of signals
    read = os.read
    interrupt.os.read = lambda *wanted: (read(*wanted), time.sleep(0.5))[0]

try:
    with interrupt.quick("stopped"):
        pool = concurrent.futures.ThreadPoolExecutor(1, initializer=interrupt.block)
        future = pool.submit(build)
        while True:
            try:
                open(sys.argv[1]).close()
                break
            except OSError:
                time.sleep(0.05)
        print("ready", flush=True)
        while sys.argv[2] == "compiled":
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                pass  # compiled code does not look
        future.result()
except KeyboardInterrupt:
    interrupt.leave(interrupt.CODE)  # as the command line does
"""


@pytest.mark.parametrize("where", ["compiled", "waiting", "overtaken"])
def test_an_interrupt_ends_the_command_at_once(where, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "child"), where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the command and to its children
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - began < 3 and process.returncode == 130 and said.strip() == "stopped"
    with pytest.raises(ProcessLookupError):  # no child is left
        for _ in range(20):
            os.killpg(process.pid, 0)
            time.sleep(0.1)
