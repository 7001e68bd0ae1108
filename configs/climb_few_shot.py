"""Few-shot transfer to a data set that was left out of the pretraining: RQ2 of CLIMB (arXiv
2503.07667), with 1, 8 and 32 samples per label.

    qoq sweep configs/climb_few_shot.py           # skin lesions; two seeds of pretraining
    qoq train --config=configs/climb_few_shot.py  # one seed: 15 minutes on 2 CPU cores
    qoq sweep configs/climb_few_shot.py --config.target=covid-cxr-mini --out runs/few_shot_chest
    qoq sweep configs/climb_few_shot.py --config.target=   # each set as the target

EEG, connectomes, inertial sensors and ECG, on made-up sets that are built as
configs/climb_multitask.py says:

    qoq sweep configs/climb_few_shot.py:connectome    # and :eeg, :gait, :ecg

    qoq train --config=configs/climb_few_shot.py:pod --config.data.extra=data/ham10000,data/busi \
        --config.target=busi
"""

import pathlib

from qoq_jax.sweep.transfer_plan import TransferSweep
from qoq_jax.train.config import load_module
from qoq_jax.transfer import config

KIND = config.KIND
SWEEP = TransferSweep("few_shot", seeds=2)
TARGETS = {
    "mini": "derm-mini",
    "eeg": "eeg-routine-mini",
    "connectome": "connectome-age-mini",
    "gait": "gait-ward-mini",
    "ecg": "ecg-rhythm-mini",
    "pod": "",
}
MULTITASK = str(pathlib.Path(__file__).with_name("climb_multitask.py"))


def get_config(arg: str = "mini"):
    cfg = load_module(MULTITASK).get_config(arg)
    cfg.workdir = f"runs/climb_few_shot_{arg}"
    cfg.few.steps = 1000 if arg == "pod" else 30
    cfg.few.lr = 1e-4 if arg == "pod" else 1e-3
    cfg.target = TARGETS[arg]
    return cfg
