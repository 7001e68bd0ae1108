"""Evidence: every algorithm and DRPO's ablations from one warm start, on imbalanced climb-mini,
responses without boxes.

    # all runs, 5 seeds each: 1.5 hours on 2 cores
    qoq sweep configs/evidence.py --jobs 2
    # a part of it; later calls continue from there
    qoq sweep configs/evidence.py --only grpo,drpo --seeds 2
    # one run by hand
    qoq train --config=configs/evidence.py:seeing --config.workdir=runs/evidence/seeing

It writes runs/evidence/report.md with accuracy and macro-F1 by domain, paired differences to GRPO
on the same data and learning curves. What came out is in docs/evidence.md.

The published method starts from a pretrained model that sees, but has not been taught our
diagnoses. A small model has to be brought there: `seeing` learns all training rows, diagnoses
included, with supervision; `start` continues from it with random diagnoses in the gold answers and
frozen towers, until it has forgotten most of them (macro-F1 0.73 to 0.41). From `start` on
everything is shared but the algorithm: the questions of each step (per seed), steps, learning rate,
KL, frozen towers. Nothing is tuned for one of them.
"""

from qoq_jax import config as qoq_config
from qoq_jax.errors import ConfigError
from qoq_jax.sweep.run import Sweep

RUNS = {
    # the same questions with gold answers: what supervision would reach
    "sft": {"algorithm": "sft"},
    "ppo": {"algorithm": "ppo"},
    "remax": {"algorithm": "remax"},
    "reinforce_pp": {"algorithm": "reinforce_pp"},
    "rloo": {"algorithm": "rloo"},
    "grpo": {"algorithm": "grpo"},
    "drpo-domain": {"drpo.cluster": False},
    "drpo-no-kl": {"drpo.damping": False},
    "drpo-domain-no-kl": {"drpo.cluster": False, "drpo.damping": False},
    "drpo-symmetric": {"drpo.damping_symmetric": True},
    "drpo": {},  # k_max is 10
    "drpo-k1": {"drpo.k_max": 1},
    "drpo-k3": {"drpo.k_max": 3},
    "drpo-k20": {"drpo.k_max": 20},
    "drpo-k1-no-kl": {"drpo.k_max": 1, "drpo.damping": False},
    "drpo-k3-no-kl": {"drpo.k_max": 3, "drpo.damping": False},
    "balanced-grpo": {"imbalance": "balanced", "algorithm": "grpo"},
    "balanced-drpo": {"imbalance": "balanced"},
    "balanced-drpo-no-kl": {"imbalance": "balanced", "drpo.damping": False},
    # CT, the largest domain of CLIMB, is easy here, and easy questions have no signal; chest X-rays
    # stay hard.
    "xray-grpo": {"imbalance": "climb_without_rspect", "algorithm": "grpo"},
    "xray-drpo": {"imbalance": "climb_without_rspect"},
    "xray-drpo-no-kl": {"imbalance": "climb_without_rspect", "drpo.damping": False},
    "xray-drpo-symmetric": {"imbalance": "climb_without_rspect", "drpo.damping_symmetric": True},
}
SWEEP = Sweep(
    runs={"seeing": "", "start": "seeing", **dict.fromkeys(RUNS, "start")},
    baseline="grpo",
    seeds=5,
    baselines={
        name: f"{name.split('-')[0]}-grpo"
        for name in RUNS
        if name.startswith(("balanced-", "xray-"))
    },
    charts={
        "Algorithms": ("sft", "ppo", "remax", "reinforce_pp", "rloo", "grpo", "drpo"),
        "Ablations of DRPO": (
            "grpo",
            "drpo-domain",
            "drpo-domain-no-kl",
            "drpo-no-kl",
            "drpo-symmetric",
            "drpo",
        ),
        "Clusters": (
            "drpo-k1",
            "drpo-k3",
            "drpo",
            "drpo-k20",
            "drpo-domain-no-kl",
            "drpo-k1-no-kl",
            "drpo-k3-no-kl",
            "drpo-no-kl",
        ),
        "Balanced data": ("balanced-grpo", "balanced-drpo", "balanced-drpo-no-kl"),
        "Chest X-rays are the largest domain": (
            "xray-grpo",
            "xray-drpo",
            "xray-drpo-no-kl",
            "xray-drpo-symmetric",
        ),
    },
)


def get_config(arg: str = "drpo"):
    if arg not in SWEEP.runs:
        raise ConfigError(f"unknown argument {arg!r}", hint=f"use one of {', '.join(SWEEP.runs)}")
    changes = dict(RUNS.get(arg, {}))
    config = qoq_config.default()
    config.workdir = f"runs/evidence/{arg}"
    config.stages = ("rl",) if arg in RUNS else ("sft",)
    config.data.real = False
    config.data.mini_rows = 4500
    config.data.mini_imbalance = changes.pop("imbalance", "climb")
    # Builds of one seed share patients; those that the start has been taught must not be among
    # another build's test patients.
    config.data.mini_seed = 0 if config.data.mini_imbalance == "climb" else 1
    config.data.frame_max_pixels = 84 * 84
    config.data.max_patches, config.data.mean_patches, config.data.mean_ecgs = 72, 64, 0.25
    config.data.max_prompt_tokens, config.data.max_response_tokens = 76, 16
    config.data.cache = True
    config.optimizer.b2 = 0.98
    config.optimizer.frozen = ("vision/patch_embed",) if arg == "seeing" else ("vision", "ecg")
    # every domain is to be seen, and its diagnoses to be forgotten: sampled by the square root of
    # its rows
    if arg not in RUNS:
        config.data.mixing_power = 0.5
    config.sft.rows, config.sft.tokens, config.sft.samples = 32, 144, 48
    config.sft.steps, config.sft.lr = (200, 1e-3) if arg == "seeing" else (60, 5e-4)
    config.sft.diagnoses = arg == "seeing"
    config.rl.questions, config.rl.rollouts = 48, 6
    config.rl.steps, config.rl.response_tokens = 40, 12
    config.rl.lr, config.rl.schedule, config.rl.warmup = 4e-4, "cosine", 4
    config.rl.top_p = 0.95
    config.rl.kl_coefficient = 0.03
    config.rl.reward.answer_only = True
    config.rl.algorithm = changes.pop("algorithm", "drpo")
    for field, value in changes.items():
        config.rl.drpo[field.removeprefix("drpo.")] = value
    config.eval.every, config.eval.validation_rows = (10 if arg in RUNS else 50), 30
    config.eval.gallery = 0
    config.log.tensorboard = False
    return config
