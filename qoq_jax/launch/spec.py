"""The specification of a job: what runs, on which accelerators, and where.

A job file is Python, as config files are, and defines `get_job() -> Job`:

    from qoq_jax.launch.spec import Job

    def get_job():
        return Job(
            name="qoq-med-7b",
            command="qoq train --config=configs/qoq_med_7b.py:v5e-16x16",
            topology="v5e:16x16",
            image="europe-docker.pkg.dev/my-project/qoq/qoq_jax:1-tpu",
            workdir="gs://my-bucket/qoq-med-7b",
        )
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

Engine = Literal["tpu-vm", "gke", "skypilot", "slurm", "local"]
ENGINES: tuple[Engine, ...] = ("tpu-vm", "gke", "skypilot", "slurm", "local")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One training or evaluation job.

    Attributes:
      name: of the job, in lower case, digits and "-" (it becomes names in Kubernetes and Cloud).
      command: what every process runs, as one shell line; `--config.workdir`, or `--out` of a
        sweep, is added from `workdir`.
      topology: accelerators of one slice or all nodes: "v5e:4x4", "v5p:2x2x4", "h100:4x8" (nodes x
        GPUs), "cpu:2" (processes of the engine local).
      slices: TPU slices, joined over the data centre's network.
      image: container image with qoq_jax in it; not used by local and tpu-vm.
      workdir: gs:// or s3:// URL, or a folder that all hosts share; `--config.workdir` or
        `--out` in the command comes first.
      env: environment variables of every process; values are plain, never secrets.
      secrets: names of environment variables that hold secrets: the engine's own store or the
        launching shell has the values, and nothing that is rendered does.
      xla_flags: name of a set of qoq_jax/launch/xla_flags.toml; "" = the one of the accelerator,
        "none" = no flags.
      grace: seconds between SIGTERM and SIGKILL; the config's faults.grace must be less, and the
        final save must fit into that.
      checkpoint_gib: size of a checkpoint, for the check of `grace`; 0 = that of the plan.
      max_restarts: of the whole job.
      spot: preemptible accelerators.
      reservation: name of a reservation, or "".
      project, zone: of Google Cloud. cluster: of GKE. partition, account: of SLURM.
      runtime: TPU software version of tpu-vm, as "v2-alpha-tpuv6e"; "" = the generation's.
      hours: limit of each start, so that restarts begin anew; 0 = none.
    """

    name: str
    command: str
    topology: str
    slices: int = 1
    image: str = ""
    workdir: str = ""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    xla_flags: str = ""
    grace: int = 120
    checkpoint_gib: float = 0.0
    max_restarts: int = 10
    spot: bool = False
    reservation: str = ""
    project: str = ""
    zone: str = ""
    cluster: str = ""
    partition: str = ""
    account: str = ""
    runtime: str = ""
    hours: float = 0.0
