"""Evidence with boxes and ECGs: DRPO, its own variant and the balancing of others against GRPO, from
a warm start as the quickstart's, on imbalanced climb-mini.

    # all runs, ten seeds each: 1.5 hours on 2 cores
    qoq sweep configs/evidence_boxes.py --jobs 2

`start` is the quickstart's warm start on noisier labels (80 % of the rows get random ones): it sees,
points and writes the format, and names little. From there on everything is shared but the
algorithm. Unlike in the quickstart, questions are drawn as they come: CT has over half of them and
the rarest domain under 1 % (`climb`), or chest X-rays have (`xray-` runs).

Named before the runs, on held-out macro-F1 over the mean of ten domains, paired by seed: each of
`drpo`, `drpo-no-kl`, `drpo-bounded` and `disco` less `grpo`, and `xray-drpo-bounded` less
`xray-grpo`. What came out is in docs/evidence.md.
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
    "xray-grpo": {"algorithm": "grpo"},
    "xray-drpo-bounded": {"drpo.variant": "bounded"},
}
SWEEP = Sweep(
    runs={"start": "", **dict.fromkeys(RUNS, "start")},
    baseline="grpo",
    seeds=10,
    baselines={name: "xray-grpo" for name in RUNS if name.startswith("xray-")},
    charts={
        "CT is the largest domain": ("grpo", "disco", "drpo", "drpo-no-kl", "drpo-bounded"),
        "Chest X-rays are the largest domain": ("xray-grpo", "xray-drpo-bounded"),
    },
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
    if arg.startswith("xray-"):
        # Builds of one seed share patients; those that the start has been taught must not be among
        # another build's test patients.
        config.data.mini_imbalance, config.data.mini_seed = "climb_without_rspect", 1
    config.rl.questions, config.rl.rollouts = 32, 6
    config.rl.steps, config.rl.lr, config.rl.warmup = 40, 2e-4, 4
    for field, value in RUNS.get(arg, {}).items():
        section, name = (
            (config.rl.drpo, field.removeprefix("drpo."))
            if field.startswith("drpo.")
            else (config.rl, field)
        )
        section[name] = value
    config.eval.every, config.eval.validation_rows = (20 if arg in RUNS else 300), 30
    config.eval.gallery = 0
    config.log.tensorboard = False
    return config
