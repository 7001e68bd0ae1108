"""Cloud TPU VMs through queued resources: a shell script of gcloud commands.

It creates the machines, copies the repository's last commit to them, runs the command on all, and
starts again what was preempted (docs.cloud.google.com/tpu/docs/queued-resources). The machines
stay until they are deleted.

The command runs detached from ssh, which only waits for it and shows its log: a connection that
drops ends nothing, and the next one finds the job that runs, or the exit code of one that ended.
"""

from __future__ import annotations

import shlex

from qoq_jax.base import exit_codes
from qoq_jax.launch import place, process
from qoq_jax.launch.place import Place
from qoq_jax.launch.spec import Job

SUFFIX = ".sh"
# TPU software of a generation (docs.cloud.google.com/tpu/docs/runtimes), the accelerator type, and
# what its number counts: cores of v4 and v5p, two a chip, and chips of the others.
_RUNTIME = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
_TYPE = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}
DEVICES = tuple(_TYPE)
_MOST_UNKNOWN = 10  # times, half a minute apart, that Google may not say a state
# What a host does with the lock: a job that runs holds it, and has left no exit code yet.
_RUNS = """mkdir -p ~/.qoq
exec 9>> ~/.qoq/lock
runs() {
  [[ ! -e ~/.qoq/code ]] && ! flock --nonblock 9
}
"""
# Starts the job, or finds the one that runs or has ended; $1 names the start.
_ATTACH = r"""
cd ~/.qoq
touch log
show=--lines=20
if runs; then
  echo "qoq: attached to the job that runs here"
elif [[ -e code && $(cat start) == "$1" ]]; then
  echo "qoq: the job has ended"
else
  # What an ended job has left behind may hold the TPU.
  flock --wait {grace} --conflict-exit-code {retry} 9
  rm -f code
  echo "$1" > start
  show=--bytes=+$(($(wc -c < log) + 1))
  setsid nohup bash run.sh < /dev/null >> log 2>&1 &
  echo "$!" > pid
fi
exec 9>&- # the job keeps it
tail "$show" --follow=name --pid="$(cat pid)" log
if [[ -e code ]]; then
  exit "$(cat code)"
fi
exit 137 # killed, the shell around it too
"""

# Functions of the script.
_FUNCTIONS = r"""# ABSENT when Google says so; UNKNOWN when it says nothing, as to an expired login.
state() {
  "${tpus[@]}" queued-resources describe "$name" "${where[@]}" \
    --format='value(state.state)' 2> "$private/error" && return
  if grep -q NOT_FOUND "$private/error"; then
    echo ABSENT
  else
    cat "$private/error" >&2
    echo UNKNOWN
  fi
}

on_all() { # NODE COMMAND
  "${tpus[@]}" tpu-vm ssh "$1" "${where[@]}" --worker=all --command="$2"
}

install() {
  local node
  for node in "${nodes[@]}"; do
    on_all "$node" 'mkdir -p -m 700 ~/.qoq' || return 255
    "${tpus[@]}" tpu-vm scp "$private"/* "$node:.qoq/" "${where[@]}" --worker=all || return 255
    on_all "$node" 'bash ~/.qoq/install.sh' || return
  done
}

# Names a start of the job; the machines keep the exit code of the last one under it.
new_start() {
  start=$(date +%s)-$RANDOM
}

# The exit code is that of a failure where there is one, else of a process to start again.
run() {
  local node pid one code=0 pids=()
  for node in "${nodes[@]}"; do
    on_all "$node" "bash ~/.qoq/job.sh $start" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    one=0
    wait "$pid" || one=$?
    case $one in
      0) ;;
      1 | 2) code=$one; break ;;
      *) code=$one ;;
    esac
  done
  wait
  return "$code"
}
"""


def accelerator_type(at: Place) -> str:
    """ "v5litepod-16" of v5e:4x4."""
    name, count = _TYPE[at.device]
    return f"{name}-{at.slice_chips * count}"


def _kind(at: Place) -> list[str]:
    """Options that say the slice: above a cube of 64 chips several shapes have as many."""
    if len(at.shape) == 3 and at.slice_chips > 64:
        return [f"--type={_TYPE[at.device][0]}", f"--topology={at.grid}"]
    return [f"--accelerator-type={accelerator_type(at)}"]


def runtime(job: Job, at: Place) -> str:
    """TPU software version: the job's, or that of the generation."""
    return job.runtime or _RUNTIME[at.device]


def nodes(job: Job) -> list[str]:
    """Names of the TPU nodes, one a slice."""
    if job.slices == 1:
        return [job.name]
    return [f"{job.name}-{i}" for i in range(job.slices)]


def install(extras: str) -> str:
    """Lines of a shell that install the repository in the current folder, in the versions of
    constraints.txt: a job that starts again finds the same. They are for Python 3.11; that of a
    TPU's image (3.10) is too old.
    """
    return f"""python3 -m pip install --quiet --user uv
test -d .venv || ~/.local/bin/uv venv --quiet --python 3.11
~/.local/bin/uv pip install --quiet --python .venv/bin/python \\
  --constraints constraints.txt --editable '.[{extras}]'
"""


