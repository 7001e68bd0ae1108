"""Evidence with boxes and ECGs: the paper's DRPO, DRPO without damping, our own variant and DISCO
against GRPO, from a warm start as the quickstart's, on imbalanced climb-mini.

    # all runs, ten seeds each: 1 hour on 2 cores
    qoq sweep configs/evidence_boxes.py --jobs 2

`start` is the quickstart's warm start on noisier labels (80 % of the rows get random ones): it
sees, points and writes the format, and names little. From there on everything is shared but the
algorithm. Unlike in the quickstart, questions are drawn as they come: CT has over half of them and
the rarest domain under 1 %.

Named before the runs: held-out macro-F1, the mean of ten domains, of each algorithm less that of
`grpo`, paired by seed. What came out is in docs/evidence.md.
"""

import pathlib

from qoq_jax.errors import ConfigError
from qoq_jax.sweep.run import Sweep
from qoq_jax.train import config as config_lib

RUNS = {
    "grpo": {"algorithm": "grpo"},
    "disco": {"algorithm": "disco"},
    "drpo": {"drpo.variant": "paper"},
    "drpo-no-kl": {"drpo.variant": "paper", "drpo.damping": False},
    "drpo-bounded": {"drpo.variant": "bounded"},
}
SWEEP = Sweep(
    runs={"start": "", **dict.fromkeys(RUNS, "start")},
    baseline="grpo",
    seeds=10,
)


def get_config(arg: str = "drpo-bounded"):
    if arg not in SWEEP.runs:
        raise ConfigError(f"unknown argument {arg!r}", hint=f"use one of {', '.join(SWEEP.runs)}")
    config = config_lib.load(str(pathlib.Path(__file__).with_name("quickstart.py")))
    config.workdir = f"runs/evidence_boxes/{arg}"
    config.stages = ("rl",) if arg in RUNS else ("sft",)
    config.data.real = False
    config.sft.label_noise = 0.8
    if arg in RUNS:
        config.data.mixing_power = 1.0
    config.rl.questions, config.rl.rollouts = 32, 6
    config.rl.steps, config.rl.lr, config.rl.warmup = 40, 2e-4, 4
    config.rl.kl_coefficient = 0.03
    for field, value in RUNS.get(arg, {}).items():
        section, name = (
            (config.rl.drpo, field.removeprefix("drpo."))
            if field.startswith("drpo.")
            else (config.rl, field)
        )
        section[name] = value
    config.eval.every, config.eval.validation_rows = (20 if arg in RUNS else 300), 30
    config.eval.limit_per_domain = 60
    config.eval.gallery = 0
    config.log.tensorboard = False
    return config
