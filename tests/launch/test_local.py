"""Local processes: signals, exit codes and restarts, with programs of a few lines."""

from __future__ import annotations

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from qoq_jax.base.errors import ConfigError
from qoq_jax.launch import process
from qoq_jax.launch.engines import local
from qoq_jax.launch.spec import Job

REPOSITORY = pathlib.Path(__file__).parents[2]
BEGIN = "import os, pathlib, signal, sys, time; index = os.environ.get('QOQ_PROCESS_INDEX'); "
HEEDLESS = "signal.signal(signal.SIGTERM, signal.SIG_IGN); "
SLEEP = "print('up', flush=True); time.sleep(60)"


def job(program, count=2, **fields):
    command = shlex.join([sys.executable, "-c", BEGIN + program])
    return Job(name="a", command=command, topology=f"cpu:{count}", **fields)


def test_all_succeed(capfd):
    assert local.run(job("print('from', index)")) == 0
    assert sorted(capfd.readouterr().out.splitlines()) == ["[0] from 0", "[1] from 1"]


def test_errors_are_printed_with_the_process(capfd):
    assert local.run(job("sys.stderr.write('x' if index == '1' else '')")) == 0
    assert capfd.readouterr().out == "[1] x\n"


def test_the_processes_are_told_of_one_another(capfd):
    program = "print(os.environ['QOQ_COORDINATOR'], os.environ['QOQ_PROCESS_COUNT'])"
    assert local.run(job(program, count=3)) == 0
    lines = {line.partition("] ")[2] for line in capfd.readouterr().out.splitlines()}
    (line,) = lines
    assert line.startswith("localhost:") and line.endswith(" 3")


def test_one_process_is_a_plain_run(capfd, monkeypatch):
    for name in (process.COORDINATOR, process.COUNT, process.INDEX):
        monkeypatch.delenv(name, raising=False)
    assert local.run(job("print(index)", count=1)) == 0
    assert capfd.readouterr().out == "[0] None\n"


def test_the_code_is_that_of_the_process_that_failed_first(capfd):
    program = "sys.exit(3) if index == '1' else time.sleep(60)"
    start = time.monotonic()
    assert local.run(job(program)) == 3
    assert time.monotonic() - start < 30, "the other is not waited for"
    assert "process 1 ended with exit code 3" in capfd.readouterr().err


def test_the_others_get_sigterm_before_they_are_killed(tmp_path, capfd):
    save = "lambda *_: (print('saved', flush=True), sys.exit(143))"
    program = f"signal.signal(signal.SIGTERM, {save}); " + _fails_when_other_is_up(tmp_path, 5)
    assert local.run(job(program)) == 5
    assert "[0] saved" in capfd.readouterr().out


def test_a_process_that_is_killed_ends_the_run(capfd):
    program = "os.kill(os.getpid(), signal.SIGKILL) if index == '0' else time.sleep(60)"
    assert local.run(job(program)) == 128 + signal.SIGKILL
    assert "process 0 ended with signal 9" in capfd.readouterr().err


def test_a_stuck_process_is_killed_after_the_grace(tmp_path, capfd):
    program = HEEDLESS + _fails_when_other_is_up(tmp_path, 4)
    start = time.monotonic()
    assert local.run(job(program, grace=1)) == 4
    assert time.monotonic() - start < 30
    assert "1 did not end within 1 s: SIGKILL" in capfd.readouterr().err


def test_what_a_process_has_started_ends_with_it(tmp_path):
    program = (
        "import subprocess; child = subprocess.Popen([sys.executable, '-c', 'import time; "
        f"time.sleep(60)']); pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(child.pid))"
    )
    assert local.run(job(program, count=1)) == 0
    child = pathlib.Path("/proc", (tmp_path / "pid").read_text(), "stat")
    for _ in range(100):
        if not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child is alive")


def test_a_run_that_ends_with_42_is_started_again(tmp_path, capfd):
    program = (
        f"marks = pathlib.Path({str(tmp_path)!r}); (marks / str(os.getpid())).touch(); "
        "sys.exit(42 if len(list(marks.iterdir())) < 3 else 0)"
    )
    assert local.run(job(program, count=1)) == 0
    err = capfd.readouterr().err
    assert "exit code 42: restart 1 of 10" in err and "restart 2 of 10" in err
    assert len(list(tmp_path.iterdir())) == 3


