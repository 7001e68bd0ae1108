"""The quickstart: a small model, climb-mini and the real samples, SFT warm start, DRPO, report.

    qoq train --config=configs/quickstart.py            DRPO
    qoq train --config=configs/quickstart.py:grpo       the same with GRPO
    qoq train --config=configs/quickstart.py:smoke      2 minutes, to see that everything runs
"""

from qoq_jax import config as qoq_config


def get_config(arg: str = "drpo"):
    config = qoq_config.default()
    config.workdir = f"runs/quickstart-{arg}" if arg != "drpo" else "runs/quickstart"
    config.rl.algorithm = "grpo" if arg == "grpo" else "drpo"
    if arg == "smoke":
        config.data.mini_rows = 400
        config.sft.steps = 20
        config.rl.steps = 5
    elif arg not in ("drpo", "grpo"):
        raise ValueError(f"unknown argument {arg!r}: use drpo, grpo or smoke")
    return config
