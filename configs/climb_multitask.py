"""One encoder on the labels of many data sets, against one encoder per data set: RQ1 of CLIMB
(arXiv 2503.07667).

    qoq sweep configs/climb_multitask.py           # the comparison, on the pictures of climb-mini
    qoq train --config=configs/climb_multitask.py  # one run on all sets: 5 minutes on 2 CPU cores

EEG, connectomes, inertial sensors and ECG, each on three made-up sets, of which two are small:

    for name in eeg eeg-routine eeg-headband; do qoq data arrays $name-mini data/$name-mini; done
    qoq sweep configs/climb_multitask.py:eeg
    for name in connectome connectome-age connectome-motor
        do qoq data arrays $name-mini data/$name-mini; done
    qoq sweep configs/climb_multitask.py:connectome
    for name in gait gait-ward gait-stroke; do qoq data arrays $name-mini data/$name-mini; done
    qoq sweep configs/climb_multitask.py:gait
    for name in ecg-rhythm ecg-conduction; do qoq data arrays $name-mini data/$name-mini; done
    qoq sweep configs/climb_multitask.py:ecg

The encoder of the paper at its size, on the sets that `qoq data convert` wrote, for a pod of 16 or
more devices:

    qoq train --config=configs/climb_multitask.py:pod --config.data.extra=data/ham10000,data/busi
    qoq sweep configs/climb_multitask.py:pod --config.data.extra=data/ham10000,data/busi
"""

from qoq_jax.base.fields import check_choice
from qoq_jax.sweep.transfer_plan import TransferSweep
from qoq_jax.transfer import config

KIND = config.KIND
SWEEP = TransferSweep("multitask", seeds=4, budgets=("samples",))
# kind -> encoder, steps, learning rate, made-up sets
RECORDS = {
    "eeg": ("biot_small", 160, 3e-3, ("eeg", "eeg-routine", "eeg-headband")),
    "connectome": ("gat", 160, 3e-3, ("connectome", "connectome-age", "connectome-motor")),
    "ecg": ("ecg_jepa_nano", 160, 1e-3, ("ecg-rhythm", "ecg-conduction")),
    "gait": ("motion", 120, 1e-3, ("gait", "gait-ward", "gait-stroke")),
}


def get_config(arg: str = "mini"):
    check_choice("the variant", arg, ("mini", *RECORDS, "pod"))
    cfg = config.default()
    cfg.workdir = f"runs/climb_multitask_{arg}"
    cfg.log.tensorboard = False
    if arg == "pod":
        # the spec of the released run: ConvNeXt V2 base at 224 pixels, weight decay 1e-3
        cfg.encoder = "convnextv2_base"
        cfg.compute_dtype = "bfloat16"
        cfg.data.mini_rows = 0
        cfg.training.steps = 100_000
        cfg.training.batch = 1024
        cfg.training.warmup = 2000
        cfg.training.lr = 1e-3
        cfg.training.save_every = 1000
        cfg.optimizer.weight_decay = 1e-3
        cfg.few.batch = 256
        cfg.data.on_error = "skip"
        cfg.log.every = 50
        return cfg
    cfg.data.cache = True
    cfg.training.batch = cfg.few.batch = 16
    if arg in RECORDS:
        cfg.encoder, cfg.training.steps, cfg.training.lr, sets = RECORDS[arg]
        cfg.data.mini_rows = 1200 if arg == "ecg" else 0  # climb-mini has the third set of ECGs
        cfg.data.arrays = tuple(f"data/{name}-mini" for name in sets)
        return cfg
    cfg.encoder = "convnextv2_micro"
    cfg.data.mini_rows = 1200
    cfg.training.steps = 160
    cfg.training.lr = 2e-3
    return cfg