def render(job: Job) -> str:
    """The script. Run it from the repository, in tmux or screen: it stays until the job ends."""
    at = place.of(job)
    create = [*_kind(at), f"--runtime-version={runtime(job, at)}"]
    if job.slices == 1:
        create.append(f"--node-id={job.name}")
    else:
        create += [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
    create += ["--spot"] * job.spot + ["--reserved"] * bool(job.reservation)
    restart = " | ".join(map(str, process.RESTART))
    return f"""#!/usr/bin/env bash
# {process.headline(job, "tpu-vm")}.
# Run it at the root of the repository, in tmux or screen: it stays until the job ends. The machines
# stay too, and cost, until `qoq launch ... --action delete`.
set -euo pipefail

name={job.name}
nodes=({" ".join(nodes(job))})
where=(--project={shlex.quote(job.project)} --zone={shlex.quote(job.zone)} --quiet)
tpus=(gcloud compute tpus)

private=$(mktemp -d)  # for this user alone
trap 'rm -rf "$private"' EXIT
git archive --format=tar.gz --output="$private/source.tar.gz" HEAD
{_secrets(job)}
{_host_scripts(job, at)}
{_FUNCTIONS}
# Creates the machines where there are none, and waits until they are ready.
provision() {{
  local unknown=0
  while true; do
    case $(state) in
      ACTIVE) return ;;
      ABSENT)
        new_start
        "${{tpus[@]}}" queued-resources create "$name" "${{where[@]}}" \\
          {" ".join(map(shlex.quote, create))} ;;
      FAILED) echo "qoq: the request for $name failed" >&2; exit 1 ;;
      UNKNOWN)
        if ((++unknown == {_MOST_UNKNOWN})); then
          echo "qoq: nothing is known of $name; see 'gcloud auth login'" >&2
          exit 1
        fi
        sleep 30 ;;
      SUSPENDED) "${{tpus[@]}}" queued-resources delete "$name" "${{where[@]}}" --force ;;
      *) sleep 30 ;;
    esac
  done
}}

new_start
for ((attempt = 0; attempt <= {job.max_restarts}; attempt++)); do
  provision
  code=0
  install || code=$?
  if ((code == 0)); then run || code=$?; fi
  if ((code == 0)); then exit 0; fi
  sleep 30 # until a preemption shows in the state
  # gcloud ends with 1 too, when the machines are gone.
  if ((code == 1)) && [[ $(state) != ACTIVE ]]; then code=255; fi
  case $code in
    {restart})
      echo "qoq: ended with code $code; attempt $attempt of {job.max_restarts}" >&2
      new_start ;;
    {exit_codes.READER_GONE} | 255)
      echo "qoq: lost the connection; attempt $attempt of {job.max_restarts}" >&2 ;;
    *) exit "$code" ;;
  esac
done
exit "$code"
"""


def _host_scripts(job: Job, at: Place) -> str:
    """Lines that write what the hosts run: install.sh, run.sh and job.sh."""
    attach = _ATTACH.format(grace=job.grace, retry=process.RESTART[0])
    return f"""# What every host installs, once ...
cat > "$private/install.sh" <<'INSTALL'
set -euo pipefail
{_RUNS}if runs; then
  echo "qoq: a job runs here; nothing is installed"
  exit
fi
exec 9>&-
mkdir -p ~/qoq_jax
tar -xzf ~/.qoq/source.tar.gz -C ~/qoq_jax
cd ~/qoq_jax
{install("tpu,gcs")}INSTALL

# ... and runs, detached; it is read to its end before it starts, since a copy may come over it.
cat > "$private/run.sh" <<'RUN'
{{
set -euo pipefail
trap 'echo "$?" > ~/.qoq/code' EXIT
cd ~/qoq_jax
. .venv/bin/activate
. ~/.qoq/secrets.sh
{process.exports(job)}{_run(job, at)}
exit
}}
RUN

# What ssh runs: it starts the job or finds it, shows its log and ends with its code.
cat > "$private/job.sh" <<'JOB'
set -euo pipefail
{_RUNS}{attach}JOB
"""


def commands(job: Job, action: str) -> list[list[str]]:
    """Command lines of an action; process.FILE stands for the rendered script."""
    tpus, where = (
        ["gcloud", "compute", "tpus"],
        [f"--project={job.project}", f"--zone={job.zone}"],
    )
    if action == "submit":
        return [["bash", process.FILE]]
    if action == "status":
        return [[*tpus, "queued-resources", "describe", job.name, *where]]
    if action == "logs":
        tail = "--command=tail -n 200 -F ~/.qoq/log"
        return [[*tpus, "tpu-vm", "ssh", nodes(job)[0], *where, "--worker=0", tail]]
    return [[*tpus, "queued-resources", "delete", job.name, *where, "--force", "--quiet"]]


def _run(job: Job, at: Place) -> str:
    limit = f"timeout --signal=TERM --kill-after={job.grace} {limit_seconds(job)} "
    return (limit if job.hours else "") + process.line(job, at.all_hosts > 1)


def limit_seconds(job: Job) -> str:
    """Of the run, as `timeout` reads them."""
    return f"{round(job.hours * 3600)}s"


def _secrets(job: Job) -> str:
    """Lines that write the secrets of this shell into a file for this user alone."""
    if not job.secrets:
        return ': > "$private/secrets.sh"\n'
    return f"""for secret in {" ".join(job.secrets)}; do
  printf 'export %s=%q\\n' "$secret" "${{!secret:?$secret must be set in this shell}}"
done > "$private/secrets.sh"
"""
