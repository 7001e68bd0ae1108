"""Rendered scripts run with the programs of their engines replaced: what is started again, and
what is not.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.jobs import GPU, SLICES, TPU

from qoq_jax.base import exit_codes
from qoq_jax.launch.engines import slurm, tpu_vm

# Starts a command in a process group of its own, whose number is in the file `group`.
ALONE = (
    f"exec {sys.executable} -c 'import os, pathlib, sys; os.setpgrp(); "
    'pathlib.Path(os.environ["HERE"], "group").write_text(str(os.getpid())); '
    "os.execvp(sys.argv[1], sys.argv[1:])'"
)


@pytest.fixture
def machine(tmp_path):
    """Puts programs before all others; returns (add, run, calls)."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def add(name, body):
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "$HERE/calls"\n{body}\n')
        path.chmod(0o755)

    def start(text, **env):
        script = tmp_path / "script.sh"
        script.write_text(text)
        around = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "HERE": str(tmp_path),
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "17",
            "HF_TOKEN": "a b'c",
            "WANDB_API_KEY": "d",
            **env,
        }
        return subprocess.Popen(["bash", str(script)], env=around, stderr=subprocess.PIPE)

    def words(text, **env):
        """(exit code, what it says on standard error)."""
        process = start(text, **env)
        _, said = process.communicate(timeout=60)
        return process.returncode, said.decode()

    def run(text, **env):
        return words(text, **env)[0]

    def calls():
        path = tmp_path / "calls"
        return path.read_text() if path.exists() else ""

    (tmp_path / "sent").mkdir()
    add.start, add.run, add.run_words, add.calls, add.folder = start, run, words, calls, tmp_path
    return add


# ------------------------------------------------------------------------------------------- SLURM


@pytest.mark.parametrize(
    ("code", "again"),
    [
        (exit_codes.DONE, False),
        (exit_codes.FAILED, False),
        (exit_codes.MISTAKE, False),
        (exit_codes.RETRY, True),
        (134, True),
        (137, True),
        (exit_codes.PREEMPTED, True),
    ],
)
def test_slurm_requeues_by_the_exit_code(code, again, machine):
    machine("srun", f"exit {code}")
    machine("scontrol", "")
    assert machine.run(slurm.render(GPU)) == code
    assert ("scontrol requeue 17" in machine.calls()) == again


# Runs the job's shell once for each of $CODES, and ends with the highest code, as srun does.
SRUN = """
until [[ $1 == bash ]]; do shift; done
highest=0
for one in $CODES; do
  CODE=$one "$@"
  code=$?
  ((code > highest)) && highest=$code
done
exit "$highest"
"""


@pytest.mark.parametrize(
    ("codes", "code", "again"),
    [
        ("0 0", 0, False),
        ("1 134", exit_codes.FAILED, False),  # JAX ends those that lost the one that failed
        ("2 143 42", exit_codes.MISTAKE, False),
        ("42 143", exit_codes.PREEMPTED, True),
        ("137 134", 137, True),
    ],
)
def test_slurm_knows_a_failure_among_those_that_lost_a_peer(codes, code, again, machine):
    machine("srun", SRUN)
    machine("qoq", "exit $CODE")
    machine("scontrol", "")
    assert machine.run(slurm.render(GPU), CODES=codes) == code
    assert ("scontrol requeue 17" in machine.calls()) == again


def test_slurm_gives_a_process_the_time_to_save(machine):
    """SLURM signals all processes of a task, the shell around it too."""
    machine("srun", f'until [[ $1 == bash ]]; do shift; done; {ALONE} "$@"')
    stop = 'trap \'sleep 1; touch "$HERE/saved"; exit 143\' TERM; touch "$HERE/started"'
    machine("qoq", f"{stop}; while true; do sleep 0.1; done")
    machine("scontrol", "")
    process = machine.start(slurm.render(GPU))
    while not (machine.folder / "started").exists():
        time.sleep(0.02)
    os.killpg(int((machine.folder / "group").read_text()), signal.SIGTERM)
    with process.stderr:
        assert process.wait(30) == exit_codes.PREEMPTED
    assert (machine.folder / "saved").exists()
    assert "scontrol requeue 17" in machine.calls()


