"""The process `qoq`."""

import subprocess
import sys

import pytest

from qoq_jax.base import exit_codes

SCRIPT = """
import atexit, sys
from qoq_jax.cli import main
atexit.register(print, "Python's way out")
print("said before")
main.main = lambda: int(sys.argv[1])
main.entry()
"""


@pytest.mark.parametrize("code", [exit_codes.DONE, exit_codes.FAILED, exit_codes.INTERRUPTED])
def test_only_an_interrupted_process_leaves_without_pythons_way_out(code):
    # where threads are in compiled code, that way may end in SIGSEGV in the place of code 130
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(code)], capture_output=True, text=True)
    lines = ["said before"] + ["Python's way out"] * (code != exit_codes.INTERRUPTED)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (code, lines, "")
