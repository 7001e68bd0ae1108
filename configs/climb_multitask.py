"""One encoder on the labels of many data sets, against one encoder per set: RQ1 of CLIMB (arXiv
2503.07667).

    qoq train --config=configs/climb_multitask.py
"""

from qoq_jax.transfer import config

KIND = config.KIND


def get_config(arg: str = "ecg"):
    cfg = config.default()
    cfg.workdir = "runs/climb_multitask"
    cfg.encoder = "ecg_jepa_nano"
    cfg.data.mini_rows = 600
    cfg.data.cache = True
    cfg.training.steps = 60
    cfg.training.batch = 16
    cfg.log.tensorboard = False
    return cfg
