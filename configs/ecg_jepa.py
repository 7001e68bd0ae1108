"""ECG-JEPA pretraining of the ECG encoder (arXiv 2410.08559) on climb-mini's ECGs or your own, and
its linear probe.

    qoq train --config=configs/ecg_jepa.py              random masking; some 4 minutes on 2 cores
                                                        (added up from its parts). Held-out linear
                                                        probe of the seven classes: macro AUROC
                                                        0.901 to 0.921, macro-F1 0.707 to 0.761
    qoq train --config=configs/ecg_jepa.py:block        multi-block masking: about as long; its
                                                        probe has not been measured
    qoq train --config=configs/ecg_jepa.py:mini         twice the ECGs, three times the steps; some
                                                        10 minutes. Its encoder comes with the
                                                        package (model.ecg_weights="climb-mini")
    qoq train --config=configs/ecg_jepa.py --config.ecg.folders=WFDB_FOLDER --config.ecg.rows=0

For more than some 50,000 ECGs of your own add --config.data.cache=false: an ECG in memory takes 80
KB.

It leaves runs/ecg_jepa/ecg_encoder.safetensors, which a model starts from:

    qoq train --config=configs/quickstart.py
    --config.model.ecg_weights=runs/ecg_jepa/ecg_encoder.safetensors
"""

from qoq_jax import config as qoq_config
from qoq_jax.errors import ConfigError


def get_config(arg: str = "random"):
    config = qoq_config.default()
    config.workdir = f"runs/ecg_jepa-{arg}" if arg != "random" else "runs/ecg_jepa"
    config.stages = ("ecg",)
    config.data.cache = True
    config.optimizer.weight_decay = 0.05
    config.optimizer.b2 = 0.98
    config.log.every = 10
    if arg == "block":
        config.ecg.mask, config.ecg.mask_low, config.ecg.mask_high = "block", 0.175, 0.225
    elif arg == "mini":
        config.ecg.rows, config.ecg.steps = 6000, 1200
    elif arg != "random":
        raise ConfigError(f"unknown argument {arg!r}", hint="use random, block or mini")
    return config
