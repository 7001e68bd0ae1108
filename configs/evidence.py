"""Evidence: every algorithm and DRPO's ablations from one warm start, on imbalanced climb-mini, answers without boxes.

    qoq sweep configs/evidence.py                                      # all runs, 5 seeds each: hours on 2 cores
    qoq sweep configs/evidence.py --only grpo,drpo --seeds 2           # a part of it; later calls go on from there
    qoq train --config=configs/evidence.py:start --config.workdir=runs/evidence/start     # one run by hand

It writes runs/evidence/report.md with accuracy and macro-F1 by domain, paired differences to GRPO and learning curves. No sweep has
been run to its end yet, so there is no expected number; about 2 to 4 minutes a run are an estimate.

All runs share everything but the algorithm: the warm start, its 240 supervised steps on 600 labelled rows, the questions of each
step (per seed), steps, learning rate and KL. Nothing is tuned for one of them.
"""

from qoq_jax import config as qoq_config
from qoq_jax.errors import ConfigError
from qoq_jax.evaluation.sweep import Sweep

RUNS = {
    "start": {},
    "sft": {"algorithm": "sft"},  # the same questions with gold answers: what supervision would reach
    "ppo": {"algorithm": "ppo"},
    "remax": {"algorithm": "remax"},
    "reinforce_pp": {"algorithm": "reinforce_pp"},
    "rloo": {"algorithm": "rloo"},
    "grpo": {"algorithm": "grpo"},
    "drpo-domain": {"drpo.cluster": False},
    "drpo-no-kl": {"drpo.damping": False},
    "drpo": {},
    "drpo-k1": {"drpo.k_max": 1},
    "drpo-k3": {"drpo.k_max": 3},
    "drpo-k10": {"drpo.k_max": 10},
    "drpo-k20": {"drpo.k_max": 20},
    "balanced-start": {"imbalance": "balanced"},
    "balanced-grpo": {"imbalance": "balanced", "algorithm": "grpo"},
    "balanced-drpo": {"imbalance": "balanced"},
}
SWEEP = Sweep(
    runs={name: "" if name.endswith("start") else "balanced-start" if name.startswith("balanced") else "start" for name in RUNS},
    baseline="grpo", seeds=5,
)


def get_config(arg: str = "drpo"):
    if arg not in RUNS:
        raise ConfigError(f"unknown argument {arg!r}", mend=f"use one of {', '.join(RUNS)}")
    changes = dict(RUNS[arg])
    config = qoq_config.default()
    config.workdir = f"runs/evidence/{arg}"
    config.stages = ("sft",) if not SWEEP.runs[arg] else ("rl",)
    config.data.real = False
    config.data.mini_rows = 4500
    config.data.mini_imbalance = changes.pop("imbalance", "climb")
    config.data.frame_max_pixels = 84 * 84
    config.data.max_patches, config.data.mean_patches, config.data.mean_ecgs = 72, 64, 0.25
    config.data.max_prompt_tokens, config.data.max_response_tokens = 76, 16
    config.data.cache = True
    config.optimizer.b2 = 0.98
    config.optimizer.frozen = ("vision/patch_embed",)
    config.sft.limit = 600  # labelled rows: the start answers in form and knows the plainest diagnoses
    config.sft.steps = 240
    config.sft.rows, config.sft.tokens, config.sft.samples = 32, 144, 48
    config.rl.questions, config.rl.rollouts = 32, 6
    config.rl.steps, config.rl.response_tokens = 200, 12
    config.rl.lr, config.rl.schedule = 2e-4, "cosine"
    config.rl.kl_coefficient = 0.03
    config.rl.reward.answer_only = True
    config.rl.algorithm = changes.pop("algorithm", "drpo")
    for field, value in changes.items():
        config.rl.drpo[field.removeprefix("drpo.")] = value
    config.eval.every, config.eval.validation_rows = 25, 30
    config.eval.gallery = 0
    config.log.tensorboard = False
    return config
