"""QoQ-Med-32B with the published hyper-parameters: as configs/qoq_med_7b.py, from
Qwen2.5-VL-32B-Instruct.

    qoq plan --config=configs/qoq_med_32b.py:v5p-4x4x8 --topology v5p:4x4x8
    qoq train --config=configs/qoq_med_32b.py:v5p-4x4x8 --config.data.extra=PATH_OF_ROWS
                                        520 hours on 128 chips at 40 % of their peak, by `qoq plan`;
                                        not yet run on any accelerator, and no score is known
    qoq train --config=configs/qoq_med_32b.py:v5p-4x4x4 --config.data.extra=PATH_OF_ROWS
    qoq train --config=configs/qoq_med_32b.py:h100-8x8 --config.data.extra=PATH_OF_ROWS

Master weights are float32 here too; the published run kept them in bfloat16.
"""

import pathlib

from qoq_jax.errors import ConfigError
from qoq_jax.train.config import load_module

# topology -> what of the layout is its own, as in configs/qoq_med_7b.py
TOPOLOGIES = {
    "v5p-4x4x8": dict(fsdp=128, rollout_tensor=8, accumulate=1, rows=0),
    "v5p-4x4x4": dict(fsdp=64, rollout_tensor=8, accumulate=1, rows=0),
    "h100-8x8": dict(fsdp=64, rollout_tensor=8, accumulate=1, rows=1280, attention="flash"),
}


def get_config(arg: str = "v5p-4x4x8"):
    if arg not in TOPOLOGIES:
        raise ConfigError(f"unknown argument {arg!r}", hint=f"use one of {', '.join(TOPOLOGIES)}")
    published = load_module(str(pathlib.Path(__file__).with_name("qoq_med_7b.py"))).published
    config = published("Qwen/Qwen2.5-VL-32B-Instruct", TOPOLOGIES[arg])
    config.workdir = f"runs/qoq_med_32b-{arg}"
    return config
