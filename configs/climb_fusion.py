"""Fusion of record, ECG and chest X-ray on MIMIC-IV: RQ3 of CLIMB (arXiv 2503.07667).

    qoq train --config=configs/climb_fusion.py  # 10 minutes on 2 CPU cores

takes made-up patients and, for the X-ray, random weights alone. With one that was pretrained on
pictures:

    qoq train --config=configs/climb_multitask.py --config.workdir=runs/pictures
    qoq train --config=configs/climb_fusion.py --config.xray.weights=runs/pictures

With the data, converted by `qoq data convert mimic-iv FOLDER`:

    qoq train --config=configs/climb_fusion.py --config.data.mimic=FOLDER
"""

from qoq_jax.transfer import fusion_config

KIND = fusion_config.KIND


def get_config():
    cfg = fusion_config.default()
    cfg.ecg.name, cfg.ecg.weights = "ecg_jepa_nano", "climb-mini"
    cfg.xray.name = "convnextv2_micro"
    return cfg
