"""The scripts that a TPU machine gets, run here: a job outlives the connection that started it."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import time

import pytest
from helpers.jobs import TPU

from qoq_jax.launch.engines import tpu_vm

# Says who it is, waits for the file `go` and ends with the code in it. It says what it reads.
QOQ = """#!/bin/bash
echo start >> "$HOME/starts"
echo "input <$(cat)>"
until [[ -e $HOME/go ]]; do sleep 0.05; done
echo "line of the job"
exit "$(cat "$HOME/go")"
"""


class Machine:
    """A home with what install.sh would have made."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        for folder in (".qoq", "qoq_jax/.venv/bin", "bin"):
            (home / folder).mkdir(parents=True)
        text = tpu_vm.render(dataclasses.replace(TPU, grace=1))
        for name, word in (("install", "INSTALL"), ("run", "RUN"), ("job", "JOB")):
            inner = text.split(f"<<'{word}'\n")[1].split(f"\n{word}\n")[0]
            (home / ".qoq" / f"{name}.sh").write_text(inner + "\n")
        (home / ".qoq/secrets.sh").touch()
        (home / "qoq_jax/.venv/bin/activate").touch()
        for name, body in (("qoq", QOQ), ("tar", "#!/bin/bash\ntouch $HOME/installed; exit 2\n")):
            (home / "bin" / name).write_text(body)
            (home / "bin" / name).chmod(0o755)

    def ssh(self, script: str, *words: str) -> subprocess.Popen:
        """Runs a script as a connection would, in a process group of its own."""
        return subprocess.Popen(
            ["bash", str(self.home / ".qoq" / script), *words],
            env={**os.environ, "HOME": str(self.home), "PATH": f"{self.home}/bin:/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, name: str) -> None:
        until = time.monotonic() + 20
        while not (self.home / name).exists():
            assert time.monotonic() < until, f"no {name}"
            time.sleep(0.02)

    def go(self, code: int) -> None:
        (self.home / "new").write_text(str(code))
        (self.home / "new").rename(self.home / "go")

    @property
    def starts(self) -> int:
        return (self.home / "starts").read_text().count("start")


@pytest.fixture
def machine(tmp_path):
    found = Machine(tmp_path / "home")
    yield found
    found.go(0)  # no job outlives its test


def lose(connection):
    """What a dropped connection leaves: nothing of what ssh has started."""
    os.killpg(connection.pid, signal.SIGKILL)
    connection.communicate(timeout=20)


def ended(connection):
    out, _ = connection.communicate(timeout=30)
    return connection.returncode, out


@pytest.mark.parametrize("code", [0, 1, 42])
def test_a_connection_shows_the_log_and_ends_with_the_code_of_the_job(code, machine):
    machine.go(code)
    found, out = ended(machine.ssh("job.sh", "one"))
    assert found == code
    assert "line of the job" in out
    assert "input <>" in out
    assert "line of the job" in (machine.home / ".qoq/log").read_text()


@pytest.mark.parametrize("name", ["one", "two"], ids=["same script", "another script"])
def test_a_lost_connection_ends_nothing_and_the_next_one_attaches(name, machine):
    first = machine.ssh("job.sh", "one")
    machine.wait_for("starts")
    lose(first)
    second = machine.ssh("job.sh", name)
    assert second.stdout.readline() == "qoq: attached to the job that runs here\n"
    machine.go(0)
    code, out = ended(second)
    assert (code, machine.starts) == (0, 1)
    assert "line of the job" in out


def test_a_job_that_ended_unseen_gives_its_code_once(machine):
    first = machine.ssh("job.sh", "one")
    machine.wait_for("starts")
    lose(first)
    machine.go(7)
    machine.wait_for(".qoq/code")
    assert ended(machine.ssh("job.sh", "one"))[0] == 7
    assert machine.starts == 1
    assert ended(machine.ssh("job.sh", "two"))[0] == 7
    assert machine.starts == 2


def test_only_the_lines_of_this_start_are_shown(machine):
    machine.go(0)
    ended(machine.ssh("job.sh", "one"))
    assert ended(machine.ssh("job.sh", "two"))[1].count("line of the job") == 1


def test_nothing_is_installed_under_a_job_that_runs(machine):
    first = machine.ssh("job.sh", "one")
    machine.wait_for("starts")
    assert ended(machine.ssh("install.sh"))[0] == 0
    assert not (machine.home / "installed").exists()
    machine.go(0)
    ended(first)
    assert ended(machine.ssh("install.sh"))[0] == 2
    assert (machine.home / "installed").exists()


def test_a_copy_over_the_script_of_a_job_does_not_change_it(machine):
    first = machine.ssh("job.sh", "one")
    machine.wait_for("starts")
    run = machine.home / ".qoq/run.sh"
    run.write_text("exit 99\n" * 200)
    machine.go(0)
    assert ended(first)[0] == 0


def test_what_the_last_job_left_behind_is_waited_for(machine):
    """A process that holds the lock beyond the grace: the machine's fault, to be tried again."""
    (machine.home / ".qoq/code").write_text("1\n")
    (machine.home / ".qoq/start").write_text("one\n")
    held = ["flock", str(machine.home / ".qoq/lock"), "sleep", "30"]
    with subprocess.Popen(held, start_new_session=True) as left:
        time.sleep(0.3)
        assert ended(machine.ssh("job.sh", "two"))[0] == 42
        os.killpg(left.pid, signal.SIGKILL)
    assert not (machine.home / "starts").exists()
