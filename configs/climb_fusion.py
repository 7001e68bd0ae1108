"""Fusion of record, ECG and chest X-ray on MIMIC-IV: RQ3 of CLIMB (arXiv 2503.07667).

    qoq train --config=configs/climb_fusion.py

takes made-up patients; with the data, converted by `qoq data convert mimic-iv FOLDER`:

    qoq train --config=configs/climb_fusion.py --config.data.mimic=FOLDER
"""

from qoq_jax.transfer import fusion_config

KIND = fusion_config.KIND


def get_config():
    cfg = fusion_config.default()
    cfg.ecg.name, cfg.ecg.weights = "ecg_jepa_nano", "climb-mini"
    return cfg
