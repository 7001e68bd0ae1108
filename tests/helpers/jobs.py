"""Jobs that the tests of launch/ render."""

import dataclasses

from qoq_jax.launch.spec import Job

TPU = Job(
    name="qoq-med-7b",
    command="qoq train --config=configs/qoq_med_7b.py:v5e-16x16",
    topology="v5e:16x16",
    image="europe-docker.pkg.dev/my-project/qoq/qoq_jax:1",
    workdir="gs://my-bucket/qoq-med-7b",
    env={"QOQ_HEARTBEAT_SECONDS": "30", "NOTE": "it's plain"},
    secrets=("HF_TOKEN", "WANDB_API_KEY"),
    xla_flags="none",
    checkpoint_gib=90,
    project="my-project",
    zone="us-east5-b",
    cluster="my-cluster",
)
SLICES = dataclasses.replace(
    TPU, topology="v5p:2x2x4", slices=2, spot=True, hours=12.5, secrets=(), env={}
)
ONE_HOST = dataclasses.replace(TPU, topology="v6e:2x4", grace=400, workdir="", reservation="ours")
GPU = dataclasses.replace(
    TPU,
    topology="h100:4x8",
    command="qoq train --config=configs/qoq_med_7b.py:h100-4x8",
    workdir="/shared/runs/qoq-med-7b",
    partition="gpu",
    account="clinic",
    hours=24,
)
ONE_NODE = dataclasses.replace(
    GPU, topology="h100:1x8", image="", command="qoq sweep configs/evidence.py", grace=400
)

# (engine, name of the golden file, job)
RENDERED = [
    ("tpu-vm", "tpu_vm", TPU),
    ("tpu-vm", "tpu_vm_slices", SLICES),
    ("tpu-vm", "tpu_vm_one_host", ONE_HOST),
    ("gke", "gke", TPU),
    ("gke", "gke_slices", SLICES),
    ("gke", "gke_gpu", GPU),
    ("skypilot", "skypilot_gpu", GPU),
    ("skypilot", "skypilot_tpu", TPU),
    ("slurm", "slurm", GPU),
    ("slurm", "slurm_one_node", ONE_NODE),
]
