"""QoQ-Med-7B, stage 1 (align) and stage 2 (DRPO), on 8 nodes of 8 H100.

    qoq launch launch/jobs/qoq_med_7b_h100.py slurm --dry-run

Engines: slurm, skypilot. On SLURM the image runs through Pyxis; where that is not installed, put
image="" and install with pip install -e ".[cuda,gcs]" in a folder that all nodes see. For GKE add
project, zone and cluster.
Replace all that begins with "my-": until then the job is refused.
"""

from qoq_jax.launch.spec import Job


def get_job() -> Job:
    return Job(
        name="qoq-med-7b-h100-64",
        command="qoq train --config=configs/qoq_med_7b.py:h100-8x8"
        " --config.data.extra=gs://my-bucket/ptb-xl,gs://my-bucket/ham10000"
        " --config.faults.grace=100",  # 20 s below `grace`, for the exit
        topology="h100:8x8",
        image="europe-docker.pkg.dev/my-project/qoq/qoq_jax:1-cuda",
        partition="my-partition",
        account="my-account",
        workdir="gs://my-bucket/runs/qoq-med-7b-h100-64",
        secrets=("HF_TOKEN",),
        # Parameters and both moments in float32, by `qoq plan`.
        checkpoint_gib=94,
        grace=120,
    )
