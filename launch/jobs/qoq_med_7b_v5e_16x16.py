"""QoQ-Med-7B, stage 1 (align) and stage 2 (DRPO), on 256 v5e chips (64 hosts).

    qoq launch launch/jobs/qoq_med_7b_v5e_16x16.py gke --dry-run

Engines: gke, tpu-vm.
Replace all that begins with "my-": until then the job is refused.
"""

from qoq_jax.launch.spec import Job


def get_job() -> Job:
    return Job(
        name="qoq-med-7b-v5e-256",
        command="qoq train --config=configs/qoq_med_7b.py:v5e-16x16"
        " --config.data.extra=gs://my-bucket/ptb-xl,gs://my-bucket/ham10000"
        " --config.faults.grace=70",  # 20 s below `grace`, for the exit
        topology="v5e:16x16",
        image="europe-docker.pkg.dev/my-project/qoq/qoq_jax:1-tpu",
        project="my-project",
        zone="us-west4-a",
        cluster="my-cluster",
        workdir="gs://my-bucket/runs/qoq-med-7b-v5e-256",
        secrets=("HF_TOKEN",),
        # Parameters and both moments in float32, by `qoq plan`.
        checkpoint_gib=94,
        grace=90,
    )