def test_restarts_come_to_an_end(tmp_path, capfd):
    program = f"pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); sys.exit(42)"
    assert local.run(job(program, count=1, max_restarts=2)) == 42
    assert len(list(tmp_path.iterdir())) == 3
    assert "no restart is left" in capfd.readouterr().err


@pytest.mark.parametrize("code", [1, 2, 143])
def test_other_codes_are_not_started_again(code, tmp_path):
    program = f"pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); sys.exit({code})"
    assert local.run(job(program, count=1)) == code
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_all_processes(number, code):
    program = (
        "stop = lambda n, _: (print('got', n, flush=True), sys.exit(128 + n)); "
        "signal.signal(signal.SIGTERM, stop); signal.signal(signal.SIGINT, stop); " + SLEEP
    )
    found, text = _signalled(job(program), [number])
    assert found == code
    assert {f"[0] got {number}", f"[1] got {number}"} <= set(text.splitlines())


def test_a_second_signal_kills():
    found, text = _signalled(job(HEEDLESS + SLEEP, grace=1000), [signal.SIGTERM, signal.SIGTERM])
    assert found == 128 + signal.SIGKILL
    assert "SIGKILL to 2 processes" in text


def test_a_run_that_was_stopped_is_not_started_again():
    program = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(42)); " + SLEEP
    found, text = _signalled(job(program), [signal.SIGTERM])
    assert found == 42
    assert "restart" not in text


def test_render_shows_each_process():
    lines = local.render(job("pass", env={"A": "b c"})).splitlines()
    assert len(lines) == 2
    assert lines[1].startswith(
        "A='b c' QOQ_COORDINATOR=localhost:FREE_PORT QOQ_PROCESS_COUNT=2 QOQ_PROCESS_INDEX=1 "
    )


def test_the_workdir_goes_to_each_process_and_flags_of_the_compiler_too():
    workdir = "gs://b/r"
    one = Job(
        name="a",
        command="qoq train --config=c.py",
        topology="cpu:2",
        workdir=workdir,
        xla_flags="h100",
    )
    for line in local.render(one).splitlines():
        assert line.endswith(f"qoq train --config=c.py --config.workdir={workdir}")
        assert "XLA_FLAGS=" in line


def test_secrets_are_not_rendered(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "not-to-be-seen")
    assert "not-to-be-seen" not in local.render(job("pass", secrets=("HF_TOKEN",)))


def test_a_secret_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="HF_TOKEN"):
        local.run(job("pass", secrets=("HF_TOKEN",)), environment={"PATH": os.environ["PATH"]})


@pytest.mark.parametrize("topology", ["v5e:4x4", "cpu:0", "cpu:", "cpu:1x2"])
def test_other_topologies_are_refused(topology):
    with pytest.raises(ConfigError, match="topology"):
        local.run(Job(name="a", command="true", topology=topology))


def test_handlers_of_signals_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    local.run(job("pass", count=1))
    assert signal.getsignal(signal.SIGTERM) is before


def _fails_when_other_is_up(folder, code):
    """Process 0 sleeps; process 1 fails once 0 has come so far."""
    return (
        f"up = pathlib.Path({str(folder)!r}, 'up'); index == '0' and (up.touch(), time.sleep(60))"
        "\nwhile not up.exists(): time.sleep(0.05)"
        f"\nsys.exit({code})"
    )


def _signalled(one, numbers):
    """(exit code, output) of a job in a process of its own, which gets the signals one after the
    other as soon as all processes are up.
    """
    program = (
        "import sys; from qoq_jax.launch.engines import local; "
        f"from qoq_jax.launch.spec import Job; sys.exit(local.run({one!r}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        watch = threading.Timer(60, process.kill)
        watch.start()
        lines = []
        while sum(line.endswith("up\n") for line in lines) < 2:
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        for number in numbers:
            process.send_signal(number)
            # Two signals of one kind at the same time are one.
            while not any(f"{number.name} to" in line for line in lines):
                lines.append(process.stdout.readline())
                assert lines[-1], "".join(lines)
        text = "".join(lines) + process.stdout.read()
        code = process.wait()
        watch.cancel()
    return code, text
