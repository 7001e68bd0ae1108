"""The process `qoq`."""

import subprocess
import sys

import pytest

from qoq_jax.base import exit_codes

# What takes the interpreter apart would say so.
SCRIPT = """
import atexit, sys, threading, time
from qoq_jax.cli import main
class Kept:
    def __del__(self):
        print("taken apart")
kept = Kept()
atexit.register(print, "registered")
threading.Thread(target=lambda: (time.sleep(0.3), print("a thread"))).start()
print("said before")
main.main = lambda: int(sys.argv[1])
main.entry()
"""


@pytest.mark.parametrize("code", [exit_codes.DONE, exit_codes.FAILED, exit_codes.INTERRUPTED])
def test_a_process_ends_with_what_is_registered_but_after_ctrl_c(code):
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(code)], capture_output=True, text=True)
    lines = ["said before"]
    if code != exit_codes.INTERRUPTED:
        lines += ["a thread", "registered"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (code, lines, "")
