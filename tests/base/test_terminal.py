"""Bars and tables: drawn on a terminal, plain lines in a pipe; Ctrl-C leaves one line."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

TRAINING = """
from qoq_jax.train.log import Progress
progress = Progress("sft", 4)
for step in range(1, 5):
    progress.show(step, {"loss": f"{1 / step:.2f}"}, {"ct": 0.5})
    print("saved", step)
progress.close()
"""
TABLE = """
from qoq_jax.base import terminal
rows = [("ct", "12", "50.0%"), ("[bold]", "3", "2.0%")]
terminal.table("train", ("domain", "rows", "share"), rows, plain=["train: 15 rows"])
"""
STUCK = """
import sys, time
from qoq_jax.base import interrupt, terminal
try:
    with interrupt.quick("stopped"):
        bar = terminal.Bar("sft", 10)
        bar.update(3, "loss 1")
        print("ready", flush=True)
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                if sys.argv[1] == "waiting":
                    raise
except KeyboardInterrupt:
    interrupt.leave(interrupt.CODE)
"""


class Screen:
    """A process whose output is a terminal of 100 columns, and all that it has written there."""

    def __init__(self, script, *arguments, term="xterm"):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=os.environ | {"TERM": term},
            start_new_session=True,
        )
        os.close(theirs)
        self._terminal, self.written = ours, ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while content := os.read(self._terminal, 4096):
                self.written += content.decode(errors="replace")
        except OSError:  # the other side is closed
            pass
        os.close(self._terminal)

    def wait_for(self, text):
        until = time.monotonic() + 30
        while text not in self.written:
            assert time.monotonic() < until, self.written
            time.sleep(0.02)

    def end(self):
        """The exit code, and what was written without control sequences."""
        code = self.process.wait(60)
        self._reader.join(10)
        text = self.written.replace("\r", "").replace("\x1b[2K", "\n")  # a line is wiped
        return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def piped(script, **environment):
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=True,
    )
    return done.stdout


def test_progress_in_a_pipe_is_one_line_a_step():
    lines = piped(TRAINING, FORCE_COLOR="1", TTY_COMPATIBLE="1").splitlines()
    assert lines[:3] == ["sft 1/4  left 0s  loss 1.00", "  reward: ct 0.50", "saved 1"]
    assert lines[3:] == [
        line
        for step, loss in ((2, "0.50"), (3, "0.33"), (4, "0.25"))
        for line in (f"sft {step}/4  left 0s  loss {loss}", f"saved {step}")
    ]


def test_progress_on_a_terminal_is_a_bar_and_one_line_stays():
    code, seen = Screen(TRAINING).end()
    assert code == 0 and "━" in seen and "4/4" in seen and "reward: ct 0.50" in seen
    lines = [line for line in seen.splitlines() if line.strip()]
    assert lines[-1] == "sft 4/4  left 0s  loss 0.25"
    assert [line for line in lines if line.startswith("saved")] == [
        f"saved {step}" for step in range(1, 5)
    ]


def test_a_simple_terminal_gets_the_lines_of_a_pipe():
    assert Screen(TRAINING, term="dumb").end() == (0, piped(TRAINING))


def test_a_table_is_drawn_on_a_terminal_alone():
    assert piped(TABLE) == "train: 15 rows\n"
    code, seen = Screen(TABLE).end()
    assert code == 0 and "[bold]" in seen and "train: 15 rows" not in seen
    assert re.search(r"ct +12 +50\.0%", seen) and re.search(r"\[bold\] +3 +2\.0%", seen)


@pytest.mark.parametrize("where", ["compiled", "waiting"])
def test_an_interrupt_wipes_the_bar_and_leaves_one_line(where):
    screen = Screen(STUCK, where)
    screen.wait_for("ready")
    began = time.monotonic()
    os.killpg(screen.process.pid, signal.SIGINT)
    code, seen = screen.end()
    assert code == 130 and time.monotonic() - began < 3
    assert seen.splitlines()[-1] == "stopped" and seen.count("stopped") == 1
    assert "\x1b[?25l" not in screen.written  # the cursor is never hidden