def test_slurm_stops_at_max_restarts(machine):
    machine("srun", "exit 42")
    machine("scontrol", "")
    job = dataclasses.replace(GPU, max_restarts=3)
    assert machine.run(slurm.render(job), SLURM_RESTART_COUNT="3") == 42
    assert "scontrol" not in machine.calls()


def test_a_cancelled_job_is_not_requeued_and_may_save(machine):
    """scancel signals the script too."""
    machine("srun", 'touch "$HERE/started"; sleep 1; touch "$HERE/saved"; exit 143')
    machine("scontrol", "")
    process = machine.start(slurm.render(GPU))
    while not (machine.folder / "started").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == exit_codes.PREEMPTED
    assert (machine.folder / "saved").exists()
    assert "scontrol" not in machine.calls()


def test_slurm_wants_the_secrets(machine):
    machine("srun", "")
    assert machine.run(slurm.render(GPU), HF_TOKEN="") != 0
    assert "srun" not in machine.calls()


# ------------------------------------------------------------------------------------------ TPU VM

# States of the machines, and exit codes of the job, are read from files, a line at a time.
GCLOUD = r"""
next() { head -n 1 "$HERE/$1"; sed -i 1d "$HERE/$1"; }
case "$*" in
  *describe*)
    echo "describe" >> "$HERE/asked"
    if [[ -e $HERE/silent ]]; then echo "ERROR: Reauthentication failed." >&2; exit 1; fi
    cat "$HERE/state" 2> /dev/null || { echo "ERROR: NOT_FOUND: one" >&2; exit 1; } ;;
  *" create "*) echo ACTIVE > "$HERE/state" ;;
  *" delete "*) rm "$HERE/state" ;;
  *scp*) cp "${@:5:6}" "$HERE/sent" ;;
  *job.sh*) (flock 9; code=$(next codes); exit "$code") 9> "$HERE/lock" ;;
esac
"""


@pytest.fixture
def cloud(machine):
    machine("gcloud", GCLOUD)
    machine("git", 'touch "${3#--output=}"')
    machine("sleep", "")

    def words(job, *codes, state=""):
        (machine.folder / "codes").write_text("".join(f"{code}\n" for code in codes))
        if state:
            (machine.folder / "state").write_text(state)
        return machine.run_words(tpu_vm.render(job))

    machine.job, machine.words = lambda *job, **state: words(*job, **state)[0], words
    return machine


@pytest.mark.parametrize("code", [exit_codes.FAILED, exit_codes.MISTAKE, 124])
def test_a_failure_ends_the_script(code, cloud):
    assert cloud.job(TPU, code, 0) == code
    assert cloud.calls().count("bash ~/.qoq/job.sh") == 1


@pytest.mark.parametrize("code", [exit_codes.RETRY, 134, 137, exit_codes.PREEMPTED, 141, 255])
def test_a_lost_machine_is_tried_again(code, cloud):
    assert cloud.job(TPU, code, 0) == 0
    assert cloud.calls().count("bash ~/.qoq/job.sh") == 2


@pytest.mark.parametrize(("code", "same"), [(141, True), (255, True), (exit_codes.RETRY, False)])
def test_a_lost_connection_asks_for_the_same_start(code, same, cloud):
    """The machines know the exit code of a start that ended while nobody was connected."""
    assert cloud.job(TPU, code, 0) == 0
    first, second = re.findall(r"bash ~/\.qoq/job\.sh (\S+)", cloud.calls())
    assert (first == second) == same


def test_new_machines_get_a_new_start(cloud):
    ends = "code=$(next codes);"
    cloud("gcloud", GCLOUD.replace(ends, ends + ' ((code)) && rm "$HERE/state";'))
    assert cloud.job(TPU, 255, 0) == 0
    first, second = re.findall(r"bash ~/\.qoq/job\.sh (\S+)", cloud.calls())
    assert first != second


