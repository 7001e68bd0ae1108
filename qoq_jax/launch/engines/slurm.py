"""SLURM: a batch script (slurm.schedmd.com/sbatch.html).

On several nodes each GPU has a process of its own, and JAX reads from SLURM's environment who the
others are; on one node, and on each node for a sweep that shares out its runs, a single process has
all GPUs. The script puts the job back into the queue
when it ends with a code of process.RESTART.

Of several processes srun gives the highest exit code (slurm.schedmd.com/srun.html), and those that
lost a peer end with higher ones than the peer that failed. So each runs in a shell that lifts the
codes of process.FAIL above all others, and the script takes that off again.
"""

from __future__ import annotations

import math
import shlex

from qoq_jax.launch import place, process
from qoq_jax.launch.spec import Job

SUFFIX = ".sbatch"
_LIFT = 200  # above 128 + 64, the last signal; with a code of process.FAIL at most 255
DEVICES = ("a100", "h100", "h200", "b200")


def render(job: Job) -> str:
    """The batch script. Submit it in the repository; secrets come from the submitting shell."""
    at = place.of(job)
    tasks = at.per_host if at.hosts > 1 and not process.shares_out(job.command) else 1
    options = {
        "job-name": job.name,
        "partition": job.partition,
        "account": job.account,
        "reservation": job.reservation,
        "nodes": at.hosts,
        "ntasks-per-node": tasks,
        "gpus-per-node": at.per_host,
        "time": _time(job.hours) if job.hours else "",
        "signal": f"TERM@{job.grace}",  # before the time is up, to the processes
        "output": f"{job.name}.log",
        "open-mode": "append",
    }
    head = "".join(f"#SBATCH --{name}={value}\n" for name, value in options.items() if value != "")
    head += "#SBATCH --requeue\n" + "#SBATCH --exclusive\n" * (at.hosts > 1)
    secrets = "".join(f': "${{{name}:?must be set where sbatch runs}}"\n' for name in job.secrets)
    codes, failures = (" | ".join(map(str, one)) for one in (process.RESTART, process.FAIL))
    return f"""#!/usr/bin/env bash
{head}
# {process.headline(job, "slurm")}.
set -uo pipefail
cd "$SLURM_SUBMIT_DIR" || exit {process.FAIL[1]}
{secrets}{process.exports(job)}
# scancel and preemption signal this script too: SLURM then knows what comes next, and the script
# asks for nothing. The limit of time reaches the processes alone.
stopped=
trap 'stopped=yes' TERM

# srun gives the highest code of its tasks: failures are lifted above all others on their way here.
# SIGTERM reaches the processes too, and the shell around each waits for what it makes of it.
task=$(cat <<'TASK'
trap : TERM
"$@"
code=$?
case $code in
  {failures}) exit $((code + {_LIFT})) ;;
esac
exit "$code"
TASK
)
# No task is bound to one CPU: the data pipeline has workers.
srun {_srun(job)}bash -c "$task" task \\
  {process.line(job, at.hosts > 1)} &
step=$!
wait "$step"
code=$?
if [[ $stopped ]]; then # the wait was cut short; the processes may still save
  wait "$step"
  exit {process.RESTART[-1]}
fi
if ((code > {_LIFT})); then
  exit $((code - {_LIFT}))
fi
case $code in
  {codes})
    if ((${{SLURM_RESTART_COUNT:-0}} < {job.max_restarts})); then
      echo "qoq: ended with code $code; back into the queue"
      scontrol requeue "$SLURM_JOB_ID"
    fi
    ;;
esac
exit "$code"
"""


def commands(job: Job, action: str) -> list[list[str]]:
    """Command lines of an action; process.FILE stands for the rendered script."""
    return [
        {
            "submit": ["sbatch", process.FILE],
            "status": ["squeue", "--me", f"--name={job.name}"],
            "logs": ["tail", "-n", "200", "-F", f"{job.name}.log"],
            "delete": ["scancel", "--me", f"--name={job.name}"],
        }[action]
    ]


def _time(hours: float) -> str:
    """HOURS:MINUTES:00."""
    minutes = math.ceil(hours * 60)
    return f"{minutes // 60}:{minutes % 60:02d}:00"


def _srun(job: Job) -> str:
    """Options of srun; an image runs through Pyxis (github.com/NVIDIA/pyxis)."""
    words = ["--cpu-bind=none", "--kill-on-bad-exit=0"]
    if job.image:
        words += [f"--container-image={job.image}", "--container-workdir=/mnt"]
        mounts = "$SLURM_SUBMIT_DIR:/mnt"
        if (workdir := process.workdir(job)).startswith("/"):
            mounts += f",{workdir}:{workdir}"
        return f'{shlex.join(words)} --container-mounts="{mounts}" '
    return shlex.join(words) + " "
