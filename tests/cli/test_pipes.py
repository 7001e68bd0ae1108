"""Commands whose output nobody reads to its end, as behind `| head`."""

import os
import pathlib
import subprocess
import sys

import pytest

from qoq_jax.base import exit_codes
from qoq_jax.cli import main as cli

REPOSITORY = pathlib.Path(__file__).parents[2]
JOB = REPOSITORY / "launch" / "jobs" / "qoq_med_7b_v5e_4x4.py"
PLAN = ["plan", f"--config={REPOSITORY / 'configs' / 'quickstart.py'}", "--topology=h100:1x1"]


LAUNCH = ["launch", str(JOB), "tpu-vm", "--dry-run"]


@pytest.mark.parametrize(
    ("unbuffered", "commands"),
    [
        ("", [["--help"], ["data", "list"], PLAN, LAUNCH]),
        ("1", [LAUNCH]),  # as in containers: the print fails, and not the flush at the end
    ],
)
def test_a_command_ends_without_a_word_when_its_reader_has_gone(unbuffered, commands):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": unbuffered}
    for words in commands:
        process = subprocess.Popen(
            [sys.executable, "-m", "qoq_jax.cli.main", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=REPOSITORY,
        )
        process.stdout.close()
        lines = process.stderr.read().decode().splitlines()
        process.stderr.close()
        # A launch notes what of a working tree is not committed.
        said = [line for line in lines if not line.startswith("qoq: note: ")]
        assert (process.wait(120), said) == (exit_codes.READER_GONE, []), words


def test_both_streams_may_go_to_the_reader():
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "qoq_jax.cli.main", "launch", "no_job.py", "slurm"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(words, stdout=write, stderr=write, env=environment)
    os.close(write)
    assert done.returncode == exit_codes.READER_GONE


def test_another_broken_pipe_is_not_taken_for_it(monkeypatch):
    def lost(*_):
        raise BrokenPipeError("a worker")

    monkeypatch.setattr("qoq_jax.cli.launch.load", lost)
    with pytest.raises(BrokenPipeError, match="a worker"):
        cli.main(["launch", "job.py", "local"])