@pytest.mark.parametrize("code", [1, 2])
def test_an_installation_that_fails_ends_the_script(code, cloud):
    cloud("gcloud", GCLOUD.replace("  *job.sh*)", f"  *install.sh*) exit {code} ;;\n  *job.sh*)"))
    assert cloud.job(TPU, 0) == code
    assert cloud.calls().count("bash ~/.qoq/install.sh") == 1
    assert "bash ~/.qoq/job.sh" not in cloud.calls()


def test_a_connection_lost_while_installing_is_tried_again(cloud):
    once = 'if [[ ! -e $HERE/once ]]; then touch "$HERE/once"; exit 255; fi'
    cloud("gcloud", GCLOUD.replace("  *job.sh*)", f"  *install.sh*) {once} ;;\n  *job.sh*)"))
    assert cloud.job(TPU, 0) == 0
    assert cloud.calls().count("bash ~/.qoq/install.sh") == 2


def test_restarts_are_counted(cloud):
    job = dataclasses.replace(TPU, max_restarts=2)
    assert cloud.job(job, *[42] * 5) == 42
    assert cloud.calls().count("bash ~/.qoq/job.sh") == 3


def test_machines_are_created_once(cloud):
    assert cloud.job(TPU, 42, 0) == 0
    assert cloud.calls().count("queued-resources create") == 1


def test_machines_that_were_taken_away_are_created_again(cloud):
    assert cloud.job(TPU, 0, state="SUSPENDED") == 0
    calls = cloud.calls()
    assert calls.index("queued-resources delete") < calls.index("queued-resources create")


def test_code_1_of_gcloud_without_machines_is_no_failure_of_the_job(cloud):
    ends = "code=$(next codes);"
    cloud("gcloud", GCLOUD.replace(ends, ends + ' ((code)) && rm "$HERE/state";'))
    assert cloud.job(TPU, 1, 0) == 0
    assert cloud.calls().count("queued-resources create") == 2


def test_a_preemption_may_show_in_the_state_later_than_in_the_code(cloud):
    """gcloud ends with 1 at once; half a minute later the machines are known to be gone."""
    ends = "code=$(next codes);"
    cloud("gcloud", GCLOUD.replace(ends, ends + ' ((code)) && touch "$HERE/taken";'))
    cloud("sleep", 'rm "$HERE/taken" 2> /dev/null && echo SUSPENDED > "$HERE/state"')
    assert cloud.job(TPU, 1, 0, state="ACTIVE") == 0
    assert cloud.calls().count("bash ~/.qoq/job.sh") == 2


def test_an_expired_login_is_not_taken_for_machines_that_are_gone(cloud):
    (cloud.folder / "silent").touch()
    code, said = cloud.words(TPU, 0)
    assert code == 1
    assert "Reauthentication failed" in said
    assert "nothing is known of qoq-med-7b" in said
    assert "create" not in cloud.calls()
    assert (cloud.folder / "asked").read_text().count("describe") == 10


def test_a_state_that_is_told_the_next_time_is_waited_for(cloud):
    (cloud.folder / "silent").touch()
    cloud("sleep", 'rm -f "$HERE/silent"')
    assert cloud.job(TPU, 0, state="ACTIVE") == 0
    assert "create" not in cloud.calls()


def test_a_request_that_failed_ends_the_script(cloud):
    assert cloud.job(TPU, 0, state="FAILED") == 1
    assert "bash ~/.qoq/job.sh" not in cloud.calls()


def test_all_slices_run_and_a_failure_counts_more_than_a_restart(cloud):
    assert cloud.job(SLICES, 42, 1) == 1
    assert cloud.calls().count("bash ~/.qoq/job.sh") == 2


def test_secrets_go_by_file_and_arrive_as_they_are(cloud):
    assert cloud.job(TPU, 0) == 0
    assert "a b'c" not in cloud.calls()
    read = f'. {cloud.folder}/sent/secrets.sh; printf %s "$HF_TOKEN"'
    assert subprocess.run(["bash", "-c", read], capture_output=True, text=True).stdout == "a b'c"


def test_a_secret_that_is_not_there_is_named_before_anything_is_created(cloud):
    process = cloud.start(tpu_vm.render(TPU), WANDB_API_KEY="")
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"WANDB_API_KEY must be set in this shell" in err
    assert "gcloud" not in cloud.calls()
