"""SkyPilot managed jobs: the YAML of a task, for GPUs of any cloud and for single TPU slices.

SkyPilot finds the machines, starts the job again elsewhere when they are taken away, and deletes
them at the end (https://docs.skypilot.co/en/latest/reference/yaml-spec.html). Secrets are given by
name; `sky` reads their values from the shell that submits.
"""

from __future__ import annotations

from typing import Any

from qoq_jax.launch import place, process
from qoq_jax.launch.engines import tpu_vm
from qoq_jax.launch.engines.gke import to_yaml
from qoq_jax.launch.place import Place
from qoq_jax.launch.spec import Job

SUFFIX = ".yaml"
_GPU = {"a100": "A100-80GB", "h100": "H100", "h200": "H200", "b200": "B200"}
DEVICES = (*tpu_vm.DEVICES, *_GPU)
# Not 137: SkyPilot gives that code to the other processes when one has failed, whatever the reason
# (CANCELLED_RETURN_CODE of its job driver), and a mistake in the config would come again for ever.
RESTART = tuple(code for code in process.RESTART if code != 137)
IMAGE_FOLDER = "/opt/qoq_jax"  # the repository in the image (launch/Dockerfile)


def render(job: Job) -> str:
    """The YAML."""
    at = place.of(job)
    task: dict[str, Any] = {
        "name": job.name,
        "num_nodes": at.hosts if at.kind == "gpu" else 1,  # a TPU slice is one node to SkyPilot
        "resources": _resources(job, at),
        "envs": process.environment(job),
        "secrets": dict.fromkeys(job.secrets),
    }
    if at.kind == "tpu":
        task["workdir"] = "."
        task["setup"] = "set -e\n" + tpu_vm.install("tpu,gcs")
    task["run"] = _run(job, at)
    # An empty section is left out.
    task = {key: value for key, value in task.items() if value not in ({}, "")}
    return f"# {process.headline(job, 'skypilot')}.\n" + to_yaml(task)


def commands(job: Job, action: str) -> list[list[str]]:
    """Command lines of an action; process.FILE stands for the rendered YAML."""
    if action == "submit":
        secrets = [word for name in job.secrets for word in ("--secret", name)]
        launch = ["sky", "jobs", "launch", "--yes", "--detach-run", "--name", job.name]
        return [[*launch, *secrets, process.FILE]]
    if action == "status":
        return [["sky", "jobs", "queue"]]
    if action == "logs":
        return [["sky", "jobs", "logs", "--name", job.name]]
    return [["sky", "jobs", "cancel", "--yes", "--name", job.name]]


def _resources(job: Job, at: Place) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if job.zone:
        found["infra"] = f"gcp/{job.zone.rsplit('-', 1)[0]}/{job.zone}"
    if at.kind == "tpu":
        found["accelerators"] = f"tpu-{tpu_vm.accelerator_type(at)}:1"
        found["accelerator_args"] = {"runtime_version": tpu_vm.runtime(job, at)}
    else:
        found["accelerators"] = f"{_GPU[at.device]}:{at.per_host}"
        found["image_id"] = f"docker:{job.image}"
    found["use_spot"] = job.spot
    # Lost machines are always replaced; a process that failed only by these codes.
    found["job_recovery"] = {
        "max_restarts_on_errors": 0,
        "recover_on_exit_codes": list(RESTART),
    }
    return found


def _run(job: Job, at: Place) -> str:
    several = at.hosts > 1
    lines = [". .venv/bin/activate" if at.kind == "tpu" else f"cd {IMAGE_FOLDER}"]
    if several and at.kind == "gpu":
        lines += [
            # The first address, of the private network.
            f"export {process.COORDINATOR}=\"${{SKYPILOT_NODE_IPS%%$'\\n'*}}:{process.PORT}\"",
            f'export {process.COUNT}="$SKYPILOT_NUM_NODES"',
            f'export {process.INDEX}="$SKYPILOT_NODE_RANK"',
        ]
    limit = f"timeout --signal=TERM --kill-after={job.grace} {tpu_vm.limit_seconds(job)} "
    command = process.line(job, distributed=several and at.kind == "tpu")
    lines.append(f"exec {limit if job.hours else ''}{command}")
    return "\n".join(["set -e", *lines]) + "\n"
