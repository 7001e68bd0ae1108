"""Bars, curves and tables: drawn on a terminal, plain lines in a pipe; Ctrl-C leaves one line."""

import io
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from helpers.screen import Screen
from rich import console

from qoq_jax.base import terminal
from qoq_jax.parallel import memory
from qoq_jax.train import log

TRAINING = """
from qoq_jax.train.log import Progress
progress = Progress("sft", 4)
for step in range(1, 5):
    domains = {"mri": 0.5, "ct": step / 4}
    progress.show(step, {"loss": f"{1 / step:.2f}"}, domains, about="4.0 steps/s")
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
    assert lines[:3] == ["sft 1/4  left 0s  loss 1.00", "  reward: mri 0.50  ct 0.25", "saved 1"]
    assert lines[3:] == [
        line
        for step, loss in ((2, "0.50"), (3, "0.33"), (4, "0.25"))
        for line in (f"sft {step}/4  left 0s  loss {loss}", f"saved {step}")
    ]


def test_progress_on_a_terminal_is_a_bar_and_one_line_stays():
    code, seen = Screen(TRAINING).end()
    assert code == 0 and "━" in seen and re.search(r"4/4 ETA \d\d:\d\d", seen)
    assert "\n  4.0 steps/s\n" in seen.replace(" \n", "\n")
    assert "reward by domain, 0.250 to 1.000" in seen
    assert re.search(r"ct +▁▃▆█ +1\.000 +mri +▃▃▃▃ +0\.500", seen)
    lines = [line for line in seen.splitlines() if line.strip()]
    assert lines[-1] == "sft 4/4  left 0s  loss 0.25"
    assert [line for line in lines if line.startswith("saved")] == [
        f"saved {step}" for step in range(1, 5)
    ]


def test_the_time_left_follows_from_the_steps_that_are_done():
    now = 0.0
    out = console.Console(file=io.StringIO(), width=60, color_system=None)
    with terminal.off_screen(lambda: now):
        progress = log.Progress("rl", 100)
        for step in range(1, 11):
            now = 10.0 * step
            progress.show(step, {"reward": "0.50"}, {"ct": step / 10})
        out.print(terminal.picture())
    lines = out.file.getvalue().splitlines()
    assert "10/100 ETA 15:00" in lines[0] and lines[1].strip() == "reward 0.50"


def test_rates_are_said_the_short_way_round():
    assert (log.rate(0.25), log.rate(12.0), log.rate(None)) == ("4.0 steps/s", "12.0 s/step", "")


def drawn(panel, width, encoding="utf-8"):
    """The lines of a panel on a terminal of this width."""
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    console.Console(file=out, width=width, force_terminal=True, color_system=None).print(panel)
    out.seek(0)
    return [line.rstrip() for line in out.read().splitlines()]


CURVES = {"ct": [0.0, 0.5, 1.0], "chest_xray": [0.5] * 200, "mri": [1.0, float("nan"), 0.0]}


@pytest.mark.parametrize(("width", "lines"), [(30, 3), (80, 2), (140, 1)])
def test_curves_stand_beside_each_other_where_there_is_room(width, lines):
    found = drawn(terminal.Panel((), "reward", CURVES), width)
    assert len(found) == 1 + lines and max(map(len, found)) <= width
    text = "\n".join(found)
    assert "▁▅█  1.000" in text and "█ ▁  0.000" in text and "reward, 0.000 to 1.000" in text
    assert re.search("▅{6,40}  0.500", text)


def test_a_long_fact_is_cut_and_a_panel_without_numbers_has_no_curves():
    assert drawn(terminal.Panel(("x" * 200,)), 40) == ["  " + "x" * 37 + "…"]
    assert drawn(terminal.Panel((), "loss", {"loss": [float("nan")]}), 40) == []


def test_a_terminal_without_blocks_gets_ascii():
    assert drawn(terminal.Panel((), "", {"ct": [0.0, 1.0]}), 60, "ascii")[-1].endswith("_#  1.000")


def test_a_sparkline_is_the_mean_of_what_a_column_holds():
    assert terminal.sparkline([0, 0, 1, 1], 0, 1, 2) == "▁█"
    assert terminal.sparkline([0, 1] * 50, 0, 1, 10) == "▅" * 10
    assert (
        terminal.sparkline([3.0], 3.0, 3.0, 4) == "   ▁"
        and terminal.sparkline([], 0, 1, 3) == "   "
    )


def test_memory_of_devices_is_that_of_the_fullest(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    stats = [None, {"bytes_in_use": 3, "bytes_limit": 16}, {"bytes_in_use": 8, "bytes_limit": 16}]
    monkeypatch.setattr(jax, "local_devices", lambda: list(map(Device, stats)))
    assert memory.device_bytes() == (8, 16)
    assert memory.line().endswith("GB  device 0.0 of 0.0 GB")
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(None)])
    assert memory.device_bytes() is None and "device" not in memory.line()


def test_memory_of_the_host_grows_with_what_is_held():
    before = memory.host_bytes()
    held = np.ones(50_000_000, np.uint8)
    assert memory.host_bytes() - before > 0.8 * held.nbytes


def test_a_simple_terminal_gets_the_lines_of_a_pipe():
    assert Screen(TRAINING, term="dumb").end() == (0, piped(TRAINING))


def test_a_table_is_drawn_on_a_terminal_alone():
    assert piped(TABLE) == "train: 15 rows\n"
    code, seen = Screen(TABLE).end()
    assert code == 0 and "[bold]" in seen and "train: 15 rows" not in seen
    assert re.search(r"ct +12 +50\.0%", seen) and re.search(r"\[bold\] +3 +2\.0%", seen)


def test_on_a_narrow_terminal_columns_move_together_before_words_break():
    wide, narrow = (Screen(TABLE, columns=columns).end()[1] for columns in (40, 24))
    assert re.search(r"ct {5,}12", wide) and re.search(r"domain +rows +share", narrow)
    assert max(map(len, narrow.splitlines())) <= 24, repr(narrow)


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
